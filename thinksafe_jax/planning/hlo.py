"""A compiled program's text (HLO), read: computations, instructions, loops, branches, arrays.

%ag = bf16[36,4096]{1,0:T(8,128)(2,1)S(1)} all-gather(%x), replica_groups=[4,2]<=[8], dimensions={1}
%w = (..) while(%t), condition=%c, body=%b, backend_config={"known_trip_count":{"n":"36"}}
"""

import re
from dataclasses import dataclass
from functools import cache, cached_property
from math import prod

_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "c64": 8, "c128": 16}
_ARRAY = re.compile(r"\b(pred|bf16|[sufc]\d+\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_CALLED = re.compile(r"(?:calls|to_apply|called_computations=\{|async_computation)=?%([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TWO_BRANCHES = re.compile(r"(?:true|false)_computation=%([\w.\-]+)")
_WHILE = re.compile(r"\swhile\(.*condition=%([\w.\-]+), body=%([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_AT_MOST = re.compile(r"\bat_most_(\d+)\)*/while$")  # the scope around a loop, and the loop
_CONSTANT = re.compile(r"%([\w.\-]+) = [su]\d+\[\]\S* constant\((\d+)\)")
_LESS = re.compile(r"ROOT .* compare\(%[\w.\-]+, %([\w.\-]+)\), direction=LT")
_SOURCE = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_ALIASING = re.compile(r"output_to_operand_aliasing=\{((?:\{\d*\}: \(\d+, \{\}\)(?:, )?)*)\}")
_ALIAS = re.compile(r"\{(\d*)\}: \((\d+), \{\}\)")
_ELEMENT = re.compile(r"(%[\w.\-]+)((?:#\d+)+)")
_MADE = re.compile(r"^\s*(?:ROOT )?(%[\w.\-]+) = (.*)$")
_FRAMES = {"while", "body", "eval_jaxpr", "shard_map", "closed_call", "checkpoint", "cond"}


@dataclass(frozen=True)
class HloArray:
    """An array type.

    Attributes:
        dims: of the whole array on one device.
        bytes: of its elements.
        held_bytes: with what its tiles are padded by.
        in_hbm: whether it lies in the device's main memory, not in VMEM, SMEM or a semaphore.
    """

    dtype: str
    dims: tuple[int, ...]
    bytes: float
    held_bytes: float
    in_hbm: bool


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        result: its type, as text.
        operands: names of instructions of the same computation.
        line: all of it, without metadata.
        source: where the program says it comes from, as "jit(decode)/attention/dot_general".
        is_root: it is what its computation returns.
    """

    name: str
    result: str
    opcode: str
    operands: tuple[str, ...]
    line: str
    source: str
    is_root: bool

    @cached_property
    def arrays(self) -> list[HloArray]:
        """Arrays of the result, in order."""
        return arrays_of(self.result)

    @cached_property
    def scope(self) -> str:
        """Named scope of the model and the operation, as "attention/dot_general"."""
        parts = [p for p in self.source.split("/") if p and "(" not in p and p not in _FRAMES]
        return "/".join(dict.fromkeys(parts[:1] + parts[-1:])) or self.opcode


class HloModule:
    """A compiled program: `Compiled.as_text()`; the program itself is the computation ""."""

    def __init__(self, text: str):
        self._lines: dict[str, list[str]] = {}
        lines: list[str] = []
        for line in text.splitlines():
            head = _HEAD.match(line)
            if head:
                lines = self._lines.setdefault(head[1], [])
                if line.startswith("ENTRY"):
                    self._lines[""] = lines
            elif " = " in line:
                lines.append(line)
        self._instructions: dict[str, dict[str, Instruction]] = {}

    def lines(self, computation: str) -> list[str]:
        """Its instructions as text."""
        return self._lines.get(computation, [])

    def instructions(self, computation: str) -> dict[str, Instruction]:
        """Its instructions by name, in the order in which they run."""
        if computation not in self._instructions:
            read = map(_instruction, self.lines(computation))
            self._instructions[computation] = {i.name: i for i in read}
        return self._instructions[computation]

    def root(self, computation: str) -> Instruction:
        """The instruction whose result the computation returns."""
        return next(i for i in self.instructions(computation).values() if i.is_root)

    def loop(self, line: str, source: str = "") -> tuple[str, int] | None:
        """Body and turns of a loop; one turn where only the data decide and no scope bounds it.

        Args:
            source: see `Instruction`; where the line still has its metadata it is read from there.
        """
        loop = _WHILE.search(line)
        if loop is None:
            return None
        quoted = _SOURCE.search(line)
        return loop[2], self._turns(line, source or (quoted[1] if quoted else ""), loop[1])

    def _turns(self, line: str, source: str, condition: str) -> int:
        if known := _TRIPS.search(line):
            return int(known[1])
        if bounded := _AT_MOST.search(source):
            return int(bounded[1])
        lines = "\n".join(self.lines(condition))
        bound = _LESS.search(lines)
        constants = dict(_CONSTANT.findall(lines))
        return int(constants.get(bound[1], 1)) if bound else 1


def aliases_of(line: str) -> dict[int, int]:
    """Results that are operands, passed on in place: the result's index -> the operand's."""
    aliasing = _ALIASING.search(line)
    if aliasing is None:
        return {}
    pairs = _ALIAS.findall(aliasing[1])
    return {int(result or 0): int(operand) for result, operand in pairs}


def branches_of(line: str) -> list[str]:
    """Computations of a conditional, one of which runs."""
    if listed := _BRANCHES.search(line):
        return [name.strip().lstrip("%") for name in listed[1].split(",")]
    return _TWO_BRANCHES.findall(line)


def called_by(line: str) -> list[str]:
    """Computations that a fusion, a call or a reduction runs."""
    return _CALLED.findall(line)


def without_metadata(line: str) -> str:
    """Metadata quotes source names, which may look like instructions."""
    head, _, rest = line.partition(", metadata=")
    return f"{head} {rest[rest.find('backend_config=') :]}" if "backend_config=" in rest else head


def with_plain_tuples(text: str) -> str:
    """A program's text with a line for each element of a tuple: `%loop#2` as `%loop.element_2`.

    The text that the compiler dumps (`xla_dump_to`) leaves these lines out, `Compiled.as_text()`
    has them.
    """
    types: dict[str, str] = {}
    lines: list[str] = []
    for line in text.splitlines():
        for name, path in dict.fromkeys(_ELEMENT.findall(line)):
            for index in path.removeprefix("#").split("#"):
                element = f"{name}.element_{index}"
                if element not in types:
                    types[element] = _element_types(types[name])[int(index)]
                    lines.append(
                        f"  {element} = {types[element]} get-tuple-element({name}), index={index}"
                    )
                name = element
        plain = _ELEMENT.sub(lambda element: element[0].replace("#", ".element_"), line)
        if made := _MADE.match(plain):
            types[made[1]] = made[2]
        elif plain.rstrip().endswith("{"):
            types = {}
        lines.append(plain)
    return "\n".join(lines) + "\n"


def _element_types(type_text: str) -> list[str]:
    """Types of a tuple's elements, as text; what follows the tuple is left out."""
    inside = type_text[1 : _closing(type_text)]
    depth, parts = 0, [""]
    for character in re.sub(r"/\*index=\d+\*/", "", inside):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0)
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


@cache
def arrays_of(type_text: str) -> list[HloArray]:
    """Every array of a type; a tuple has several."""
    return [_array(*parts) for parts in _ARRAY.findall(type_text)]


def _array(dtype: str, dims_text: str, layout: str) -> HloArray:
    dims = tuple(int(n) for n in dims_text.split(",") if n)
    size = _itemsize(dtype)
    space = re.search(r"S\((\d+)\)", layout)
    padded = prod(_padded(dims, layout))
    return HloArray(dtype, dims, prod(dims) * size, padded * size, space is None or space[1] == "0")


def _padded(dims: tuple[int, ...], layout: str) -> list[int]:
    """Sizes from the outermost to the innermost, the inner ones whole tiles: {1,0:T(8,128)}."""
    order, _, tiles = layout.partition(":")
    minor_first = [int(n) for n in order.split(",") if n] or list(reversed(range(len(dims))))
    sizes = [dims[n] for n in reversed(minor_first)]
    tile = re.match(r"T\(([\d,]+)\)", tiles)
    if tile is None:
        return sizes
    sides = [int(n) for n in tile[1].split(",")][-len(sizes) :] if sizes else []
    for at, side in zip(range(len(sizes) - len(sides), len(sizes)), sides, strict=True):
        sizes[at] = -(-sizes[at] // side) * side
    return sizes


def _itemsize(dtype: str) -> float:
    bits = re.match(r"[suf](\d+)", dtype)
    return _BYTES[dtype] if dtype in _BYTES else int(bits[1]) / 8 if bits else 1


def _instruction(line: str) -> Instruction:
    name, _, rest = line.strip().partition(" = ")
    is_root = name.startswith("ROOT ")
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    result, call = rest[:end], rest[end:].lstrip()
    start = call.index("(")
    operands = re.findall(r"%([\w.\-]+)", call[start : _closing(call, start) + 1])
    source = _SOURCE.search(line)
    return Instruction(
        name.removeprefix("ROOT ").lstrip("%"),
        result,
        call[:start],
        tuple(operands),
        without_metadata(line),
        source[1].replace("\\", "") if source else "",
        is_root,
    )


def _closing(text: str, start: int = 0) -> int:
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for at in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return at
    return len(text) - 1
