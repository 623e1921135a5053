"""A tiny model and random rows for the training tests."""

import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np

from tests.support import tiny_config
from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.models import init_params
from thinksafe_jax.training import Example, Hooks, TrainingSetup
from thinksafe_jax.training import train as train_steps
from thinksafe_jax.training.batches import pack

CONFIG = tiny_config(
    vocab_size=61,
    hidden_size=24,
    intermediate_size=40,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
)
# checks are sharper where the loss is far from uniform
PARAMS_SCALE = 0.3


def params():
    return init_params(CONFIG, jax.random.key(1), scale=PARAMS_SCALE)


def settings(**changes) -> TrainingConfig:
    """Small and quick; dropout on, since resuming must draw the same."""
    values = {
        "epochs": 2,
        "batch_size": 4,
        "micro_batch_size": 2,
        "learning_rate": 0.01,
        "lora_r": 2,
        "lora_alpha": 4.0,
        "checkpoint_every": 3,
        **changes,
    }
    return TrainingConfig(**values)


def rows(count: int = 10, seed: int = 0, longest: int = 30, objective: str = "ce") -> list[Example]:
    """Rows of uneven length with uneven response shares; for ce+kl every other one is benign."""
    rng = np.random.default_rng(seed)
    out = []
    for n in range(count):
        length = int(rng.integers(6, longest + 1))
        prompt = int(rng.integers(1, length - 1))
        ids = rng.integers(0, CONFIG.vocab_size, length)
        benign = objective == "ce+kl" and n % 2 == 0
        out.append(Example(f"row-{n}", ids, np.arange(length) >= prompt, use_kl=benign))
    return out


def setup(config: TrainingConfig | None = None, cfg=CONFIG, mesh=None) -> TrainingSetup:
    return TrainingSetup(cfg, config or settings(), mesh)


def packed(examples, layout, setup: TrainingSetup | None = None):
    """The arrays of one step, as the setup's objective weighs them."""
    return pack(examples, layout, (setup or TrainingSetup(CONFIG, settings())).objective.streams)


def train(params, setup: TrainingSetup, examples, *, seed=3, checkpoint_dir=None, **hooks):
    """Trains on the rows of a dataset, with hooks by name."""
    batches = setup.batches(examples, seed)
    more = {"seed": seed, "checkpoint_dir": checkpoint_dir, "hooks": Hooks(**hooks)}
    return train_steps(params, setup, batches, **more)


def flat(tree) -> dict[str, np.ndarray]:
    """Leaves by name, copied (a view would change when the step takes the array's memory)."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in leaves}


def assert_same_bits(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    """For two results of `flat`."""
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


KILLED_SETTINGS = settings(epochs=4)  # 12 steps

if __name__ == "__main__":  # a run in its own process, killed behind a step

    def log(step: int, **_) -> None:
        if step == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

    train(params(), setup(KILLED_SETTINGS), rows(), checkpoint_dir=Path(sys.argv[1]), log=log)
