"""Every shipped rule table: the sampler and the training step on it equal those on one device.

Meshes of more than eight chips are shrunk to eight devices as `MeshConfig.shrink` does, the largest
axis first; tables that are then the same are run once.
"""

import re
from functools import cache, partial
from math import prod
from typing import Any

import jax
import numpy as np
import pytest

from tests.sharding.kit import NAMES
from tests.support import tiny_config
from tests.training import kit
from thinksafe_jax.config import EngineConfig, SamplingConfig
from thinksafe_jax.models import init_adapter, init_params
from thinksafe_jax.planning.abstract_programs import Sampler, decode_program
from thinksafe_jax.planning.search_space import proposals
from thinksafe_jax.sampling import Engine, Request
from thinksafe_jax.sharding import ModelMesh, Phase, load_mesh
from thinksafe_jax.training import TrainingMesh, TrainingSetup, make_step
from thinksafe_jax.training.packing import Layout
from thinksafe_jax.training.step import init_state, state_shardings

pytestmark = pytest.mark.slow

# sizes that no two dimensions share, so that shapes in a program tell what they are
CFG = tiny_config(vocab_size=208, hidden_size=72, intermediate_size=176)
SHAPE = EngineConfig(
    slots=2, window=4, page_size=16, pool_tokens=1024, max_length=128, replicas="together"
)
SETTINGS = kit.settings(batch_size=8, micro_batch_size=8, max_length=40, lora_dropout=0.0, lora_r=4)


def shipped(phase: str) -> dict[str, Phase]:
    """The distinct tables of a phase on at most eight devices, by the files that have them."""
    found: dict[str, Phase] = {}
    files: dict[str, list[str]] = {}
    for name in NAMES:
        mesh = load_mesh(name)
        if phase == "generate" or mesh.topology.chips > 8:  # replicas know nothing of slices
            mesh = mesh.shrink(8)
        section = getattr(mesh, phase)
        digest = section.for_model(CFG).hash
        found[digest] = section
        files.setdefault(digest, []).append(name)
    return {" ".join(files[digest]): section for digest, section in found.items()}


def proposed(phase: str, name: str) -> dict[str, Phase]:
    """A table that no file has, as a search proposes it."""
    tables = proposals(phase, load_mesh("cpu-8").topology)
    return {name: next(table.phase for table in tables if table.name == name)}


GENERATE, TRAIN = shipped("generate"), shipped("train")
FFN = {
    "generate": proposed("generate", "replica 2 x tensor 2 x ffn 2"),
    "train": proposed("train", "fsdp 2 x tensor 2 x ffn 2, vocabulary whole"),
}


def cases(phases: dict[str, Phase]) -> dict[str, Any]:
    return {"argvalues": phases.values(), "ids": phases.keys()}


@cache
def params():
    return init_params(CFG, jax.random.key(0), scale=0.2)


def sample(phase: Phase | None):
    """Tokens and log-probabilities of requests that are prefilled and then decoded."""
    rng = np.random.default_rng(3)
    sampling = SamplingConfig(1.0, 0.95, 20, 0.0, 8)
    requests = [
        Request(f"row-{n}", rng.integers(1, CFG.vocab_size, size).tolist(), sampling)
        for n, size in enumerate([1, 5, 16, 17, 30, 31, 21, 9, 25, 2])
    ]
    mesh = phase and ModelMesh.of_phase(phase, CFG)
    sampler = Engine(CFG, params(), SHAPE, mesh=mesh, eos_ids=(0,))
    return {done.id: done for done in sampler.generate(requests)}


alone = cache(partial(sample, None))


@pytest.mark.parametrize("phase", **cases(GENERATE | FFN["generate"]))
def test_prefill_and_decode_equal_one_device(phase):
    found = sample(phase)
    assert {i: done.token_ids for i, done in found.items()} == {
        i: done.token_ids for i, done in alone().items()
    }
    for name, done in found.items():
        np.testing.assert_allclose(done.logprobs, alone()[name].logprobs, atol=1e-3)


def train_step(where: TrainingMesh | None):
    """Metrics and adapter after one step from a fixed state, and the program's text."""
    setup = TrainingSetup(CFG, SETTINGS, where)
    adapter = init_adapter(CFG, setup.lora, jax.random.key(2))
    state = init_state(jax.tree.map(lambda x: x + 0.02, adapter), setup)
    rows = kit.rows(8, longest=40)
    batch = kit.packed(rows, Layout(passes=1, sequences=8, length=40), setup)
    base = params()
    if where is not None:
        state = jax.device_put(state, state_shardings(setup))
        base = jax.device_put(base, where.param_shardings())
        batch = batch._replace(rows=jax.device_put(batch.rows, where.batch()))
    arguments = (state, base, batch, jax.random.key(1))
    step: Any = make_step(setup, 10)
    compiled = step.lower(*arguments).compile()
    state, metrics = compiled(*arguments)
    values = {name: float(value) for name, value in kit.flat(metrics).items()}
    return values, kit.flat(state.trainable), compiled.as_text()


step_alone = cache(partial(train_step, None))


@pytest.mark.parametrize("phase", **cases(TRAIN | FFN["train"]))
def test_a_training_step_equals_one_device_and_gathers_weights_where_they_are_cut(phase):
    metrics, adapter, text = train_step(TrainingMesh.of_phase(phase, CFG))
    expected, weights, _ = step_alone()
    assert metrics == pytest.approx(expected, rel=2e-5)
    # Adam divides by the gradient's size: where that is nearly 0, its rounding is enlarged
    for name, value in adapter.items():
        np.testing.assert_allclose(value, weights[name], atol=5e-3 * np.abs(weights[name]).max())
    gathered = results(text, "all-gather")
    assert any(is_kernel(s) for s in gathered) == (phase.axes["fsdp"] > 1)
    assert not any(s[-1:] == (CFG.vocab_size,) for s in gathered)  # no logits


def compiled_text(program) -> str:
    return program.function.lower(*program.arguments, **program.statics).compile().as_text()


def results(text: str, kind: str) -> list[tuple[int, ...]]:
    """Shapes that the collectives of a kind make."""
    found = re.findall(rf"= (\(?[^=]*?) {kind}(?:-start)?\(", text)
    shapes = [s for result in found for s in re.findall(r"\w+\[([\d,]*)\]", result)]
    return [tuple(int(n) for n in shape.split(",") if n) for shape in shapes]


def is_kernel(shape: tuple[int, ...]) -> bool:
    """Whether it is a weight's, with the model's width or the MLP's in it."""
    return prod(shape) >= 72 * 16 and bool({72, 176} & set(shape))


@pytest.mark.parametrize("phase", GENERATE.values(), ids=GENERATE.keys())
def test_decode_sends_two_all_reduces_a_layer_and_no_weights(phase):
    shape = Sampler(slots=8, pool_tokens=512, longest=128, page_size=16)
    text = compiled_text(decode_program(CFG, phase, jax.devices(), shape, "float32"))
    tensor = phase.for_model(CFG).num_shards("heads")
    states = [s for s in results(text, "all-reduce") if s[:1] == (8,) and s[-1] == 72]
    # and one for the embedding, which is cut along the vocabulary
    assert len(states) == (2 * CFG.num_layers + 1 if tensor > 1 else 0)
    gathered = results(text, "all-gather")
    assert not any(is_kernel(s) for s in gathered)
    assert all(prod(s) <= 8 * 64 * tensor for s in gathered)  # the candidates of the draw
    assert not results(text, "all-to-all") and not results(text, "collective-permute")
