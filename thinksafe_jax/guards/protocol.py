"""What every guard takes and gives. A guard that cannot be read has not said "safe"."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
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
        p_unsafe: P(unsafe) among the guard's own words for its verdict; None where the guard gives
            no probability or the verdict is unparsed. Kept so that a threshold can be moved later.
        truncated: whether the beginning of the response was cut to fit the guard's context.
        other_mass: probability of the verdict being none of the guard's words; None without one.
        word: the guard's own word for the verdict: Qwen3Guard's Controversial counts as unsafe, and
            can be told apart later; "" where it cannot be read, and of a majority.
        categories: what the guard names as violated, in its own terms and order; empty where it
            names nothing.
        refusal: whether the response refuses, where the guard answers that.
        marked: the texts spell control tokens or lines of the guard's template.
        template: the first 16 hex digits of the sha256 of template and answer form; "" without.
        votes: member -> verdict, of a majority.
    """

    id: str
    verdict: str
    p_unsafe: float | None
    scope: str
    truncated: bool
    guard: str
    other_mass: float | None = None
    word: str = ""
    categories: tuple[str, ...] = ()
    refusal: bool | None = None
    marked: bool = False
    template: str = ""
    votes: Mapping[str, str] = field(default_factory=dict)

    def row(self, attempt: int = 1) -> dict[str, Any]:
        """The row of verdicts/; probabilities to 6 decimals, which no batch's shape can change."""
        row = {
            "id": self.id,
            "attempt": attempt,
            "verdict": self.verdict,
            "word": self.word,
            "p_unsafe": _rounded(self.p_unsafe),
            "scope": self.scope,
            "truncated": self.truncated,
            "guard": self.guard,
            "other_mass": _rounded(self.other_mass),
            "categories": list(self.categories),
            "refusal": self.refusal,
            "marked": self.marked,
            "template": self.template,
        }
        return {**row, "votes": dict(self.votes)} if self.votes else row


class Guard(Protocol):
    """Judges exchanges; `weak` guards match phrases and understand nothing.

    `template` is the hash that its verdicts carry, "" for a guard without a prompt of its own.
    """

    name: str
    weak: bool
    template: str

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
            f"max_unparsed={max_share:g} allows; is guard.kind the checkpoint's own format, with "
            "its own chat template and tokenizer? A run keeps its samples: `thinksafe run` with "
            "guard.* corrected and --new-verdicts judges them anew"
        )


def check_one_template(templates: Iterable[str], guard: str) -> None:
    """Stops a run whose verdicts were not all given to one prompt text (fault 25).

    Raises:
        InputError: the guard's template or form changed between two starts of the run.
    """
    seen = sorted(set(templates))
    if len(seen) > 1:
        raise InputError(
            f"guard {guard}: verdicts were made with different templates ({', '.join(seen)}); its "
            "files changed under the run. Put them back, or judge all samples anew with "
            "`thinksafe run … --new-verdicts`"
        )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
