"""The loop: it learns, stops, resumes bit for bit, and refuses what it cannot continue."""

import dataclasses
import json
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import REPOSITORY
from tests.training import kit
from thinksafe_jax.compilations import compilations_so_far
from thinksafe_jax.errors import ConfigError, EnvironmentFault, InputError, Terminated
from thinksafe_jax.training import Example, lora_config, track, tracking
from thinksafe_jax.training import train as train_steps
from thinksafe_jax.training.checkpoints import CheckpointStore
from thinksafe_jax.weights import write_manifest

pytestmark = pytest.mark.slow


def run(config=None, examples=None, params=None, seed=3, **more):
    examples = kit.rows() if examples is None else examples
    return kit.train(params or kit.params(), kit.setup(config), examples, seed=seed, **more)


@pytest.fixture(scope="module")
def straight():
    """An uninterrupted run: (its result, its log)."""
    log = []
    return run(log=lambda **values: log.append(values)), log


def retokenised(examples):
    """The same rows with another first token."""
    return [
        dataclasses.replace(
            row, token_ids=np.array([1 - (row.token_ids[0] == 1), *row.token_ids[1:]])
        )
        for row in examples
    ]


class StopAt:
    """check_stop that raises Terminated when polled for the n-th time."""

    def __init__(self, n: int):
        self.left = n

    def __call__(self) -> None:
        self.left -= 1
        if self.left <= 0:
            raise Terminated(signal.SIGTERM)


def test_it_learns_and_says_what_it_did(straight):
    result, log = straight
    assert result.summary["steps"] == len(log) == 6
    assert result.summary["rows"] == 10 and result.summary["skipped_steps"] == 0
    assert [line["step"] for line in log] == list(range(1, 7))
    assert sum(line["tokens"] for line in log) == 2 * sum(map(len, kit.rows()))
    assert result.lora.r == 2
    assert set(result.trainable["layers"]) == {"q_proj", "v_proj"}
    config = kit.settings(epochs=12, learning_rate=0.03, full_finetune=True, warmup_ratio=0.0)
    losses = []
    before = kit.params()
    after = run(config, params=before, log=lambda **values: losses.append(values["loss"]))
    assert losses[-1] < 0.5 * losses[0]
    assert after.lora is None
    kit.assert_same_bits(kit.flat(before), kit.flat(kit.params()))  # the caller's are untouched


@pytest.mark.parametrize("stop", [4, 5])
def test_stopped_and_resumed_equals_straight(tmp_path, straight, stop):
    with pytest.raises(Terminated):
        run(checkpoint_dir=tmp_path, check_stop=StopAt(stop))
    assert CheckpointStore(tmp_path).newest()["step"] == stop - 1
    log = []
    result = run(checkpoint_dir=tmp_path, log=lambda **values: log.append(values))
    kit.assert_same_bits(kit.flat(result.trainable), kit.flat(straight[0].trainable))
    assert [line["step"] for line in log] == list(range(stop, 7))
    assert [line["loss"] for line in log] == [line["loss"] for line in straight[1][stop - 1 :]]


def test_a_finished_run_is_not_repeated(tmp_path, straight):
    run(checkpoint_dir=tmp_path)
    log = []
    result = run(checkpoint_dir=tmp_path, log=lambda **values: log.append(values))
    assert log == [] and result.summary["steps"] == 6
    kit.assert_same_bits(kit.flat(result.trainable), kit.flat(straight[0].trainable))


def test_killed_and_resumed_equals_straight(tmp_path):
    """Fault 3: SIGKILL before the first checkpoint and after several; data position included."""
    command = [sys.executable, "-m", "tests.training.kit", str(tmp_path)]
    for step in (2, 8):
        done = subprocess.run([*command, str(step)], cwd=REPOSITORY)
        assert done.returncode == -signal.SIGKILL
    reached = CheckpointStore(tmp_path).newest()["step"]
    assert 3 <= reached < 12 and reached % 3 == 0
    resumed = run(kit.KILLED_SETTINGS, checkpoint_dir=tmp_path)
    assert resumed.summary["steps"] == 12
    straight = run(kit.KILLED_SETTINGS)
    kit.assert_same_bits(kit.flat(resumed.trainable), kit.flat(straight.trainable))


def test_a_damaged_checkpoint_costs_steps_not_the_result(tmp_path, straight):
    with pytest.raises(Terminated):
        run(checkpoint_dir=tmp_path, check_stop=StopAt(5))
    store = CheckpointStore(tmp_path)
    assert store.steps() == [3, 4]
    (store.path(4) / "meta.json").write_text("x")
    result = run(checkpoint_dir=tmp_path)
    kit.assert_same_bits(kit.flat(result.trainable), kit.flat(straight[0].trainable))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": kit.settings(lora_r=3)}, "training.lora_r: saved 2, now 3"),
        ({"examples": kit.rows(11)}, "data sha256: saved"),
        # fault 25: the same rows through an edited chat template; no tokenised copy outlives it
        ({"examples": retokenised(kit.rows())}, "data sha256: saved"),
        ({"seed": 4}, "seed: saved 3, now 4"),
    ],
)
def test_another_configuration_is_refused(tmp_path, changes, message):
    with pytest.raises(Terminated):
        run(checkpoint_dir=tmp_path, check_stop=StopAt(1))
    with pytest.raises(InputError, match=message):
        run(checkpoint_dir=tmp_path, **changes)


