"""Training on a mesh: the same numbers on any number of devices, and FSDP that moves weights."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import tiny_config
from tests.training import kit
from thinksafe_jax.models import abstract_params, init_params
from thinksafe_jax.sharding import load_mesh
from thinksafe_jax.training import Placement, lora_config, make_step, train
from thinksafe_jax.training.batches import pack
from thinksafe_jax.training.packing import Layout
from thinksafe_jax.training.step import TrainState, abstract_trainable, init_state

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


def placement(devices: int) -> Placement:
    fsdp, tensor = MESHES[devices]
    phase = load_mesh("cpu-8").train.with_axes({"data": 1, "fsdp": fsdp, "tensor": tensor})
    return Placement.of_phase(phase, CFG)


def run(where, **more):
    lines = []
    params = init_params(CFG, jax.random.key(1), scale=0.3)
    log = lambda **values: lines.append(values)  # noqa: E731
    result = train(
        params,
        CFG,
        SETTINGS,
        kit.rows(12, objective="ce+kl"),
        seed=3,
        log=log,
        placement=where,
        **more,
    )
    return kit.flat(result.trainable), [line["loss"] for line in lines]


@pytest.fixture(scope="module")
def alone():
    return run(None)


@pytest.mark.parametrize("devices", MESHES)
def test_the_same_losses_and_weights_on_1_2_and_8_devices(alone, devices):
    """Sums are added in another order; Adam enlarges the rounding where a gradient is nearly 0."""
    weights, losses = run(placement(devices))
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

    params = init_params(CFG, jax.random.key(1), scale=0.3)
    config = kit.settings(**{**vars(SETTINGS), "checkpoint_every": 1})
    more = {"checkpoint_dir": tmp_path, "seed": 3}
    with pytest.raises(Stop):
        train(
            params,
            CFG,
            config,
            kit.rows(12, objective="ce+kl"),
            log=log,
            placement=placement(8),
            **more,
        )
    lines = []
    train(
        params,
        CFG,
        config,
        kit.rows(12, objective="ce+kl"),
        log=lambda **values: lines.append(values),
        placement=placement(2),
        **more,
    )
    assert lines and lines[0]["step"] > 1
    np.testing.assert_allclose(lines[-1]["loss"], alone[1][-1], rtol=1e-4)


def test_fsdp_gathers_weights_and_not_activations():
    """Read from the compiled step."""
    where, lora, length = placement(8), lora_config(SETTINGS), 120
    batch = pack(kit.rows(8, objective="ce+kl"), Layout(passes=1, sequences=8, length=length))

    def shaped(tree, shardings):
        def one(x, s):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)

        return jax.tree.map(one, tree, shardings)

    trainable = shaped(abstract_trainable(CFG, lora), where.trainable(lora))
    state = jax.eval_shape(lambda t: init_state(t, SETTINGS), trainable)
    state = TrainState(
        trainable,
        shaped(state.opt_state, where.opt_state(trainable, SETTINGS, lora)),
        jax.ShapeDtypeStruct((), jnp.int32, sharding=where.replicated),
    )
    params = shaped(abstract_params(CFG, jnp.float32), where.param_shardings())
    arrays = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where.batch()) for x in batch[:-1]]
    step = make_step(CFG, SETTINGS, lora, 10, where)
    key = jax.random.key(0)
    text = step.lower(state, params, type(batch)(*arrays, batch.passes), key).compile().as_text()
    moved = re.findall(
        r"= \w+\[([\d,]+)\]\S* (?:all-gather|all-to-all|collective-permute)\(.*op_name=\"(.*?)\"",
        text,
    )
    shapes = {(tuple(map(int, dims.split(","))), name.rpartition("/")[2]) for dims, name in moved}
    assert any(CFG.hidden_size in dims for dims, _ in shapes)  # the width is whole again
    along_tokens = {name for dims, name in shapes if length in dims}
    # what was looked up in the embedding, once a pass: far less than the table itself
    assert along_tokens <= {"gather"}
