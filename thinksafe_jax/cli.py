"""The command line: parses, calls, prints. Imports what computes only inside the commands."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from thinksafe_jax import __version__, hosts
from thinksafe_jax.commands.analysis import register as register_analysis
from thinksafe_jax.commands.arguments import (
    Config,
    JsonOut,
    NewVerdicts,
    Overrides,
    RunDirectory,
    SkipBadRows,
    run_directory,
)
from thinksafe_jax.commands.evaluation import register as register_evaluation
from thinksafe_jax.commands.sharding import register as register_sharding
from thinksafe_jax.commands.synthesis import register as register_synthesis
from thinksafe_jax.errors import ConfigError, ThinkSafeError

app = typer.Typer(
    name="thinksafe",
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Make a reasoning model safer with data that it writes itself (ThinkSafe, in JAX).\n\n"
        "prompts -> steer -> sample -> guard -> dataset -> LoRA -> export -> evaluate -> report\n\n"
        "Start with: [cyan]thinksafe run --config configs/recipes/mini.yaml[/]\n\n"
        "Exit codes: 0 ok, 2 usage or config, 3 bad input or artefact, 4 environment or storage, "
        "75 try again later, 130/143 stopped by Ctrl-C/SIGTERM (run again to resume)."
    ),
)

AllowNonfinite = Annotated[
    bool, typer.Option("--allow-nonfinite", help="Accept NaN and infinity in the weights.")
]


SEVERAL = "Several processes (Cloud TPU, GKE and Slurm: found by itself)"
# commands that several processes run together; the others work in one
TOGETHER = {"run", "sample", "filter", "train", "export", "evaluate", "report"}


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    coordinator: Annotated[
        str | None,
        typer.Option(
            envvar="THINKSAFE_COORDINATOR",
            help="HOST:PORT of process 0; the next port is used as well.",
            rich_help_panel=SEVERAL,
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            envvar="THINKSAFE_PROCESSES",
            help="How many there are; 1 runs this one alone.",
            min=1,
            rich_help_panel=SEVERAL,
        ),
    ] = None,
    process: Annotated[
        int | None,
        typer.Option(
            envvar="THINKSAFE_PROCESS", help="Which this is, from 0.", rich_help_panel=SEVERAL
        ),
    ] = None,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    asked_for_help = {"-h", "--help"} & set(sys.argv)
    if context.invoked_subcommand in TOGETHER and not asked_for_help:
        hosts.join(coordinator, processes, process)


@app.command()
def run(
    overrides: Overrides = None,
    config: Config = None,
    run_dir: Annotated[
        str | None,
        typer.Option(
            help="Where everything goes: a folder, or gs://bucket/run, s3://bucket/run. "
            "Default: the recipe's run_dir, or runs/<name>."
        ),
    ] = None,
    new_run: Annotated[
        bool,
        typer.Option("--new-run", help="Delete what an earlier run left there and start afresh."),
    ] = False,
    new_verdicts: NewVerdicts = False,
    skip_bad_rows: SkipBadRows = False,
    limit: Annotated[
        int | None,
        typer.Option(help="Prompts in all, every kind in its own proportion: synthesis.limit."),
    ] = None,
) -> None:
    """Run every stage: sample, filter, train, export, evaluate, report.

    What is already done is skipped, what was cut short is resumed: give the same command again.

    Examples:

      thinksafe run --config configs/recipes/mini.yaml

      thinksafe run -c configs/recipes/mini.yaml --run-dir runs/hot synthesis.sampling.temperature=1
    """
    from thinksafe_jax.config import load_recipe

    if config is None:
        raise ConfigError("no recipe given; try: thinksafe run --config configs/recipes/mini.yaml")
    limited = [] if limit is None else [f"synthesis.limit={limit}"]
    recipe = load_recipe(config, [*(overrides or []), *limited])
    folder = run_directory(run_dir or recipe.run_dir or f"runs/{recipe.name}")
    anew = {"new_run": new_run, "new_verdicts": new_verdicts}
    start(recipe, folder, None, skip_bad_rows=skip_bad_rows, **anew)


def _stage_command(stage: str, summary: str) -> None:
    """Add `thinksafe STAGE RUN_DIR`."""

    def command(
        run_dir: RunDirectory,
        overrides: Overrides = None,
        config: Config = None,
        skip_bad_rows: SkipBadRows = False,
    ) -> None:
        recipe = recipe_of(run_dir, config, overrides or [])
        start(recipe, run_dir, [stage], skip_bad_rows=skip_bad_rows)

    example = f"thinksafe {stage} runs/mini"
    command.__doc__ = (
        f"{summary}\n\nThe recipe is the one the directory was begun with; --config begins a new "
        f"directory.\n\nExample: {example}"
    )
    app.command(stage)(command)


@app.command()
def sample(
    run_dir: RunDirectory,
    overrides: Overrides = None,
    config: Config = None,
    skip_bad_rows: SkipBadRows = False,
    part: Annotated[
        str | None,
        typer.Option(
            help="Of several hosts, this one: 0/8 to 7/8. Then once without, for the rest."
        ),
    ] = None,
) -> None:
    """Steer harmful prompts and let the student answer all of them.

    The recipe is the one the directory was begun with; --config begins a new directory. Processes
    that have joined (see `thinksafe --help`) share the rows. Hosts that have not, but see the same
    directory, can share them by --part: each runs one, in any order, stopped and resumed with any
    number of parts; the command without --part then checks and completes.

    Examples:

      thinksafe sample runs/mini

      thinksafe sample runs/big --config configs/recipes/qwen3-8b.yaml --part 2/8
    """
    recipe = recipe_of(run_dir, config, overrides or [])
    if part is None:
        start(recipe, run_dir, ["sample"], skip_bad_rows=skip_bad_rows)
        return
    if hosts.current().count > 1:
        raise ConfigError(
            f"--part {part}: {hosts.current().count} processes have joined and share the rows; "
            "leave it out, or give --processes 1 before `sample` to have each host run by itself"
        )
    from thinksafe_jax.pipeline import run_part
    from thinksafe_jax.runs import Part

    run_part(recipe, run_dir, Part.parse(part), skip_bad_rows=skip_bad_rows)


_stage_command("filter", "Let the guard judge the samples and write the dataset.")
_stage_command("train", "Train the LoRA adapter on the dataset.")


@app.command()
def export(
    run_dir: RunDirectory,
    overrides: Overrides = None,
    config: Config = None,
    form: Annotated[
        str, typer.Option("--format", help="peft: RUN/adapter. merged: RUN/merged, a whole model.")
    ] = "peft",
    skip_bad_rows: SkipBadRows = False,
) -> None:
    """Write what was trained: the adapter in PEFT's format, or a merged Hugging Face checkpoint.

    Both carry a model card; after `evaluate` its table is filled in.

    Example: thinksafe export runs/mini --format merged
    """
    if form not in ("peft", "merged"):
        raise ConfigError(f"--format {form}: expected peft or merged")
    recipe = recipe_of(run_dir, config, overrides or [])
    start(recipe, run_dir, ["export"], skip_bad_rows=skip_bad_rows)
    if form == "merged":
        from thinksafe_jax.pipeline import export_merged
        from thinksafe_jax.runs.storage import shown

        typer.echo(shown(export_merged(recipe, run_dir)))


register_evaluation(app)
register_analysis(app)
_stage_command("report", "Write report/report.html and report/summary.json.")


register_synthesis(app)
register_sharding(app)


@app.command()
def doctor(
    context: typer.Context,
    run_dir: Annotated[
        str | None,
        typer.Argument(help="A run directory to look into, or its URL.", show_default=False),
    ] = None,
    pod: Annotated[
        bool, typer.Option("--pod", help="Examine all hosts together; start it on all of them.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="With --pod: whose models to look for.")
    ] = None,
) -> None:
    """Print versions, devices, storage, extras and leftovers, and what is missing.

    With --pod, on all hosts: devices, versions, clocks, disk, whether all can write in RUN_DIR and
    see each other's files there, whether all may load the recipe's models, and an all-reduce with
    its bandwidth. Exit code 4 when something is missing or one host differs.

    Examples:

      thinksafe doctor runs/mini

      thinksafe doctor --pod --config configs/recipes/qwen3-8b.yaml gs://bucket/run
    """
    from thinksafe_jax.doctor import examine, print_findings

    if pod:
        sound = _examine_pod(context, run_dir, config)
    else:
        findings = examine(run_directory(run_dir) if run_dir else None)
        print_findings(findings)
        sound = not any(f.state == "missing" for f in findings)
    if not sound:
        raise typer.Exit(4)


def _examine_pod(context: typer.Context, run_dir: str | None, config: Path | None) -> bool:
    told = context.parent.params if context.parent else {}
    told = {name: told.get(name) for name in ("coordinator", "processes", "process")}
    group = hosts.join(**told, compare=False)
    from thinksafe_jax.config import load_recipe
    from thinksafe_jax.pod import examine_pod, print_report

    report = examine_pod(group, run_dir, load_recipe(config) if config else None)
    if group.first:
        print_report(report)
    group.barrier("doctor: printed")
    return not report.problems


@app.command()
def verify(
    model: Annotated[str, typer.Argument(help="Directory, Hub id or bucket path.")],
    texts: Annotated[
        Path | None, typer.Option(help="Text, or JSONL with a text or prompt in each row.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16, for both.")] = "float32",
    adapter: Annotated[Path | None, typer.Option(help="PEFT adapter that both apply.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    json_out: JsonOut = None,
    allow_nonfinite: AllowNonfinite = False,
) -> None:
    """Compare the decoder's logits with those of transformers, on the CPU.

    Prints PASS or FAIL against the bounds of the dtype; exit code 3 on FAIL. Needs torch:
    pip install 'thinksafe-jax[test]'

    Example: thinksafe verify models/SmolLM2-135M-Instruct --texts book.txt
    """
    from thinksafe_jax.weights.verify import BOUNDS, report_lines, verify_model, write_figures

    if dtype not in BOUNDS:
        raise ConfigError(f"--dtype {dtype}: expected {' or '.join(BOUNDS)}")
    result = verify_model(
        model,
        texts=texts,
        dtype=dtype,
        adapter=adapter,
        revision=revision,
        allow_nonfinite=allow_nonfinite,
    )
    if json_out is not None:
        write_figures(json_out, result)
    typer.echo("\n".join(report_lines(result)))
    if result.problems:
        raise typer.Exit(3)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Hugging Face checkpoint, or an Orbax copy.")],
    out: Annotated[Path, typer.Argument(help="New directory.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    allow_nonfinite: AllowNonfinite = False,
) -> None:
    """Copy a checkpoint to Orbax for fast restarts, or an Orbax copy back to Hugging Face.

    The copy carries the sha256 of every file, checked at each load; it is read back and compared
    bit for bit before the command ends. Use it wherever a model is named.

    Example: thinksafe convert models/SmolLM2-135M-Instruct models/SmolLM2-135M-orbax
    """
    from thinksafe_jax.weights.convert import convert as convert_checkpoint

    typer.echo(convert_checkpoint(source, out, revision, allow_nonfinite))


def recipe_of(run_dir: Path, config: Path | None, overrides: list[str]):
    """The recipe that a run directory was begun with, or the one given."""
    from thinksafe_jax.config import load_recipe
    from thinksafe_jax.runs.storage import shown

    own = run_dir / "config.yaml"
    if config is None and not own.exists():
        raise ConfigError(
            f"{shown(run_dir)} is no run directory (no config.yaml); begin one with "
            "`thinksafe run --config ...`, or give --config here"
        )
    return load_recipe(config or own, overrides)


def start(recipe, folder: Path, stages, **options: bool) -> None:
    """Run stages in a directory, and print the outcome where the report is among them.

    Args:
        options: keyword arguments of `run_pipeline`.
    """
    from thinksafe_jax.runs.storage import prepare_directory

    prepare_directory(folder)  # before the imports below, which take seconds
    from thinksafe_jax.pipeline import run_pipeline

    summary = run_pipeline(recipe, folder, stages=stages, **options)
    shown = stages is None or "report" in stages
    if summary is not None and shown and hosts.current().first:
        _print_outcome(folder, summary)


def _print_outcome(folder: Path, summary: dict) -> None:
    """Before and after as a table, and where the report lies."""
    from thinksafe_jax.report import final_table
    from thinksafe_jax.runs.storage import shown
    from thinksafe_jax.runs.terminal import output
    from thinksafe_jax.synthesis.coverage import coverage_table

    console = output(100)
    if summary["dataset"]:
        console.print(coverage_table(summary["dataset"]))
    console.print(final_table(summary))
    console.print(f"report: {shown(folder / 'report/report.html')}", markup=False, soft_wrap=True)


def main() -> None:
    """Console script: one red line and the right exit code for every error meant for users."""
    from thinksafe_jax.runs.terminal import print_line, setup_logging

    setup_logging()
    try:
        _run_app()
    except ThinkSafeError as error:
        print_line(f"error: {error}", style="red")
        hosts.fail(str(error), error.exit_code)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code:
            hosts.fail("ended early; its own message says why", int(end.code))
        raise
    except BaseException:
        hosts.fail("failed; its own message says why", 1)
        raise


def _run_app() -> None:
    """The application, which ends by SystemExit; after success the others are waited for."""
    try:
        app()
    except SystemExit as end:
        if not end.code:
            hosts.leave()
        raise


if __name__ == "__main__":
    main()