def test_a_checkpoint_from_before_a_setting_existed_means_its_default(tmp_path, straight):
    """Run directories are continued by newer programs; only another value is another run."""
    with pytest.raises(Terminated):
        run(checkpoint_dir=tmp_path, check_stop=StopAt(4))
    store = CheckpointStore(tmp_path)
    file = store.path(3) / "meta.json"
    meta = json.loads(file.read_text())
    assert meta["config"].pop("training.optimizer") == "adamw"
    file.write_text(json.dumps(meta))
    write_manifest(store.path(3), {})
    result = run(checkpoint_dir=tmp_path)
    kit.assert_same_bits(kit.flat(result.trainable), kit.flat(straight[0].trainable))


def test_how_often_to_save_may_change(tmp_path):
    with pytest.raises(Terminated):
        run(checkpoint_dir=tmp_path, check_stop=StopAt(2))
    config = kit.settings(checkpoint_every=1, keep_checkpoints=3)
    run(config, checkpoint_dir=tmp_path)
    assert CheckpointStore(tmp_path).steps() == [4, 5, 6]


def test_rows_over_the_length_are_dropped_and_counted():
    kept = [e for e in kit.rows() if len(e) <= 20]
    result = run(kit.settings(max_length=20, epochs=1))
    assert result.summary["dropped_rows"] == 10 - len(kept) > 0
    assert result.summary["rows"] == len(kept)


def test_five_steps_that_are_not_finite_in_a_row_end_the_run(tmp_path, caplog):
    """Fault 45."""
    broken = kit.params()
    broken["embed"] = broken["embed"].at[7].set(jnp.nan)
    rows = [Example(f"bad-{n}", [1, 7, 2, 3], [False, True, True, True]) for n in range(24)]
    lines = []
    with pytest.raises(InputError, match=r"5 steps in a row .* step 5 .* Rows of the last: bad-"):
        run(examples=rows, params=broken, log=lambda **values: lines.append(values))
    skipped = [line for line in lines if line.get("skipped")]
    assert [line["step"] for line in skipped] == [1, 2, 3, 4, 5]
    assert all(len(line["rows"]) == 4 for line in skipped)
    assert "step 1 skipped" in caplog.text and skipped[0]["rows"][0] in caplog.text


def test_one_bad_row_costs_its_own_step_only():
    broken = kit.params()
    broken["embed"] = broken["embed"].at[60].set(jnp.nan)  # tied: the head would spread it
    cfg = dataclasses.replace(kit.CONFIG, tie_word_embeddings=False)
    broken["lm_head"] = kit.params()["embed"]
    good = [Example(f"good-{n}", [1, 2, 3, 4 + n], [False, True, True, True]) for n in range(11)]
    rows = [*good, Example("bad", [1, 60, 2, 3], [False, True, True, True])]
    lines = []
    setup = kit.setup(kit.settings(epochs=1), cfg)
    result = kit.train(broken, setup, rows, seed=0, log=lambda **v: lines.append(v))
    assert result.summary["steps"] == 3 and result.summary["skipped_steps"] == 1
    (skipped,) = [line for line in lines if line.get("skipped")]
    assert "bad" in skipped["rows"]
    assert all(np.isfinite(x).all() for x in kit.flat(result.trainable).values())


def test_full_fine_tuning_of_bfloat16_is_refused():
    low = {"embed": jnp.zeros((4, 2), jnp.bfloat16)}
    with pytest.raises(ConfigError, match="float32 parameters, these are bfloat16"):
        run(kit.settings(full_finetune=True), params=low)


def test_thinksafe_kl_learns_from_harmful_rows_and_stays_near_on_benign_ones():
    lines = []
    config = kit.settings(epochs=6, objective="ce+kl", learning_rate=0.03, warmup_ratio=0.0)
    run(config, kit.rows(objective="ce+kl"), log=lambda **values: lines.append(values))
    kl = [line["kl"] for line in lines if "kl" in line]
    assert kl[0] < 1e-4 < kl[-1]  # the student begins as its reference
    entropy = [line["cross_entropy"] for line in lines if "cross_entropy" in line]
    assert entropy[-1] < 0.8 * entropy[0]
    assert {"loss", "grad_norm", "tokens_per_second", "padding", "memory_bytes"} <= set(lines[0])


def test_minutes_and_steps_both_make_checkpoints(tmp_path):
    config = kit.settings(checkpoint_every=100, checkpoint_minutes=1e-9, keep_checkpoints=9)
    run(config, checkpoint_dir=tmp_path)
    assert CheckpointStore(tmp_path).steps() == [1, 2, 3, 4, 5, 6]


