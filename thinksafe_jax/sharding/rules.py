"""Rule tables: logical axes to mesh axes, checked against every tensor of a model."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from jax.sharding import PartitionSpec

from thinksafe_jax.errors import listed, shortened
from thinksafe_jax.models import (
    LoraConfig,
    ModelConfig,
    declare,
    stacked_shape,
    target_kernels,
    walk,
)
from thinksafe_jax.sharding.phases import Phase, Rules
from thinksafe_jax.sharding.sequence_parallel import exchanged_heads

LOGICAL_AXES = (
    "batch", "sequence", "layers", "vocab", "embed", "heads", "kv_heads", "head_dim", "mlp",
    "norm", "lora_rank",
)  # fmt: skip

MAY_CROSS_SLICES = ("batch", "embed")  # what else is cut sends activations in every layer

_LARGE = 32 * 2**20  # bytes; a tensor above it that several devices hold is worth a warning


@dataclass(frozen=True)
class Tensor:
    """Shape of a tensor with the logical axis of each dimension."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]

    def shard_elements(self, phase: Phase) -> int:
        """Elements that one device holds."""
        return math.prod(self.shape) // math.prod(phase.num_shards(axis) for axis in self.axes)


Tensors = Mapping[tuple[str, ...], Tensor]  # by path


def partition_spec(axes: Sequence[str], rules: Rules) -> PartitionSpec:
    """The PartitionSpec of a tensor whose dimensions are the logical `axes`."""
    parts = [tuple(rules[axis]) for axis in axes]
    return PartitionSpec(*(None if not p else p[0] if len(p) == 1 else p for p in parts))


def parameter_tensors(cfg: ModelConfig) -> dict[tuple[str, ...], Tensor]:
    """Every parameter by its path, layers stacked."""
    return {
        path: Tensor(
            stacked_shape(path, param, cfg),
            ("layers", *param.axes) if path[0] == "layers" else param.axes,
        )
        for path, param in walk(declare(cfg))
    }


def head_tensor(cfg: ModelConfig) -> Tensor:
    """The LM head; the embedding itself where the two are tied."""
    return parameter_tensors(cfg)["embed" if cfg.tie_word_embeddings else "lm_head",]


def adapter_tensors(cfg: ModelConfig, lora: LoraConfig) -> dict[tuple[str, ...], Tensor]:
    """Every adapter weight by its path: a follows the kernel's inputs, b its outputs."""
    tensors = {}
    for name, kernel in target_kernels(cfg, lora.targets).items():
        split = len(kernel.shape) - kernel.in_ndim
        tensors["layers", name, "a"] = Tensor(
            (cfg.num_layers, lora.r, *kernel.shape[split:]),
            ("layers", "lora_rank", *kernel.axes[split:]),
        )
        tensors["layers", name, "b"] = Tensor(
            (cfg.num_layers, *kernel.shape[:split], lora.r),
            ("layers", *kernel.axes[:split], "lora_rank"),
        )
    return tensors


def activation_tensors(
    cfg: ModelConfig, rows: int = 0, tokens: int = 1
) -> dict[tuple[str, ...], Tensor]:
    """What a forward pass over `rows` rows of `tokens` computes, with the axes that rules give it.

    Without `rows` their number is not known yet, and divides over anything.
    """
    ends = {
        "queries": ((cfg.num_heads, cfg.head_dim), ("heads", "head_dim")),
        "keys and values": ((cfg.num_kv_heads, cfg.head_dim), ("kv_heads", "head_dim")),
        "mlp activations": ((cfg.intermediate_size,), ("mlp",)),
    }
    tensors = {
        (name,): Tensor((rows, tokens, *shape), ("batch", "sequence", *axes))
        for name, (shape, axes) in ends.items()
    }
    # of one position: sampler and guard have no more, and the loss walks over slices
    logits = Tensor((rows, 1, cfg.vocab_size), ("batch", "sequence", "vocab"))
    return tensors | {("logits",): logits}


def attention_heads(cfg: ModelConfig, phase: Phase) -> int:
    """Query heads that each device attends with: of those that `sequence` exchanges, its share."""
    heads = cfg.num_heads // phase.num_shards("heads")
    kv_heads, parts = cfg.num_kv_heads // phase.num_shards("kv_heads"), phase.num_shards("sequence")
    return exchanged_heads(heads, kv_heads, parts)[0] // parts


