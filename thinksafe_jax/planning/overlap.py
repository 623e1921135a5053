"""Which collectives of a compiled program run beside other work, and beside which.

    collective-permute-start       async-collective-start
    fusion: 34 GFLOP, 50 MB        fusion: 26 GFLOP, and a piece of the gather
    collective-permute-done        async-collective-done

What stands between start and end in the schedule is what the collective can hide behind. Both are
bounds: a message takes at least its bytes over the links, work at least its FLOPs or its bytes over
the data sheet's rates. A kernel's FLOPs are not in the text, so it counts by its bytes alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from thinksafe_jax.planning.collectives import Collective, collective_of, collectives_of, total
from thinksafe_jax.planning.hbm_traffic import TrafficReader
from thinksafe_jax.planning.hlo import HloModule, Instruction, branches_of, called_by
from thinksafe_jax.planning.hlo_flops import FlopCounter
from thinksafe_jax.sharding import Topology


@dataclass(frozen=True)
class HiddenCollective:
    """Collectives that start and end apart, those alike together; figures are of one of them.

    Attributes:
        scope: where the program has it, as "mlp/dot_general".
        runs: how many of them one run of the program makes.
        wire_bytes: what a device sends.
        message_seconds: that sending takes, at least.
        flops, hbm_bytes: of the operations between start and end.
        work_seconds: that these take, at least.
        behind: the longest of these operations; "" where there is none.
    """

    kind: str
    scope: str
    runs: int
    wire_bytes: float
    message_seconds: float
    flops: float
    hbm_bytes: float
    work_seconds: float
    behind: str

    @property
    def hidden_seconds(self) -> float:
        """The part of the message that the work is long enough for, of one."""
        return min(self.message_seconds, self.work_seconds)


@dataclass(frozen=True)
class Overlap:
    """Messages of one run of a program on one device, in seconds at least.

    Attributes:
        message_seconds: of all collectives, one after the other.
        work_seconds: of all operations, one after the other: each its FLOPs or its bytes.
        collectives: those that run beside other work, the longest messages first.
    """

    message_seconds: float
    work_seconds: float
    collectives: list[HiddenCollective]

    @property
    def hidden_seconds(self) -> float:
        """What of it work can hide; work that two collectives share counts for both."""
        return sum(c.runs * c.hidden_seconds for c in self.collectives)

    @property
    def seconds(self) -> float:
        """The program takes at least as long as its work and the messages that nothing hides."""
        return self.work_seconds + self.message_seconds - self.hidden_seconds


def overlap_of(
    text: str, topology: Topology, *, branches: str = "all", slices: Sequence[int] = ()
) -> Overlap:
    """What hides behind what in a program.

    Args:
        text: `Compiled.as_text()` of a scheduled program, as the TPU's compiler gives it.
        branches, slices: see `collectives_of`.
    """
    sent = total(collectives_of(text, branches=branches, slices=slices))
    operations = _Operations(HloModule(text), topology, branches, slices)
    hidden = _Windows(operations).of_computation("")
    alike: dict[HiddenCollective, int] = {}
    for collective in hidden:
        kind = replace(collective, runs=0)
        alike[kind] = alike.get(kind, 0) + collective.runs
    merged = [replace(kind, runs=runs) for kind, runs in alike.items()]
    merged.sort(key=lambda c: -c.runs * c.message_seconds)
    messages = _message_seconds(sent.wire_bytes, topology)
    return Overlap(messages, operations.seconds_of(""), merged)


def _message_seconds(wire_bytes: float, topology: Topology) -> float:
    return wire_bytes / (topology.interconnect_bandwidth / 2)


@dataclass(frozen=True)
class _Work:
    """What an operation of the chip's own takes, at least."""

    name: str
    flops: float
    hbm_bytes: float
    seconds: float


_NO_WORK = _Work("", 0.0, 0.0, 0.0)


