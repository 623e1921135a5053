"""thinksafe plan, thinksafe sweep-sharding."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from thinksafe_jax.cli.arguments import (
    MOST,
    MOST_ROWS,
    MOST_TOKENS,
    Config,
    JsonOut,
    Overrides,
    number,
)
from thinksafe_jax.cli.option_groups import grouped
from thinksafe_jax.errors import ConfigError

HloFolderOption = Annotated[
    Path | None,
    typer.Option(
        "--hlo",
        metavar="DIR",
        help="Write the compiler's text (HLO) of every program here, as "
        "train-step-Qwen3-8B-v5e-8.hlo.txt.",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    app.command()(plan)
    app.command("sweep-sharding")(sweep_sharding)


@dataclass(frozen=True)
class PlanOptions:
    """Options of `thinksafe plan`."""

    overrides: Overrides = None
    config: Config = None
    model: Annotated[
        str | None,
        typer.Option(
            help="Instead: a checkpoint directory, config.json, name in configs/models or Hub id."
        ),
    ] = None
    study: Annotated[
        str | None,
        typer.Option(help="Instead: a study, or a name in configs/studies: all its runs, summed."),
    ] = None
    mesh: Annotated[
        str | None,
        typer.Option(help="A mesh file, or a name in configs/mesh: v5e-8. Default: the recipe's."),
    ] = None
    trial: Annotated[
        int | None, number(1, MOST, "With --config: what `thinksafe run --trial` would take.")
    ] = None
    params: Annotated[
        bool, typer.Option("--params", help="List every parameter with its mesh axes and bytes.")
    ] = False
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="With --model: compile the training step, too (a minute)."),
    ] = False
    json_out: JsonOut = None
    hlo: HloFolderOption = None
    prompts: Annotated[int, number(1, MOST, "Prompts, where the recipe's files are not here.")] = (
        40_000
    )
    prompt_tokens: Annotated[int, number(1, MOST_TOKENS, "Tokens of a prompt, on average.")] = 300
    response_tokens: Annotated[
        int, number(1, MOST_TOKENS, "Tokens of a response, on average; the mean context follows.")
    ] = 5_000


@grouped
def plan(options: PlanOptions) -> None:
    """Print what a recipe, or a model, needs on a mesh; exit code 2 when it does not fit.

    Nothing is allocated and no chip is needed. With --config: memory per device, collectives,
    rates from the roofline, hours and chip-hours of each stage and of both evaluations, from
    programs compiled for simulated devices (for TPU: by its own compiler, where libtpu is
    installed). With --model: weights, the KV cache that fits and the decode roofline, at once. With
    --study: hours and chip-hours of every method's runs and of the evaluations. The nearest
    settings that fit are printed.

    Examples:

      thinksafe plan --config qwen3-8b --mesh v5e-16

      thinksafe plan --model Qwen3-8B --mesh v5e-8 --params

      thinksafe plan --study paper-qwen3-0.6b --mesh v5e-8
    """
    given = [options.config, options.model, options.study]
    if sum(option is not None for option in given) != 1:
        raise ConfigError("give a recipe (--config), a model (--model) or a study (--study)")
    if options.hlo is not None and options.model is not None and not options.compiled:
        raise ConfigError("--hlo with --model needs --compile: nothing is compiled without")
    _quiet_compiler()
    plans = {_plan_recipe: options.config, _plan_model: options.model, _plan_study: options.study}
    with _writing_hlo(options.hlo):
        fits = next(make(options) for make, option in plans.items() if option is not None)
    if not fits:
        raise typer.Exit(2)


def _plan_model(options: PlanOptions) -> bool:
    from thinksafe_jax.planning import print_plan

    if options.mesh is None:
        raise ConfigError("--model needs --mesh; `thinksafe configs` lists the meshes")
    return print_plan(
        str(options.model),
        options.mesh,
        parameters=options.params,
        json_out=options.json_out,
        compiled=options.compiled,
    )


def _plan_study(options: PlanOptions) -> bool:
    from thinksafe_jax.planning import Assumed
    from thinksafe_jax.studies import load_study, print_study_plan

    if options.overrides:
        raise ConfigError("--study takes no key=value; a study file has `overrides` of its own")
    assumed = Assumed(options.prompts, options.prompt_tokens, options.response_tokens)
    study = load_study(str(options.study))
    return print_study_plan(study, options.mesh, assumed, options.json_out)


def _plan_recipe(options: PlanOptions) -> bool:
    from thinksafe_jax.config import as_trial, load_recipe
    from thinksafe_jax.planning import Assumed, print_recipe_plan

    recipe = load_recipe(str(options.config), options.overrides or [])
    if options.trial is not None:
        recipe = as_trial(recipe, options.trial)
    assumed = Assumed(options.prompts, options.prompt_tokens, options.response_tokens)
    return print_recipe_plan(
        recipe, options.mesh, assumed, options.json_out, parameters=options.params
    )


@dataclass(frozen=True)
class SweepOptions:
    """Options of `thinksafe sweep-sharding`."""

    models: Annotated[
        str | None,
        typer.Option(help="Config files, directories, names or Hub ids, with commas between."),
    ] = None
    meshes: Annotated[
        str | None,
        typer.Option("--meshes", "--mesh", help="Mesh files or names, with commas between."),
    ] = None
    search: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Instead of --models: look for the best rule tables of one model on one mesh.",
        ),
    ] = None
    budget: Annotated[
        int, number(2, MOST_ROWS, "With --search: programs that are compiled, at most.")
    ] = 20
    batch: Annotated[
        int | None,
        number(
            1,
            MOST_ROWS,
            "With --search: sequences of an optimiser step; no pass holds more. Default: those of "
            "a pass of the mesh's own table, at least 8.",
        ),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option(
            help="With --search: the mesh file to write. Default: MESH-MODEL.yaml in this folder."
        ),
    ] = None
    rules: Annotated[
        list[Path] | None,
        typer.Option(
            help="Rule tables to try beside each mesh's own: a file, or a name in configs/rules. "
            "May be repeated."
        ),
    ] = None
    json_out: Annotated[
        Path | None,
        typer.Option("--json", help="Rows as JSON, written as they finish; run again to go on."),
    ] = None
    csv: Annotated[Path | None, typer.Option(help="The rows as CSV.")] = None
    plot: Annotated[Path | None, typer.Option(help="Picture (SVG): bars for each phase.")] = None
    pareto: Annotated[
        Path | None,
        typer.Option(help="Picture (SVG): tokens/s a chip against memory, and what nothing beats."),
    ] = None
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="PLANNED MEASURED",
            help="Instead: two --json files, the second of --measure: bounds beside times.",
        ),
    ] = None
    hlo: HloFolderOption = None
    measure: Annotated[
        bool, typer.Option("--measure", help="Time the steps on the devices at hand.")
    ] = False
    slots: Annotated[
        int | None, number(1, MOST_ROWS, "Rows of a replica. Default: what its cache holds.")
    ] = None
    prompt: Annotated[int, number(1, MOST_TOKENS, "Tokens of a prefill.")] = 512
    context: Annotated[int, number(64, MOST_TOKENS, "Tokens of the longest row.")] = 16896
    length: Annotated[int, number(64, MOST_TOKENS, "Tokens of a training sequence.")] = 16384
    rows: Annotated[int, number(1, MOST_ROWS, "Sequences of a training pass.")] = 2
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32: weights and cache.")] = "bfloat16"
    kv_dtype: Annotated[
        str, typer.Option(help="Of keys and values: model (as --dtype) or int8.")
    ] = "model"


@grouped
def sweep_sharding(options: SweepOptions) -> None:
    """Compile decode, prefill and LoRA step of models x meshes x rule tables, and compare.

    No chip is needed: devices are simulated, up to 256, or those of the TPU compiler where libtpu
    is installed. Each row has memory per device, FLOPs, collectives by kind with bytes, the
    roofline and the compile time. What cannot be is a row with its reason. Where several tables
    were tried on a mesh, a line says which is best, and why. With --search the tables are proposed,
    and the best is written as a mesh file; exit code 2 where none fits.

    Examples:

      thinksafe sweep-sharding --models Qwen3-8B,Qwen3-32B --meshes v5e-16,v6e-8 --json sweep.json

      thinksafe sweep-sharding --models mini:student --meshes cpu-8 --measure --dtype float32
      --length 256 --rows 4 --context 512 --slots 8 --prompt 64

      thinksafe sweep-sharding --compare planned.json measured.json

      thinksafe sweep-sharding --search Qwen3-8B --mesh v5e-16 --budget 20 --json search.json
    """
    _check_sweep(options)
    if options.compare is not None:
        from thinksafe_jax.planning import print_comparison

        print_comparison(*options.compare)
        return
    _quiet_compiler()
    with _writing_hlo(options.hlo):
        fits = _compile_sweep(options)
    if not fits:
        raise typer.Exit(2)


def _compile_sweep(options: SweepOptions) -> bool:
    """The sweep, or the search; whether a table that was searched for fits."""
    from thinksafe_jax.planning import SweepFiles, run_search, run_sweep, settings_of

    settings = settings_of(
        prompt=options.prompt,
        slots=options.slots,
        length=options.length,
        rows=options.rows,
        context=options.context,
        dtype=options.dtype,
        measure=options.measure,
        kv_dtype=options.kv_dtype,
    )
    files = SweepFiles(options.json_out, options.csv, options.plot, options.pareto)
    meshes = _listed(options.meshes or "")
    if options.search is None:
        run_sweep(_listed(options.models or ""), meshes, options.rules or [], settings, out=files)
        return True
    return run_search(
        options.search, meshes[0], settings,
        budget=options.budget, batch=options.batch, winner=options.out, out=files,
    )  # fmt: skip


def _check_sweep(options: SweepOptions) -> None:
    """Options that do not go together are refused before anything is compiled."""
    if options.dtype not in ("bfloat16", "float32"):
        raise ConfigError(f"--dtype {options.dtype}: expected bfloat16 or float32")
    if options.kv_dtype not in ("model", "int8"):
        raise ConfigError(f"--kv-dtype {options.kv_dtype}: expected model or int8")
    if options.compare is not None:
        if options.models or options.meshes or options.search or options.hlo:
            raise ConfigError(
                "--compare reads two files; leave out --models, --meshes, --search, --hlo"
            )
    elif options.search is not None:
        if options.models or options.rules:
            raise ConfigError(
                "--search proposes one model's tables; leave out --models and --rules"
            )
        if len(_listed(options.meshes or "")) != 1:
            raise ConfigError(f"--search {options.search} needs one mesh: --mesh v5e-16")
    elif not options.models or not options.meshes:
        raise ConfigError("give --models and --meshes, or --compare PLANNED MEASURED")


@contextmanager
def _writing_hlo(folder: Path | None) -> Iterator[None]:
    """The texts of all programs go to the folder, and a line says how many they are."""
    if folder is None:
        yield
        return
    from thinksafe_jax.planning import hlo_written_to

    with hlo_written_to(folder) as texts:
        yield
    print(f"HLO of {len(texts.files)} program(s) in {folder}")


def _quiet_compiler() -> None:
    """Keeps back the compiler's remarks on each program; before JAX is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
