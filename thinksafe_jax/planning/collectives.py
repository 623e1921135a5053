"""Collectives of a compiled program, read from its text; loops count as often as they turn."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from thinksafe_jax.planning.hlo import (
    HloModule,
    arrays_of,
    branches_of,
    called_by,
    without_metadata,
)
from thinksafe_jax.planning.replica_groups import replica_groups, source_target_pairs

KINDS = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute",
    "collective-broadcast",
)  # fmt: skip

_OPERATION = re.compile(rf"(?:^|\s)(?:ragged-)?({'|'.join(KINDS)})(-start)?\(")
# the TPU's compiler has a collective of several slices as one within each, and a send between them
_TO_OTHER_SLICES = re.compile(r'\ssend\(.*_xla_megascale_transfer_type="(\w+)"')


@dataclass(frozen=True)
class CollectiveTraffic:
    """Collectives of one kind in one run of a program, on one device.

    Attributes:
        count: how many run.
        bytes: of their whole arrays: what an all-reduce sums, an all-gather makes, a
            reduce-scatter takes.
        wire_bytes: what a device sends on a ring of the collective's own devices, in its slice.
        dcn_bytes: what it sends to other slices, over the data-centre network.
        asynchronous: how many of them start and end apart, so that other work can hide them.
    """

    count: int = 0
    bytes: float = 0.0
    wire_bytes: float = 0.0
    dcn_bytes: float = 0.0
    asynchronous: int = 0

    def __add__(self, other: "CollectiveTraffic") -> "CollectiveTraffic":
        return CollectiveTraffic(
            self.count + other.count,
            self.bytes + other.bytes,
            self.wire_bytes + other.wire_bytes,
            self.dcn_bytes + other.dcn_bytes,
            self.asynchronous + other.asynchronous,
        )

    def times(self, factor: int) -> "CollectiveTraffic":
        """The traffic of `factor` runs."""
        return CollectiveTraffic(
            self.count * factor,
            self.bytes * factor,
            self.wire_bytes * factor,
            self.dcn_bytes * factor,
            self.asynchronous * factor,
        )

    def scaled(self, factor: float) -> "CollectiveTraffic":
        """The traffic with arrays of another dtype."""
        return replace(
            self,
            bytes=self.bytes * factor,
            wire_bytes=self.wire_bytes * factor,
            dcn_bytes=self.dcn_bytes * factor,
        )


Collectives = dict[str, CollectiveTraffic]  # by kind


def collectives_of(text: str, *, branches: str = "all", slices: Sequence[int] = ()) -> Collectives:
    """What a run of the program sends, by kind; kinds that it does not have are left out.

    Loops whose number of turns only the data decide are counted once.

    Args:
        text: `Compiled.as_text()`.
        branches: of a conditional: "all", as if each were taken; "least", the one that sends least.
        slices: the slice of each device, by the program's numbers; none where there is one slice.
    """
    return _Collectives(HloModule(text), branches, slices).sent_by("")


def total(collectives: Collectives) -> CollectiveTraffic:
    """The traffic of all kinds together."""
    return sum(collectives.values(), CollectiveTraffic())


@dataclass(frozen=True)
class Collective:
    """A collective of a program, as one line of its text has it.

    Attributes:
        started: it only starts here, and ends at another line.
        chain: channel and number of a collective that a TPU program runs in pieces, beside other
            work: the pieces name them. None where it is whole.
    """

    kind: str
    traffic: CollectiveTraffic
    started: bool = False
    chain: tuple[str, str] | None = None


def collective_of(line: str, slices: Sequence[int] = ()) -> Collective | None:
    """The collective that a line is, or a piece of it; None where it is something else.

    Args:
        line: without metadata.
        slices: see `collectives_of`.
    """
    operation = _OPERATION.search(line.partition(" = ")[2])
    if operation is None:
        return None
    chain = re.search(r'channel_id=(\d+).*chain_id="(\d+)"', line)
    kind, started = operation[1], bool(operation[2])
    result = line.partition(" = ")[2][: operation.start()]
    sent = _traffic(kind, started, _sizes(result), line, slices)
    return Collective(kind, sent, started, (chain[1], chain[2]) if chain else None)


@dataclass
class _Collectives:
    """What each computation of a program sends is counted once and kept.

    Attributes:
        branches, slices: see `collectives_of`.
    """

    module: HloModule
    branches: str
    slices: Sequence[int]
    known: dict[str, Collectives] = field(default_factory=dict)

    def sent_by(self, name: str) -> Collectives:
        """One run of a computation and of all that it calls."""
        if name not in self.known:
            self.known[name] = {}
            for part in self._parts(name):
                self.known[name] = _plus(self.known[name], part)
        return self.known[name]

    def _parts(self, name: str) -> Iterator[Collectives]:
        chains: set[tuple[str, str]] = set()
        for whole in self.module.lines(name):
            line = without_metadata(whole)
            yield self._sent_by_line(line, chains)
            if loop := self.module.loop(whole):
                body, turns = loop
                yield {kind: t.times(turns) for kind, t in self.sent_by(body).items()}
            elif choices := self._choices(line):
                yield from choices
            else:
                wrapped = " async-start(" in line  # run by another core of the chip
                for called in called_by(line):
                    for sent in self._called(called, chains):
                        yield _beside(sent) if wrapped else sent

    def _sent_by_line(self, line: str, chains: set[tuple[str, str]]) -> Collectives:
        collective = collective_of(line, self.slices)
        if collective is None:
            return self._sent_to_other_slices(line)
        if collective.chain in chains:
            return {}
        if collective.chain is not None:
            chains.add(collective.chain)
        sent = collective.traffic
        beside = sent.count if collective.started or collective.chain else 0
        return {collective.kind: replace(sent, asynchronous=beside)}

    def _sent_to_other_slices(self, line: str) -> Collectives:
        transfer = _TO_OTHER_SLICES.search(line)
        if transfer is None:
            return {}
        size = arrays_of(line.partition(" = ")[2])[0].bytes  # of this device, in its slice
        kind, others = transfer[1].lower().replace("_", "-"), len(set(self.slices)) - 1
        times = {"all-reduce": 2 * others / (others + 1), "all-gather": others}
        sent = size * times.get(kind, 1)
        kind = kind if kind in KINDS else "collective-permute"
        return {kind: CollectiveTraffic(1, size, 0.0, sent, asynchronous=1)}

    def _called(self, name: str, chains: set[tuple[str, str]]) -> Iterator[Collectives]:
        """A fusion or a call; its collectives share the caller's chains."""
        lines = self.module.lines(name)
        if any("chain_id=" in line for line in lines):
            for line in lines:
                yield self._sent_by_line(line, chains)
        else:
            yield self.sent_by(name)

    def _choices(self, line: str) -> list[Collectives]:
        taken = [self.sent_by(name) for name in branches_of(line)]
        if taken and self.branches == "least":
            return [min(taken, key=lambda t: (total(t).bytes, total(t).count))]
        return taken


