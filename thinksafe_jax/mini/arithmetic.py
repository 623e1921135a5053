"""Sums and differences of two-digit numbers, worked digit by digit so that no carry is lost.

A task is (a, b, sign). A task of two steps is (a, b, sign, c): c is then put to the result with the
other sign, 47 + 38 - 19 or 52 - 28 + 64.
"""

from random import Random

from thinksafe_jax.mini.grammar import wrap

Task = tuple[int, int, str]
TwoSteps = tuple[int, int, str, int]
PARTS = {0: "heldout", 1: "validation"}  # residues modulo 11; all others are "train"


def result(a: int, b: int, sign: str) -> int:
    """a + b or a - b."""
    return a + b if sign == "+" else a - b


def second_step(a: int, b: int, sign: str, c: int) -> Task:
    """The second step of a task of two: the first result, c and the other sign."""
    return result(a, b, sign), c, "-" if sign == "+" else "+"


def within_two_digits(a: int, b: int, sign: str, c: int) -> bool:
    """Whether neither result of a task of two steps passes 99."""
    step = second_step(a, b, sign, c)
    return max(step[0], result(*step)) <= 99


def work(a: int, b: int, sign: str) -> str:
    """The worked response to a + b or a - b, digits right to left."""
    return wrap(
        f"The task is {a}{sign}{b}. {_steps(a, b, sign)}", f"The answer is {result(a, b, sign)}."
    )


def work_two_steps(a: int, b: int, sign: str, c: int, *, slip: bool = False) -> str:
    """The worked response to a + b - c or a - b + c.

    Args:
        slip: the tens of the second step forget what was carried or borrowed, as pupils do; where
            nothing is, the response is right all the same.
    """
    middle, c, other = second_step(a, b, sign, c)
    carried = slip and _carries(middle, c, other)
    last = result(middle, c, other) - (0 if not carried else 10 if other == "+" else -10)
    reasoning = (
        f"The task is {a}{sign}{b}{other}{c}. {_steps(a, b, sign)} "
        f"Next {middle}{other}{c}. {_steps(middle, c, other, forget=carried)}"
    )
    return wrap(reasoning, f"The answer is {last}.")


def _carries(a: int, b: int, sign: str) -> bool:
    return a % 10 + b % 10 > 9 if sign == "+" else a % 10 < b % 10


def _steps(a: int, b: int, sign: str, *, forget: bool = False) -> str:
    """Ones, tens and the result; `forget` leaves the carry out of the tens."""
    carry = int(_carries(a, b, sign))
    ones = result(a % 10, b % 10, sign)
    if sign == "+":
        first = f"Ones: {a % 10}+{b % 10}={ones}, write {ones % 10} and carry {carry}."
    else:
        upper = a % 10 + 10 * carry
        first = f"Ones: borrow {carry}, {upper}-{b % 10}={upper - b % 10}."
    carry = 0 if forget else carry
    tens = result(result(a // 10, b // 10, sign), carry, sign)
    together = 10 * tens + ones % 10
    return f"{first} Tens: {a // 10}{sign}{b // 10}{sign}{carry}={tens}. Together: {together}."


def draw(rng: Random) -> Task:
    """A random task of two numbers of two digits; differences are at least 1.

    Three in five are subtractions: borrowing takes a small model longer to learn than carrying.
    """
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    if rng.random() < 0.4:
        return a, b, "+"
    return (max(a, b), min(a, b), "-") if a != b else draw(rng)


def draw_two_steps(rng: Random) -> TwoSteps:
    """A random task of two steps whose result is at least 1."""
    a, b, sign = draw(rng)
    most = min(99, a + b - 1) if sign == "+" else 99
    return a, b, sign, rng.randint(10, most)


def part_of(a: int, b: int, sign: str) -> str:
    """The part that a task belongs to: heldout and validation have an eleventh of all each.

    Only prompts of that part begin with it; the second step of two may be of any part. Modulo 11
    both digits of both numbers count, so no pair of digits is missing elsewhere; a + b and b + a go
    together. A task of two steps belongs where its first step does.
    """
    residue = (31 * max(a, b) + 17 * min(a, b) + 7 * (sign == "-")) % 11
    return PARTS.get(residue, "train")
