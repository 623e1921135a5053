"""Coverage: what has become of every prompt, counted by label; dataset/counts.json."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from thinksafe_jax.synthesis.filter import DROP_REASONS
from thinksafe_jax.synthesis.ladder import ACCEPTED, VERDICT_COUNTS, Ledger


@dataclass(frozen=True)
class LabelCounts:
    """What has become of the prompts of one label.

    Attributes:
        sampled: prompts that were asked, or could not be.
        accepted: prompts with a row in the dataset.
        accepted_at: {attempt: prompts}, the attempt being the one that is trained on.
        dropped: {reason: prompts} of all others, reasons as in `filter.DROP_REASONS`.
        verdicts: {judged, marked, truncated: verdicts} over all attempts.
    """

    sampled: int
    accepted: int
    accepted_at: dict[str, int]
    dropped: dict[str, int]
    verdicts: dict[str, int]


Counts = dict[str, LabelCounts]  # {label: counts}


def coverage(ledger: Ledger, chosen: Mapping[str, int], labels: Iterable[str]) -> Counts:
    """Counts of each label.

    A prompt that was never accepted counts with the reason of its last attempt; with rejection
    sampling, of its first that failed.

    Args:
        chosen: the attempt that is trained on, by prompt, see `ladder.chosen_attempts`.
        labels: those that are counted even where no prompt has them.
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
        label: LabelCounts(
            sampled=at[label].total() + dropped[label].total(),
            accepted=at[label].total(),
            accepted_at={str(number): at[label][number] for number in sorted(at[label])},
            dropped={r: dropped[label][r] for r in DROP_REASONS if dropped[label][r]},
            verdicts={k: ledger.verdicts.get(label, {}).get(k, 0) for k in VERDICT_COUNTS},
        )
        for label in at
    }


def reasons_table(counts: Counts) -> str:
    """Coverage as plain text, one line per label, for messages on the terminal."""
    lines = []
    for label, count in counts.items():
        dropped = ", ".join(f"{reason} {n}" for reason, n in count.dropped.items()) or "none"
        at = ", ".join(f"{number}: {n}" for number, n in count.accepted_at.items())
        tries = f" (at attempt {at})" if at else ""
        verdicts = count.verdicts
        odd = ", ".join(f"{verdicts[k]} {k}" for k in ("marked", "truncated") if verdicts[k])
        lines.append(
            f"  {label}: {count.sampled} prompts, {count.accepted} accepted{tries}; "
            f"dropped: {dropped}" + (f"; of {verdicts['judged']} verdicts: {odd}" if odd else "")
        )
    return "\n".join(lines)
