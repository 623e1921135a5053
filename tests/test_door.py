"""`from thinksafe_jax import Engine, ...`: one door, which costs nothing until it is used."""

import ast
import os
import subprocess
import sys

import pytest

import thinksafe_jax
from tests.support import REPOSITORY

NAMES = sorted(set(thinksafe_jax.__all__) - {"__version__"})
DOOR = REPOSITORY / "thinksafe_jax/__init__.py"


def python(code: str, **environment: str) -> str:
    env = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_nothing_else_of_weight():
    code = """
import sys
before = set(sys.modules)
import thinksafe_jax
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new - set(sys.stdlib_module_names)))
print(sorted(name for name in sys.modules if name.startswith("thinksafe_jax")))
"""
    assert python(code).splitlines() == [
        "['thinksafe_jax']",
        "['thinksafe_jax', 'thinksafe_jax.errors', 'thinksafe_jax.version']",
    ]


def test_every_name_is_there_and_none_starts_a_back_end_or_imports_what_few_need():
    code = f"""
import sys
from thinksafe_jax import {", ".join(NAMES)}
# each takes up to a second, and few commands need it: they are imported where they are used
print(set(sys.modules) & {{"matplotlib", "scipy", "transformers", "datasets", "sympy", "pandas"}})
import jax
try:
    jax.devices()  # the first to start one, and there is none of that name
except RuntimeError as error:
    print("none-at-all" in str(error))
"""
    assert python(code, JAX_PLATFORMS="none-at-all").splitlines() == ["set()", "True"]


def test_type_checkers_see_the_same_names_from_the_same_folders():
    tree = ast.parse(DOOR.read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        (node.module or "").removeprefix("thinksafe_jax."): [alias.name for alias in node.names]
        for node in block.body
        if isinstance(node, ast.ImportFrom)
    }
    assert seen == thinksafe_jax._FOLDERS
    assert sorted(name for names in seen.values() for name in names) == NAMES
    assert DOOR.with_name("py.typed").exists()


def test_names_are_listed_and_a_misspelt_one_gives_the_nearest():
    assert set(NAMES) <= set(dir(thinksafe_jax))
    with pytest.raises(AttributeError, match=r"no attribute 'Engin'; did you mean Engine\?"):
        _ = thinksafe_jax.Engin
    with pytest.raises(ImportError):
        exec("from thinksafe_jax import Engin")
