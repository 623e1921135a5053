"""The site: what it makes from the package says everything, and its pages' commands are run."""

import dataclasses
import importlib.util
import re
import tomllib

import pytest

from tests.support import REPOSITORY
from thinksafe_jax.cli.app import app
from thinksafe_jax.config.recipe import TrainingConfig
from thinksafe_jax.config.strict import dotted_keys


def script(name: str):
    """A file of scripts/site as a module."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / f"scripts/site/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages():
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -e '.[docs]'")
    return script("pages")


def test_the_configuration_page_has_every_key_with_its_comment_limit_and_default(pages):
    text = pages.configuration_page()
    from thinksafe_jax.config import Recipe

    for key in dotted_keys(Recipe):
        assert f"| `{key.rpartition('.')[2]}` |" in text, key
    for field in dataclasses.fields(TrainingConfig):
        assert f"| `{field.name}` |" in text
    row = next(line for line in text.splitlines() if line.startswith("| `lora_dropout`"))
    assert row == "| `lora_dropout` | a number >= 0 and < 1 | `0.05` |  |"
    row = next(line for line in text.splitlines() if line.startswith("| `batch_size`"))
    assert row.endswith("| rows per optimiser step (effective) |")
    assert "cross-entropy on harmful rows, KL from the adapter switched off" in text
    assert " object at 0x" not in text


def test_the_command_page_has_every_command_and_no_marks_of_the_terminal(pages):
    text = pages.commands_page()
    names = [c.name or c.callback.__name__.replace("_", "-") for c in app.registered_commands]
    for name in names:
        assert f"## thinksafe {name}\n" in text, name
    assert "## thinksafe configs copy\n" in text
    assert "[/]" not in text and "[cyan]" not in text


def test_the_versions_of_the_tests_are_told_for_every_dependency(pages):
    lines = pages.tested_with().splitlines()
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert len(lines) == 2 + len(project["dependencies"])
    assert re.fullmatch(r"\| jax \| `>=0\.\d+` \| 0\.\d+\.\d+ \|", lines[2])


def test_fences_are_run_unless_a_title_says_what_they_take_and_indented_commands_are_refused():
    check = script("check_commands")
    text = (
        "```bash\necho a\n```\n"
        '```bash title="needs a chip"\nfalse\n```\n'
        "```python\nprint(1)\n```\n"
        "    thinksafe run --config mini\n"
    )
    assert list(check.blocks(text)) == [("bash", "echo a\n"), ("python", "print(1)\n")]
    assert check.hidden(text) == ["thinksafe run --config mini"]


def test_a_command_that_fails_is_named_with_its_page(tmp_path, monkeypatch, capfd):
    check = script("check_commands")
    (tmp_path / "page.md").write_text("```bash\nfalse\necho not reached\n```\n")
    monkeypatch.setattr(check, "DOCS", tmp_path)
    assert check.main() == 1
    out, error = capfd.readouterr()
    assert "page.md: exit code 1: false" in error
    assert "not reached\n==" not in out


def test_no_command_of_the_pages_stands_where_it_would_not_be_seen():
    check = script("check_commands")
    for page in (REPOSITORY / "docs").rglob("*.md"):
        assert check.hidden(page.read_text(encoding="utf-8")) == [], page
