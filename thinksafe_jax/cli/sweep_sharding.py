"""thinksafe sweep-sharding."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thinksafe_jax.cli.arguments import MOST_ROWS, MOST_TOKENS, number, output_file
from thinksafe_jax.cli.compiling import HloFolder, quiet_compiler, writing_hlo
from thinksafe_jax.cli.option_groups import grouped
from thinksafe_jax.cli.run_options import ProfileOptions
from thinksafe_jax.errors import ConfigError

if TYPE_CHECKING:
    from thinksafe_jax.planning import SweepFiles, SweepSettings


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
            help="With --search: the mesh file to write. Default: MESH-MODEL.yaml in this folder.",
            parser=output_file,
            metavar="FILE",
        ),
    ] = None
    phases: Annotated[
        str | None,
        typer.Option(
            help="Of decode, drafted, prefill, train, on-policy, with commas between. Default: "
            "decode,prefill,train."
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
        typer.Option(
            "--json",
            help="Rows as JSON, written as they finish; run again to go on.",
            parser=output_file,
            metavar="FILE",
        ),
    ] = None
    csv: Annotated[
        Path | None,
        typer.Option(help="The rows as CSV.", parser=output_file, metavar="FILE"),
    ] = None
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Picture (SVG): bars for each phase.", parser=output_file, metavar="FILE"
        ),
    ] = None
    pareto: Annotated[
        Path | None,
        typer.Option(
            help="Picture (SVG): tokens/s a chip against memory, and what nothing beats.",
            parser=output_file,
            metavar="FILE",
        ),
    ] = None
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="PLANNED MEASURED",
            help="Instead: two --json files, the second of --measure: bounds beside times.",
        ),
    ] = None
    hlo: HloFolder = None
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
    drafts: Annotated[int, number(1, 15, "Tokens of a draft, of the phase drafted.")] = 3
    rollouts: Annotated[
        int, number(1, MOST_ROWS, "Rollouts of a step, of the phase on-policy.")
    ] = 64
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32: weights and cache.")] = "bfloat16"
    kv_dtype: Annotated[
        str, typer.Option(help="Of keys and values: model (as --dtype) or int8.")
    ] = "model"


@grouped
def sweep_sharding(options: SweepOptions, profile: ProfileOptions) -> None:
    """Compile decode, prefill and LoRA step of models x meshes x rule tables, and compare.

    No chip is needed: devices are simulated, or those of the TPU compiler where libtpu is
    installed. Each row has memory per device, FLOPs, collectives by kind with bytes, the
    roofline and the compile time. What cannot be is a row with its reason. Where several tables
    were tried on a mesh, a line says which is best, and why. --phases adds decode with drafts and
    whole on-policy steps. With --search the tables are proposed, and the best is written as a mesh
    file; exit code 2 where none fits.

    Examples:

      thinksafe sweep-sharding --models Qwen3-8B,Qwen3-32B --meshes v5e-16,v6e-8 --json sweep.json

      thinksafe sweep-sharding --models mini:student --meshes cpu-8 --measure --dtype float32
      --length 256 --rows 4 --context 512 --slots 8 --prompt 64

      thinksafe sweep-sharding --models Qwen3-8B --meshes v5e-16 --phases decode,drafted,on-policy

      thinksafe sweep-sharding --compare planned.json measured.json

      thinksafe sweep-sharding --search Qwen3-8B --mesh v5e-16 --budget 20 --json search.json
    """
    _check_sweep(options, profile)
    if options.compare is not None:
        from thinksafe_jax.planning import print_comparison

        print_comparison(*options.compare)
        return
    quiet_compiler()
    with writing_hlo(options.hlo), profile.tracing():
        fits = _sweep(options) if options.search is None else _search(options)
    if not fits:
        raise typer.Exit(2)


def _sweep(options: SweepOptions) -> bool:
    """The rows of tables that are given: a table that does not fit is a row, too."""
    from thinksafe_jax.planning import USUAL_PHASES, check_phases, run_sweep

    phases = check_phases(_listed(options.phases)) if options.phases else USUAL_PHASES
    models, meshes = _listed(options.models or ""), _listed(options.meshes or "")
    settings, files = _settings_and_files(options)
    run_sweep(models, meshes, options.rules or [], settings, out=files, phases=phases)
    return True


def _search(options: SweepOptions) -> bool:
    """Whether a table fits for each phase."""
    from thinksafe_jax.planning import run_search

    settings, files = _settings_and_files(options)
    return run_search(
        str(options.search), _listed(options.meshes or "")[0], settings,
        budget=options.budget, batch=options.batch, winner=options.out, out=files,
    )  # fmt: skip


def _settings_and_files(options: SweepOptions) -> "tuple[SweepSettings, SweepFiles]":
    """Sizes of the programs, and where the rows go."""
    from thinksafe_jax.planning import SweepFiles, settings_of

    settings = settings_of(
        prompt=options.prompt,
        slots=options.slots,
        length=options.length,
        rows=options.rows,
        context=options.context,
        dtype=options.dtype,
        measure=options.measure,
        kv_dtype=options.kv_dtype,
        drafts=options.drafts,
        rollouts=options.rollouts,
    )
    return settings, SweepFiles(options.json_out, options.csv, options.plot, options.pareto)


def _check_sweep(options: SweepOptions, profile: ProfileOptions) -> None:
    """Options that do not go together are refused before anything is compiled."""
    if profile.profile is not None and not options.measure:
        raise ConfigError("--profile traces what is timed: give --measure, too")
    if options.phases is not None and not _listed(options.phases):
        raise ConfigError("--phases names none; leave it out for decode,prefill,train")
    if options.dtype not in ("bfloat16", "float32"):
        raise ConfigError(f"--dtype {options.dtype}: expected bfloat16 or float32")
    if options.kv_dtype not in ("model", "int8"):
        raise ConfigError(f"--kv-dtype {options.kv_dtype}: expected model or int8")
    if options.compare is not None:
        given = {
            "--models": options.models, "--meshes": options.meshes, "--search": options.search,
            "--phases": options.phases, "--hlo": options.hlo, "--profile": profile.profile,
        }  # fmt: skip
        if too_many := [name for name, value in given.items() if value]:
            raise ConfigError(f"--compare reads two files; leave out {', '.join(too_many)}")
    elif options.search is not None:
        if options.models or options.rules or options.phases:
            raise ConfigError(
                "--search proposes one model's tables; leave out --models, --rules and --phases"
            )
        if profile.profile is not None:
            raise ConfigError("--profile is not for --search; give --models and --meshes")
        if len(_listed(options.meshes or "")) != 1:
            raise ConfigError(f"--search {options.search} needs one mesh: --mesh v5e-16")
    elif not options.models or not options.meshes:
        raise ConfigError("give --models and --meshes, or --compare PLANNED MEASURED")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
