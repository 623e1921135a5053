"""Collectives of a compiled program, read from its text; loops count as often as they turn."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import prod

from thinksafe_jax.planning.hlo import (
    HloModule,
    arrays_of,
    branches_of,
    called_by,
    without_metadata,
)

KINDS = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute",
    "collective-broadcast",
)  # fmt: skip

_OPERATION = re.compile(rf"(?:^|\s)(?:ragged-)?({'|'.join(KINDS)})(-start)?\(")


@dataclass(frozen=True)
class CollectiveTraffic:
    """Collectives of one kind in one run of a program, on one device.

    Attributes:
        count: how many run.
        bytes: of their whole arrays: what an all-reduce sums, an all-gather makes, a
            reduce-scatter takes.
        wire_bytes: what a device sends on a ring of the collective's own devices.
        asynchronous: how many of them start and end apart, so that other work can hide them.
    """

    count: int = 0
    bytes: float = 0.0
    wire_bytes: float = 0.0
    asynchronous: int = 0

    def __add__(self, other: "CollectiveTraffic") -> "CollectiveTraffic":
        return CollectiveTraffic(
            self.count + other.count,
            self.bytes + other.bytes,
            self.wire_bytes + other.wire_bytes,
            self.asynchronous + other.asynchronous,
        )

    def times(self, factor: int) -> "CollectiveTraffic":
        """The traffic of `factor` runs."""
        return CollectiveTraffic(
            self.count * factor,
            self.bytes * factor,
            self.wire_bytes * factor,
            self.asynchronous * factor,
        )

    def scaled(self, factor: float) -> "CollectiveTraffic":
        """The traffic with arrays of another dtype."""
        return replace(self, bytes=self.bytes * factor, wire_bytes=self.wire_bytes * factor)


Collectives = dict[str, CollectiveTraffic]  # by kind


def collectives_of(text: str, *, branches: str = "all") -> Collectives:
    """What a run of the program sends, by kind; kinds that it does not have are left out.

    Loops whose number of turns only the data decide are counted once.

    Args:
        text: `Compiled.as_text()`.
        branches: of a conditional: "all", as if each were taken; "least", the one that sends least.
    """
    return _Collectives(HloModule(text), branches).sent_by("")


def total(collectives: Collectives) -> CollectiveTraffic:
    """The traffic of all kinds together."""
    return sum(collectives.values(), CollectiveTraffic())


@dataclass
class _Collectives:
    """What each computation of a program sends is counted once and kept.

    Attributes:
        branches: see `collectives_of`.
    """

    module: HloModule
    branches: str
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
        for line in map(without_metadata, self.module.lines(name)):
            yield self._sent_by_line(line, chains)
            if loop := self.module.loop(line):
                body, turns = loop
                yield {kind: t.times(turns) for kind, t in self.sent_by(body).items()}
            elif choices := self._choices(line):
                yield from choices
            else:
                for called in called_by(line):
                    yield from self._called(called, chains)

    def _sent_by_line(self, line: str, chains: set[tuple[str, str]]) -> Collectives:
        operation = _OPERATION.search(line.partition(" = ")[2])
        if operation is None:
            return {}
        # a TPU program runs one gather in pieces beside other work; the pieces name their chain
        chain = re.search(r'channel_id=(\d+).*chain_id="(\d+)"', line)
        if chain:
            if (chain[1], chain[2]) in chains:
                return {}
            chains.add((chain[1], chain[2]))
        kind, started = operation[1], bool(operation[2])
        result = line.partition(" = ")[2][: operation.start()]
        sent = _traffic(kind, started, _sizes(result), line)
        beside = sent.count if started or chain else 0
        return {kind: replace(sent, asynchronous=beside)}

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


def _plus(first: Collectives, second: Collectives) -> Collectives:
    return first | {kind: first.get(kind, CollectiveTraffic()) + t for kind, t in second.items()}


def _sizes(result: str) -> list[float]:
    """Bytes of every array in a result's type; scalars of asynchronous contexts left out."""
    arrays = arrays_of(result)
    return [array.bytes for array in arrays if array.dims] or [array.bytes for array in arrays]


def _traffic(kind: str, started: bool, sizes: list[float], line: str) -> CollectiveTraffic:
    group, size = _group_size(line), sum(sizes)
    if kind == "collective-permute":
        size = size / 2 if started and len(sizes) > 1 else size
        return CollectiveTraffic(1, size, size)
    if group < 2:
        return CollectiveTraffic()
    share = (group - 1) / group
    if kind == "all-gather" and started:  # the result type holds operands and results
        size *= group / (group + 1)
    if kind == "reduce-scatter":
        size *= group
    return CollectiveTraffic(1, size, size * share * (2 if kind == "all-reduce" else 1))


def _group_size(line: str) -> int:
    """Devices that speak with each other; groups of a collective are equally large."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return listed[1].count(",") + 1
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(iota[1])
    named = re.search(r"replica_groups=mesh\[([^\]]*)\].*?\{('[^}]*)\}", line)
    if named is None:
        return 2  # not said: every device of the program, which is more than one
    sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", named[1])}
    parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[2])
    return prod(int(part) if part else sizes[name] for name, part in parts)
