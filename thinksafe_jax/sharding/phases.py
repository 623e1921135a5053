"""What a mesh file in configs/mesh says: the hardware, and how each phase lies on it.

    topology:                 the hardware: {chip, chips, hosts}, with several slices also
                              {slices, dcn_bandwidth}
      chip: v5e               a name in configs/chips, which has its facts; or any name, with
      ...                     {hbm_bytes, peak_flops (bf16, FLOP/s), hbm_bandwidth,
                              interconnect_bandwidth (bytes/s)}
    generate:                 one section a phase: train and generate
      axes: {replica: 2, tensor: 4}       mesh axes; the last one joins neighbouring chips
      split: {tensor: [kv, group]}        tensor is laid out as two mesh axes, see below
      rules:                              logical axis -> mesh axis, several, or null
        heads: tensor
        kv_heads: kv

Tensor parallelism above the number of KV heads: `split` divides an axis in two for each model, the
first part as large as the KV heads allow (the greatest common divisor). Query heads lie on both
parts, KV heads on the first, so they are held `group` times, and each device's queries find their
keys on the device: Qwen3 (8 KV heads) on tensor 16 becomes kv 8 x group 2. Query heads that do not
divide over both lie on the first alone: R1-Distill-Qwen-7B (28 heads, 4 KV heads) on tensor 8 has
its 28 heads on kv 4, MLP and vocabulary on kv 4 x group 2. A file may also name kv and group under
`axes` itself and leave `split` out.

Long rows: in training `sequence` may have a mesh axis, too, over which the tokens of each row are
cut. Attention exchanges them for heads there (`sequence_parallel`), so the axis is at its best up
to the number of KV heads; weights may be cut over it like over the axis of FSDP:

    train:
      axes: {fsdp: 4, sequence: 4}
      rules: {batch: fsdp, sequence: sequence, embed: [fsdp, sequence], ...}

Several slices of a TPU are joined by the data-centre network (DCN), which is much slower than the
links within a slice. `dcn` says which part of an axis lies across them, the outer one; here each
of two slices holds four of the eight parts of `data`:

    topology: {chip: v5e, chips: 512, hosts: 128, slices: 2, dcn_bandwidth: 3.125e9}
    train:
      axes: {data: 8, fsdp: 16, tensor: 4}
      dcn: {data: 2}

Rows may lie across slices (data parallelism: gradients cross once a step), and `embed` (FSDP: each
layer's weights cross, which is slow); every other logical axis is refused there.

Every logical axis has a rule; null means replicated, so nothing is replicated by omission:

    batch      rows: of a training step, of a prefill, slots of the sampler
    sequence   tokens of a row (training only)
    layers     the stacked layers (training only)
    vocab, embed, heads, kv_heads, head_dim, mlp, norm    as the parameters declare them
    lora_rank  the adapter's inner axis
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from thinksafe_jax.errors import ConfigError
from thinksafe_jax.models import ModelConfig

Rules = Mapping[str, Sequence[str]]  # logical axis -> mesh axes


@dataclass(frozen=True)
class Topology:
    """Facts of the hardware; sizes and rates are those of one chip.

    Attributes:
        chips, hosts: of all slices together.
        slices: parts that only the data-centre network joins; each has the same number of hosts.
    """

    chip: str = ""
    chips: int = 0
    hosts: int = 0
    hbm_bytes: float = 0.0
    peak_flops: float = 0.0  # bf16, FLOP/s
    hbm_bandwidth: float = 0.0  # bytes/s
    interconnect_bandwidth: float = 0.0  # bytes/s, both directions together
    slices: int = 1
    dcn_bandwidth: float = 0.0  # bytes/s to other slices: a chip's share of its host's, each way

    @property
    def chips_per_host(self) -> int:
        """Chips of each host; all have the same number."""
        return self.chips // self.hosts

    def scaled(self, factor: int) -> "Topology":
        """The topology with `factor` times the hosts, and so the chips, in each slice."""
        return dataclasses.replace(self, chips=factor * self.chips, hosts=factor * self.hosts)


@dataclass(frozen=True)
class Phase:
    """Mesh axes and the rule table of one phase: as the file has them, or divided for a model.

    Attributes:
        axes: mesh axes and their sizes, outermost first.
        split: axis -> the two mesh axes that it is laid out as; empty once divided.
        rules: logical axis -> axes; may name a split axis as a whole.
        dcn: axis -> its parts across slices, the outer ones; none where there is one slice.
    """

    axes: dict[str, int] = field(default_factory=dict)
    split: dict[str, tuple[str, str]] = field(default_factory=dict)
    rules: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dcn: dict[str, int] = field(default_factory=dict)

    @property
    def devices(self) -> int:
        """Devices of the mesh."""
        return math.prod(self.axes.values())

    @property
    def slices(self) -> int:
        """Slices that the mesh lies on."""
        return math.prod(self.dcn.values())

    @property
    def hash(self) -> str:
        """Short digest of axes and rules: two results with the same one used the same table."""
        table = [list(self.axes.items()), self.rules, *([self.dcn] if self.dcn else [])]
        text = json.dumps(table, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def num_shards(self, logical: str) -> int:
        """Parts that a logical axis is cut into; of a phase that is divided for a model."""
        return math.prod(self.axes[name] for name in self.rules[logical])

    def for_model(self, cfg: ModelConfig) -> "Phase":
        """The phase for `cfg`: every split axis is divided, and rules name mesh axes only."""
        axes: dict[str, int] = {}
        for name, size in self.axes.items():
            if name in self.split:
                first = math.gcd(size, cfg.num_kv_heads)
                axes |= dict(zip(self.split[name], (first, size // first), strict=True))
            else:
                axes[name] = size
        rules = {k: self.expand(names) for k, names in self.rules.items()}
        heads, groups = rules.get("heads", ()), {group for _, group in self.split.values()}
        with_kv_heads = tuple(name for name in heads if name not in groups)
        whole, part = (
            math.prod(axes.get(name, 1) for name in names) for names in (heads, with_kv_heads)
        )
        if cfg.num_heads % whole and part > 1:  # of one part each device would attend with all
            rules["heads"] = with_kv_heads
        return Phase(axes, {}, rules, self.dcn)

    def expand(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """`names` with split axes replaced by their parts."""
        return tuple(part for name in names for part in self.split.get(name, (name,)))

    def with_axes(self, axes: dict[str, int]) -> "Phase":
        """The same rules on other axis sizes."""
        return dataclasses.replace(self, axes=axes)

    def of_host(self, hosts: int) -> "Phase":
        """One host's part, where each of `hosts` drives replicas of its own: within its slice.

        Raises:
            ConfigError: the replicas do not divide over the hosts.
        """
        axes, undivided = dict(self.axes), hosts
        for name in self.rules["batch"]:
            divided = math.gcd(undivided, axes[name])
            axes[name] //= divided
            undivided //= divided
        if undivided > 1:
            replicas = math.prod(self.axes[name] for name in self.rules["batch"])
            raise ConfigError(
                f"generate: {replicas} replica(s) do not divide over {hosts} processes; a replica "
                "must not leave its host: make the batch's axes a multiple of the processes"
            )
        return dataclasses.replace(self, axes=axes, dcn={} if hosts > 1 else self.dcn)

    def of_replica(self) -> "Phase":
        """One replica's part: the batch's axes at size 1, rows not cut."""
        batch = self.rules["batch"]
        axes = {name: 1 if name in batch else size for name, size in self.axes.items()}
        return dataclasses.replace(self, axes=axes, rules={**self.rules, "batch": ()}, dcn={})

    def shrink(self, devices: int) -> "Phase":
        """The same axes on at most `devices` devices of one slice; the largest gives way first."""
        axes = dict(self.axes)
        while math.prod(axes.values()) > devices:
            largest = max(axes, key=lambda name: axes[name])
            axes[largest] //= _smallest_factor(axes[largest])
        return dataclasses.replace(self, axes=axes, dcn={})


@dataclass(frozen=True)
class MeshConfig:
    """A mesh file, called `name`: the hardware, and a phase for training and for generation."""

    name: str = ""
    topology: Topology = field(default_factory=Topology)
    train: Phase = field(default_factory=Phase)
    generate: Phase = field(default_factory=Phase)

    def shrink(self, devices: int) -> "MeshConfig":
        """The same strategy on at most `devices` devices, to run it where chips are few."""
        chips = min(devices, self.topology.chips)
        return MeshConfig(
            self.name,
            dataclasses.replace(self.topology, chips=chips, hosts=1, slices=1),
            self.train.shrink(devices),
            self.generate.shrink(devices),
        )


def _smallest_factor(number: int) -> int:
    return next(f for f in range(2, number + 1) if number % f == 0)
