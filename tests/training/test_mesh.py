"""Training on a mesh: the same numbers on any number of devices, and FSDP that moves weights."""

import re

import jax
import numpy as np
import pytest

from tests.support import tiny_config
from tests.training import kit
from thinksafe_jax.models import init_params
from thinksafe_jax.sharding import load_mesh
from thinksafe_jax.training import TrainingMesh, abstract_arguments, make_step

pytestmark = pytest.mark.slow

# widths that no other dimension has, so that shapes in the compiled program tell what they are
CFG = tiny_config(vocab_size=208, hidden_size=72, intermediate_size=176, num_heads=4)
# without dropout: its draw follows the shape of the arrays, which a mesh may change
SETTINGS = kit.settings(
    epochs=1,
    objective="ce+kl",
    lora_targets=["q_proj", "v_proj", "o_proj", "up_proj"],
    lora_r=4,
    lora_dropout=0.0,
)
MESHES = {1: (1, 1), 2: (2, 1), 8: (4, 2)}  # devices -> fsdp, tensor


def mesh_of(devices: int) -> TrainingMesh:
    fsdp, tensor = MESHES[devices]
    phase = load_mesh("cpu-8").train.with_axes({"data": 1, "fsdp": fsdp, "tensor": tensor})
    return TrainingMesh.of_phase(phase, CFG)


def train(mesh, config=SETTINGS, **more):
    params = init_params(CFG, jax.random.key(1), scale=0.3)
    return kit.train(params, kit.setup(config, CFG, mesh), kit.rows(12, objective="ce+kl"), **more)


def run(mesh):
    lines = []
    result = train(mesh, log=lambda **values: lines.append(values))
    return kit.flat(result.trainable), [line["loss"] for line in lines]


@pytest.fixture(scope="module")
def alone():
    return run(None)


@pytest.mark.parametrize("devices", MESHES)
def test_the_same_losses_and_weights_on_1_2_and_8_devices(alone, devices):
    """Sums are added in another order; Adam enlarges the rounding where a gradient is nearly 0."""
    weights, losses = run(mesh_of(devices))
    np.testing.assert_allclose(losses, alone[1], rtol=1e-5)
    for name, value in weights.items():
        scale = np.abs(alone[0][name]).max()
        np.testing.assert_allclose(value, alone[0][name], rtol=5e-3, atol=5e-3 * scale)


def test_a_run_goes_on_with_another_number_of_devices(tmp_path, alone):
    """Fault 13."""

    class Stop(Exception):
        pass

    def log(step, **_):
        if step == 2:
            raise Stop

    config = kit.settings(**{**vars(SETTINGS), "checkpoint_every": 1})
    with pytest.raises(Stop):
        train(mesh_of(8), config, log=log, checkpoint_dir=tmp_path)
    lines = []
    log_lines = lambda **values: lines.append(values)  # noqa: E731
    train(mesh_of(2), config, log=log_lines, checkpoint_dir=tmp_path)
    assert lines and lines[0]["step"] > 1
    np.testing.assert_allclose(lines[-1]["loss"], alone[1][-1], rtol=1e-4)


def test_fsdp_gathers_weights_and_not_activations():
    """Read from the compiled step."""
    setup, length = kit.setup(SETTINGS, CFG, mesh_of(8)), 120
    arguments = abstract_arguments(setup, (8, length), "float32")
    text = make_step(setup, 10).lower(*arguments).compile().as_text()
    moved = re.findall(
        r"= \w+\[([\d,]+)\]\S* (?:all-gather|all-to-all|collective-permute)\(.*op_name=\"(.*?)\"",
        text,
    )
    shapes = {(tuple(map(int, dims.split(","))), name.rpartition("/")[2]) for dims, name in moved}
    assert any(CFG.hidden_size in dims for dims, _ in shapes)  # the width is whole again
    along_tokens = {name for dims, name in shapes if length in dims}
    # what was looked up in the embedding, once a pass: far less than the table itself
    assert along_tokens <= {"gather"}
