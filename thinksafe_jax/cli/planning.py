"""thinksafe plan, and the place of thinksafe sweep-sharding."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from thinksafe_jax.cli.arguments import MOST, MOST_TOKENS, Config, JsonOut, Overrides, number
from thinksafe_jax.cli.compiling import HloFolder, quiet_compiler, writing_hlo
from thinksafe_jax.cli.option_groups import grouped
from thinksafe_jax.cli.sweep_sharding import sweep_sharding
from thinksafe_jax.errors import ConfigError

if TYPE_CHECKING:
    from thinksafe_jax.planning import Assumed


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
        typer.Option(
            help=(
                "A mesh file, or a name in configs/mesh: v5e-8. Default: the recipe's; with "
                "--config, where it has none, the processor here."
            )
        ),
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
    hlo: HloFolder = None
    prompts: Annotated[int, number(1, MOST, "Prompts, where the recipe's files are not here.")] = (
        40_000
    )
    prompt_tokens: Annotated[
        int | None,
        number(
            1,
            MOST_TOKENS,
            "Tokens of a prompt, on average. Default: with --config by the letters of the recipe's "
            "prompts, else 300.",
        ),
    ] = None
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
    quiet_compiler()
    plans = {_plan_recipe: options.config, _plan_model: options.model, _plan_study: options.study}
    with writing_hlo(options.hlo):
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
    from thinksafe_jax.studies import load_study, print_study_plan

    if options.overrides:
        raise ConfigError("--study takes no key=value; a study file has `overrides` of its own")
    study = load_study(str(options.study))
    return print_study_plan(study, options.mesh, _assumed(options), options.json_out)


def _plan_recipe(options: PlanOptions) -> bool:
    from thinksafe_jax.config import as_trial, load_recipe
    from thinksafe_jax.planning import print_recipe_plan

    recipe = load_recipe(str(options.config), options.overrides or [])
    if options.trial is not None:
        recipe = as_trial(recipe, options.trial)
    return print_recipe_plan(
        recipe, options.mesh, _assumed(options), options.json_out,
        parameters=options.params, by_letters=options.prompt_tokens is None,
    )  # fmt: skip


def _assumed(options: PlanOptions) -> "Assumed":
    from thinksafe_jax.planning import Assumed

    prompt_tokens = options.prompt_tokens or Assumed.prompt_tokens
    return Assumed(options.prompts, prompt_tokens, options.response_tokens)
