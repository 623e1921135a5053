"""Traces of a few steps: after a warm-up, with the named scopes of the model, once for a kind."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from tests.training import kit
from thinksafe_jax import profiling
from thinksafe_jax.errors import EnvironmentFault
from thinksafe_jax.profiling import WARM_UP, Profile, profiled


@jax.jit
def work(x: jax.Array) -> jax.Array:
    with jax.named_scope("attention"):
        return jnp.tanh(x @ x)


def take(kind: str, times: int) -> None:
    x = jnp.ones((8, 8), jnp.float32)
    for _ in range(times):
        profiling.step(kind, x)
        x = work(x)


def traces(folder: Path) -> dict[str, list[Path]]:
    """Files of each trace, by the folder that is named after its kind and host."""
    return {
        kind.name: [file for file in kind.rglob("*") if file.is_file()]
        for kind in sorted(folder.iterdir())
    }


def test_a_kind_of_step_is_traced_once_after_its_warm_up(tmp_path):
    with profiled(Profile(tmp_path / "traces", steps=2)):
        take("sample", WARM_UP + 2)
        assert traces(tmp_path / "traces") == {}  # JAX writes at the end, before the third step
        take("sample", 1)
        ((name, files),) = traces(tmp_path / "traces").items()
        take("sample", 9)
    assert name == "sample-host0" and traces(tmp_path / "traces") == {name: files}
    for ending in (".xplane.pb", "trace.json.gz", "perfetto_trace.json.gz"):
        assert any(file.name.endswith(ending) for file in files), ending
    shown = next(file for file in files if file.name.endswith(".xplane.pb"))
    assert b"attention" in shown.read_bytes()


def test_a_trace_of_fewer_steps_ends_with_the_work_and_a_warm_up_alone_is_said(tmp_path, caplog):
    with profiled(Profile(tmp_path, steps=50)):
        take("train", WARM_UP + 1)
        take("guard", 2)
    assert list(traces(tmp_path)) == ["train-host0"] and traces(tmp_path)["train-host0"]
    assert "profile: guard is not traced: it took 2 steps, of which 3 are a warm-up" in caplog.text
    take("train", 9)  # outside nothing is counted
    assert list(traces(tmp_path)) == ["train-host0"]


def test_work_that_was_done_before_leaves_no_trace_and_says_so(tmp_path, caplog):
    with profiled(Profile(tmp_path)):
        pass
    assert "profile: nothing is traced: no step was taken; what is there is kept" in caplog.text


def test_without_a_profile_nothing_is_written_and_a_folder_that_cannot_be_is_said(tmp_path):
    with profiled(None):
        take("train", WARM_UP + 1)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    never = profiled(Profile(tmp_path / "file/traces"))
    with pytest.raises(EnvironmentFault, match=r"cannot write .*file/traces"), never:
        raise AssertionError("it must not begin")


@pytest.mark.slow
def test_a_training_is_traced_with_the_scopes_of_its_model(tmp_path):
    with profiled(Profile(tmp_path, steps=2)):
        kit.train(kit.params(), kit.setup(None), kit.rows(), seed=3)
    (plane,) = tmp_path.rglob("*.xplane.pb")
    assert plane.relative_to(tmp_path).parts[0] == "train-host0"
    content = plane.read_bytes()
    assert b"attention" in content and b"mlp" in content
