"""Rule tables: logical axes to mesh axes, checked against every tensor of a model."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jax.sharding import PartitionSpec

from thinksafe_jax.models import (
    LoraConfig,
    ModelConfig,
    declare,
    stacked_shape,
    target_kernels,
    walk,
)

LOGICAL_AXES = (
    "batch", "sequence", "layers", "vocab", "embed", "heads", "kv_heads", "head_dim", "mlp",
    "norm", "lora_rank",
)  # fmt: skip

_LARGE = 32 * 2**20  # bytes; a tensor above it that several devices hold is worth a warning
_LOSS_SLICE = 128  # positions whose logits exist at the same time, see training.losses

Rules = Mapping[str, Sequence[str]]  # logical axis -> mesh axes, none of them split


@dataclass(frozen=True)
class Strategy:
    """Mesh axes with sizes (outermost first) and the rules of one phase, for one model."""

    axes: dict[str, int]
    rules: dict[str, tuple[str, ...]]

    @property
    def devices(self) -> int:
        return math.prod(self.axes.values())

    @property
    def hash(self) -> str:
        """Short digest of axes and rules: two results with the same one used the same table."""
        text = json.dumps([list(self.axes.items()), self.rules], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def ways(self, logical: str) -> int:
        """Parts that a logical axis is cut into."""
        return math.prod(self.axes[name] for name in self.rules[logical])


@dataclass(frozen=True)
class Tensor:
    """Shape of a tensor with the logical axis of each dimension."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]

    def shard_elements(self, strategy: Strategy) -> int:
        """Elements that one device holds."""
        return math.prod(self.shape) // math.prod(strategy.ways(axis) for axis in self.axes)


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


def adapter_tensors(cfg: ModelConfig, lora: LoraConfig) -> dict[tuple[str, ...], Tensor]:
    """Every adapter weight by its path: a follows the kernel's inputs, b its outputs."""
    found = {}
    for name, kernel in target_kernels(cfg, lora.targets).items():
        split = len(kernel.shape) - kernel.in_ndim
        found["layers", name, "a"] = Tensor(
            (cfg.num_layers, lora.r, *kernel.shape[split:]),
            ("layers", "lora_rank", *kernel.axes[split:]),
        )
        found["layers", name, "b"] = Tensor(
            (cfg.num_layers, *kernel.shape[:split], lora.r),
            ("layers", *kernel.axes[:split], "lora_rank"),
        )
    return found


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
        "logits": ((cfg.vocab_size,), ("vocab",)),
    }
    return {
        (name,): Tensor(
            (rows, min(tokens, _LOSS_SLICE) if name == "logits" else tokens, *shape),
            ("batch", "sequence", *axes),
        )
        for name, (shape, axes) in ends.items()
    }


def strategy_problems(
    cfg: ModelConfig, strategy: Strategy, lora: LoraConfig | None = None, rows: int = 0
) -> list[str]:
    """What makes a strategy impossible for a model, one sentence each with names and numbers.

    Every parameter, adapter weight and activation is looked at: unknown axes, two logical axes of
    one tensor on one mesh axis, sizes that do not divide, KV heads that cannot be aligned with
    their queries, and cuts through what attention needs whole.

    Args:
        rows: of a forward pass; 0 where they follow the mesh.
    """
    unknown = list(_unknown_axes(strategy))
    if unknown:
        return unknown
    tensors = parameter_tensors(cfg) | (adapter_tensors(cfg, lora) if lora else {})
    activations = activation_tensors(cfg, rows)
    return [
        *_collisions(tensors | activations, strategy),
        *_indivisible(tensors | {p: t for p, t in activations.items() if rows}, strategy),
        *_misaligned_heads(cfg, strategy),
        *_cut_attention(strategy),
    ]


def _unknown_axes(strategy: Strategy) -> Iterator[str]:
    for logical in LOGICAL_AXES:
        if logical not in strategy.rules:
            yield f"no rule for the logical axis {logical}"
    for logical, names in strategy.rules.items():
        if logical not in LOGICAL_AXES:
            yield f"rule for an unknown logical axis {logical}; known: {', '.join(LOGICAL_AXES)}"
        for name in names:
            if name not in strategy.axes:
                yield (
                    f"the rule of {logical} names an unknown mesh axis {name}; the mesh has "
                    f"{', '.join(strategy.axes)}"
                )


def _collisions(tensors: Mapping[tuple[str, ...], Tensor], strategy: Strategy) -> Iterator[str]:
    """A mesh axis cuts a tensor once; the first tensor of each colliding pair is named."""
    named = {".".join(path): tensor.axes for path, tensor in tensors.items()}
    seen = set()
    for name, axes in named.items():
        for i, one in enumerate(axes):
            for other in axes[i + 1 :]:
                both = [m for m in strategy.rules[one] if m in strategy.rules[other]]
                if both and (one, other) not in seen:
                    seen.add((one, other))
                    yield (
                        f"{name} [{', '.join(axes)}]: {one} and {other} are both on the mesh axis "
                        f"{', '.join(both)}; give one of them another axis or null"
                    )


