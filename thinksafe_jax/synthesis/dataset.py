"""From samples/ and verdicts/ to dataset/: what is accepted, what is not, and why.

    dataset/train.jsonl               the rows that are trained on, sorted by id
    dataset/data/train-00000.parquet  the same, for `datasets.load_dataset("RUN/dataset")`
    dataset/counts.json               coverage: how many of each label, at which attempt; why not
    dataset/README.md                 the card, which the report's room writes

A row is accepted only where nothing is wrong with its form and the guard, asked about the whole
response, said "safe" in so many words. The dataset holds the ORIGINAL prompt; the steering text
ends with the sampling. Texts are read from the disk one by one, so a run of any size needs little
memory.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from thinksafe_jax.config import Recipe
from thinksafe_jax.data import source_hashes
from thinksafe_jax.errors import InputError
from thinksafe_jax.guards import Guard, answer_part
from thinksafe_jax.runs import Location, RowStore
from thinksafe_jax.storage import atomic_write, atomic_writer, prepare_directory, shown
from thinksafe_jax.synthesis.ladder import WAITING, Key, Ledger, attempts, chosen_attempts, coverage
from thinksafe_jax.synthesis.parquet import ParquetWriter
from thinksafe_jax.synthesis.sampled_rows import SAMPLED

Row = Mapping[str, Any]
# {label: {sampled, accepted, accepted_at: {attempt: n}, dropped: {reason: n}, verdicts: {…}}}
Counts = dict[str, dict[str, Any]]
Lengths = dict[str, Counter[int]]  # {label: {upper end of a bin, 0 for the last: rows}}
LENGTH_BINS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)  # tokens, upper ends


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
    teacher: str = ""  # whose responses they are, where not the student's
    commits: Mapping[str, str] = field(default_factory=dict)  # of the models above, where known
    guard_template: str = ""  # hash of the guard's prompt
    harmful_reasoning: str = "keep"
    ladder: Sequence[str] = ()  # one line an attempt

    @property
    def guarded(self) -> bool:
        """Fixed refusals and external rows are not the student's: no guard judges them."""
        return self.method in SAMPLED

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels without whose rows the method makes no sense."""
        return ("harmful", "benign") if self.guarded else ("harmful",)


def dataset_facts(
    recipe: Recipe, guard: Guard | None = None, pins: Path | None = None
) -> DatasetFacts:
    """The facts of a recipe.

    Args:
        guard: the one that was asked; None where nothing was sampled.
        pins: file of the run that keeps the commits of its models, see `resolve_model`.
    """
    synthesis = recipe.synthesis
    sampled = synthesis.method in SAMPLED
    teacher = synthesis.teacher.model if sampled else ""
    guards = recipe.guard.members or [recipe.guard]
    used = {recipe.student.model, teacher, *(g.model for g in guards if sampled)}
    pinned = json.loads(pins.read_text(encoding="utf-8")) if pins and pins.exists() else {}
    return DatasetFacts(
        name=recipe.name,
        method=synthesis.method,
        student=recipe.student.model,
        guard=guard.name if guard else "none (nothing was sampled)",
        weak_guard=guard is not None and guard.weak,
        steering=synthesis.steering if sampled else "none",
        reasoning=synthesis.reasoning,
        sampling=asdict(synthesis.sampling) if sampled else {},
        seed=recipe.seed,
        sources=source_hashes(synthesis.prompts),
        teacher=teacher,
        commits={name: entry["commit"] for name, entry in pinned.items() if name in used},
        guard_template=guard.template if guard else "",
        harmful_reasoning=synthesis.harmful_reasoning,
        ladder=[
            f"{a.number}: {a.steering}, temperature {a.sampling.temperature:g}"
            for a in attempts(synthesis)
            if sampled and synthesis.attempts > 1
        ],
    )


def write_dataset(
    run_path: Path,
    samples: RowStore,
    verdicts: RowStore,
    facts: DatasetFacts,
    count_tokens: Callable[[str], int],
) -> tuple[Counts, Lengths]:
    """Writes RUN/dataset but for its card, each file whole or not at all.

    Rows are sorted by id, so the files do not depend on the order in which sampling finished. A
    prompt counts once, whatever the number of its attempts.

    Args:
        samples, verdicts: the run's rows, matched by (id, attempt).
        count_tokens: of a response that is not as it was sampled, for the card's lengths.

    Returns:
        Coverage as in counts.json, see `ladder.coverage`; and the rows' lengths, for the card.

    Raises:
        InputError: a row has no verdict yet, or a label has no accepted row; counts.json is
            written in the latter case, train.jsonl is not left behind.
    """
    folder = prepare_directory(run_path / "dataset")
    found: dict[Key, Location] = {}
    ledger = Ledger(facts.reasoning, facts.guarded)
    ledger.read(_noted(samples, found), verdicts.rows())
    _refuse_unjudged(ledger)
    chosen = chosen_attempts(ledger, facts.method, facts.seed)
    counts = coverage(ledger, chosen, facts.labels)
    atomic_write(folder / "counts.json", json.dumps(counts, indent=2) + "\n")
    train = folder / "train.jsonl"
    if empty := [label for label in facts.labels if not counts[label]["accepted"]]:
        train.unlink(missing_ok=True)
        raise InputError(
            f"no {' and no '.join(empty)} row was accepted, so there is nothing to train on:\n"
            f"{reasons_table(counts)}"
        )
    lengths: Lengths = {}
    places = (found[id, chosen[id]] for id in sorted(chosen))
    with ParquetWriter(folder / "data") as parquet, atomic_writer(train) as file:
        for sample in samples.rows_at(places):
            row = _training_row(sample, facts)
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            parquet.add(row)
            as_sampled = row["response"] == sample["response"]
            tokens = sample["tokens"] if as_sampled else count_tokens(row["response"])
            tally = lengths.setdefault(row["prompt_label"], Counter())
            tally[next((end for end in LENGTH_BINS if tokens <= end), 0)] += 1
    return counts, lengths


def reasons_table(counts: Counts) -> str:
    """Coverage as plain text, one line per label, for messages on the terminal."""
    lines = []
    for label, count in counts.items():
        dropped = ", ".join(f"{reason} {n}" for reason, n in count["dropped"].items()) or "none"
        at = count["accepted_at"]
        tries = f" (at attempt {', '.join(f'{k}: {n}' for k, n in at.items())})" if at else ""
        verdicts = count["verdicts"]
        odd = ", ".join(f"{verdicts[k]} {k}" for k in ("marked", "truncated") if verdicts[k])
        lines.append(
            f"  {label}: {count['sampled']} prompts, {count['accepted']} accepted{tries}; "
            f"dropped: {dropped}" + (f"; of {verdicts['judged']} verdicts: {odd}" if odd else "")
        )
    return "\n".join(lines)


def _noted(samples: RowStore, found: dict[Key, Location]) -> Iterator[Row]:
    """The rows, the place of each noted: their texts are read again one by one."""
    for place, row in samples.located():
        found[row["id"], row["attempt"]] = place
        yield row


def _training_row(row: Row, facts: DatasetFacts) -> dict[str, str]:
    response = row["response"]
    if facts.harmful_reasoning == "remove" and row["label"] == "harmful":
        response = without_reasoning(response)
    return {
        "id": row["id"],
        "instruction": row["prompt"],
        "response": response,
        "prompt_label": row["label"],
        "response_label": "safe" if facts.guarded else "unjudged",
        "finish_reason": row["finish_reason"],
    }


def without_reasoning(response: str) -> str:
    """The answer behind an empty think block.

    That is what Qwen3's own template writes for `enable_thinking=False`, and on R1-Distill's, which
    opens the block itself, it closes it at once. An answer with no block at all would be rendered
    with a second, dangling `<think>` (paper.md D16).
    """
    return f"<think>\n\n</think>\n\n{answer_part(response)}"


def _refuse_unjudged(ledger: Ledger) -> None:
    unjudged = sorted(id for (id, _), reason in ledger.reasons.items() if reason == WAITING)
    if unjudged:
        raise InputError(
            f"{len(unjudged)} sampled rows have no verdict (first: {unjudged[0]!r}); run "
            "`thinksafe filter` to the end first"
        )


def read_dataset(run_path: Path) -> Iterable[dict[str, str]]:
    """The rows of RUN/dataset/train.jsonl.

    Raises:
        InputError: there is no dataset yet.
    """
    file = run_path / "dataset/train.jsonl"
    if not file.exists():
        raise InputError(
            f"{shown(file)}: no dataset yet; first: thinksafe filter {shown(run_path)}"
        )
    with file.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)
