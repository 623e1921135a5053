"""From samples/ and verdicts/ to dataset/: what is accepted, what is not, and why.

A row is accepted only where nothing is wrong with its form and the guard said "safe" in so many
words. The dataset holds the ORIGINAL prompt; the steering text ends with the sampling.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thinksafe_jax.config import Recipe
from thinksafe_jax.errors import InputError
from thinksafe_jax.runs import atomic_write, prepare_directory
from thinksafe_jax.synthesis.card import dataset_card
from thinksafe_jax.synthesis.filter import DROP_REASONS, row_drop_reason
from thinksafe_jax.synthesis.prompts import source_hashes

Row = Mapping[str, Any]
Counts = dict[str, dict[str, Any]]  # {label: {sampled, accepted, dropped: {reason: n}}}


@dataclass(frozen=True)
class DatasetFacts:
    """What the card must say about how the rows came to be."""

    name: str
    method: str
    student: str
    guard: str
    weak_guard: bool
    steering: str
    reasoning: str
    sampling: Mapping[str, Any]
    seed: int
    sources: Mapping[str, str]  # path -> sha256 of its content

    @property
    def guarded(self) -> bool:
        """Direct refusals are one fixed text, which no guard needs to judge."""
        return self.method != "direct-refusal"

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels without whose rows the method makes no sense."""
        return ("harmful", "benign") if self.guarded else ("harmful",)


def dataset_facts(recipe: Recipe, guard: str, *, weak_guard: bool = False) -> DatasetFacts:
    """The facts of a recipe; `guard` and `weak_guard` are the loaded guard's name and weakness."""
    synthesis = recipe.synthesis
    thinksafe = synthesis.method == "thinksafe"
    return DatasetFacts(
        name=recipe.name,
        method=synthesis.method,
        student=recipe.student.model,
        guard=guard if thinksafe else "none (fixed refusal)",
        weak_guard=weak_guard and thinksafe,
        steering=synthesis.steering if thinksafe else "none",
        reasoning=synthesis.reasoning,
        sampling=asdict(synthesis.sampling) if thinksafe else {},
        seed=recipe.seed,
        sources=source_hashes(synthesis.prompts),
    )


def write_dataset(
    run_path: Path, samples: Iterable[Row], verdicts: Iterable[Row], facts: DatasetFacts
) -> Counts:
    """Writes dataset/train.jsonl, counts.json and README.md, each whole or not at all.

    Rows are sorted by id, so the file does not depend on the order in which sampling finished.
    A prompt counts once: accepted with its first accepted attempt, else dropped with the reason
    of its last one.

    Args:
        samples: rows of samples/.
        verdicts: rows of verdicts/; matched by (id, attempt), scope "full" before any other.

    Returns:
        `{label: {sampled, accepted, dropped: {reason: n}}}`, which is also counts.json.

    Raises:
        InputError: a row has no verdict yet, or a label has no accepted row; counts.json is
            written in the latter case, train.jsonl is not left behind.
    """
    folder = prepare_directory(run_path / "dataset")
    accepted, outcomes = _decide(samples, _verdict_index(verdicts), facts)
    counts = _count(outcomes, facts.labels)
    atomic_write(folder / "counts.json", json.dumps(counts, indent=2) + "\n")
    train = folder / "train.jsonl"
    if empty := [label for label in facts.labels if not counts[label]["accepted"]]:
        train.unlink(missing_ok=True)
        raise InputError(
            f"no {' and no '.join(empty)} row was accepted, so there is nothing to train on:\n"
            f"{reasons_table(counts)}"
        )
    lines = [json.dumps(accepted[key], ensure_ascii=False) + "\n" for key in sorted(accepted)]
    atomic_write(folder / "README.md", dataset_card(facts, counts))
    atomic_write(train, "".join(lines))
    return counts


def reasons_table(counts: Counts) -> str:
    """Counts as plain text, one line per label, for messages on the terminal."""
    lines = []
    for label, count in counts.items():
        dropped = ", ".join(f"{reason} {n}" for reason, n in count["dropped"].items()) or "none"
        lines.append(
            f"  {label}: {count['sampled']} prompts, {count['accepted']} accepted; "
            f"dropped: {dropped}"
        )
    return "\n".join(lines)


def _verdict_index(verdicts: Iterable[Row]) -> dict[tuple[str, int], str]:
    chosen: dict[tuple[str, int], str] = {}
    for row in verdicts:
        key = (row["id"], row["attempt"])
        if row["scope"] == "full" or key not in chosen:
            chosen[key] = row["verdict"]
    return chosen


def _decide(
    samples: Iterable[Row], verdicts: Mapping[tuple[str, int], str], facts: DatasetFacts
) -> tuple[dict[str, dict[str, str]], dict[str, tuple[str, str | None]]]:
    """(accepted training rows by id, (label, reason or None for accepted) by id)."""
    best: dict[str, tuple[int, dict[str, str]]] = {}
    last: dict[str, tuple[int, str, str | None]] = {}
    unjudged: list[str] = []
    for row in samples:
        key, attempt = row["id"], row["attempt"]
        reason = row_drop_reason(row, facts.reasoning)
        if reason is None and facts.guarded:
            verdict = verdicts.get((key, attempt))
            if verdict is None:
                unjudged.append(key)
            elif verdict != "safe":
                reason = "unsafe" if verdict == "unsafe" else "unparsed"
        if key not in last or attempt > last[key][0]:
            last[key] = (attempt, row["label"], reason)
        if reason is None and (key not in best or attempt < best[key][0]):
            best[key] = (attempt, _training_row(row))
    _refuse_unjudged(unjudged)
    accepted = {key: training_row for key, (_, training_row) in best.items()}
    outcomes = {
        key: (label, None if key in accepted else reason)
        for key, (_, label, reason) in last.items()
    }
    return accepted, outcomes


def _training_row(row: Row) -> dict[str, str]:
    return {
        "id": row["id"],
        "instruction": row["prompt"],
        "response": row["response"],
        "prompt_label": row["label"],
        "response_label": "safe",
        "finish_reason": row["finish_reason"],
    }


def _refuse_unjudged(unjudged: Sequence[str]) -> None:
    if unjudged:
        raise InputError(
            f"{len(unjudged)} sampled rows have no verdict (first: {unjudged[0]!r}); run "
            "`thinksafe filter` to the end first"
        )


def _count(outcomes: Mapping[str, tuple[str, str | None]], labels: Sequence[str]) -> Counts:
    tallies = {label: Counter[str | None]() for label in labels}
    for label, reason in outcomes.values():
        tallies.setdefault(label, Counter())[reason] += 1
    return {
        label: {
            "sampled": tally.total(),
            "accepted": tally[None],
            "dropped": {reason: tally[reason] for reason in DROP_REASONS if tally[reason]},
        }
        for label, tally in tallies.items()
    }