def _beside(sent: Collectives) -> Collectives:
    return {kind: replace(t, asynchronous=t.count) for kind, t in sent.items()}


def _plus(first: Collectives, second: Collectives) -> Collectives:
    return first | {kind: first.get(kind, CollectiveTraffic()) + t for kind, t in second.items()}


def _sizes(result: str) -> list[float]:
    """Bytes of every array in a result's type; scalars of asynchronous contexts left out."""
    arrays = arrays_of(result)
    return [array.bytes for array in arrays if array.dims] or [array.bytes for array in arrays]


def _traffic(
    kind: str, started: bool, sizes: list[float], line: str, slices: Sequence[int]
) -> CollectiveTraffic:
    size = sum(sizes)
    if kind == "collective-permute":
        size = size / 2 if started and len(sizes) > 1 else size
        crosses = any(slices[a] != slices[b] for a, b in source_target_pairs(line)) if slices else 0
        return CollectiveTraffic(1, size, 0.0 if crosses else size, size if crosses else 0.0)
    devices, parts = _members(line, slices)
    if devices < 2:
        return CollectiveTraffic()
    if kind == "all-gather" and started:  # the result type holds operands and results
        size *= devices / (devices + 1)
    if kind == "reduce-scatter":
        size *= devices
    # first on a ring in each slice, of `inside` devices; then each sends its part of the array on
    # a ring over the slices
    times, inside = 2 if kind == "all-reduce" else 1, devices // parts
    across = times * (parts - 1) / parts * size / inside
    return CollectiveTraffic(1, size, times * size * (inside - 1) / inside, across)


def _members(line: str, slices: Sequence[int]) -> tuple[int, int]:
    """Devices of a collective's group, and slices that they lie in; groups are equally large."""
    groups = replica_groups(line)
    if groups is None:  # every device of the program, which is more than one
        return (len(slices), len(set(slices))) if slices else (2, 1)
    if not slices:
        return groups.shape[1], 1
    return groups.shape[1], max(len(set(row)) for row in np.asarray(slices)[groups].tolist())
