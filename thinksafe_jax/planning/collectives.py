"""Collectives of a compiled program, read from its text (HLO), loops counted as often as they run.

%ag = bf16[36,4096] all-gather(%x), replica_groups=[4,2]<=[8], dimensions={1}
%w = (..) while(%t), condition=%c, body=%b, backend_config={"known_trip_count":{"n":"36"}}
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

KINDS = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute",
    "collective-broadcast",
)  # fmt: skip

_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "c64": 8, "c128": 16}
_ARRAY = re.compile(r"\b(pred|bf16|[sufc]\d+\w*)\[([\d,]*)\]")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_OPERATION = re.compile(rf"(?:^|\s)(?:ragged-)?({'|'.join(KINDS)})(-start)?\(")
_CALLED = re.compile(r"(?:calls|to_apply|called_computations=\{|async_computation)=?%([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TWO_BRANCHES = re.compile(r"(?:true|false)_computation=%([\w.\-]+)")
_WHILE = re.compile(r"\swhile\(.*condition=%([\w.\-]+), body=%([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONSTANT = re.compile(r"%([\w.\-]+) = [su]\d+\[\]\S* constant\((\d+)\)")
_LESS = re.compile(r"ROOT .* compare\(%[\w.\-]+, %([\w.\-]+)\), direction=LT")


@dataclass(frozen=True)
class CollectiveTraffic:
    """Collectives of one kind in one run of a program, on one device.

    Attributes:
        count: how many run.
        bytes: of their whole arrays: what an all-reduce sums, an all-gather makes, a
            reduce-scatter takes.
        wire_bytes: what a device sends on a ring of the collective's own devices.
    """

    count: int = 0
    bytes: float = 0.0
    wire_bytes: float = 0.0

    def __add__(self, other: "CollectiveTraffic") -> "CollectiveTraffic":
        return CollectiveTraffic(
            self.count + other.count,
            self.bytes + other.bytes,
            self.wire_bytes + other.wire_bytes,
        )

    def times(self, factor: int) -> "CollectiveTraffic":
        """The traffic of `factor` runs."""
        return CollectiveTraffic(self.count * factor, self.bytes * factor, self.wire_bytes * factor)

    def scaled(self, factor: float) -> "CollectiveTraffic":
        """The traffic with arrays of another dtype."""
        return CollectiveTraffic(self.count, self.bytes * factor, self.wire_bytes * factor)


Collectives = dict[str, CollectiveTraffic]  # by kind


def collectives_of(text: str, *, branches: str = "all") -> Collectives:
    """What a run of the program sends, by kind; kinds that it does not have are left out.

    Loops whose number of turns only the data decide are counted once.

    Args:
        text: `Compiled.as_text()`.
        branches: of a conditional: "all", as if each were taken; "least", the one that sends least.
    """
    return _Module(_computations(text), branches).total


def total(collectives: Collectives) -> CollectiveTraffic:
    """The traffic of all kinds together."""
    return sum(collectives.values(), CollectiveTraffic())


def _computations(text: str) -> dict[str, list[str]]:
    """Lines of every computation by its name; the program itself is ""."""
    computations: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            lines = computations.setdefault(head[1], [])
            if line.startswith("ENTRY"):
                computations[""] = lines
        elif " = " in line:
            lines.append(line)
    return computations


@dataclass
class _Module:
    """A compiled program; what each of its computations sends is counted once and kept.

    Attributes:
        computations: lines of each by its name; the program itself is "".
        branches: see `collectives_of`.
    """

    computations: dict[str, list[str]]
    branches: str
    known: dict[str, Collectives] = field(default_factory=dict)

    @cached_property
    def total(self) -> Collectives:
        return self.sent_by("")

    def sent_by(self, name: str) -> Collectives:
        """One run of a computation and of all that it calls."""
        if name not in self.known:
            self.known[name] = {}
            for part in self._parts(name):
                self.known[name] = _plus(self.known[name], part)
        return self.known[name]

    def _parts(self, name: str) -> Iterator[Collectives]:
        chains: set[tuple[str, str]] = set()
        for line in self.computations.get(name, []):
            line = _without_metadata(line)
            yield self._sent_by_line(line, chains)
            if loop := _WHILE.search(line):
                turns = self._turns(line, loop[1])
                yield {kind: t.times(turns) for kind, t in self.sent_by(loop[2]).items()}
            elif choices := self._choices(line):
                yield from choices
            else:
                for called in _CALLED.findall(line):
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
        return {kind: _traffic(kind, started, _sizes(result), line)}

    def _called(self, name: str, chains: set[tuple[str, str]]) -> Iterator[Collectives]:
        """A fusion or a call; its collectives share the caller's chains."""
        lines = self.computations.get(name, [])
        if any("chain_id=" in line for line in lines):
            for line in lines:
                yield self._sent_by_line(line, chains)
        else:
            yield self.sent_by(name)

    def _choices(self, line: str) -> list[Collectives]:
        names = _TWO_BRANCHES.findall(line)
        if listed := _BRANCHES.search(line):
            names = [name.strip().lstrip("%") for name in listed[1].split(",")]
        taken = [self.sent_by(name) for name in names]
        if taken and self.branches == "least":
            return [min(taken, key=lambda t: (total(t).bytes, total(t).count))]
        return taken

    def _turns(self, line: str, condition: str) -> int:
        if known := _TRIPS.search(line):
            return int(known[1])
        lines = "\n".join(self.computations.get(condition, []))
        bound = _LESS.search(lines)
        constants = dict(_CONSTANT.findall(lines))
        return int(constants.get(bound[1], 1)) if bound else 1


def _without_metadata(line: str) -> str:
    """Metadata quotes source names, which may look like instructions."""
    head, _, rest = line.partition(", metadata=")
    return f"{head} {rest[rest.find('backend_config=') :]}" if "backend_config=" in rest else head


def _plus(first: Collectives, second: Collectives) -> Collectives:
    return first | {kind: first.get(kind, CollectiveTraffic()) + t for kind, t in second.items()}


def _sizes(result: str) -> list[float]:
    """Bytes of every array in a result's type; scalars of asynchronous contexts left out."""
    arrays = _ARRAY.findall(result)
    kept = [(kind, dims) for kind, dims in arrays if dims] or arrays
    return [prod(int(n) for n in dims.split(",") if n) * _itemsize(kind) for kind, dims in kept]


def _itemsize(kind: str) -> float:
    bits = re.match(r"[suf](\d+)", kind)
    return _BYTES[kind] if kind in _BYTES else int(bits[1]) / 8 if bits else 1


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
