"""FLOPs of a compiled program's products, read from its text: each loop as often as it turns.

The TPU's compiler writes every product as a convolution. Axes that do not shrink, as the heads of
an output projection, are windows in it:

    bf16[T,8,128] convolution(bf16[T,256], bf16[8,128,256]), window={size=8 pad=7_7 rhs_reversal=1},
        dim_labels=bf0_0oi->b0f         T x 8 x 128 outputs of 256 products each

so what counts are the places of the window that lie on the input. A kernel's own arithmetic
(a custom call) is not in the text and counts nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from thinksafe_jax.planning.hlo import HloModule, Instruction, branches_of, called_by

_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_WINDOW = re.compile(r"window=\{([^}]*)\}")
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")


@dataclass
class FlopCounter:
    """Counts a program's FLOPs by instruction; those of a computation are counted once."""

    module: HloModule
    known: dict[str, float] = field(default_factory=dict)

    def of_computation(self, name: str) -> float:
        """FLOPs of one run of a computation and of all that it calls; "" is the program."""
        if name not in self.known:
            body = self.module.instructions(name)
            self.known[name] = sum(self.of_instruction(i, body) for i in body.values())
        return self.known[name]

    def of_instruction(self, instruction: Instruction, body: Mapping[str, Instruction]) -> float:
        """FLOPs of an instruction of `body`, its computation; of a conditional the most."""
        if instruction.opcode == "convolution":
            return _convolution(instruction, body)
        if instruction.opcode == "dot":
            return _dot(instruction, body)
        if loop := self.module.loop(instruction.line, instruction.source):
            return loop[1] * self.of_computation(loop[0])
        if branches := branches_of(instruction.line):
            return max(map(self.of_computation, branches))
        if instruction.opcode in ("fusion", "call", "async-start"):
            return sum(map(self.of_computation, called_by(instruction.line)))
        return 0.0


def _dot(instruction: Instruction, body: Mapping[str, Instruction]) -> float:
    summed = _CONTRACTED.search(instruction.line)
    left = body[instruction.operands[0]].arrays[0].dims
    depth = prod(left[int(n)] for n in summed[1].split(",") if n) if summed else 1
    return 2.0 * prod(instruction.arrays[0].dims) * depth


def _convolution(instruction: Instruction, body: Mapping[str, Instruction]) -> float:
    labels = _LABELS.search(instruction.line)
    if labels is None:
        return 0.0
    left, right, result = (
        dict(zip(names, dims, strict=True))
        for names, dims in zip(
            labels.groups(),
            (
                body[instruction.operands[0]].arrays[0].dims,
                body[instruction.operands[1]].arrays[0].dims,
                instruction.arrays[0].dims,
            ),
            strict=True,
        )
    )
    window = _WINDOW.search(instruction.line)
    options = dict(part.split("=") for part in window[1].split()) if window else {}
    axes = [
        _places(left[str(n)], result[str(n)], options, n)
        for n in range(len(options.get("size", "").split("x")) if options else 0)
    ]
    return 2.0 * result["b"] * result["f"] * right["i"] * prod(axes)


def _places(given: int, made: int, options: Mapping[str, str], axis: int) -> int:
    """Places of a window's axis, over all its positions, that lie on an element of the input.

    Args:
        given, made: sizes of the axis in input and output.
        options: of the window: size, stride, pad, lhs_dilate, rhs_dilate, a value for each axis.
    """

    def option(name: str, default: str) -> str:
        return options[name].split("x")[axis] if name in options else default

    size, stride = int(option("size", "1")), int(option("stride", "1"))
    spread, step = int(option("lhs_dilate", "1")), int(option("rhs_dilate", "1"))
    before = int(option("pad", "0_0").split("_")[0])
    positions = (
        made_at * stride - before + at * step for made_at in range(made) for at in range(size)
    )
    return sum(0 <= at < (given - 1) * spread + 1 and at % spread == 0 for at in positions)