def sharding_problems(
    cfg: ModelConfig,
    phase: Phase,
    lora: LoraConfig | None = None,
    rows: int = 0,
    *,
    cuts_sequences: bool = False,
) -> list[str]:
    """What makes a phase impossible for a model, one sentence each with names and numbers.

    Every parameter, adapter weight and activation is looked at: unknown axes, two logical axes of
    one tensor on one mesh axis, sizes that do not divide, KV heads that cannot be aligned with
    their queries, and cuts through what attention needs whole.

    Args:
        phase: divided for the model, see `Phase.for_model`.
        rows: of a forward pass; 0 where they follow the mesh.
        cuts_sequences: the phase may cut the tokens of a row, as training may.
    """
    unknown = list(_unknown_axes(phase))
    if unknown:
        return unknown
    tensors = parameter_tensors(cfg) | (adapter_tensors(cfg, lora) if lora else {})
    activations = activation_tensors(cfg, rows)
    return [
        *_collisions(tensors | activations, phase),
        *_indivisible(tensors | {p: t for p, t in activations.items() if rows}, phase),
        *_uneven_slices(phase),
        *_misaligned_heads(cfg, phase),
        *_cut_attention(phase, cuts_sequences),
    ]


def _unknown_axes(phase: Phase) -> Iterator[str]:
    for logical in LOGICAL_AXES:
        if logical not in phase.rules:
            yield f"no rule for the logical axis {logical}"
    for logical, names in phase.rules.items():
        if logical not in LOGICAL_AXES:
            known = ", ".join(LOGICAL_AXES)
            yield f"rule for an unknown logical axis {shortened(logical)}; known: {known}"
        for name in names:
            if name not in phase.axes:
                yield (
                    f"the rule of {logical} names an unknown mesh axis {shortened(name)}; the mesh "
                    f"has {listed(phase.axes)}"
                )


def _collisions(tensors: Tensors, phase: Phase) -> Iterator[str]:
    """A mesh axis cuts a tensor once; the first tensor of each colliding pair is named."""
    named = {".".join(path): tensor.axes for path, tensor in tensors.items()}
    seen = set()
    for name, axes in named.items():
        for first, second in combinations(axes, 2):
            both = [m for m in phase.rules[first] if m in phase.rules[second]]
            if both and (first, second) not in seen:
                seen.add((first, second))
                yield (
                    f"{name} [{', '.join(axes)}]: {first} and {second} are both on the mesh axis "
                    f"{', '.join(both)}; give one of them another axis or null"
                )


def _indivisible(tensors: Tensors, phase: Phase) -> Iterator[str]:
    """Sizes that do not divide; but for lengths, since rows are packed to one that does."""
    users: dict[tuple[str, int], list[str]] = {}
    for path, tensor in tensors.items():
        for axis, size in zip(tensor.axes, tensor.shape, strict=True):
            if axis != "sequence" and size % phase.num_shards(axis):
                users.setdefault((axis, size), []).append(".".join(path))
    for (axis, size), names in users.items():
        mesh = " x ".join(f"{name} {phase.axes[name]}" for name in phase.rules[axis])
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        shards = phase.num_shards(axis)
        yield f"{axis} {size} does not divide over {mesh} = {shards} ({names[0]}{more})"


def _uneven_slices(phase: Phase) -> Iterator[str]:
    for axis, parts in phase.dcn.items():
        if phase.axes[axis] % parts:
            yield f"{axis} {phase.axes[axis]} does not divide over {parts} slices"


def _misaligned_heads(cfg: ModelConfig, phase: Phase) -> Iterator[str]:
    """Queries find their keys on their own device if KV heads are cut like them or held whole."""
    queries, keys = phase.rules["heads"], phase.rules["kv_heads"]
    shards, kv_shards = phase.num_shards("heads"), phase.num_shards("kv_heads")
    prefix = _larger(queries, phase)[: len(_larger(keys, phase))]
    if prefix != _larger(keys, phase):
        yield (
            f"kv_heads on {', '.join(keys)} must be the first of the axes of heads "
            f"({', '.join(queries) or 'none'}), or queries would not meet their keys"
        )
    elif kv_shards not in (shards, cfg.num_kv_heads):
        yield (
            f"{cfg.num_kv_heads} KV heads cut {kv_shards} ways do not line up with query heads cut "
            f"{shards} ways; cut both alike, or the KV heads {cfg.num_kv_heads} ways"
        )


def _cut_attention(phase: Phase, cuts_sequences: bool) -> Iterator[str]:
    """What attention needs whole on each device; in training it exchanges tokens for heads."""
    if phase.num_shards("sequence") > 1 and not cuts_sequences:
        yield (
            f"sequence on {', '.join(phase.rules['sequence'])}: only training can cut the tokens "
            "of a row, here each device would see its own only; write `sequence: null`"
        )
    if phase.num_shards("head_dim") > 1:
        yield (
            f"head_dim on {', '.join(phase.rules['head_dim'])}: attention would see a part of each "
            "head only; write `head_dim: null`"
        )


