"""Bytes that one run of a compiled TPU program moves to and from a device's main memory (HBM).

    weights   HBM ----copy-start----> VMEM        counted: what is read
    VMEM ----fusion----> VMEM                     not counted
    pool      HBM ----scatter----> HBM            counted: what is written, the rest stays in place

Loops count as often as they turn. Of a conditional the cheapest branch counts, and what its dearest
branch takes beyond that is told apart: the draw's rare ways. An operand of a kernel (a custom call)
counts whole, unless it is said how much of it the kernel reads. What a fusion passes on in place,
as a collective that is under way, counts nothing.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from thinksafe_jax.planning.hlo import (
    HloArray,
    HloModule,
    Instruction,
    aliases_of,
    arrays_of,
    branches_of,
    called_by,
)

LARGE = 8 * 2**20  # bytes from which on copies of a kind are named
_NOTHING = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
    "replica-id", "opt-barrier", "domain",
}  # fmt: skip
_ENDS = ("-update", "-done")  # of what was counted where it started
_PARTS = {"dynamic-slice", "slice", "gather"}  # read what they give, not their whole operand
_IN_PLACE = {"dynamic-update-slice": 1, "scatter": 2}  # which operand is what they write
_THROUGH = {
    "bitcast", "get-tuple-element", "copy", "copy-start", "copy-done", "slice-start", "slice-done",
    "opt-barrier",
}  # fmt: skip
_SAME_BYTES = 'custom_call_target="ConcatBitcast"'  # slices in VMEM, taken as the whole


@dataclass(frozen=True)
class LargeCopy:
    """Copies or transposes in main memory, of a kind: LARGE bytes or more together.

    Attributes:
        source: the parameter that they copy, layers alike, or where in the program they stand.
        shape, bytes: of one.
        runs: how many of them one run of the program makes.
    """

    source: str
    shape: str
    bytes: float
    runs: int


@dataclass(frozen=True)
class HbmTraffic:
    """One run on one device.

    Attributes:
        by_operation: what is read or written -> bytes.
        rare: bytes of the dearest branches beyond the cheapest, which are in `by_operation`.
        copies: large ones.
    """

    by_operation: dict[str, float]
    rare: float
    copies: list[LargeCopy]

    @property
    def bytes(self) -> float:
        """All of it, the rare branches apart."""
        return sum(self.by_operation.values())


def hbm_traffic(text: str, kernel_reads: Mapping[str, float] | None = None) -> HbmTraffic:
    """What a run of the program moves.

    Args:
        text: `Compiled.as_text()`.
        kernel_reads: arrays of which a kernel reads a part, as "bf16[2,4001,64,128]" -> bytes.
    """
    run = TrafficReader(HloModule(text), kernel_reads or {}).run("")
    copies = [LargeCopy(*kind, runs) for kind, runs in run.copies.items()]
    large = [copy for copy in copies if copy.bytes * copy.runs >= LARGE]
    largest_first = sorted(run.bytes.items(), key=lambda item: -item[1])
    return HbmTraffic(dict(largest_first), run.rare, large)


@dataclass
class _Run:
    """One run of a computation.

    Attributes:
        copies: (source, shape, bytes) -> how many.
    """

    bytes: dict[str, float] = field(default_factory=dict)
    rare: float = 0.0
    copies: Counter[tuple[str, str, float]] = field(default_factory=Counter)

    def add(self, other: "_Run", times: int = 1) -> None:
        for name, size in other.bytes.items():
            self.count(name, times * size)
        for kind, runs in other.copies.items():
            self.copies[kind] += times * runs
        self.rare += times * other.rare

    def count(self, name: str, size: float) -> None:
        """Adds bytes of an operation."""
        if size:
            self.bytes[name] = self.bytes.get(name, 0.0) + size


@dataclass
class TrafficReader:
    """Reads a program's computations; what each moves is counted once.

    Attributes:
        kernel_reads: see `hbm_traffic`.
    """

    module: HloModule
    kernel_reads: Mapping[str, float] = field(default_factory=dict)
    known: dict[str, _Run] = field(default_factory=dict)
    inputs: dict[str, list[str]] = field(default_factory=dict)  # of a loop's body: what they are

    def run(self, name: str) -> _Run:
        """One run of a computation that is no fusion's, and of all that it calls."""
        if name not in self.known:
            self.known[name] = _Run()
            for instruction in self.module.instructions(name).values():
                self._add(self.known[name], instruction, name)
        return self.known[name]

    def of_instruction(self, instruction: Instruction, computation: str) -> float:
        """Bytes that an instruction of a computation moves, with all that it calls."""
        run = _Run()
        self._add(run, instruction, computation)
        return sum(run.bytes.values())

    def _add(self, run: _Run, instruction: Instruction, computation: str) -> None:
        body = self.module.instructions(computation)
        if loop := self.module.loop(instruction.line, instruction.source):
            given = body[instruction.operands[0]]
            self.inputs[loop[0]] = [
                self._name(given, body, computation, at) for at in range(len(given.operands))
            ]
            run.add(self.run(loop[0]), loop[1])
        elif branches := [self.run(branch) for branch in branches_of(instruction.line)]:
            branches.sort(key=lambda branch: sum(branch.bytes.values()))
            run.add(branches[0])
            sizes = [sum(branch.bytes.values()) + branch.rare for branch in branches]
            run.rare += max(sizes) - sum(branches[0].bytes.values()) - branches[0].rare
        elif instruction.opcode in ("call", "async-start"):
            for called in called_by(instruction.line):
                run.add(self.run(called))
        elif instruction.opcode not in _NOTHING and not instruction.opcode.endswith(_ENDS):
            for label, size in self._moved(instruction, computation):
                run.count(label, size)
            if copy := self._copy(instruction, computation):
                run.copies[copy] += 1

    def _moved(self, instruction: Instruction, computation: str) -> Iterator[tuple[str, float]]:
        """What an instruction reads, operand by operand, and what it writes."""
        body = self.module.instructions(computation)
        if instruction.opcode.endswith("-start"):
            yield from self._started(instruction, computation)
            return
        in_place = set(aliases_of(instruction.line).values())
        for at, name in enumerate(instruction.operands):
            if at in in_place:
                continue
            arrays = [array for array in arrays_of(body[name].result) if array.in_hbm]
            part = self.kernel_reads.get(body[name].result.partition("{")[0])
            if part is not None and instruction.opcode == "custom-call":
                yield "keys and values", part
            elif arrays:
                size = self._read(instruction, at, sum(array.held_bytes for array in arrays))
                yield self._name(instruction, body, computation, at), size
        yield instruction.scope, self._written(instruction)

    def _started(self, instruction: Instruction, computation: str) -> Iterator[tuple[str, float]]:
        """What an asynchronous copy, slice or collective moves; its type has operands, too."""
        body = self.module.instructions(computation)
        results = [array for array in arrays_of(instruction.result) if array.dims]
        read = 0.0
        for name in instruction.operands:
            for array in arrays_of(body[name].result):
                read += array.held_bytes if array.in_hbm else 0.0
                if array in results:
                    results.remove(array)
        if instruction.opcode == "slice-start" and read:
            read = sum(array.held_bytes for array in results)
        yield self._name(instruction, body, computation, 0), read
        yield instruction.scope, sum(array.held_bytes for array in results if array.in_hbm)

    def _read(self, instruction: Instruction, operand: int, whole: float) -> float:
        """Bytes of an operand of `whole` bytes that an instruction reads."""
        if instruction.opcode == "fusion":
            return min(whole, self._read_inside(called_by(instruction.line)[0], operand))
        if operand == 0 and instruction.opcode in _PARTS:
            return _held(arrays_of(instruction.result))
        if operand == 0 and instruction.opcode in _IN_PLACE:
            return 0.0
        return whole

    def _read_inside(self, computation: str, parameter: int) -> float:
        """Bytes of a fusion's parameter that the fusion reads."""
        body = self.module.instructions(computation)
        names = {i.name for i in body.values() if f" parameter({parameter})" in i.line}
        read = 0.0
        for instruction in body.values():
            at = [n for n, name in enumerate(instruction.operands) if name in names]
            if not at:
                continue
            whole = _held(arrays_of(body[instruction.operands[at[0]]].result))
            if instruction.opcode == "bitcast":
                names.add(instruction.name)
                read += whole if instruction.is_root else 0.0
                continue
            read += self._read(instruction, at[0], whole)
        return read

    def _written(self, instruction: Instruction) -> float:
        """Bytes of its results that an instruction writes to main memory."""
        in_place = aliases_of(instruction.line)
        arrays = enumerate(arrays_of(instruction.result))
        in_hbm = [array for at, array in arrays if array.in_hbm and at not in in_place]
        if in_hbm and instruction.opcode == "fusion":
            updates = self._updates(called_by(instruction.line)[0])
            return _held(in_hbm) if updates is None else updates
        return _held(in_hbm)

    def _updates(self, computation: str) -> float | None:
        """Bytes that a fusion writes into an array that stays in place; None where it has none."""
        body = self.module.instructions(computation)
        root = self.module.root(computation)
        while root.opcode == "bitcast":
            root = body[root.operands[0]]
        if root.opcode in _IN_PLACE:
            update = body[root.operands[_IN_PLACE[root.opcode]]]
            return _held(arrays_of(update.result))
        if root.opcode == "fusion":
            return self._updates(called_by(root.line)[0])
        return None

    def _copy(self, instruction: Instruction, computation: str) -> tuple[str, str, float] | None:
        """Source, shape and bytes of the copy in main memory that an instruction is, if it is."""
        body = self.module.instructions(computation)
        opcode = instruction.opcode
        if opcode == "fusion":
            opcode = self.module.root(called_by(instruction.line)[0]).opcode
        size = _held([a for a in arrays_of(instruction.result)[:1] if a.in_hbm])
        if opcode not in ("copy", "transpose", "copy-start") or not size:
            return None
        shape = instruction.result.partition("{")[0].strip("( ")
        return self._name(instruction, body, computation, 0), shape, size

    def _name(
        self,
        instruction: Instruction,
        body: Mapping[str, Instruction],
        computation: str,
        operand: int,
    ) -> str:
        """What an operand is: a parameter by its name, else where the instruction stands."""
        if not instruction.operands:  # a barrier's start
            return instruction.scope
        source = body[instruction.operands[operand]]
        while (source.opcode in _THROUGH or _SAME_BYTES in source.line) and source.operands:
            inner = body[source.operands[0]]
            if inner.opcode == "parameter" and source.opcode == "get-tuple-element":
                names = self.inputs.get(computation, [])
                index = int(source.line.rpartition("index=")[2].split(",")[0].split()[0])
                return names[index] if index < len(names) else instruction.scope
            source = inner
        if source.opcode == "parameter" and source.source:
            return re.sub(r"\[\d+\]", "", source.source).replace("']['", ".").replace("'", "")
        return instruction.scope


def _held(arrays: Iterable[HloArray]) -> float:
    return sum(array.held_bytes for array in arrays)
