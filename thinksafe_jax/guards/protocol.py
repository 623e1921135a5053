"""What every guard takes and gives. A guard that cannot be read has not said "safe"."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from thinksafe_jax.errors import InputError


@dataclass(frozen=True)
class Exchange:
    """One question and its answer, as the guard sees them.

    Attributes:
        prompt: the user's original text, never the steering.
        response: the part of the response that `scope` names.
        label: harmful | benign where it is known; only weak guards look at it.
        scope: full (reasoning and answer, the paper's choice) | answer | think.
    """

    id: str
    prompt: str
    response: str
    label: str = ""
    scope: str = "full"


@dataclass(frozen=True)
class Verdict:
    """What a guard said of one exchange.

    Attributes:
        verdict: safe | unsafe | unparsed.
        p_unsafe: P(unsafe) / (P(safe) + P(unsafe)); None where the guard gives no probability or
            the verdict is unparsed.
        truncated: whether the beginning of the response was cut to fit the guard's context.
        other_mass: probability of the first token being neither word; None without a model.
    """

    id: str
    verdict: str
    p_unsafe: float | None
    scope: str
    truncated: bool
    guard: str
    other_mass: float | None = None

    def row(self, attempt: int = 1) -> dict[str, Any]:
        """The row of verdicts/; probabilities to 6 decimals, which no batch's shape can change."""
        return {
            "id": self.id,
            "attempt": attempt,
            "verdict": self.verdict,
            "p_unsafe": _rounded(self.p_unsafe),
            "scope": self.scope,
            "truncated": self.truncated,
            "guard": self.guard,
            "other_mass": _rounded(self.other_mass),
        }


class Guard(Protocol):
    """Judges exchanges; `weak` guards match phrases and understand nothing."""

    name: str
    weak: bool

    def judge(self, exchanges: Iterable[Exchange]) -> Iterator[Verdict]:
        """One verdict per exchange, in the order of the exchanges."""
        ...


def check_unparsed(unparsed: int, total: int, max_share: float, guard: str) -> None:
    """Stops a run whose guard cannot be read (`guard.max_unparsed`).

    Raises:
        InputError: more than `max_share` of `total` verdicts are unparsed.
    """
    if total and unparsed > max_share * total:
        raise InputError(
            f"guard {guard}: {unparsed} of {total} verdicts are unparsed, more than guard."
            f"max_unparsed={max_share:g} allows; is it a Llama-Guard checkpoint with its own "
            "chat template and tokenizer?"
        )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