def _larger(names: Sequence[str], phase: Phase) -> list[str]:
    return [name for name in names if phase.axes[name] > 1]


def sharding_warnings(
    cfg: ModelConfig, phase: Phase, itemsize: int, rows: int = 0, tokens: int = 1
) -> list[str]:
    """What works but costs: axes without use, large tensors held or computed several times.

    Args:
        phase: divided for the model, see `Phase.for_model`.
        itemsize: bytes of one weight.
        rows, tokens: of a forward pass over all devices, whose activations are looked at too.
    """
    tensors = parameter_tensors(cfg)
    weights = _replicated(tensors, tensors, "hold", phase, itemsize)
    activations = activation_tensors(cfg, rows, tokens)
    return [
        *_unused_axes(phase),
        *_weights_across_slices(tensors, phase, itemsize),
        *weights,
        *_replicated(activations, tensors, "compute", phase, itemsize),
        *_repeated_heads(cfg, phase, itemsize),
        *_uncut_heads(cfg, phase, itemsize),
        *_padded_heads(cfg, phase),
    ]


def _replicated(
    tensors: Tensors, parameters: Tensors, verb: str, phase: Phase, itemsize: int
) -> Iterator[str]:
    """The large tensors that no rule cuts over an axis which cuts a parameter elsewhere."""
    used = {name for t in parameters.values() for axis in t.axes for name in phase.rules[axis]}
    for path, tensor in tensors.items():
        unused = used - {name for axis in tensor.axes for name in phase.rules[axis]}
        copies = math.prod(phase.axes[name] for name in unused)
        size = tensor.shard_elements(phase) * itemsize
        if copies > 1 and size > _LARGE and "kv_heads" not in tensor.axes:
            yield (
                f"{'.'.join(path)} [{', '.join(tensor.axes)}]: {copies} devices each {verb} the "
                f"same {size:,} bytes; no rule cuts it over {', '.join(sorted(unused))}"
            )


def _unused_axes(phase: Phase) -> Iterator[str]:
    used = {name for names in phase.rules.values() for name in names}
    for name, size in phase.axes.items():
        if size > 1 and name not in used:
            yield f"mesh axis {name}: no rule uses it, so {size} devices do the same work"


def _weights_across_slices(tensors: Tensors, phase: Phase, itemsize: int) -> Iterator[str]:
    crossing = [name for name in phase.rules["embed"] if name in phase.dcn]
    if crossing:
        held = sum(t.shard_elements(phase) * itemsize for t in tensors.values())
        yield (
            f"embed on {', '.join(crossing)} lies across slices: each pass gathers the weights, of "
            f"which a device holds {held:,} bytes, over the data-centre network; keep FSDP in a "
            "slice"
        )


def _repeated_heads(cfg: ModelConfig, phase: Phase, itemsize: int) -> Iterator[str]:
    copies = phase.num_shards("heads") // phase.num_shards("kv_heads")
    if copies > 1:
        extra = sum(
            tensor.shard_elements(phase) * itemsize
            for tensor in parameter_tensors(cfg).values()
            if "kv_heads" in tensor.axes
        )
        yield (
            f"{cfg.num_kv_heads} KV heads on {phase.num_shards('heads')} tensor-parallel devices: "
            f"each is held {copies} times, weights ({extra:,} bytes a device) and cache alike"
        )


def _uncut_heads(cfg: ModelConfig, phase: Phase, itemsize: int) -> Iterator[str]:
    """Query heads on fewer devices than the MLP: what that costs, see `Phase.for_model`."""
    shards, heads = phase.num_shards("mlp"), phase.num_shards("heads")
    if cfg.num_heads % shards and 1 < heads < shards:
        copies = shards // heads
        held = sum(
            tensor.shard_elements(phase) * itemsize
            for tensor in parameter_tensors(cfg).values()
            if {"heads", "kv_heads"} & set(tensor.axes)
        )
        yield (
            f"{cfg.num_heads} query heads on {shards} tensor-parallel devices: they are cut "
            f"{heads} ways, so weights of attention ({held:,} bytes a device) and cache are held "
            f"{copies} times, and attention is computed {copies} times"
        )


def _padded_heads(cfg: ModelConfig, phase: Phase) -> Iterator[str]:
    heads, parts = cfg.num_heads // phase.num_shards("heads"), phase.num_shards("sequence")
    padded = attention_heads(cfg, phase) * parts
    if padded > heads:
        yield (
            f"{heads} query heads of a device are exchanged over sequence {parts} as {padded}: "
            f"{padded / heads - 1:.0%} more FLOPs of attention"
        )
