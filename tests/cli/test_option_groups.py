"""A command whose options are a dataclass is to typer a function with a parameter a field."""

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from thinksafe_jax.cli.option_groups import grouped


@dataclass(frozen=True)
class Options:
    context: typer.Context
    names: Annotated[list[str] | None, typer.Argument(help="Names.")] = None
    slots: Annotated[int, typer.Option("--slots", "-s", help="Rows together.", min=1)] = 4


def invoke(*arguments: str):
    given: list[Options] = []

    def command(options: Options) -> None:
        """Say what was given."""
        given.append(options)

    app = typer.Typer()
    app.command()(grouped(command))
    return CliRunner().invoke(app, arguments), given


def test_fields_are_parameters_with_their_defaults():
    result, (options,) = invoke()
    assert result.exit_code == 0
    assert (options.names or [], options.slots) == ([], 4)
    assert options.context.command.name == "command"


def test_given_values_and_limits_are_typers():
    _, (options,) = invoke("a", "b", "-s", "2")
    assert (options.names, options.slots) == (["a", "b"], 2)
    result, given = invoke("--slots", "0")
    assert (result.exit_code, given) == (2, [])


def test_help_is_the_commands_and_its_fields():
    text = invoke("--help")[0].output
    for part in ("Say what was given.", "--slots", "-s", "Rows together."):
        assert part in text
