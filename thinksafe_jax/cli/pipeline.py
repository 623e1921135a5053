"""thinksafe run, check, and the stages one by one: sample, filter, train, export."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thinksafe_jax import hosts
from thinksafe_jax.cli.arguments import (
    Config,
    Overrides,
    RunDirectory,
    SkipBadRows,
    run_directory,
)
from thinksafe_jax.cli.option_groups import grouped
from thinksafe_jax.cli.run_options import AnewOptions, ProfileOptions, SizeOptions, Trial
from thinksafe_jax.cli.training import print_other_trainings
from thinksafe_jax.errors import ConfigError

if TYPE_CHECKING:
    from thinksafe_jax.config import Recipe
    from thinksafe_jax.pipeline import FaultList


@grouped
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
    *,
    anew: AnewOptions,
    size: SizeOptions,
    profile: ProfileOptions,
    skip_bad_rows: SkipBadRows = False,
) -> None:
    """Run every stage: sample, filter, train, export, evaluate, report.

    What is already done is skipped, what was cut short is resumed: give the same command again.
    Begin with --trial: it takes every step of the whole run on few prompts.

    Examples:

      thinksafe run --config mini

      thinksafe run -c mini --trial 100

      thinksafe run -c mini --run-dir runs/hot synthesis.sampling.temperature=1

      thinksafe run -c mini --new-training training.learning_rate=1e-3

      thinksafe run -c mini --profile traces
    """
    if config is None:
        named = next((text for text in overrides or [] if "=" not in text), "mini")
        raise ConfigError(f"no recipe given; try: thinksafe run --config {named}")
    limited = [] if size.limit is None else [f"synthesis.limit={size.limit}"]
    recipe, folder = _recipe_and_folder(config, [*(overrides or []), *limited], run_dir, size.trial)
    with profile.tracing():
        start(recipe, folder, None, skip_bad_rows=skip_bad_rows, **asdict(anew))


def _recipe_and_folder(
    config: Path, overrides: list[str], run_dir: str | None, trial: int | None
) -> "tuple[Recipe, Path]":
    """What a run does, and where; a trial goes to a folder of its own."""
    from thinksafe_jax.config import as_trial, load_recipe

    recipe = load_recipe(config, overrides)
    place = recipe.run_dir or f"runs/{recipe.name}"
    if trial is not None:
        recipe, place = as_trial(recipe, trial), f"{place}-trial"
    return recipe, run_directory(run_dir or place)


def check(
    overrides: Overrides = None,
    config: Config = None,
    run_dir: Annotated[
        str | None,
        typer.Option(help="Where the run will write; what is done there needs nothing any more."),
    ] = None,
    trial: Trial = None,
) -> None:
    """Look for everything that a run needs, in seconds, and list all that is missing.

    Prompt files and columns, suites, models (existence, access, tokenizer and template, the kind of
    each guard), packages, the mesh against the devices, room for prompt and response, disks. Only
    small files of models are fetched, no weights are loaded. Where nothing is missing, it says what
    the run will take: tokens, FLOPs and, where the chip is known, hours. `thinksafe run` begins
    with the same.

    Exit code 0 where the run can start; else that of the gravest fault: 2 a setting, 3 an input,
    4 something to install or accept, or the disk, 75 what may pass by itself.

    Examples:

      thinksafe check -c mini --trial 100

      thinksafe check -c qwen3-8b mesh=v5e-16 guard.model=Qwen/Qwen3Guard-Gen-8B
    """
    if config is None:
        raise ConfigError("no recipe given; try: thinksafe check -c mini")
    recipe_faults(config, overrides or [], run_dir, trial).refuse()
    typer.echo("nothing is missing; the run can start")


def recipe_faults(
    config: Path, overrides: list[str], run_dir: str | None, trial: int | None = None
) -> "FaultList":
    """What a run of a recipe lacks on this host, and what lies where it would write."""
    recipe, folder = _recipe_and_folder(config, overrides, run_dir, trial)
    from thinksafe_jax.pipeline import Session, preflight, stages_of
    from thinksafe_jax.runs import refuse_another, refuse_foreign, refuse_inside

    faults = preflight(Session(recipe), folder, stages_of(recipe))
    with faults.under("run_dir"):
        refuse_inside(folder)
        refuse_foreign(folder)
        refuse_another(recipe, folder, other_guards=False)
    return faults


def _stage_command(app: typer.Typer, stage: str, summary: str) -> None:
    """Adds `thinksafe STAGE RUN_DIR`."""

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


@grouped
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
    *,
    profile: ProfileOptions,
) -> None:
    """Steer harmful prompts and let the student answer all of them.

    The recipe is the one the directory was begun with; --config begins a new directory. Processes
    that have joined (see `thinksafe --help`) share the rows. Hosts that have not, but see the same
    directory, can share them by --part: each runs one, in any order, stopped and resumed with any
    number of parts; the command without --part then checks and completes.

    Examples:

      thinksafe sample runs/mini

      thinksafe sample runs/big --config qwen3-8b --part 2/8
    """
    recipe = recipe_of(run_dir, config, overrides or [])
    if part is None:
        with profile.tracing():
            start(recipe, run_dir, ["sample"], skip_bad_rows=skip_bad_rows)
        return
    if hosts.current().count > 1:
        raise ConfigError(
            f"--part {part}: {hosts.current().count} processes have joined and share the rows; "
            "leave it out, or give --processes 1 before `sample` to have each host run by itself"
        )
    from thinksafe_jax.pipeline import run_part
    from thinksafe_jax.runs import Part

    with profile.tracing():
        run_part(recipe, run_dir, Part.parse(part), skip_bad_rows=skip_bad_rows)


@grouped
def train(
    run_dir: RunDirectory,
    overrides: Overrides = None,
    config: Config = None,
    skip_bad_rows: SkipBadRows = False,
    name: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="NAME",
            help="Instead: another training on the same dataset, in RUN/trainings/NAME. {key} in "
            "it stands for the value of a changed key.",
        ),
    ] = None,
    *,
    profile: ProfileOptions,
) -> None:
    """Train the LoRA adapter on the dataset.

    The recipe is the one the directory was begun with; --config begins a new directory. With --as
    the run keeps its own training, and another one with other training.* is trained, exported,
    evaluated and reported beside it. Give a list where a key takes one value, and there is a
    training for each.

    Examples:

      thinksafe train runs/mini

      thinksafe train runs/mini --as 'lr-{learning_rate}' 'training.learning_rate=[1e-4,1e-3]'
    """
    if name is None:
        recipe = recipe_of(run_dir, config, overrides or [])
        with profile.tracing():
            start(recipe, run_dir, ["train"], skip_bad_rows=skip_bad_rows)
    elif config is not None:
        raise ConfigError("--as trains on the dataset of a run, by its recipe; leave --config out")
    else:
        recipe_of(run_dir, None, [])  # or it is no run
        with profile.tracing():
            print_other_trainings(run_dir, name, overrides or [], skip_bad_rows)


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
        from thinksafe_jax.storage import shown

        typer.echo(shown(export_merged(recipe, run_dir)))


def recipe_of(run_dir: Path, config: Path | None, overrides: list[str]):
    """The recipe that a run directory was begun with, or the one given."""
    from thinksafe_jax.config import load_recipe
    from thinksafe_jax.runs import begun_recipe
    from thinksafe_jax.storage import shown

    if config is not None:
        return load_recipe(config, overrides)
    if not (run_dir / "config.yaml").exists():
        raise ConfigError(
            f"{shown(run_dir)} is no run directory (no config.yaml); begin one with "
            "`thinksafe run --config ...`, or give --config here"
        )
    return begun_recipe(run_dir, overrides)


def start(recipe, folder: Path, stages, **options: bool) -> None:
    """Run stages in a directory, and print the outcome where the report is among them.

    Args:
        options: keyword arguments of `run_pipeline`.
    """
    from thinksafe_jax.runs import refuse_inside
    from thinksafe_jax.storage import writable_place

    refuse_inside(folder)
    writable_place(folder)  # before the imports below, which take seconds
    from thinksafe_jax.pipeline import run_pipeline

    summary = run_pipeline(recipe, folder, stages=stages, **options)
    shown = stages is None or "report" in stages
    if summary is not None and shown and hosts.current().first:
        _print_outcome(folder, summary)


def _print_outcome(folder: Path, summary: dict) -> None:
    """Before and after as a table, and where the report lies."""
    from thinksafe_jax.report import coverage_table, final_table
    from thinksafe_jax.storage import shown
    from thinksafe_jax.terminal import output

    console = output(100)
    if summary["dataset"]:
        console.print(coverage_table(summary["dataset"]))
    console.print(final_table(summary))
    console.print(f"report: {shown(folder / 'report/report.html')}", markup=False, soft_wrap=True)
    if summary.get("trial"):
        console.print(
            "this was a trial; the whole run is `thinksafe run` without --trial", markup=False
        )


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    app.command()(run)
    app.command()(check)
    app.command()(sample)
    _stage_command(app, "filter", "Let the guard judge the samples and write the dataset.")
    app.command()(train)
    app.command()(export)
