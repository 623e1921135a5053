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

from thinksafe_jax.config import SAMPLED, Recipe
from thinksafe_jax.data import source_hashes
from thinksafe_jax.errors import InputError, quoted
from thinksafe_jax.guards import Guard, answer_part
from thinksafe_jax.runs import RowStore
from thinksafe_jax.storage import (
    atomic_write,
    atomic_writer,
    parse,
    plain,
    prepare_directory,
    shown,
)
from thinksafe_jax.synthesis.coverage import Counts, coverage, reasons_table
from thinksafe_jax.synthesis.ladder import WAITING, Ledger, attempts, chosen_attempts
from thinksafe_jax.synthesis.parquet import COLUMNS, ParquetWriter
from thinksafe_jax.synthesis.sampled_rows import needed_labels
from thinksafe_jax.weights import read_revisions

Row = Mapping[str, Any]
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
    benign_refusals: str = "keep"
    ladder: Sequence[str] = ()  # one line an attempt
    kv_dtype: str = "model"  # as `EngineConfig.kv_dtype`
    trial: bool = False  # of few prompts, to look whether all works

    @property
    def guarded(self) -> bool:
        """Fixed refusals and external rows are not the student's: no guard judges them."""
        return self.method in SAMPLED

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels without whose rows the method makes no sense."""
        return needed_labels(self.method)


def dataset_facts(
    recipe: Recipe,
    guard: Guard | None = None,
    revisions: Path | None = None,
    sources: Mapping[str, str] | None = None,
) -> DatasetFacts:
    """The facts of a recipe.

    Args:
        guard: the one that was asked; None where nothing was sampled.
        revisions: file of the run that keeps the commits of its models, see `resolve_model`.
        sources: sha256 of each prompt source, where it is known.
    """
    synthesis = recipe.synthesis
    sampled = synthesis.method in SAMPLED
    teacher = synthesis.teacher.model if sampled else ""
    guards = recipe.guard.members or [recipe.guard]
    used = {recipe.student.model, teacher, *(g.model for g in guards if sampled)}
    commits = {}
    if revisions is not None:
        commits = read_revisions(revisions)
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
        sources=source_hashes(synthesis.prompts) if sources is None else sources,
        teacher=teacher,
        commits={name: entry["commit"] for name, entry in commits.items() if name in used},
        guard_template=guard.template if guard else "",
        harmful_reasoning=synthesis.harmful_reasoning,
        benign_refusals=synthesis.benign_refusals,
        ladder=[
            f"{a.number}: {a.steering}, temperature {a.sampling.temperature:g}"
            for a in attempts(synthesis)
            if sampled and synthesis.attempts > 1
        ],
        kv_dtype=recipe.engine.kv_dtype if sampled else "model",
        trial=recipe.trial,
    )


def write_dataset(
    run_path: Path,
    samples: RowStore,
    ledger: Ledger,
    facts: DatasetFacts,
    count_tokens: Callable[[str], int],
) -> tuple[Counts, Lengths]:
    """Writes RUN/dataset but for its card, each file whole or not at all.

    Rows are sorted by id, so the files do not depend on the order in which sampling finished. A
    prompt counts once, whatever the number of its attempts.

    Args:
        samples: the run's rows; texts are read at the places that the ledger has noted.
        ledger: what has become of every attempt.
        count_tokens: of a response that is not as it was sampled, for the card's lengths.

    Returns:
        Coverage as in counts.json; and the rows' lengths, for the card.

    Raises:
        InputError: a row has no verdict yet, or a label has no accepted row; counts.json is
            written in the latter case, train.jsonl is not left behind.
    """
    folder = prepare_directory(run_path / "dataset")
    _refuse_unjudged(ledger)
    chosen = chosen_attempts(ledger, facts.method, facts.seed)
    counts = coverage(ledger, chosen, facts.labels)
    atomic_write(folder / "counts.json", json.dumps(plain(counts), indent=2) + "\n")
    train = folder / "train.jsonl"
    if empty := [label for label in facts.labels if not counts[label].accepted]:
        train.unlink(missing_ok=True)
        raise InputError(
            f"no {' and no '.join(empty)} row was accepted, so there is nothing to train on:\n"
            f"{reasons_table(counts)}"
        )
    places = (ledger.places[id, chosen[id]] for id in sorted(chosen))
    return counts, _write_rows(folder, samples.rows_at(places), facts, count_tokens)


def _write_rows(
    folder: Path, rows: Iterable[Row], facts: DatasetFacts, count_tokens: Callable[[str], int]
) -> Lengths:
    """train.jsonl and its Parquet copy, row by row."""
    lengths: Lengths = {}
    with (
        ParquetWriter(folder / "data") as parquet,
        atomic_writer(folder / "train.jsonl") as file,
    ):
        for sample in rows:
            row = _training_row(sample, facts)
            as_sampled = row["response"] == sample["response"]
            marks = {"spans": sample["spans"]} if as_sampled and "spans" in sample else {}
            file.write(json.dumps({**row, **marks}, ensure_ascii=False).encode() + b"\n")
            parquet.add(row)
            tokens = sample["tokens"] if as_sampled else count_tokens(row["response"])
            bins = lengths.setdefault(row["prompt_label"], Counter())
            bins[next((end for end in LENGTH_BINS if tokens <= end), 0)] += 1
    return lengths


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
            f"{len(unjudged)} sampled rows have no verdict (first: {quoted(unjudged[0])}); run "
            "`thinksafe filter` to the end first"
        )


def read_dataset(run_path: Path) -> Iterator[dict[str, str]]:
    """The rows of RUN/dataset/train.jsonl, which people prune and correct by hand.

    Raises:
        InputError: there is no dataset yet; or with file and line, what cannot be trained on.
    """
    file = run_path / "dataset/train.jsonl"
    if not file.exists():
        raise InputError(
            f"{shown(file)}: no dataset yet; first: thinksafe filter {shown(run_path)}"
        )
    with file.open("rb") as lines:  # as bytes: a text may hold other ends of lines
        for number, line in enumerate(lines, start=1):
            if not line.strip(b" \t\r\n\xef\xbb\xbf"):
                continue
            row = parse(line)
            if problem := "not a JSON object" if row is None else _row_problem(row):
                raise InputError(
                    f"{shown(file)}:{number}: {problem}; repair or delete the line, or make the "
                    f"dataset again: thinksafe filter {shown(run_path)}"
                )
            assert row is not None
            yield row


def _row_problem(row: Row) -> str:
    """What is wrong with a row of train.jsonl; "" for nothing."""
    if missing := [name for name in COLUMNS if name not in row]:
        return f"no {' and '.join(missing)} in the row"
    for name in COLUMNS:
        if not isinstance(row[name], str):
            return f"{name} is {json.dumps(row[name])[:40]}, not text"
        try:
            row[name].encode()
        except UnicodeEncodeError:
            return f"half a surrogate pair in {name}, the text is damaged"
    return ""
