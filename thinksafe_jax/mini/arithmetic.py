"""Two-digit additions and subtractions, worked digit by digit so that the carry is never lost."""

from random import Random

from thinksafe_jax.mini.grammar import wrap


def work(a: int, b: int, sign: str) -> str:
    """The worked response to a + b or a - b, digits right to left."""
    steps = _addition(a, b) if sign == "+" else _subtraction(a, b)
    result = a + b if sign == "+" else a - b
    return wrap(
        f"The task is {a}{sign}{b}. {steps} Together: {result}.", f"The answer is {result}."
    )


def _addition(a: int, b: int) -> str:
    ones = a % 10 + b % 10
    carry = ones // 10
    first = f"Ones: {a % 10}+{b % 10}={ones}, write {ones % 10} and carry {carry}."
    tens = a // 10 + b // 10 + carry
    return f"{first} Tens: {a // 10}+{b // 10}+{carry}={tens}."


def _subtraction(a: int, b: int) -> str:
    borrow = int(a % 10 < b % 10)
    upper = a % 10 + 10 * borrow
    first = f"Ones: borrow {borrow}, {upper}-{b % 10}={upper - b % 10}."
    tens = a // 10 - b // 10 - borrow
    return f"{first} Tens: {a // 10}-{b // 10}-{borrow}={tens}."


def draw(rng: Random) -> tuple[int, int, str]:
    """A random task of two numbers of two digits; differences are at least 1.

    Three in five are subtractions: borrowing takes a small model longer to learn than carrying.
    """
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    if rng.random() < 0.4:
        return a, b, "+"
    return (max(a, b), min(a, b), "-") if a != b else draw(rng)


def is_heldout(a: int, b: int, sign: str) -> bool:
    """Whether the task belongs to the eleventh of all tasks that only held-out prompts ask.

    Modulo 11 both digits of both numbers count, so no pair of digits is missing elsewhere; a + b
    and b + a go together.
    """
    return (31 * max(a, b) + 17 * min(a, b) + 7 * (sign == "-")) % 11 == 0
