"""Training where the tokens of a row lie on several devices: the numbers are those of one."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest

from tests.support import tiny_config
from tests.training import kit
from thinksafe_jax.config import SamplingConfig
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.models import init_params
from thinksafe_jax.sharding import load_mesh
from thinksafe_jax.training import (
    Example,
    RowStates,
    SampledRow,
    Stream,
    StreamedExample,
    TrainingMesh,
    TrainingSetup,
    abstract_arguments,
    make_row_logprobs,
    make_step,
)
from thinksafe_jax.training.examples import KeySpans
from thinksafe_jax.training.packing import Layout, choose_layouts
from thinksafe_jax.training.row_batches import row_batches
from thinksafe_jax.training.step import make_gradient

pytestmark = pytest.mark.slow

# widths that no other dimension has, so that shapes in the compiled program tell what they are
CFG = tiny_config(vocab_size=208, hidden_size=72, intermediate_size=176, num_heads=4)
# rows of 6 to 30 tokens, four or five in each: they begin and end anywhere in a device's 16 or 32
LAYOUT = Layout(passes=1, sequences=4, length=64)
MESHES = {
    "sequence 4 beside fsdp": (2, 4, 1),
    "sequence 2 beside fsdp and tensor": (2, 2, 2),
}


def mesh_of(fsdp: int, sequence: int, tensor: int) -> TrainingMesh:
    """Rows over fsdp, tokens over sequence, and weights over both."""
    train = load_mesh("cpu-8").train
    rules = train.rules | {
        "batch": ("fsdp",), "sequence": ("sequence",), "embed": ("fsdp", "sequence")
    }  # fmt: skip
    axes = {"fsdp": fsdp, "sequence": sequence, "tensor": tensor}
    return TrainingMesh.of_phase(replace(train, axes=axes, rules=rules), CFG)


def setup_of(objective: str, mesh: TrainingMesh | None) -> TrainingSetup:
    config = kit.settings(
        objective=objective,
        lora_targets=["k_proj", "o_proj"],
        lora_r=4,
        lora_dropout=0.0,
        max_length=64,
    )
    return kit.setup(config, CFG, mesh)


@cache
def params():
    return init_params(CFG, jax.random.key(1), scale=0.3)


def gradient_of(objective: str, mesh: TrainingMesh | None, examples: Sequence[Example]):
    """Totals and gradients of a step, from an adapter that is not zero."""
    setup = setup_of(objective, mesh)
    shapes = setup.abstract_trainable()
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    values = [0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    trainable, base = tree.unflatten(values), params()
    batch = kit.packed(examples, LAYOUT, setup)
    if mesh is not None:
        trainable = jax.device_put(trainable, setup.trainable_shardings())
        base = jax.device_put(base, mesh.param_shardings())
        batch = mesh.feed(batch)
    totals, grads = jax.jit(make_gradient(setup))(trainable, base, batch, jax.random.key(1))
    return kit.flat(totals), kit.flat(grads)


def rollouts() -> list[StreamedExample]:
    """Rows with signed weights and all three streams, far from how they were sampled."""
    rng, examples = np.random.default_rng(6), []
    for row in kit.rows(14):
        size, mask = len(row) - 1, row.loss_mask[1:].astype(np.float32)
        facts = {"temperature": np.full(size, 0.7), "sampled": rng.normal(-3, 1, size)}
        streams = {
            "pg": mask * rng.normal(size=size),
            "ce": mask * rng.integers(0, 2, size),
            "kl": mask,
        }
        example = StreamedExample(
            row.id,
            row.token_ids,
            row.loss_mask,
            facts={name: value.astype(np.float32) for name, value in facts.items()},
            streams={n: Stream(w.astype(np.float32), size) for n, w in streams.items()},
        )
        examples.append(example)
    return examples


alone = cache(lambda: gradient_of("rollout-streams", None, rollouts()))


@pytest.mark.parametrize("sizes", MESHES.values(), ids=MESHES.keys())
def test_loss_and_gradients_equal_one_device(sizes):
    """Cross-entropy, a policy gradient, and the divergence from the model without its adapter."""
    assert_same(gradient_of("rollout-streams", mesh_of(*sizes), rollouts()), alone())


def assert_same(found, expected):
    for name, value in found[0].items():
        np.testing.assert_allclose(value, expected[0][name], rtol=2e-5, err_msg=name)
    for name, value in found[1].items():
        one, other = expected[1][name].ravel(), value.ravel()
        cosine = one @ other / math.sqrt((one @ one) * (other @ other))
        assert cosine >= 0.9999999, name
        np.testing.assert_allclose(other, one, rtol=0, atol=2e-5 * np.abs(one).max())


def test_heads_that_look_at_whole_rows_see_them():
    """SafeKey's are means over the tokens of a row, which several devices have."""
    rows = list(safekey_rows())
    found = gradient_of("safekey", mesh_of(1, 4, 1), rows)
    assert_same(found, gradient_of("safekey", None, rows))


