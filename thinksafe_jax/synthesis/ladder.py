"""The retry ladder: which prompt is asked again, how, and what has become of each attempt.

The paper samples each prompt once and loses the hardest ones first (12.86 % of the harmful prompts
of R1-1.5B, paper.md D10). Here a prompt has up to k attempts, each with its template and
temperature; `k = 1` is the paper. Every attempt stays as a row.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from thinksafe_jax.config import SamplingConfig, SynthesisConfig
from thinksafe_jax.synthesis.filter import DROP_REASONS, row_drop_reason

Row = Mapping[str, Any]
Key = tuple[str, int]  # (prompt id, attempt)
ACCEPTED, WAITING = "", "waiting"  # a reason that is none, and a row that no guard has seen
VERDICT_COUNTS = ("judged", "marked", "truncated")  # all verdicts, and two fields of `Verdict`


@dataclass(frozen=True)
class Attempt:
    """How one attempt is made."""

    number: int  # from 1
    steering: str
    sampling: SamplingConfig


def attempts(cfg: SynthesisConfig) -> list[Attempt]:
    """The ladder of a recipe, written out: as many attempts as it allows."""
    made = []
    for number in range(1, cfg.attempts + 1):
        rung = cfg.ladder[(number - 1) % len(cfg.ladder)] if cfg.ladder else None
        heat = rung.temperature if rung else None
        sampling = cfg.sampling if heat is None else replace(cfg.sampling, temperature=heat)
        made.append(Attempt(number, (rung and rung.steering) or cfg.steering, sampling))
    return made


@dataclass
class Ledger:
    """What is known of every attempt: no texts, so 40,000 prompts take a few megabytes.

    Args:
        reasoning: `SynthesisConfig.reasoning`, for what is wrong with a row's form.
        guarded: whether rows of sound form must be judged.
    """

    reasoning: str
    guarded: bool = True
    labels: dict[str, str] = field(default_factory=dict)
    reasons: dict[Key, str] = field(default_factory=dict)
    verdicts: dict[str, Counter[str]] = field(default_factory=dict)  # {label: VERDICT_COUNTS}

    def sampled(self, row: Row) -> None:
        """Takes note of a row of samples/."""
        key = row["id"], row["attempt"]
        self.labels[row["id"]] = row["label"]
        reason = row_drop_reason(row, self.reasoning)
        self.reasons[key] = reason or (WAITING if self.guarded else ACCEPTED)

    def judged(self, row: Row) -> None:
        """Takes note of a row of verdicts/; only "safe" in so many words is accepted.

        There is one for each attempt, on its whole response, reasoning and answer (paper.md 1.3).
        """
        key = row["id"], row["attempt"]
        if self.reasons.get(key) == WAITING:
            tally = self.verdicts.setdefault(self.labels[row["id"]], Counter())
            tally.update(["judged", *(name for name in ("marked", "truncated") if row[name])])
            word = row["verdict"]
            unsafe = "unsafe" if word == "unsafe" else "unparsed"
            self.reasons[key] = ACCEPTED if word == "safe" else unsafe

    def read(self, samples: Iterable[Row], verdicts: Iterable[Row]) -> "Ledger":
        """Takes note of all rows of a run."""
        for row in samples:
            self.sampled(row)
        for row in verdicts:
            self.judged(row)
        return self

    def waiting(self) -> set[Key]:
        """Attempts of sound form that no guard has seen."""
        return {key for key, reason in self.reasons.items() if reason == WAITING}

    def to_sample(self, prompts: Iterable[str], attempt: int, *, retry: bool) -> Iterator[str]:
        """Prompts whose turn it is at this attempt and that have no row of it yet.

        Args:
            retry: only those that no earlier attempt was accepted of.

        A prompt that could not be sampled at all (empty, too long) has no second attempt.
        """
        for id in prompts:
            if (id, attempt) in self.reasons:
                continue
            earlier = {self.reasons.get((id, n)) for n in range(1, attempt)}
            if not (earlier & {"empty_prompt", "too_long"} or (retry and ACCEPTED in earlier)):
                yield id

    def by_prompt(self) -> dict[str, dict[int, str]]:
        """The reason of each attempt of each prompt, in order of the attempts."""
        found: dict[str, dict[int, str]] = {id: {} for id in self.labels}
        for (id, number), reason in sorted(self.reasons.items(), key=lambda item: item[0][1]):
            found[id][number] = reason
        return found


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


def coverage(ledger: Ledger, chosen: Mapping[str, int], labels: Iterable[str]) -> dict[str, Any]:
    """{label: {sampled, accepted, accepted_at: {attempt: n}, dropped: {reason: n}}} over prompts.

    A prompt that was never accepted counts with the reason of its last attempt; with rejection
    sampling, of its first that failed. Beside them `verdicts`: {judged, marked, truncated} over all
    attempts.
    """
    at = {label: Counter[int]() for label in labels}
    dropped = {label: Counter[str]() for label in labels}
    for id, reasons in ledger.by_prompt().items():
        label = ledger.labels[id]
        at.setdefault(label, Counter())
        dropped.setdefault(label, Counter())
        if id in chosen:
            at[label][chosen[id]] += 1
        else:
            failed = [reason for reason in reasons.values() if reason]
            dropped[label][failed[0] if ACCEPTED in reasons.values() else failed[-1]] += 1
    return {
        label: {
            "sampled": at[label].total() + dropped[label].total(),
            "accepted": at[label].total(),
            "accepted_at": {str(number): at[label][number] for number in sorted(at[label])},
            "dropped": {r: dropped[label][r] for r in DROP_REASONS if dropped[label][r]},
            "verdicts": {k: ledger.verdicts.get(label, {}).get(k, 0) for k in VERDICT_COUNTS},
        }
        for label in at
    }
