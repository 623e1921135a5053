"""Every number on the command line has two ends, and what lies beyond them is refused by itself."""

import ast
from pathlib import Path

import pytest
from typer.testing import CliRunner

import thinksafe_jax.cli
from thinksafe_jax.cli import app


def annotated_options(*types: str) -> list[ast.Call]:
    """The calls in `Annotated[TYPE, ...]` of the command line's files, for these types."""
    calls = []
    for file in Path(thinksafe_jax.cli.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            is_annotated = (
                isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Annotated"
            )
            if is_annotated and isinstance(node.slice, ast.Tuple):
                kind, option = node.slice.elts[:2]
                if set(ast.unparse(kind).split(" | ")) & set(types) and isinstance(
                    option, ast.Call
                ):
                    calls.append(option)
    return calls


def test_every_number_has_two_ends():
    whole, parts = annotated_options("int"), annotated_options("float")
    assert len(whole) > 15 and len(parts) >= 1
    assert {ast.unparse(call.func) for call in whole} == {"number"}
    for call in parts:
        assert {"min", "max"} <= {keyword.arg for keyword in call.keywords}


COMMANDS = [
    ("plan", "--config", "mini", "--prompts"),
    ("plan", "--config", "mini", "--response-tokens"),
    ("sweep-sharding", "--models", "mini:student", "--meshes", "cpu-8", "--length"),
    ("evaluate", "mini:student", "--suite", "gsm8k", "--max-new-tokens"),
    ("evaluate", "mini:student", "--suite", "gsm8k", "--slots"),
    ("analyze", "projection", "mini:student", "--samples"),
    ("probe", "--config", "mini", "--prompts"),
    ("run", "--config", "mini", "--limit"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("value", ["-1", "0", "99999999999999999999", "1e9", "nan", ""])
def test_an_absurd_number_is_refused(command, value):
    result = CliRunner().invoke(app, [*command, value], env={"COLUMNS": "200"})
    assert result.exit_code == 2, result.output
    assert command[-1] in result.output
    if value.removeprefix("-").isdecimal():
        assert f"{value} is no number from" in result.output
