"""thinksafe evaluate, score, compare."""

import json
from pathlib import Path
from typing import Annotated

import typer

from thinksafe_jax import hosts
from thinksafe_jax.cli.arguments import (
    Config,
    JsonOut,
    NewVerdicts,
    Overrides,
    SkipBadRows,
    run_directory,
)
from thinksafe_jax.errors import ConfigError

Target = Annotated[
    str, typer.Argument(help="A run directory, or a model: directory, Hub id, mini:student.")
]
Suites = Annotated[
    list[str] | None,
    typer.Option(
        help="NAME, NAME=FILE or KIND:NAME=FILE (kinds: harmful, over-refusal, compliance, "
        "reasoning); may be given several times. Groups: xstest, safety, reasoning."
    ),
]
Adapter = Annotated[Path | None, typer.Option(help="PEFT adapter to fold in.")]
Data = Annotated[Path | None, typer.Option(help="Folder with the suites' files as published.")]
PresetName = Annotated[str, typer.Option(help="paper, authors (what their code did) or quick.")]
Judge = Annotated[
    str,
    typer.Option(
        "--judge",
        help="KIND or KIND:MODEL, as llama-guard:meta-llama/Llama-Guard-3-8B.",
    ),
]
Scopes = Annotated[
    list[str] | None, typer.Option(help="Judged: full, answer, think; several times.")
]
Dtype = Annotated[str, typer.Option(help="float32 or bfloat16.")]
Limit = Annotated[int | None, typer.Option(help="Questions of each suite.", min=1)]
Samples = Annotated[int | None, typer.Option(help="Responses per reasoning question.", min=1)]
MaxNewTokens = Annotated[int | None, typer.Option(help="In place of the preset's.")]
Slots = Annotated[int, typer.Option(help="Rows decoded together.", min=1)]
Out = Annotated[
    str | None,
    typer.Option(help="Where it goes: a folder or a bucket. Default: runs/evaluate-<model>."),
]
NewRun = Annotated[bool, typer.Option("--new-run", help="Start afresh in --out.")]


def evaluate(
    context: typer.Context,
    target: Target,
    overrides: Overrides = None,
    config: Config = None,
    skip_bad_rows: SkipBadRows = False,
    suite: Suites = None,
    adapter: Adapter = None,
    data: Data = None,
    preset: PresetName = "paper",
    judge: Judge = "refusal-match",
    scope: Scopes = None,
    dtype: Dtype = "bfloat16",
    limit: Limit = None,
    samples: Samples = None,
    max_new_tokens: MaxNewTokens = None,
    slots: Slots = 64,
    out: Out = None,
    new_run: NewRun = False,
    new_verdicts: NewVerdicts = False,
) -> None:
    """Measure a run's student before and after, or any model on named suites.

    Rows are kept as they finish; the same command goes on where it was stopped.

    Examples:

      thinksafe evaluate runs/mini

      thinksafe evaluate Qwen/Qwen3-0.6B --suite safety --judge llama-guard:MODEL

      thinksafe evaluate models/SmolLM2-135M-Instruct --preset quick --suite gsm8k --data data
    """
    if suite is None:
        _refuse_options_of_a_model(context)
        _stage(run_directory(target), config, overrides or [], skip_bad_rows)
        return
    if overrides or config:
        raise ConfigError("with --suite a model is evaluated: no recipe and no key=value there")
    from thinksafe_jax.pipeline import ModelEvaluation, evaluate_model
    from thinksafe_jax.report import final_table
    from thinksafe_jax.storage import shown
    from thinksafe_jax.terminal import output

    folder = run_directory(out or f"runs/evaluate-{Path(target).name.replace(':', '-')}")
    asked = ModelEvaluation(
        target, suite, adapter, data, judge, preset, tuple(scope or ("full",)), dtype, limit,
        samples, max_new_tokens, slots,
    )  # fmt: skip
    summary = evaluate_model(asked, folder, new_run=new_run, new_verdicts=new_verdicts)
    if not hosts.current().first:
        return
    console = output(110)
    console.print(final_table(summary))
    console.print(f"report: {shown(folder / 'report/report.html')}", markup=False, soft_wrap=True)


def _refuse_options_of_a_model(context: typer.Context) -> None:
    """Where a run is evaluated its recipe says how; no option is left unheard."""
    of_a_run = {"target", "overrides", "config", "skip_bad_rows"}
    given = []
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name not in of_a_run and source and source.name == "COMMANDLINE":
            given.append(option.opts[-1])
    if given:
        raise ConfigError(
            f"{', '.join(given)}: only with --suite, where a model is evaluated; a run is judged "
            "as its recipe says (evaluation.*, judge.*), and begun anew by `thinksafe run`"
        )


def _stage(run_dir: Path, config: Path | None, overrides: list[str], skip_bad_rows: bool) -> None:
    from thinksafe_jax.cli.pipeline import recipe_of, start
    from thinksafe_jax.storage import shown

    if config is None and not (run_dir / "config.yaml").exists():
        raise ConfigError(
            f"{shown(run_dir)} is no run directory (no config.yaml); to evaluate a model, name "
            f"suites: thinksafe evaluate {shown(run_dir)} --suite gsm8k --suite xstest"
        )
    recipe = recipe_of(run_dir, config, overrides)
    start(recipe, run_dir, ["evaluate"], skip_bad_rows=skip_bad_rows)


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
    would have said. A row with finish_reason "length" counts as truncated.

    --json holds accuracy and accuracy_skythought_compat, each {value, low, high, n} with 95 %
    intervals clustered by id; unparsed, truncated and timeout, counts of rows; questions;
    skythought_differs, rows on which the two disagree; pass_at_k, by k; and rows, each with id,
    sample, status, correct, extracted and skythought_correct.

    Example: thinksafe score responses.jsonl --suite math500 --json score.json
    """
    from thinksafe_jax.evaluation import score_file
    from thinksafe_jax.storage import atomic_write

    result = score_file(file, suite, style=style)
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

    The interval is a bootstrap over the problems that both were asked; where the student is one of
    the paper's, its published rows stand below.

    Examples:

      thinksafe compare runs/mini:before runs/mini runs/mini_direct_refusal
    """
    from thinksafe_jax.evaluation import compare as compare_two
    from thinksafe_jax.evaluation import read_evaluation
    from thinksafe_jax.report import comparisons_table, paper_tables
    from thinksafe_jax.storage import atomic_write
    from thinksafe_jax.terminal import output

    if len(runs) < 2:
        raise ConfigError("compare takes two evaluations or more: RUN or RUN:STEP")
    first, *others = map(read_evaluation, runs)
    found = {other.label: compare_two(first, other) for other in others}
    if json_out is not None:
        content = {label: [c.as_dict() for c in lines] for label, lines in found.items()}
        atomic_write(
            json_out, json.dumps({"base": first.label, "compared": content}, indent=2) + "\n"
        )
    console = output(110)
    console.print(comparisons_table(first.label, found))
    for table in paper_tables([Path(run.partition(":")[0]) for run in runs]):
        console.print(table)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(evaluate)
    app.command()(score)
    app.command()(compare)