def test_an_evaluation_is_called_and_logged(straight):
    lines = []

    def evaluate(step, trainable):
        return {"b_norm": float(jnp.abs(trainable["layers"]["q_proj"]["b"]).max()), "at": step}

    result = run(log=lambda **v: lines.append(v), evaluate=evaluate, evaluate_every=4)
    assert [line["at"] for line in lines if "at" in line] == [4, 6]
    assert lines[-1]["b_norm"] > 0
    kit.assert_same_bits(kit.flat(result.trainable), kit.flat(straight[0].trainable))


def committed(tree):
    return jax.device_put(tree, jax.devices()[0])


def on_a_mesh_of_one(tree):
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.NamedSharding(mesh, jax.P(None, None))
    return jax.tree.map(lambda x: x if x.ndim != 2 else jax.device_put(x, rows), tree)


@pytest.mark.parametrize("place", [lambda tree: tree, committed, on_a_mesh_of_one])
def test_the_step_is_compiled_once_wherever_the_weights_lie(place):
    """As `init_params` leaves them, as `load_params` commits them, as a mesh lays them out."""
    compiled = []
    setup = kit.setup(kit.settings(epochs=1))
    kit.train(
        place(kit.params()), setup, kit.rows(),
        log=lambda **_: compiled.append(compilations_so_far().count),
    )  # fmt: skip
    assert len(compiled) > 2 and compiled[0] == compiled[-1]


def test_rank_stabilised_lora_scales_by_the_root_of_r():
    config = kit.settings(lora_r=16, lora_alpha=8.0, lora_rslora=True)
    assert lora_config(config).scale == 2.0
    assert lora_config(kit.settings(lora_r=16, lora_alpha=8.0)).scale == 0.5


def test_tensorboard_gets_the_finite_numbers(tmp_path):
    pytest.importorskip("tensorboardX")
    with tracking(["tensorboard"], tmp_path) as trackers:
        track(trackers, {"step": 3, "loss": 0.5, "kl": float("nan"), "rows": ["a"]})
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss" in file.read_bytes() and b"train/kl" not in file.read_bytes()


def test_a_tracker_that_is_not_installed_is_said_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    message = r"pip install 'thinksafe-jax\[wandb\]'"
    with pytest.raises(EnvironmentFault, match=message), tracking(["wandb"], tmp_path):
        pass


class DrawnFromTheWeights:
    """Steps of a dataset as an on-policy source gives them; a signal comes while one is drawn."""

    looks_at_weights = True

    def __init__(self, batches, stopped_at):
        self.batches, self.stopped_at = batches, stopped_at
        self.num_steps, self.steps_per_epoch = batches.num_steps, batches.steps_per_epoch
        self.summary, self.identity = batches.summary, batches.identity

    def steps(self, start, weights):
        for number in range(start, self.num_steps):
            weights()
            if number == self.stopped_at:
                raise Terminated(signal.SIGTERM)
            yield self.batches[number]


def test_a_signal_while_a_step_is_drawn_saves_the_steps_before(tmp_path):
    """Rollouts take longer than a step; what was trained before them is not trained again."""
    setup = kit.setup(kit.settings(checkpoint_every=100))
    batches = setup.batches(kit.rows(), seed=3)
    whole = train_steps(kit.params(), setup, batches, seed=3)
    with pytest.raises(Terminated):
        source = DrawnFromTheWeights(batches, stopped_at=2)
        train_steps(kit.params(), setup, source, seed=3, checkpoint_dir=tmp_path)
    assert [folder.name for folder in tmp_path.glob("step_*")] == ["step_00000002"]
    source = DrawnFromTheWeights(batches, stopped_at=None)
    result = train_steps(kit.params(), setup, source, seed=3, checkpoint_dir=tmp_path)
    kit.assert_same_bits(kit.flat(result.trainable), kit.flat(whole.trainable))


class WeakAtTheEnd(DrawnFromTheWeights):
    """The last step has the shapes of the others, and a number of another type among them."""

    def steps(self, start, weights):
        for step in super().steps(start, weights):
            if step.row_ids == self.batches[self.num_steps - 1].row_ids:
                passes = int(step.batch.passes)
                step = dataclasses.replace(step, batch=step.batch._replace(passes=passes))
            yield step


def test_programs_are_counted_and_not_shapes():
    setup = kit.setup(kit.settings(epochs=1))
    batches = setup.batches(kit.rows(), seed=3)
    assert len(batches.layouts) == 1 and batches.num_steps == 3
    counts = [
        train_steps(kit.params(), setup, source(batches, None), seed=3).summary
        for source in (DrawnFromTheWeights, WeakAtTheEnd)
    ]
    assert [summary["compiles"] for summary in counts] == [1, 2]
    assert counts[0]["tokens_per_second"] > 0 and counts[1]["compile_seconds"] > 0
