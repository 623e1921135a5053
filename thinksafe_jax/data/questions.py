"""What is asked: the prompts of every suite as one list, so that one queue serves all."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from thinksafe_jax.config import EvaluationConfig, SuiteConfig
from thinksafe_jax.data.benchmarks import Benchmark, benchmark
from thinksafe_jax.data.hub_rows import Source, hub_rows
from thinksafe_jax.data.kinds import LISTS, REASONING
from thinksafe_jax.data.prompts import load_prompts
from thinksafe_jax.data.readers import Row, read_rows
from thinksafe_jax.errors import ConfigError, InputError

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
    items = [question for suite in LISTS for question in _listed(cfg, suite)]
    sources = {}
    for suite in cfg.suites:
        if suite.name in sources or any(q.suite == suite.name for q in items):
            raise ConfigError(f"evaluation.suites: {suite.name} is there twice")
        questions, sources[suite.name] = _named(suite, revisions)
        items += questions
    return Questions(items, sources)


def _listed(cfg: EvaluationConfig, suite: str) -> Iterator[Question]:
    sources = getattr(cfg, suite)
    template = cfg.reasoning_prompt if suite == REASONING else "{prompt}"
    for prompt in load_prompts(sources, require_label=False) if sources else []:
        if suite == REASONING and not (prompt.answer or "").strip():
            raise InputError(
                f"{prompt.source}: reasoning prompt {prompt.id!r} has no gold answer; name its "
                "column in answer_column"
            )
        source = prompt.source.rpartition(":")[0].rpartition("/")[2]  # "dir/file.csv:12"
        text = put(template, prompt.text)
        yield Question(suite, prompt.id, prompt.text, text, prompt.answer, source, suite)


def put(template: str, prompt: str) -> str:
    """The prompt inside a template: replaced once and literally, so braces in it are text."""
    return template.replace("{prompt}", prompt, 1)


def _named(suite: SuiteConfig, revisions: Path | None) -> tuple[list[Question], Source]:
    bench = benchmark(suite.name, suite.kind)
    if suite.style:
        bench = replace(bench, style=suite.style)
    if suite.path:
        rows: Iterator[Row] = read_rows(suite.path)
        source = Source.of_file(Path(suite.path))
    elif bench.hub is None:
        names = " or ".join(bench.files) or "a file"
        raise ConfigError(
            f"suite {suite.name} is not on the Hub; give its file ({names}): "
            f"--suite {suite.name}=FILE, or path in the recipe"
        )
    else:
        rows, source = hub_rows(suite.name, bench.hub, suite.revision, revisions)
    kept = (row for row in rows if _keep(row, bench))
    questions = [_question(suite.name, row, bench, source) for row in islice(kept, suite.limit)]
    if not questions:
        raise InputError(
            f"{source.name}: no row of suite {suite.name} in it (kept where {bench.filters})"
        )
    seen: dict[str, Question] = {}
    for question in questions:
        if seen.setdefault(question.id, question) is not question:
            raise InputError(
                f"{source.name}: id {question.id!r} is there twice; ids must be unique"
            )
    return questions, source


def _keep(row: Row, bench: Benchmark) -> bool:
    """Whether a row belongs to the suite; a column that a source lacks excludes nothing."""
    return all(
        name not in row.values or str(row.values[name]) in accepted
        for name, accepted in bench.filters.items()
    )


def _question(suite: str, row: Row, bench: Benchmark, source: Source) -> Question:
    prompt = _column(row, (bench.prompt,) if bench.prompt else PROMPT_COLUMNS)
    answer = _column(row, (bench.answer,)).strip() if bench.answer else None
    if answer is not None and not answer:
        raise InputError(f"{row.place}: no gold answer in column {bench.answer!r}")
    identity = str(row.values.get(bench.row_id or "id", row.number))
    if bench.options:
        prompt, answer = with_options(identity, prompt, [_column(row, (c,)) for c in bench.options])
    return Question(
        suite,
        identity,
        prompt,
        put(bench.template, prompt),
        answer,
        source.name,
        bench.kind,
        bench.style,
        str(row.values.get(bench.cluster, "")) if bench.cluster else "",
    )


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


def _column(row: Row, names: Sequence[str]) -> str:
    for name in names:
        value = row.values.get(name)
        if value is not None:
            return str(value)
    raise InputError(
        f"{row.place}: no column {' or '.join(names)} (columns: {', '.join(map(str, row.values))})"
    )


def fingerprint(questions: Sequence[Question]) -> str:
    """sha256 of all that is asked and expected: equal fingerprints make two runs comparable."""
    rows = [[q.suite, q.id, q.text, q.answer] for q in questions]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
