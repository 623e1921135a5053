"""Refusals among the benign rows: to the guard they are safe, to a user they are over-refusal.

The paper keeps them. `synthesis.benign_refusals` drops them, or has the prompt asked again; either
way they are counted, by source, before anything is trained: dataset/refusals.json.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from thinksafe_jax.storage import atomic_write, plain, prepare_directory
from thinksafe_jax.synthesis.filter import BENIGN_REFUSAL
from thinksafe_jax.synthesis.ladder import Ledger, chosen_attempts

MANY_REFUSALS = 0.05  # share of the benign rows above which it is said
ALL = "all sources"  # where prompts cannot be told apart by their source


@dataclass(frozen=True)
class RefusalCounts:
    """Of the benign prompts of one source.

    Attributes:
        rows: those with a row in the dataset.
        refusals: rows among them whose answer refuses.
        left_out: prompts without a row, as every answer that the guard accepted refuses.
    """

    rows: int = 0
    refusals: int = 0
    left_out: int = 0

    @property
    def share(self) -> float:
        """Refusals among the rows; 0 without rows."""
        return self.refusals / max(1, self.rows)

    def __add__(self, other: "RefusalCounts") -> "RefusalCounts":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return RefusalCounts(*(a + b for a, b in pairs))


Refusals = dict[str, RefusalCounts]  # {source: counts}


def count_refusals(
    ledger: Ledger, method: str, seed: int, source_of: Mapping[str, str]
) -> Refusals:
    """Counts of each source.

    Args:
        method, seed: of the recipe, which choose the attempt that is trained on.
        source_of: {prompt id: name of its source}.
    """
    chosen, counts = chosen_attempts(ledger, method, seed), Refusals()
    for id, reasons in ledger.by_prompt().items():
        if ledger.labels[id] != "benign":
            continue
        trained = id in chosen
        one_more = RefusalCounts(
            rows=int(trained),
            refusals=int(trained and (id, chosen[id]) in ledger.refused),
            left_out=int(not trained and BENIGN_REFUSAL in reasons.values()),
        )
        source = source_of.get(id, ALL)
        counts[source] = counts.get(source, RefusalCounts()) + one_more
    return dict(sorted(counts.items()))


def write_refusals(run_path: Path, refusals: Refusals) -> None:
    """Writes RUN/dataset/refusals.json."""
    folder = prepare_directory(run_path / "dataset")
    atomic_write(folder / "refusals.json", json.dumps(plain(refusals), indent=2) + "\n")


def refusal_warning(refusals: Mapping[str, RefusalCounts]) -> str:
    """A sentence where many benign rows refuse, with the sources that have most; else ""."""
    total = sum(refusals.values(), RefusalCounts())
    if total.share <= MANY_REFUSALS:
        return ""
    worst = sorted(refusals.items(), key=lambda item: item[1].refusals, reverse=True)[:3]
    named = ", ".join(f"{name} {c.refusals} of {c.rows}" for name, c in worst if c.refusals)
    return (
        f"{total.refusals} of {total.rows} benign rows refuse ({total.share:.1%}: {named}). "
        "Training on them teaches the model to refuse harmless prompts; "
        "synthesis.benign_refusals=retry asks again, drop leaves them out"
    )
