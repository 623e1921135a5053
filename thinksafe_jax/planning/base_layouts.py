"""The frozen base between training and sampling: which arrays both share, which are there twice.

On-policy training and its sampler run on the same devices. With layers apart both hold the same
buffers of an array that their rule tables cut alike (`sharding.on_devices`); the others are moved
once, before the first step, and stay there twice. An adapter is moved at every step. On a mesh
`thinksafe run` keeps layers stacked, and its sampler has a copy of every array.

    train: fsdp 4          generate: tensor 4
    final_norm    whole on each   =  whole on each      shared
    q_proj        |0|1|2|3| of D  != |0|1|2|3| of N     moved: each device has 1/4 of what it needs
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp

from thinksafe_jax.models import LoraConfig, ModelConfig
from thinksafe_jax.sharding import (
    MeshConfig,
    Phase,
    Tensor,
    Topology,
    adapter_tensors,
    parameter_tensors,
)

_FLOAT32 = 4  # bytes, in which an adapter is trained
Interval = tuple[float, float]  # of one dimension, as parts of the whole


@dataclass(frozen=True)
class BaseLayouts:
    """Bytes of each device, of the one with the most.

    Attributes:
        shared: of the arrays that training and sampling both use.
        moved: of the sampler's own copies of the others: what sampling takes beside training.
        received: of those copies what comes from other devices.
        seconds: that this takes at half the interconnect's bandwidth, once a run; None where the
            mesh file does not give it.
        adapter_bytes: of the adapter in training, which goes to every device at each step.
        adapter_seconds: that this takes; None as above.
    """

    shared: int
    moved: int
    received: int
    seconds: float | None
    adapter_bytes: int
    adapter_seconds: float | None

    def __str__(self) -> str:
        """One line for people."""
        base = "the whole base can be shared"
        if self.moved:
            base = (
                f"{self.shared / 1e9:.2f} GB of the base can be shared, {self.moved / 1e9:.2f} GB "
                f"are there twice ({self.received / 1e9:.2f} GB received{_time(self.seconds)}, "
                "once)"
            )
        step = f"{self.adapter_bytes / 1e6:.1f} MB a step{_time(self.adapter_seconds)}"
        return f"{base}; adapter {step}"


def _time(seconds: float | None) -> str:
    return "" if seconds is None else f" in {seconds:.3g} s"


def base_layouts(
    cfg: ModelConfig, mesh: MeshConfig, lora: LoraConfig, dtype: str = "bfloat16"
) -> BaseLayouts:
    """What an on-policy run shares and moves between its two layouts, from the mesh file alone.

    Args:
        dtype: of the base.
    """
    train, topology = mesh.train.for_model(cfg), mesh.topology
    generate = mesh.generate.of_host(topology.hosts).for_model(cfg)  # each host samples by itself
    places = [(device, device % topology.chips_per_host) for device in range(train.devices)]
    places = [(device, local) for device, local in places if local < generate.devices]
    shared, moved, received = 0.0, 0.0, 0.0
    for (tensor, reordered), count in _unstacked(cfg, topology).items():
        size = count * math.prod(tensor.shape) * jnp.dtype(dtype).itemsize
        pairs = [(_part(tensor, train, d), _part(tensor, generate, n)) for d, n in places]
        wanted = size * _volume(pairs[0][1])
        if not reordered and all(held == part for held, part in pairs):
            shared += wanted
        else:
            moved += wanted
            received += max(wanted - size * _volume(_overlap(*pair)) for pair in pairs)
    whole = [math.prod(tensor.shape) for tensor in adapter_tensors(cfg, lora).values()]
    adapter = _FLOAT32 * sum(whole)
    rate = _receive_rate(topology)
    return BaseLayouts(
        round(shared),
        round(moved),
        round(received),
        None if rate is None else received / rate,
        adapter,
        None if rate is None else adapter / rate,
    )


def _unstacked(cfg: ModelConfig, topology: Topology) -> Counter[tuple[Tensor, bool]]:
    """How many arrays of each kind the base has with its layers apart.

    And whether a sampler stores them in another order, see `sampling.heads_first`.
    """
    kinds: Counter[tuple[Tensor, bool]] = Counter()
    for path, tensor in parameter_tensors(cfg).items():
        if path[0] == "layers":
            reordered = "TPU" in topology.chip and path[1:] == ("o_proj", "kernel")
            kinds[Tensor(tensor.shape[1:], tensor.axes[1:]), reordered] += cfg.num_layers
        else:
            kinds[tensor, False] += 1
    return kinds


def _part(tensor: Tensor, phase: Phase, device: int) -> tuple[Interval, ...]:
    """What a device holds of each dimension.

    Devices lie along the axes, the last one fastest, slice after slice.
    """
    place: dict[str, int] = {}
    index, device = divmod(device, phase.devices // phase.slices)
    for name, size in reversed(phase.axes.items()):
        parts = phase.dcn.get(name, 1)
        device, inner = divmod(device, size // parts)
        index, outer = divmod(index, parts)
        place[name] = outer * (size // parts) + inner
    part = []
    for axis in tensor.axes:
        index, count = 0, 1
        for name in phase.rules[axis]:
            index, count = index * phase.axes[name] + place[name], count * phase.axes[name]
        part.append((index / count, (index + 1) / count))
    return tuple(part)


def _overlap(a: Sequence[Interval], b: Sequence[Interval]) -> list[Interval]:
    pairs = zip(a, b, strict=True)
    return [(max(x[0], y[0]), max(min(x[1], y[1]), max(x[0], y[0]))) for x, y in pairs]


def _volume(part: Sequence[Interval]) -> float:
    return math.prod(end - start for start, end in part)


def _receive_rate(topology: Topology) -> float | None:
    """Bytes a second into one chip: one of the two directions."""
    return topology.interconnect_bandwidth / 2 or None
