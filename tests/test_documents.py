"""What the documents say of the tree is true: links, files and tests that they name exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.support import REPOSITORY

DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")])
ROOMS = ("thinksafe_jax/", "tests/", "docs/", "configs/", "scripts/")

each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda file: str(file.relative_to(REPOSITORY))
)


@cache
def text_of(document: Path) -> str:
    return document.read_text(encoding="utf-8")


@each_document
def test_links_lead_to_files(document: Path):
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text_of(document))
    assert [link for link in links if not (document.parent / link).exists()] == []


@each_document
def test_files_that_are_named_exist(document: Path):
    """Names in backquotes, from the repository's root; NAME stands for what a reader chooses."""
    named = re.findall(r"`([\w./-]+/[\w./-]*)(?:::[^`]*)?`", text_of(document))
    named = [name for name in named if name.startswith(ROOMS)]
    named = [name.rpartition("/")[0] if "NAME" in name else name for name in named]
    assert [name for name in named if not (REPOSITORY / name).exists()] == []


@each_document
def test_tests_that_are_named_exist(document: Path):
    named = re.findall(r"`([\w/]*test_\w+\.py)::(\w+)", text_of(document))
    assert [f"{file}::{test}" for file, test in named if test not in _tests_in(file)] == []


@cache
def _tests_in(name: str) -> set[str]:
    """Functions of a test file, which is named from the root or by its last part alone."""
    files = [f for f in (REPOSITORY / "tests").rglob("test_*.py") if str(f).endswith(f"/{name}")]
    assert len(files) == 1, f"{name} names {len(files)} files"
    nodes = ast.walk(ast.parse(files[0].read_text(encoding="utf-8")))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
