"""thinksafe analyze perplexity | projection | shift | lengths."""

import json
from pathlib import Path
from typing import Annotated

import typer

from thinksafe_jax.cli.arguments import MOST, local_folder, number, run_directory


def analyze(
    kind: Annotated[str, typer.Argument(help="perplexity, projection, shift or lengths.")],
    target: Annotated[str, typer.Argument(help="A run directory; or, with --data, a model.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Rows with instruction (prompt, question), response and label."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where the files go. Default: RUN/analysis, runs/analysis.",
            parser=local_folder,
            metavar="FOLDER",
        ),
    ] = None,
    prompts: Annotated[int, number(1, 100_000, "Projection: prompts of each label.")] = 8,
    samples: Annotated[int, number(2, 100_000, "Projection: draws per prompt.")] = 32,
    limit: Annotated[int | None, number(1, MOST, "Rows read.")] = None,
) -> None:
    """Measure what the theory speaks of; writes KIND.json, KIND.svg and KIND.md, prints the table.

    perplexity: of a dataset under the frozen student, over tokens and over examples.
    projection: acceptance with and without steering, odds ratio, costs, and the excess KL.
    shift: mean KL per token of the tuned student from its base, on reasoning responses.
    lengths: lengths, refusal share of the answers, how responses begin.

    Examples:

      thinksafe analyze projection runs/mini --prompts 8 --samples 64

      thinksafe analyze perplexity models/SmolLM2-135M-Instruct --data star1.json --limit 50
    """
    from thinksafe_jax.analysis import analyse, table_text
    from thinksafe_jax.analysis import target as target_of
    from thinksafe_jax.storage import atomic_write, prepare_directory
    from thinksafe_jax.terminal import clean

    if data is None:
        target = str(run_directory(target))
    of = target_of(target, data, prompts=prompts, samples=samples, limit=limit)
    folder = prepare_directory(out or (of.path or Path("runs")) / "analysis")
    analysis = analyse(kind, of)
    text = clean(table_text(analysis.table))
    atomic_write(folder / f"{kind}.json", json.dumps(analysis.result, indent=2) + "\n")
    atomic_write(folder / f"{kind}.svg", analysis.plot)
    atomic_write(folder / f"{kind}.md", text + "\n")
    typer.echo(text)
    typer.echo(f"{folder / kind}.json, .svg, .md")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(analyze)
