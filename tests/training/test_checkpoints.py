"""Checkpoints are whole or passed over; what does not fit is refused."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import kit
from thinksafe_jax.errors import EnvironmentFault, InputError
from thinksafe_jax.training.checkpoints import CheckpointStore

pytestmark = pytest.mark.slow


def state(step: int):
    return {
        "a": jnp.arange(600, dtype=jnp.float32).reshape(20, 30) * step,
        "inner": ({"b": jnp.full((3,), step, jnp.int32)}, jnp.float32(0.1) * step),
    }


@pytest.fixture
def store(tmp_path):
    """A store with the checkpoints of steps 10 and 20."""
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    for step in (10, 20):
        store.save(step, state(step), {"seed": 7})
    return store


def largest(folder):
    return max(
        (f for f in (folder / "state").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size
    )


def flip(path):
    file = largest(path)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(path):
    file = largest(path)
    file.write_bytes(file.read_bytes()[:-1])


def test_what_was_saved_comes_back_bit_for_bit(store):
    meta = store.newest()
    assert meta["step"] == 20 and meta["seed"] == 7
    restored = store.restore(20, state(0))
    kit.assert_same_bits(kit.flat(restored), kit.flat(state(20)))


def test_only_the_newest_are_kept(store):
    store.save(30, state(30), {})
    assert store.steps() == [20, 30]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, "sha256 mismatch in state/"),
        (truncate, "bytes instead of"),
        (lambda path: largest(path).write_bytes(b""), "has 0 bytes instead of"),
        (lambda path: largest(path).unlink(), "is missing"),
        (lambda path: (path / "manifest.json").unlink(), "never finished"),
        (lambda path: (path / "manifest.json").write_text("{"), "manifest.json: damaged"),
        (lambda path: (path / "manifest.json").write_text('{"files": {}}'), "lists no arrays"),
        (lambda path: (path / "meta.json").write_text("{}"), "meta.json has 2 bytes"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_plain_line(store, caplog, damage, message):
    """Faults 18 and 19."""
    damage(store.path(20))
    with caplog.at_level(logging.WARNING):
        assert store.newest()["step"] == 10
    assert message in caplog.text and "checkpoint of step 20" in caplog.text
    assert "falling back" in caplog.text


def test_an_empty_folder_and_leftovers_are_not_checkpoints(store):
    """Fault 20."""
    store.path(30).mkdir()
    partial = store.directory / ".partial-step_00000040"
    partial.mkdir()
    (store.directory / "step_notes").mkdir()
    assert store.newest()["step"] == 20
    store.save(40, state(40), {})
    assert store.newest()["step"] == 40 and not partial.exists()


def test_a_damaged_checkpoint_can_be_written_again(store):
    flip(store.path(20))
    store.save(20, state(20), {})
    assert store.newest()["step"] == 20


def test_damaged_ones_of_later_steps_do_not_push_out_a_new_one(store):
    """Training that fell back to an older step, or to none, saves again below their numbers."""
    for step in store.steps():
        flip(store.path(step))
    store.save(5, state(5), {})
    assert store.newest()["step"] == 5 and store.steps() == [5]


def test_nothing_usable_says_so(store, caplog):
    for step in store.steps():
        flip(store.path(step))
    assert store.newest() is None
    assert "no checkpoint verifies; training starts anew" in caplog.text
    assert CheckpointStore(store.directory / "absent").newest() is None


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            {**state(0), "a": jnp.zeros((20, 31))},
            r"a: saved float32\[20, 30\], now float32\[20, 31\]",
        ),
        ({**state(0), "a": jnp.zeros((20, 30), jnp.bfloat16)}, r"now bfloat16\[20, 30\]"),
        ({"a": state(0)["a"]}, r"inner.0.b: saved int32\[3\], now -; inner.1"),
        ({**state(0), "c": jnp.zeros(1)}, r"c: saved -, now float32\[1\]"),
    ],
)
def test_a_mismatch_is_refused_and_named_never_cast(store, template, message):
    """Fault 21."""
    with pytest.raises(InputError, match=message):
        store.restore(20, template)


def test_a_full_disk_leaves_the_last_good_checkpoint(store, monkeypatch):
    """Fault 16."""
    import shutil

    usage = shutil.disk_usage(store.directory)._replace(free=100)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(
            EnvironmentFault, match=r"100 bytes are free there. Kept: steps \[10, 20\]"
        ):
            store.save(30, state(30), {})
    assert store.newest()["step"] == 20


def test_a_write_that_fails_half_way_leaves_nothing_behind(store, monkeypatch):
    from thinksafe_jax.training import checkpoints

    def fails(file, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_json", fails)
    with pytest.raises(EnvironmentFault, match="No space left on device"):
        store.save(30, state(30), {})
    assert sorted(p.name for p in store.directory.iterdir()) == ["step_00000010", "step_00000020"]


def test_in_the_background_it_counts_once_it_is_whole(store):
    """The arrays may be overwritten as soon as `save` returns, as a donating step does."""
    add = jax.jit(lambda tree: jax.tree.map(lambda x: x + x.dtype.type(1), tree), donate_argnums=0)
    live = state(30)
    want = kit.flat(live)
    store.save(30, live, {}, wait=False)
    for _ in range(3):
        live = add(live)
    store.wait()
    assert store.newest()["step"] == 30
    kit.assert_same_bits(kit.flat(store.restore(30, state(0))), want)


def test_what_fails_in_the_background_is_said_at_the_next_step(store, monkeypatch):
    """Fault 16."""
    from thinksafe_jax.training import checkpoints

    def fails(file, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_json", fails)
    store.save(30, state(30), {}, wait=False)
    store._writer.join()
    with pytest.raises(EnvironmentFault, match=r"No space left .* Kept: steps \[10, 20\]"):
        store.check()
    store.check()  # once
    assert store.newest()["step"] == 20
    assert not list(store.directory.glob(".partial*"))


def test_the_manifest_names_every_file(store):
    path = store.path(20)
    manifest = json.loads((path / "manifest.json").read_text())["files"]
    files = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
    assert set(manifest) == files - {"manifest.json"}
    assert all(np.char.str_len(facts["sha256"]) == 64 for facts in manifest.values())