def safekey_rows():
    objective = setup_of("safekey", None).objective
    for row in kit.rows(4):
        start = int(np.argmax(row.loss_mask))
        spans = KeySpans(min(start + 1, len(row) - 1), len(row), harmful=len(row) % 2 == 0)
        yield from objective.rows(replace(row, spans=spans), epochs_left=1)


def test_rows_are_scored_and_looked_at_as_on_one_device():
    """Lengths that three devices do not divide are padded."""
    rng = np.random.default_rng(2)
    rows = [
        SampledRow(
            str(n),
            rng.integers(0, 208, 3),
            rng.integers(0, 208, 40 + n),
            SamplingConfig(0.7, 0.95, 0, 0.0, 12),
        )
        for n in range(3)
    ]
    pairs = [([*row.prompt_ids, *row.token_ids], 3) for row in rows]
    scores, states = [], []
    for mesh in (None, mesh_of(2, 3, 1)):
        setup, base = setup_of("ce", mesh), params()
        off = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), setup.abstract_trainable())
        if mesh is not None:
            off, base = (
                mesh.put(off, setup.trainable_shardings()),
                mesh.put(base, mesh.param_shardings()),
            )
        scores.append(make_row_logprobs(setup)(off, base, rows))
        states.append(RowStates(CFG, base, mesh=mesh)(pairs, top=True))
    for others, looked in zip(scores[1:], states[1:], strict=True):
        for one, other in zip(scores[0], others, strict=True):
            np.testing.assert_allclose(other, one, atol=1e-4)
        for one, other in zip(states[0], looked, strict=True):
            np.testing.assert_allclose(other.states, one.states, atol=1e-4)
            np.testing.assert_array_equal(other.top, one.top)


def test_lengths_divide_over_the_devices_or_are_refused():
    layouts = choose_layouts([[70, 41], [55, 32]], 2, 128, 72, sequence_shards=3)
    assert all(layout.length % 48 == 0 for layout in layouts)
    (layout,) = choose_layouts([[162, 54, 54, 54]], 4, 648, 2048, sequence_shards=4)
    assert layout.length % 16 == 0  # 330 where lengths are tried an eighth of the longest apart
    assert [b.tokens.shape[1] for b in row_batches([[1] * 60], shards=1, multiple=3)] == [66]
    mesh = mesh_of(1, 4, 1)
    batch = kit.packed(kit.rows(2), Layout(1, 2, 30), setup_of("ce", mesh))
    with pytest.raises(ConfigError, match="30 tokens do not divide over 4 devices"):
        mesh.feed(batch)


def test_a_device_has_its_own_tokens_only_and_exchanges_heads():
    """Read from the compiled step: what is alive falls with the axis."""
    sizes = {}
    for sequence in (1, 4):
        setup = setup_of("ce", mesh_of(1, sequence, 1))
        arguments = abstract_arguments(setup, (2, 256), "float32")
        compiled = make_step(setup, 10).lower(*arguments).compile()
        sizes[sequence] = compiled.memory_analysis().temp_size_in_bytes
        text = compiled.as_text()
        assert ("all-to-all" in text) == (sequence > 1)
        if sequence > 1:  # no states, MLP activations or logits of 256 tokens
            assert not re.search(r"\[2,256,(72|176|208)\]", text)
    assert sizes[4] < 0.4 * sizes[1]