@dataclass
class _Operations:
    """What each operation of a program takes, at least.

    Attributes:
        branches, slices: see `collectives_of`.
    """

    module: HloModule
    topology: Topology
    branches: str
    slices: Sequence[int]
    known: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.flops, self.traffic = FlopCounter(self.module), TrafficReader(self.module)

    def seconds_of(self, name: str) -> float:
        """Seconds of a computation's operations, one after the other."""
        if name not in self.known:
            body = self.module.instructions(name)
            self.known[name] = sum(self.work(i, body, name).seconds for i in body.values())
        return self.known[name]

    def work(self, instruction: Instruction, body: Mapping[str, Instruction], name: str) -> _Work:
        """What an operation of the computation `name` does: messages and copies beside are none."""
        if instruction.opcode.endswith(("-start", "-update", "-done")):
            return _NO_WORK
        if collective_of(instruction.line, self.slices):
            return _NO_WORK
        if "kind=kCustom" in instruction.line and next(self.pieces(instruction), None):
            return _NO_WORK  # the start or the end of one
        flops = self.flops.of_instruction(instruction, body)
        moved = self.traffic.of_instruction(instruction, name)
        seconds = max(flops / self.topology.peak_flops, moved / self.topology.hbm_bandwidth)
        if loop := self.module.loop(instruction.line, instruction.source):
            seconds = loop[1] * self.seconds_of(loop[0])
        elif branches := [self.seconds_of(branch) for branch in branches_of(instruction.line)]:
            seconds = min(branches) if self.branches == "least" else max(branches)
        # a kernel has no source but a name: "splash_mha_fwd.2"
        label = instruction.scope if instruction.source else instruction.name.split(".")[0]
        return _Work(label, flops, moved, seconds)

    def started(self, instruction: Instruction) -> Collective | None:
        """The collective that only starts at an instruction, by itself or on another core."""
        collective = collective_of(instruction.line, self.slices)
        if collective is not None:
            return collective if collective.started else None
        if instruction.opcode != "async-start":
            return None
        return next(filter(None, map(self._inside, called_by(instruction.line))), None)

    def _inside(self, name: str) -> Collective | None:
        """The first collective of a computation and of what it calls."""
        for instruction in self.module.instructions(name).values():
            if collective := collective_of(instruction.line, self.slices):
                return collective
            for called in called_by(instruction.line) if instruction.opcode == "call" else ():
                if collective := self._inside(called):
                    return collective
        return None

    def pieces(self, instruction: Instruction) -> Iterator[tuple[Collective, str]]:
        """Pieces of collectives that a fusion has, with their scope."""
        if instruction.opcode != "fusion":
            return
        for called in called_by(instruction.line):
            if not any("chain_id=" in line for line in self.module.lines(called)):
                continue
            for inner in self.module.instructions(called).values():
                collective = collective_of(inner.line, self.slices)
                if collective is not None and collective.chain:
                    yield collective, inner.scope


@dataclass
class _Windows:
    """Collectives of each computation that start and end apart, looked for once."""

    operations: _Operations
    known: dict[str, list[HiddenCollective]] = field(default_factory=dict)

    def of_computation(self, name: str) -> list[HiddenCollective]:
        """Those of one run of a computation and of all that it calls."""
        if name not in self.known:
            self.known[name] = []  # no computation calls itself
            self.known[name] = [*self._direct(name), *self._called(name)]
        return self.known[name]

    def _called(self, name: str) -> Iterator[HiddenCollective]:
        module = self.operations.module
        for instruction in module.instructions(name).values():
            if loop := module.loop(instruction.line, instruction.source):
                for collective in self.of_computation(loop[0]):
                    yield replace(collective, runs=collective.runs * loop[1])
            elif branches := [self.of_computation(b) for b in branches_of(instruction.line)]:
                least = [min(branches, key=len)]
                for branch in least if self.operations.branches == "least" else branches:
                    yield from branch
            elif instruction.opcode == "call":
                for called in called_by(instruction.line):
                    yield from self.of_computation(called)

    def _direct(self, name: str) -> Iterator[HiddenCollective]:
        """Those that start and end in the computation itself."""
        body = self.operations.module.instructions(name)
        order = list(body.values())
        places = {instruction.name: at for at, instruction in enumerate(order)}
        for collective, scope, first, last in self._spans(order, places):
            work = [self.operations.work(i, body, name) for i in order[first + 1 : last]]
            longest = max(work, key=lambda w: w.seconds, default=_NO_WORK)
            yield HiddenCollective(
                collective.kind,
                scope,
                1,
                collective.traffic.wire_bytes,
                _message_seconds(collective.traffic.wire_bytes, self.operations.topology),
                sum(w.flops for w in work),
                sum(w.hbm_bytes for w in work),
                sum(w.seconds for w in work),
                longest.name if longest.seconds else "",
            )

    def _spans(
        self, order: list[Instruction], places: Mapping[str, int]
    ) -> Iterator[tuple[Collective, str, int, int]]:
        """Each collective with its scope and the places of its start and its end.

        Where another core was started without operands, they come with an update.
        """
        pieces: dict[tuple[str, str], tuple[Collective, str, int, int]] = {}
        updates = {i.operands[0]: i for i in order if i.opcode.endswith("-update")}
        done = [i for i in order if i.opcode.endswith("-done") and i.operands]
        ends = {i.operands[0]: places[i.name] for i in done}
        for at, instruction in enumerate(order):
            if (collective := self.operations.started(instruction)) is not None:
                update = updates.get(instruction.name)
                begun = update if update and not instruction.operands else instruction
                last = ends.get(update.name if update else instruction.name, len(order))
                yield collective, instruction.scope, places[begun.name], last
            for piece, scope in self.operations.pieces(instruction):
                assert piece.chain is not None
                begun = pieces.get(piece.chain, (piece, scope, at, at))
                pieces[piece.chain] = (*begun[:3], at)
        yield from pieces.values()
