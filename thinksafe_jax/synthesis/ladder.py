"""The retry ladder: which prompt is asked again, how, and what has become of each attempt.

The paper samples each prompt once and loses the hardest ones first (12.86 % of the harmful prompts
of R1-1.5B, paper.md D10). Here a prompt has up to k attempts, each with its template and
temperature; `k = 1` is the paper. Every attempt stays as a row.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean as mean
from typing import Any

from thinksafe_jax.config import SamplingConfig, SynthesisConfig
from thinksafe_jax.data import Prompt
from thinksafe_jax.guards import is_refusal
from thinksafe_jax.runs import Location, RowStore
from thinksafe_jax.synthesis.filter import BENIGN_REFUSAL, row_drop_reason

Row = Mapping[str, Any]
Key = tuple[str, int]  # (prompt id, attempt)
ACCEPTED, WAITING = "", "waiting"  # a reason that is none, and a row that no guard has seen
HOPELESS = ("empty_prompt", "too_long")  # of a prompt that cannot be sampled at all
# what later stages need of a row of verdicts/
VERDICT_FIELDS = {
    "id": str, "attempt": int, "verdict": str, "marked": bool, "truncated": bool, "template": str,
}  # fmt: skip
VERDICT_COUNTS = ("judged", "marked", "truncated")  # all verdicts, and two fields of `Verdict`


@dataclass(frozen=True)
class Attempt:
    """How one attempt is made."""

    number: int  # from 1
    steering: str
    sampling: SamplingConfig


def attempts(cfg: SynthesisConfig) -> list[Attempt]:
    """The ladder of a recipe, written out: as many attempts as it allows."""
    ladder = []
    for number in range(1, cfg.attempts + 1):
        rung = cfg.ladder[(number - 1) % len(cfg.ladder)] if cfg.ladder else None
        heat = rung.temperature if rung else None
        sampling = cfg.sampling if heat is None else replace(cfg.sampling, temperature=heat)
        ladder.append(Attempt(number, (rung and rung.steering) or cfg.steering, sampling))
    return ladder


@dataclass
class Ledger:
    """What is known of every attempt: no texts, so 40,000 prompts take a few megabytes.

    The stores are read once, in `read`; what is written from then on is noted as it is written.
    Where a text is needed again it is read at its place.

    Args:
        reasoning: `SynthesisConfig.reasoning`, for what is wrong with a row's form.
        guarded: whether rows of sound form must be judged.
        benign_refusals: `SynthesisConfig.benign_refusals`: whether a safe answer to a benign prompt
            is accepted where it refuses.

    Attributes:
        labels: prompt -> its label.
        reasons: attempt -> why it is not trained on; or ACCEPTED, or WAITING for the guard.
        places: attempt -> where its row of samples/ lies.
        lengths: attempt -> tokens of its response, where there is one.
        verdicts: label -> VERDICT_COUNTS over all attempts.
        words: verdict -> how many, of all labels.
        refused: attempts at benign prompts whose answer refuses: as the guard says where it answers
            that, else by its phrases.
        templates: hashes of the guard's prompts that the verdicts were given to.
    """

    reasoning: str
    guarded: bool = True
    benign_refusals: str = "keep"
    labels: dict[str, str] = field(default_factory=dict)
    reasons: dict[Key, str] = field(default_factory=dict)
    places: dict[Key, Location] = field(default_factory=dict)
    lengths: dict[Key, int] = field(default_factory=dict)
    verdicts: dict[str, Counter[str]] = field(default_factory=dict)
    words: Counter[str] = field(default_factory=Counter)
    refused: set[Key] = field(default_factory=set)
    templates: set[str] = field(default_factory=set)
    _judged_ends: dict[str, int] = field(default_factory=dict)  # of verdicts/, as far as read

    def read(
        self,
        samples: RowStore,
        verdicts: RowStore,
        look_at: Callable[[Row], None] | None = None,
    ) -> "Ledger":
        """Takes note of all rows of a run.

        Args:
            look_at: shown every row of samples/ as it passes, texts and all.
        """
        for place, row in samples.located():
            if look_at is not None:
                look_at(row)
            self.sampled(row)
            self.placed(row, place)
        return self.read_verdicts(verdicts)

    def read_verdicts(self, verdicts: RowStore) -> "Ledger":
        """Takes note of the verdicts that came since the last reading, of other processes, too."""
        since, self._judged_ends = self._judged_ends, verdicts.ends()
        for row in verdicts.rows(since):
            self.judged(row)
        return self

    def sampled(self, row: Row) -> None:
        """Takes note of a row of samples/."""
        key = row["id"], row["attempt"]
        self.labels[row["id"]] = row["label"]
        if row["finish_reason"]:  # else it was not sampled
            self.lengths[key] = row["tokens"]
        if row["label"] == "benign" and is_refusal(row["response"]):
            self.refused.add(key)
        reason = row_drop_reason(row, self.reasoning)
        self.reasons[key] = reason or (WAITING if self.guarded else self._when_safe(key))

    def placed(self, row: Row, place: Location) -> None:
        """Takes note of where a row of samples/ lies."""
        self.places[row["id"], row["attempt"]] = place

    def judged(self, row: Row) -> None:
        """Takes note of a row of verdicts/; only "safe" in so many words is accepted.

        There is one for each attempt, on its whole response, reasoning and answer (paper.md 1.3).
        """
        key, word = (row["id"], row["attempt"]), row["verdict"]
        if self.reasons.get(key, WAITING) != WAITING:
            return  # noted before
        self.words[word] += 1
        self.templates.add(row["template"])
        if key in self.reasons:
            of_label = self.verdicts.setdefault(self.labels[row["id"]], Counter())
            of_label.update(["judged", *(name for name in ("marked", "truncated") if row[name])])
            if row.get("refusal") is not None and self.labels[row["id"]] == "benign":
                (self.refused.add if row["refusal"] else self.refused.discard)(key)
            unsafe = "unsafe" if word == "unsafe" else "unparsed"
            self.reasons[key] = self._when_safe(key) if word == "safe" else unsafe

    def _when_safe(self, key: Key) -> str:
        """What becomes of an attempt that is safe."""
        dropped = self.benign_refusals != "keep" and key in self.refused
        return BENIGN_REFUSAL if dropped else ACCEPTED

    def refusals_among_safe(self) -> list[list[float]]:
        """Of each benign prompt, whether each of its safe answers refuses: 1 if it does, else 0."""
        by_prompt: dict[str, list[float]] = {}
        for key, reason in self.reasons.items():
            if reason in (ACCEPTED, BENIGN_REFUSAL) and self.labels[key[0]] == "benign":
                by_prompt.setdefault(key[0], []).append(float(key in self.refused))
        return list(by_prompt.values())

    @property
    def settled(self) -> tuple[str, ...]:
        """The reasons after which a prompt is not asked again."""
        dropped = (BENIGN_REFUSAL,) if self.benign_refusals == "drop" else ()
        return (ACCEPTED, *HOPELESS, *dropped)

    def waiting(self) -> set[Key]:
        """Attempts of sound form that no guard has seen."""
        return {key for key, reason in self.reasons.items() if reason == WAITING}

    def next_attempt(
        self, id: str, most: int, under_way: Container[Key] = (), *, retry: bool
    ) -> int | None:
        """The attempt of a prompt that can be sampled now; None where there is none.

        Args:
            most: attempts of a prompt.
            under_way: attempts that are being sampled.
            retry: whether there is another attempt only when the one before was not accepted.
        """
        for number in range(1, most + 1):
            reason = self.reasons.get((id, number))
            if reason is None and (id, number) not in under_way:
                return number
            if reason in HOPELESS or (retry and reason in (None, WAITING, *self.settled)):
                return None
        return None

    def longest_first(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Prompts by the length that their next responses will have, as far as it can be guessed.

        A prompt's earlier responses say most, then those to prompts of its label. What takes
        longest is begun first, or it would keep a few slots at work when the queue is empty. No
        text depends on the order; where nothing is known it stays as it is.
        """
        of_prompt: dict[str, list[int]] = {}
        of_label: dict[str, list[int]] = {}
        for (id, _), length in self.lengths.items():
            of_prompt.setdefault(id, []).append(length)
            of_label.setdefault(self.labels[id], []).append(length)
        of_all = {label: mean(lengths) for label, lengths in of_label.items()}

        def expected(prompt: Prompt) -> float:
            earlier = of_prompt.get(prompt.id)
            return mean(earlier) if earlier else of_all.get(prompt.label, 0.0)

        return sorted(prompts, key=expected, reverse=True)

    def by_prompt(self) -> dict[str, dict[int, str]]:
        """The reason of each attempt of each prompt, in order of the attempts."""
        reasons: dict[str, dict[int, str]] = {id: {} for id in self.labels}
        for (id, number), reason in sorted(self.reasons.items(), key=lambda item: item[0][1]):
            reasons[id][number] = reason
        return reasons


def chosen_attempts(ledger: Ledger, method: str, seed: int) -> dict[str, int]:
    """The attempt that is trained on, for each prompt that has one.

    The first that was accepted; with method "rejection" any one, drawn by the seed, of a prompt
    whose attempts were all accepted (paper.md 1.2).
    """
    chosen = {}
    for id, reasons in ledger.by_prompt().items():
        accepted = [number for number, reason in reasons.items() if reason == ACCEPTED]
        if method == "rejection":
            if len(accepted) == len(reasons):
                digest = hashlib.sha256(f"{seed}/{id}".encode()).digest()
                chosen[id] = accepted[int.from_bytes(digest[:8], "big") % len(accepted)]
        elif accepted:
            chosen[id] = accepted[0]
    return chosen