def _indivisible(tensors: Mapping[tuple[str, ...], Tensor], strategy: Strategy) -> Iterator[str]:
    users: dict[tuple[str, int], list[str]] = {}
    for path, tensor in tensors.items():
        for axis, size in zip(tensor.axes, tensor.shape, strict=True):
            if size % strategy.ways(axis):
                users.setdefault((axis, size), []).append(".".join(path))
    for (axis, size), names in users.items():
        mesh = " x ".join(f"{name} {strategy.axes[name]}" for name in strategy.rules[axis])
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield (
            f"{axis} {size} does not divide over {mesh} = {strategy.ways(axis)} ({names[0]}{more})"
        )


def _misaligned_heads(cfg: ModelConfig, strategy: Strategy) -> Iterator[str]:
    """Queries find their keys on their own device if KV heads are cut like them or held whole."""
    queries, keys = strategy.rules["heads"], strategy.rules["kv_heads"]
    ways, kv_ways = strategy.ways("heads"), strategy.ways("kv_heads")
    prefix = _larger(queries, strategy)[: len(_larger(keys, strategy))]
    if prefix != _larger(keys, strategy):
        yield (
            f"kv_heads on {', '.join(keys)} must be the first of the axes of heads "
            f"({', '.join(queries) or 'none'}), or queries would not meet their keys"
        )
    elif kv_ways not in (ways, cfg.num_kv_heads):
        yield (
            f"{cfg.num_kv_heads} KV heads cut {kv_ways} ways do not line up with query heads cut "
            f"{ways} ways; cut both alike, or the KV heads {cfg.num_kv_heads} ways"
        )


def _cut_attention(strategy: Strategy) -> Iterator[str]:
    """Attention runs on each device for its own rows and heads, which it therefore needs whole."""
    for axis, part in (("sequence", "its own tokens"), ("head_dim", "a part of each head")):
        if strategy.ways(axis) > 1:
            yield (
                f"{axis} on {', '.join(strategy.rules[axis])}: attention would see {part} only; "
                f"write `{axis}: null`"
            )


def _larger(names: Sequence[str], strategy: Strategy) -> list[str]:
    return [name for name in names if strategy.axes[name] > 1]


def strategy_warnings(
    cfg: ModelConfig, strategy: Strategy, itemsize: int, rows: int = 0, tokens: int = 1
) -> list[str]:
    """What works but costs: axes without use, large tensors held or computed several times.

    Args:
        itemsize: bytes of one weight.
        rows, tokens: of a forward pass over all devices, whose activations are looked at too.
    """
    found = list(_unused_axes(strategy))
    tensors = parameter_tensors(cfg)
    sharing = {name for t in tensors.values() for axis in t.axes for name in strategy.rules[axis]}
    for path, tensor in (tensors | activation_tensors(cfg, rows, tokens)).items():
        own = {name for axis in tensor.axes for name in strategy.rules[axis]}
        times = math.prod(strategy.axes[name] for name in sharing - own)
        size = tensor.shard_elements(strategy) * itemsize
        if times > 1 and size > _LARGE and "kv_heads" not in tensor.axes:
            verb = "hold" if path in tensors else "compute"
            found.append(
                f"{'.'.join(path)} [{', '.join(tensor.axes)}]: {times} devices each {verb} the "
                f"same {size:,} bytes; no rule cuts it over {', '.join(sorted(sharing - own))}"
            )
    return found + list(_repeated_heads(cfg, strategy, itemsize))


def _unused_axes(strategy: Strategy) -> Iterator[str]:
    used = {name for names in strategy.rules.values() for name in names}
    for name, size in strategy.axes.items():
        if size > 1 and name not in used:
            yield f"mesh axis {name}: no rule uses it, so {size} devices do the same work"


def _repeated_heads(cfg: ModelConfig, strategy: Strategy, itemsize: int) -> Iterator[str]:
    times = strategy.ways("heads") // strategy.ways("kv_heads")
    if times > 1:
        extra = sum(
            tensor.shard_elements(strategy) * itemsize
            for tensor in parameter_tensors(cfg).values()
            if "kv_heads" in tensor.axes
        )
        yield (
            f"{cfg.num_kv_heads} KV heads on {strategy.ways('heads')} tensor-parallel devices: "
            f"each is held {times} times, weights ({extra:,} bytes a device) and cache alike"
        )
