"""What is asked: the prompts of every suite as one list, so that one queue serves all."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from thinksafe_jax.config import EvaluationConfig, PromptSource, SuiteConfig, shipped_path
from thinksafe_jax.data.benchmarks import Benchmark, benchmark
from thinksafe_jax.data.cells import name_cell, scalar_text, text_cell, value_cell
from thinksafe_jax.data.hub_rows import Source, hub_rows
from thinksafe_jax.data.kinds import LISTS, REASONING
from thinksafe_jax.data.prompts import MINI, load_prompts, source_hashes, source_rows
from thinksafe_jax.data.readers import Row, is_dataset, no_column, read_rows
from thinksafe_jax.errors import ConfigError, InputError, listed, quoted

# where a file of the user's own has its prompts, in the order of preference
PROMPT_COLUMNS = (
    "prompt", "question", "problem", "Question", "forbidden_prompt", "Behavior", "adversarial",
    "instruction", "goal",
)  # fmt: skip
LETTERS = "ABCD"


@dataclass(frozen=True)
class Question:
    """One held-out prompt. `text` is the user's turn: never steered, in evaluation.

    Attributes:
        suite, id: together they name it.
        prompt: the original text; what the judge sees.
        text: the prompt inside the suite's template; elsewhere the prompt itself.
        answer: the gold answer of a reasoning question.
        source: file or dataset.
        kind: harmful | over_refusal | compliance | reasoning.
        style: how its answer is read.
        cluster: questions of one value are variants of each other; "" for none.
        answer_prefix: what every answer begins with, given to the model; "" for nothing.
    """

    suite: str
    id: str
    prompt: str
    text: str
    answer: str | None = None
    source: str = ""
    kind: str = ""
    style: str = "math"
    cluster: str = ""
    answer_prefix: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.suite, self.id


@dataclass(frozen=True)
class Questions:
    """Everything that is asked, and where each named suite came from."""

    items: list[Question]
    sources: dict[str, Source]


def load_questions(cfg: EvaluationConfig, revisions: Path | None = None) -> Questions:
    """Every prompt of the recipe's lists and named suites, in the recipe's order.

    Args:
        revisions: JSON file of the run that keeps the commits of Hub datasets.

    Raises:
        ConfigError: an unknown suite, or two of one name.
        InputError: a reasoning question without a gold answer, an id twice, or a bad file.
        EnvironmentFault: a dataset cannot be had from the Hub.
    """
    most = cfg.limit
    items = [question for suite in LISTS for question in islice(_listed(cfg, suite), most)]
    sources = {}
    for suite in cfg.suites:
        if suite.name in sources or any(q.suite == suite.name for q in items):
            raise ConfigError(f"evaluation.suites: {suite.name} is there twice")
        limits = [limit for limit in (suite.limit, most) if limit is not None]
        limited = replace(suite, limit=min(limits, default=None))
        questions, sources[suite.name] = _named(limited, revisions)
        items += questions
    return Questions(items, sources)


def _listed(cfg: EvaluationConfig, suite: str) -> Iterator[Question]:
    sources = getattr(cfg, suite)
    template = _template(cfg, suite)
    for prompt in load_prompts(sources, require_label=False) if sources else []:
        if suite == REASONING and not (prompt.answer or "").strip():
            raise InputError(
                f"{prompt.source}: reasoning prompt {quoted(prompt.id)} has no gold answer; name "
                "its column in answer_column"
            )
        source = prompt.source.rpartition(":")[0].rpartition("/")[2]  # "dir/file.csv:12"
        text = put(template, prompt.text)
        yield Question(suite, prompt.id, prompt.text, text, prompt.answer, source, suite)


def asked_text(cfg: EvaluationConfig, suite: str, prompt: str) -> str:
    """The user's turn in which a suite puts a prompt, as `Question.text`."""
    return put(_template(cfg, suite), prompt)


def _template(cfg: EvaluationConfig, suite: str) -> str:
    if suite in LISTS:
        return cfg.reasoning_prompt if suite == REASONING else "{prompt}"
    kinds = {named.name: named.kind for named in cfg.suites}
    return benchmark(suite, kinds.get(suite, "")).template


def put(template: str, prompt: str) -> str:
    """The prompt inside a template: replaced once and literally, so braces in it are text."""
    return template.replace("{prompt}", prompt, 1)


