"""thinksafe chat."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from thinksafe_jax.cli.arguments import MOST, MOST_TOKENS, number
from thinksafe_jax.cli.option_groups import given, grouped
from thinksafe_jax.errors import ConfigError

Target = Annotated[
    str, typer.Argument(help="A run directory, or a model: directory, Hub id, mini:student.")
]


@dataclass(frozen=True)
class ModelOptions:
    """Who answers; None is what the run says, or the default."""

    adapter: Annotated[
        Path | None, typer.Option(help="PEFT adapter of the side `after`. Default: the run's.")
    ] = None
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16 (default).")] = None
    revision: Annotated[
        str | None, typer.Option(help="Of a model: branch, tag or commit on the Hub.")
    ] = None
    mesh: Annotated[
        str | None, typer.Option(help="Mesh file or name. Default: the run's, where it fits here.")
    ] = None


@dataclass(frozen=True)
class SamplingOptions:
    """How answers are drawn; None is as the run was evaluated, or the paper's."""

    temperature: Annotated[float | None, typer.Option(min=0, max=100, help="0 is greedy.")] = None
    top_p: Annotated[float | None, typer.Option(min=0, max=1, help="1 is off.")] = None
    top_k: Annotated[int | None, number(0, MOST, "0 is off.")] = None
    min_p: Annotated[float | None, typer.Option(min=0, max=1, help="0 is off.")] = None
    max_new_tokens: Annotated[int | None, number(1, MOST_TOKENS, "Of each answer.")] = None


@dataclass(frozen=True)
class TalkOptions:
    """How the conversation goes."""

    system: Annotated[str, typer.Option(help="A system prompt.")] = ""
    no_reasoning: Annotated[
        bool, typer.Option("--no-reasoning", help="Show how long the reasoning is, not the text.")
    ] = False
    context: Annotated[
        int | None, number(16, MOST_TOKENS, "Tokens of a conversation. Default: 16,384.")
    ] = None
    seed: Annotated[int | None, number(0, MOST, "Of the draws. Default: the run's, or 42.")] = None


@grouped
def chat(
    target: Target, of_model: ModelOptions, of_sampling: SamplingOptions, of_talk: TalkOptions
) -> None:
    """Ask a run's student before and after training, side by side; or any model.

    Both sides hear the same questions, answer with the same random numbers, and go on from their
    own answers, which a terminal shows while they are written. Reasoning is dim, and no part of
    later turns. /reset begins anew, /quit or Ctrl-D ends. From a pipe each line is a prompt of its
    own, and nothing has colours.

    Examples:

      thinksafe chat runs/mini

      thinksafe chat Qwen/Qwen3-0.6B --adapter runs/qwen3-0.6b/adapter --temperature 0

      thinksafe chat runs/mini --no-reasoning < prompts.txt
    """
    try:
        _chat(target, of_model, of_sampling, of_talk)
    except KeyboardInterrupt:
        typer.echo(err=True)  # the shell's prompt begins on a line of its own
        raise typer.Exit(130) from None


def _chat(target: str, of_model: ModelOptions, of_sampling: SamplingOptions, talk: TalkOptions):
    from thinksafe_jax.chat import chat as talk_with
    from thinksafe_jax.chat import is_run, model_of, run_of
    from thinksafe_jax.machine import enable_compile_cache

    if is_run(target):
        if of_model.revision is not None:
            raise ConfigError("--revision: a run's student is at the commit that the run keeps")
        model = run_of(target, of_model.adapter)
    else:
        model = model_of(target, of_model.adapter, of_model.revision)
    model = model.changed(of_model.dtype, of_model.mesh, talk.seed)
    model = model.with_sampling(**given(of_sampling))
    enable_compile_cache()
    talk_with(model, context=talk.context, system=talk.system, reasoning=not talk.no_reasoning)


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command()(chat)
