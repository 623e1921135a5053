"""thinksafe probe, thinksafe dataset show | export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thinksafe_jax.cli.arguments import (
    MOST,
    MOST_TOKENS,
    Config,
    Overrides,
    RunDirectory,
    local_folder,
    number,
    output_file,
)
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.variants import variant_names

if TYPE_CHECKING:
    from thinksafe_jax.analysis import Probe

dataset = typer.Typer(
    no_args_is_help=True, help="Look into a run's dataset, and hand it on in other formats."
)

Templates = Annotated[
    list[str] | None,
    typer.Option(
        help=f"Steering template: {', '.join(variant_names('synthesis/steering'))}, or a text "
        "with {prompt}. May be repeated. Default: all."
    ),
]
RescueAt = Annotated[
    list[int] | None,
    typer.Option(
        min=1,
        max=MOST_TOKENS,
        help="Let unsafe answers go on under each template after so many tokens, and count those "
        "that end safely. May be repeated. Default: not measured.",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    app.command()(probe)
    app.add_typer(dataset, name="dataset")


def probe(
    overrides: Overrides = None,
    config: Config = None,
    prompts: Annotated[int, number(2, MOST, "Prompts of each label, a fair sample.")] = 64,
    samples: Annotated[int, number(1, 100_000, "Responses to each prompt.")] = 1,
    template: Templates = None,
    rescue_at: RescueAt = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of its own, for rows, probe.json and probe.png. Default: runs/NAME-probe.",
            parser=local_folder,
            metavar="FOLDER",
        ),
    ] = None,
) -> None:
    """Measure acceptance and cost of each steering template before a long run.

    On a stratified sample: acceptance without steering (α) and with it (α_I), the odds ratio ω̂
    with its interval, tokens for each accepted row, and what the whole run would cost. Ends with
    the template to use. For self-distillation: how often a template flips an unsafe answer to a
    safe one, and rescues it from a given token on.

    Example: thinksafe probe --config mini --prompts 100 --rescue-at 16 --rescue-at 64
    """
    from thinksafe_jax.config import load_recipe
    from thinksafe_jax.machine import enable_compile_cache

    if config is None:
        raise ConfigError("no recipe given; try: thinksafe probe -c mini")
    recipe = load_recipe(config, overrides or [])
    folder = out or Path(f"runs/{recipe.name}-probe")
    from thinksafe_jax.analysis import default_templates, run_probe
    from thinksafe_jax.pipeline import Session

    templates = template or default_templates(recipe)
    enable_compile_cache()
    result = run_probe(
        recipe,
        Session(recipe),
        folder,
        templates=templates,
        prompts=prompts,
        samples=samples,
        rescue_at=rescue_at or (),
    )
    _print_probe(result, folder)


def _print_probe(result: "Probe", folder: Path) -> None:
    """The tables, the template to use with the reason, and the files."""
    from thinksafe_jax.analysis import guidance_table, probe_table, refusals_line, write_plot
    from thinksafe_jax.terminal import clean, output

    console = output(150)
    console.print(probe_table(result))
    if any(arm.odds_ratio is not None and arm.odds_ratio.corrected for arm in result.arms):
        console.print(
            "* one side accepted all or nothing: half a pair of responses is added to each cell"
        )
    if any(arm.flip_rate is not None for arm in result.arms):
        console.print(guidance_table(result))
    if line := refusals_line(result):
        console.print(clean(line), markup=False, soft_wrap=True)
    best = result.recommended
    advice = "recommends no template" if best is None else f"use synthesis.steering={best}"
    files = f"{folder / 'probe.json'}, {write_plot(result, folder / 'probe.png')}"
    for line in (f"{advice}: {result.why}", files):
        console.print(clean(line), markup=False, soft_wrap=True)


@dataset.command()
def show(
    run_dir: RunDirectory,
    index: Annotated[int, number(0, MOST, "Row of dataset/train.jsonl, from 0.")] = 0,
) -> None:
    """Print a row as training sees it: what the loss is on in green, the rest dim.

    Control tokens are shown; they are the model's own, not text.

    Example: thinksafe dataset show runs/mini --index 3
    """
    from rich.console import Console

    from thinksafe_jax.report import show_row

    Console(highlight=False).print(show_row(run_dir, index), soft_wrap=True)


@dataset.command("export")
def export_dataset(
    run_dir: RunDirectory,
    authors: Annotated[
        Path | None,
        typer.Option(
            help="Write the authors' JSON file there: a list of rows.",
            parser=output_file,
            metavar="FILE",
        ),
    ] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(help="Upload dataset/ to this repository, owner/name.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="The default is private.")] = False,
) -> None:
    """Hand the dataset on: as the authors' JSON, or to the Hugging Face Hub (private by default).

    Example: thinksafe dataset export runs/mini --authors ThinkSafe-mini.json
    """
    from thinksafe_jax.synthesis import push, write_authors_json

    if authors is None and push_to_hub is None:
        raise ConfigError("nothing to do: give --authors FILE or --push-to-hub owner/name")
    if authors is not None:
        typer.echo(f"{write_authors_json(run_dir, authors)} rows: {authors}")
    if push_to_hub is not None:
        typer.echo(push(run_dir, push_to_hub, private=not public))
