"""thinksafe verify, thinksafe convert."""

from pathlib import Path
from typing import Annotated

import typer

from thinksafe_jax.cli.arguments import JsonOut
from thinksafe_jax.errors import ConfigError

AllowNonfinite = Annotated[
    bool, typer.Option("--allow-nonfinite", help="Accept NaN and infinity in the weights.")
]


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
    from thinksafe_jax.weights import BOUNDS, report_lines, verify_model, write_figures

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
    from thinksafe_jax.weights import convert_checkpoint

    typer.echo(convert_checkpoint(source, out, revision, allow_nonfinite))


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    app.command()(verify)
    app.command()(convert)