def _named(suite: SuiteConfig, revisions: Path | None) -> tuple[list[Question], Source]:
    bench = benchmark(suite.name, suite.kind)
    if suite.name in LISTS and bench.kind != suite.name:
        raise ConfigError(
            f"evaluation.suites: {suite.name} is of kind {bench.kind}, and its name that of the "
            "recipe's own list of another kind; give it another name"
        )
    if suite.style:
        bench = replace(bench, style=suite.style)
    if suite.path.startswith(MINI):
        split = PromptSource(suite.path)
        rows: Iterator[Row] = source_rows(split)
        source = Source(suite.path, None, source_hashes([split])[suite.path])
    elif suite.path and is_dataset(suite.path):
        raise ConfigError(
            f"suite {suite.name}: {suite.path} is a dataset or a folder; a suite is read from a "
            "file, .jsonl, .json, .csv or .parquet, or from mini:SPLIT"
        )
    elif suite.path:
        file = shipped_path(suite.path)
        rows, source = read_rows(file), Source.of_file(file)
    elif bench.hub is None:
        names = " or ".join(bench.files) or "a file"
        raise ConfigError(
            f"suite {suite.name} is not on the Hub; give its file ({names}): "
            f"--suite {suite.name}=FILE, or path in the recipe"
        )
    else:
        rows, source = hub_rows(suite.name, bench.hub, suite.revision, revisions)
    if suite.path or not bench.filtered_on_hub:
        rows = (row for row in rows if _is_kept(row, bench, suite.name))
    questions = [
        replace(_question(suite.name, row, bench, source), answer_prefix=suite.answer_prefix)
        for row in islice(rows, suite.limit)
    ]
    if not questions:
        raise InputError(
            f"{source.name}: no row of suite {suite.name} in it (kept where {bench.filters})"
        )
    _refuse_repeated_ids(questions, source)
    return questions, source


def _refuse_repeated_ids(questions: Sequence[Question], source: Source) -> None:
    first: dict[str, Question] = {}
    for question in questions:
        if first.setdefault(question.id, question) is not question:
            raise InputError(
                f"{source.name}: id {quoted(question.id)} is there twice; ids must be unique"
            )


def _is_kept(row: Row, bench: Benchmark, suite: str) -> bool:
    """Whether a row belongs to the suite.

    Raises:
        InputError: the column that tells it is not there; without it every row would be taken.
    """
    for column, accepted in bench.filters.items():
        if column not in row.values:
            raise InputError(
                f"{no_column(row.place, column, list(row.values))}; suite {suite} keeps the rows "
                f"whose {column} is {' or '.join(accepted)}. Add the column, or take all rows as a "
                f"suite of your own: --suite {bench.kind.replace('_', '-')}:NAME=FILE"
            )
        if scalar_text(row.values[column]) not in accepted:
            return False
    return True


def _question(suite: str, row: Row, bench: Benchmark, source: Source) -> Question:
    prompt = text_cell(row, _prompt_column(row, bench), "prompt")
    answer = value_cell(row, bench.answer, "gold answer").strip() if bench.answer else None
    if answer is not None and not answer:
        raise InputError(f"{row.place}: no gold answer in column {quoted(bench.answer)}")
    column = bench.row_id or "id"
    identity = name_cell(row, column) if column in row.values else str(row.number)
    if bench.options:
        options = [value_cell(row, name, "option") for name in bench.options]
        prompt, answer = with_options(identity, prompt, options)
    return Question(
        suite,
        identity,
        prompt,
        put(bench.template, prompt),
        answer,
        source.name,
        bench.kind,
        bench.style,
        value_cell(row, bench.cluster, "cluster") if bench.cluster in row.values else "",
    )


def _prompt_column(row: Row, bench: Benchmark) -> str:
    """The column of the prompt: the benchmark's own, else the first known one that has a value."""
    if bench.prompt:
        return bench.prompt
    named = [name for name in PROMPT_COLUMNS if name in row.values]
    if not named:
        raise InputError(
            f"{row.place}: no column {' or '.join(PROMPT_COLUMNS)} "
            f"(columns: {listed(row.values, 20)})"
        )
    return next((name for name in named if row.values[name] is not None), named[0])


def with_options(identity: str, prompt: str, options: Sequence[str]) -> tuple[str, str]:
    """A multiple-choice question with its options in an order that its id alone decides.

    Args:
        options: the right one first.

    Returns:
        The prompt with the options, and the letter of the right one.
    """
    order = sorted(
        range(len(options)), key=lambda n: hashlib.sha256(f"{identity}:{n}".encode()).digest()
    )
    listed = ", ".join(
        f"{letter}) {options[n].strip()}" for letter, n in zip(LETTERS, order, strict=True)
    )
    return f"{prompt}\n{listed}", LETTERS[order.index(0)]


def fingerprint(questions: Sequence[Question]) -> str:
    """sha256 of all that is asked and expected: equal fingerprints make two runs comparable."""
    rows = [
        [q.suite, q.id, q.text, q.answer, *([q.answer_prefix] if q.answer_prefix else [])]
        for q in questions
    ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
