"""The house rules of docs/architecture.md that a program can check: doors, floors, names, budgets.

The order of imports between folders is import-linter's (pyproject.toml, `make lint`).
"""

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support import REPOSITORY

PACKAGE = REPOSITORY / "thinksafe_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
DOORS = sorted(PACKAGE.glob("*/__init__.py"))

MOST_LINES = 350  # of a file
MOST_FUNCTION_LINES = 50  # of a function, with its docstring
MOST_PARAMETERS = 8  # or its docstring says "Many parameters: " and the reason


@cache
def text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8")


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(text_of(file))


def short(file: Path) -> str:
    return str(file.relative_to(PACKAGE))


def folder_of(file: Path) -> str:
    """The folder of the package in which a file lies; "" beside the package's own door."""
    parts = file.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


@cache
def imports(file: Path) -> list[tuple[str, list[str]]]:
    """(module, names taken from it) of every import of this package in a file, at any depth."""
    taken: list[tuple[str, list[str]]] = []
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{short(file)}: relative import; write the whole path"
            if node.module and node.module.split(".")[0] == PACKAGE.name:
                taken.append((node.module, [alias.name for alias in node.names]))
        elif isinstance(node, ast.Import):
            taken += [(a.name, []) for a in node.names if a.name.startswith(f"{PACKAGE.name}.")]
    return taken


@cache
def is_module(dotted: str) -> bool:
    place = REPOSITORY / dotted.replace(".", "/")
    return place.with_suffix(".py").exists() or (place / "__init__.py").exists()


def modules_imported(file: Path) -> Iterator[str]:
    """As `imports`; `from a import b` is of a.b where b is a file that a does not hand out."""
    for module, names in imports(file):
        door = REPOSITORY / module.replace(".", "/") / "__init__.py"
        handed_out = _exported(door) if door.exists() else set()
        names_of_files = [name for name in names if is_module(f"{module}.{name}")]
        modules = [f"{module}.{name}" for name in names_of_files if name not in handed_out]
        yield from modules
        if len(modules) < len(names) or not names:
            yield module


def functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_what_other_folders_need_of_a_folder_comes_through_its_door():
    problems = [
        f"{short(file)}: {module} is past the door"
        for file in FILES
        for module in modules_imported(file)
        if module.count(".") > 1 and module.split(".")[1] != folder_of(file)
    ]
    assert sorted(problems) == []


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.parent.name)
def test_a_door_hands_out_what_somebody_outside_takes(door: Path):
    """Classes aside: a reader may need the type of what a function returns."""
    exported = {name for name in _exported(door) if not re.match(r"[A-Z]\w*[a-z]", name)}
    folder, module = door.parent.name, f"{PACKAGE.name}.{door.parent.name}"
    users = [file for file in FILES if folder_of(file) != folder]
    users += [file for room in ("scripts", "tests") for file in (REPOSITORY / room).rglob("*.py")]
    taken = {
        name
        for file in users
        for source, names in imports(file)
        if source == module
        for name in names
    }
    # `from thinksafe_jax import hosts` ... `hosts.join(...)`, and what documentation shows
    texts = [*users, *REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")]
    dotted = set()
    for file in texts:
        dotted |= set(re.findall(rf"\b{folder}\.(\w+)", text_of(file)))
    assert sorted(exported - taken - dotted) == []


def test_every_folder_has_a_door_that_says_what_it_is_for():
    folders = {file.parent for file in FILES} - {PACKAGE}
    assert {folder / "__init__.py" for folder in folders} <= set(FILES)
    assert [short(door) for door in DOORS if not ast.get_docstring(tree_of(door))] == []
    assert [short(door) for door in DOORS if not _exported(door)] == []


def test_the_name_of_a_file_occurs_once():
    """Only variants of different kinds may share the name that the field gives them.

    A loss, an advantage and a method are called grpo; a recipe tells by its key which is meant.
    """
    kinds = {file.parent for file in FILES if "= Variants(" in file.read_text()}
    files = [file for file in FILES if not file.stem.startswith("__")]
    others = [file.stem for file in files if file.parent not in kinds]
    variants = {file.stem for file in files if file.parent in kinds}
    stems = Counter([*others, *variants])
    assert [stem for stem, count in stems.items() if count > 1] == []


def test_names_say_what_they_name():
    """A variable called `found` or `one` is called after nothing; `where` is a key of recipes."""
    vague = {"found", "own", "one", "where"}
    problems = [
        f"{short(file)}:{line}: {name}"
        for file in FILES
        for name, line in _bound_names(tree_of(file))
        if name.strip("_") in vague
        and (short(file), name) != ("config/shared_sections.py", "where")
    ]
    assert sorted(problems) == []


def test_files_are_short():
    lengths = {short(file): len(file.read_text().splitlines()) for file in FILES}
    problems = [f"{name}: {lines} lines" for name, lines in lengths.items() if lines > MOST_LINES]
    assert sorted(problems) == []


def test_functions_are_short():
    problems = [
        f"{short(file)}: {function.name} has {_lines(function)} lines"
        for file in FILES
        for function in functions(file)
        if _lines(function) > MOST_FUNCTION_LINES
    ]
    assert sorted(problems) == []


def test_functions_take_few_parameters_or_say_why_not():
    problems = [
        f"{short(file)}: {function.name} has {_parameters(function)} parameters"
        for file in FILES
        for function in functions(file)
        if _parameters(function) > MOST_PARAMETERS
        and not re.search(r"^Many parameters: \S", ast.get_docstring(function) or "", re.M)
    ]
    assert sorted(problems) == []


def test_the_documentation_lists_the_floors_that_are_checked():
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = (c["layers"] for c in contracts["contracts"] if c["type"] == "layers")
    checked = [set(layer.split(" | ")) for layer in layers]
    text = (REPOSITORY / "docs/architecture.md").read_text()
    rows = re.findall(r"^\| (\d+) \| `(\w+)`", text, re.M)
    written = [{name for row, name in rows if int(row) == n} for n in range(1, len(checked) + 1)]
    assert written == checked
    assert len(rows) == sum(map(len, checked))


@cache
def _exported(door: Path) -> set[str]:
    for node in tree_of(door).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def _bound_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """(name, line) of variables, attributes, parameters, functions and classes."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.arg(arg=name):
                yield name, node.lineno
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name, node.lineno
            case ast.ClassDef(name=name):
                yield name, node.lineno


def _lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    names = [a.arg for a in arguments.posonlyargs + arguments.args + arguments.kwonlyargs]
    return len([name for name in names if name not in ("self", "cls")])
