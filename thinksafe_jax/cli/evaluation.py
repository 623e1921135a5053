"""thinksafe evaluate, score, compare."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from thinksafe_jax import hosts
from thinksafe_jax.cli.arguments import (
    MOST,
    MOST_ROWS,
    MOST_TOKENS,
    Config,
    JsonOut,
    NewVerdicts,
    Overrides,
    SkipBadRows,
    number,
    run_directory,
)
from thinksafe_jax.cli.option_groups import given, grouped, option_names
from thinksafe_jax.errors import ConfigError

Target = Annotated[
    str, typer.Argument(help="A run directory, or a model: directory, Hub id, mini:student.")
]


@dataclass(frozen=True)
class RunOptions:
    """How a run is evaluated; all else stands in its recipe."""

    overrides: Overrides = None
    config: Config = None
    skip_bad_rows: SkipBadRows = False


@dataclass(frozen=True)
class ModelOptions:
    """How a model, or a run's student, is evaluated on suites.

    None is the default of `ModelEvaluation`, or of a run as its recipe has it.
    """

    suite: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME, NAME=FILE or KIND:NAME=FILE (kinds: harmful, over-refusal, compliance, "
            "reasoning); may be given several times. Groups: xstest, safety, reasoning."
        ),
    ] = None
    adapter: Annotated[Path | None, typer.Option(help="PEFT adapter to fold in.")] = None
    data: Annotated[
        Path | None, typer.Option(help="Folder with the suites' files as published.")
    ] = None
    preset: Annotated[
        str | None,
        typer.Option(
            help="paper (default), authors (what their code did) or quick. Default of a run: its "
            "recipe."
        ),
    ] = None
    judge: Annotated[
        str | None,
        typer.Option(
            help="KIND or KIND:MODEL, as llama-guard:meta-llama/Llama-Guard-3-8B. "
            "Default: refusal-match; of a run, its own."
        ),
    ] = None
    scope: Annotated[
        list[str] | None,
        typer.Option(help="Judged: full (default), answer, think; several times."),
    ] = None
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16 (default).")] = None
    limit: Annotated[int | None, number(1, MOST, "Questions of each suite.")] = None
    samples: Annotated[int | None, number(1, 100_000, "Responses per reasoning question.")] = None
    max_new_tokens: Annotated[int | None, number(1, MOST_TOKENS, "In place of the preset's.")] = (
        None
    )
    max_unparsed: Annotated[
        float | None,
        typer.Option(
            help="Share of verdicts that may be unreadable; above it the evaluation stops. "
            "Default: 0.2.",
            min=0.0,
            max=1.0,
        ),
    ] = None
    slots: Annotated[int | None, number(1, MOST_ROWS, "Rows decoded together. Default: 64.")] = None
    out: Annotated[
        str | None,
        typer.Option(
            help="Where it goes: a folder or a bucket. Default: runs/evaluate-<model or run>, "
            "with the adapter's name behind it."
        ),
    ] = None
    new_run: Annotated[bool, typer.Option("--new-run", help="Start afresh in --out.")] = False
    new_verdicts: NewVerdicts = False


@grouped
def evaluate(target: Target, of_run: RunOptions, of_model: ModelOptions) -> None:
    """Measure a run's student before and after, or any model on named suites.

    Without --suite a run is asked what its recipe names. With --suite the student of a run is asked
    before and after training, sampled and judged as its recipe says where no option says otherwise.
    Rows are kept as they finish; the same command goes on where it was stopped.

    Examples:

      thinksafe evaluate runs/mini

      thinksafe evaluate runs/qwen3-0.6b --suite gsm8k --limit 200

      thinksafe evaluate Qwen/Qwen3-0.6B --suite safety --judge llama-guard:MODEL

      thinksafe evaluate models/SmolLM2-135M-Instruct --preset quick --suite gsm8k --data data
    """
    if of_model.suite is None:
        _evaluate_run(run_directory(target), of_run, of_model)
    else:
        _evaluate_on_suites(target, of_run, of_model)


def _evaluate_run(run_dir: Path, of_run: RunOptions, of_model: ModelOptions) -> None:
    """Where a run is evaluated its recipe says how; no option is left unheard."""
    from thinksafe_jax.cli.pipeline import recipe_of, start
    from thinksafe_jax.storage import shown

    if unheard := given(of_model):
        raise ConfigError(
            f"{option_names(unheard)}: only with --suite, where a model is evaluated; a run is "
            "judged as its recipe says (evaluation.*, judge.*), and begun anew by `thinksafe run`"
        )
    if of_run.config is None and not (run_dir / "config.yaml").exists():
        raise ConfigError(
            f"{shown(run_dir)} is no run directory (no config.yaml); to evaluate a model, name "
            f"suites: thinksafe evaluate {shown(run_dir)} --suite gsm8k --suite xstest"
        )
    recipe = recipe_of(run_dir, of_run.config, of_run.overrides or [])
    start(recipe, run_dir, ["evaluate"], skip_bad_rows=of_run.skip_bad_rows)


def _evaluate_on_suites(target: str, of_run: RunOptions, of_model: ModelOptions) -> None:
    """A model, or the student of a run before and after, on the suites that are named."""
    if of_run.overrides or of_run.config:
        raise ConfigError("with --suite the options say how: no recipe and no key=value there")
    options = given(of_model)
    for option, field in (("suite", "suites"), ("scope", "scopes")):
        if option in options:
            options[field] = options.pop(option)
    out = options.pop("out", None)
    anew = {name: options.pop(name, False) for name in ("new_run", "new_verdicts")}
    anew["skip_bad_rows"] = of_run.skip_bad_rows
    from thinksafe_jax.chat import is_run
    from thinksafe_jax.pipeline import (
        ModelEvaluation,
        RunEvaluation,
        default_folder,
        evaluate_on_suites,
        evaluate_run_on_suites,
        folder_of_suites,
    )

    if is_run(target):
        if "adapter" in options:
            raise ConfigError(
                "--adapter: a run has its own; to evaluate another, name the model: thinksafe "
                "evaluate MODEL --adapter FOLDER --suite NAME"
            )
        asked_of = RunEvaluation(run_directory(target), **options)
        folder = run_directory(out or str(folder_of_suites(asked_of.run)))
        summary = evaluate_run_on_suites(asked_of, folder, **anew)
    else:
        asked = ModelEvaluation(target, **options)
        folder = run_directory(out or str(default_folder(asked)))
        summary = evaluate_on_suites(asked, folder, **anew)
    _print_tables(summary, folder)


def _print_tables(summary: dict, folder: Path) -> None:
    """The rates as a table, and where the report lies."""
    from thinksafe_jax.report import final_table
    from thinksafe_jax.storage import shown
    from thinksafe_jax.terminal import output

    if not hosts.current().first:
        return
    console = output(110)
    console.print(final_table(summary))
    console.print(f"report: {shown(folder / 'report/report.html')}", markup=False, soft_wrap=True)


def score(
    file: Annotated[Path, typer.Argument(help="JSONL with id, question, answer, response.")],
    suite: Annotated[
        str, typer.Option(help="gsm8k, math500, aime24, gpqa, or another name with --style.")
    ],
    style: Annotated[
        str, typer.Option(help="How answers are read: math, gsm8k or choice; default the suite's.")
    ] = "",
    json_out: JsonOut = None,
) -> None:
    """Score reasoning responses that were made elsewhere.

    Rows of one id are samples of one problem. Beside the accuracy stands what the authors' scorer
    would have said. A row that says it was cut (finish_reason or stop_reason: length, max_tokens
    and other names of servers) counts as truncated. Where responses hold </think> alone, because
    the chat template wrote <think> (R1-Distill), one without either is a thought that never ended.

    --json holds accuracy and accuracy_skythought_compat, each {value, low, high, n} with 95 %
    intervals clustered by id; unparsed, truncated and timeout, counts of rows; questions;
    skythought_differs, rows on which the two disagree; pass_at_k, by k; and rows, each with id,
    sample, status, correct, extracted and skythought_correct.

    Example: thinksafe score responses.jsonl --suite math500 --json score.json
    """
    from thinksafe_jax.evaluation import score_responses
    from thinksafe_jax.storage import atomic_write

    result = score_responses(file, suite, style=style)
    if json_out is not None:
        atomic_write(json_out, json.dumps(result, indent=2) + "\n")
    for name in ("accuracy", "accuracy_skythought_compat"):
        rate = result[name]
        typer.echo(
            f"{name}: {rate['value']:.2%} ({rate['low']:.2%} to {rate['high']:.2%}), n {rate['n']}"
        )
    typer.echo(", ".join(f"{k} {result[k]}" for k in ("unparsed", "truncated", "timeout")))


def compare(
    runs: Annotated[
        list[str], typer.Argument(help="RUN or RUN:STEP (before, after, model); two or more.")
    ],
    json_out: JsonOut = None,
) -> None:
    """Compare evaluations problem by problem with the first: differences with intervals.

    The interval is a bootstrap over the problems that both could be judged on; where too few rows
    of a suite could be read there is none. Where the student is one of the paper's, its published
    rows stand below.

    Examples:

      thinksafe compare runs/mini:before runs/mini runs/mini_direct_refusal
    """
    from thinksafe_jax.evaluation import compare_evaluations, read_evaluation
    from thinksafe_jax.report import compare_tables
    from thinksafe_jax.storage import atomic_write
    from thinksafe_jax.terminal import output

    if len(runs) < 2:
        raise ConfigError("compare takes two evaluations or more: RUN or RUN:STEP")
    first, *others = map(read_evaluation, runs)
    compared = {other.label: compare_evaluations(first, other) for other in others}
    if json_out is not None:
        content = {label: [c.as_dict() for c in lines] for label, lines in compared.items()}
        atomic_write(
            json_out, json.dumps({"base": first.label, "compared": content}, indent=2) + "\n"
        )
    console = output(110)
    for table in compare_tables([first, *others], compared):
        console.print(table)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(evaluate)
    app.command()(score)
    app.command()(compare)
