"""Pages of the site that are made when it is built: python -m mkdocs build

A hook of MkDocs. The configuration and the commands are read from the package itself, so that they
cannot grow old; CHANGELOG, CONTRIBUTING and SECURITY stay where GitHub looks for them.
"""

import dataclasses
import inspect
import re
import tokenize
import tomllib
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.core import TyperGroup

from thinksafe_jax.cli.app import app
from thinksafe_jax.config import Recipe, shipped_configs
from thinksafe_jax.config.limits import LARGEST

ROOT = Path(__file__).parents[2]
AT_THE_TOP = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
_NAMES = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the documents that stand at the top of the repository."""
    for name in AT_THE_TOP:
        content = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, name.lower(), content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """The pages that are made; in others, links between the repository's folders as the site's."""
    made = {
        "reference/configuration.md": configuration_page,
        "reference/commands.md": commands_page,
        "reference/shipped.md": shipped_page,
    }
    if page.file.src_uri in made:
        return made[page.file.src_uri]()
    markdown = markdown.replace("<!-- tested with -->", tested_with())
    for name in AT_THE_TOP:
        markdown = markdown.replace(f"](../{name}", f"]({name.lower()}")
    if page.file.src_uri in map(str.lower, AT_THE_TOP):
        markdown = markdown.replace("](docs/", "](")
    return markdown


def configuration_page() -> str:
    """Every key of a recipe: what it may be, its default, and the comment beside it."""
    lines = [
        "# Configuration",
        "",
        "Every key of a recipe. On the command line a key is changed as `training.epochs=1`, in",
        "a file below its section. `thinksafe run --help` says how the two go together.",
        "",
    ]
    first: dict[type, str] = {}
    for cls, key in _sections(Recipe, ""):
        lines += [f"## {key or 'The top of a recipe'}", "", _paragraph(cls), ""]
        if cls in first:
            lines += [f"Its keys are those of `{first[cls]}` above.", ""]
            continue
        first[cls] = key
        lines += ["| key | what it may be | default | |", "|---|---|---|---|"]
        comments = _comments(cls)
        hints = get_type_hints(cls, include_extras=True)
        for field in dataclasses.fields(cls):
            cells = (
                f"`{field.name}`",
                _allowed(hints[field.name]),
                _default(field),
                comments.get(field.name, "").replace("<", "&lt;"),
            )
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        lines.append("")
    return "\n".join(lines)


def _sections(cls: type, key: str) -> Iterator[tuple[type, str]]:
    """The dataclass tree, parents first; a class that stands in several places comes at each."""
    yield cls, key
    for name, hint in get_type_hints(cls).items():
        for part in (hint, *get_args(hint)):
            if dataclasses.is_dataclass(part) and isinstance(part, type):
                items = "[]" if get_origin(hint) is list else ""
                path = f"{key}.{name}{items}" if key else f"{name}{items}"
                yield from _sections(part, path)


def _paragraph(cls: type) -> str:
    return (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")


def _comments(cls: type) -> dict[str, str]:
    """The comment above each field, or behind it."""
    comments: dict[str, str] = {}
    for base in (c for c in reversed(cls.__mro__) if dataclasses.is_dataclass(c)):
        pending: list[str] = []
        field = ""
        for token in tokenize.generate_tokens(StringIO(inspect.getsource(base)).readline):
            declared = re.match(r"\s+(\w+): ", token.line)
            if token.type == tokenize.COMMENT:
                text = token.string.removeprefix("#").strip()
                if token.line.lstrip().startswith("#"):
                    pending.append(text)
                elif field:
                    comments[field] = text
            elif declared and token.type == tokenize.NAME and token.string == declared[1]:
                field = token.string
                if pending:
                    comments[field] = " ".join(pending)
                pending = []
            elif token.type == tokenize.NAME and token.string == "def":
                break
    return comments


def _allowed(hint: Any) -> str:
    """A type in words, with the limit that the recipe's reader holds it to."""
    if get_origin(hint) is Annotated:
        kind, limit, *_ = get_args(hint)
        text = str(limit)
        return text.removesuffix(f" and <= {LARGEST}") if type(limit) is not str else _allowed(kind)
    inner = [part for part in get_args(hint) if part is not type(None)]
    if dataclasses.is_dataclass(hint) or any(dataclasses.is_dataclass(part) for part in inner):
        return "a list of sections" if get_origin(hint) is list else "a section"
    if get_origin(hint) is list:
        return f"a list: {_allowed(inner[0])}"
    if get_origin(hint) is dict:
        return "a mapping of text to text"
    if inner:
        return _allowed(inner[0])
    return _NAMES.get(getattr(hint, "__name__", ""), "")


def _default(field: dataclasses.Field) -> str:
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
        if dataclasses.is_dataclass(value):
            return ""
    else:
        value = field.default
    if value is None or value == "" or value == [] or value == {}:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"


def commands_page() -> str:
    """Every command with its arguments and options, as --help has them."""
    root = typer.main.get_command(app)
    lines = ["# Commands", ""]
    for path, command in _commands(root, "thinksafe"):
        lines += [f"## {path}", "", _plain(command.help or ""), ""]
        if rows := [_option_row(p) for p in command.params if not getattr(p, "hidden", False)]:
            lines += ["| | |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every command below one, and itself where it does something alone."""
    if not isinstance(command, TyperGroup):
        yield path, command
        return
    if command.invoke_without_command:
        yield path, command
    context = typer.Context(command)
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        if child is not None and not child.hidden:
            yield from _commands(child, f"{path} {name}")


def _option_row(param: Any) -> str:
    is_option = param.param_type_name == "option"
    names = ", ".join(param.opts) if is_option else param.name.upper()
    text = _plain(getattr(param, "help", "") or "").replace("\n", " ").replace("|", "\\|")
    return f"| `{names}` | {text} |"


def _plain(text: str) -> str:
    """Rich's marks as Markdown: [cyan]x[/] is code."""
    text = re.sub(r"\[(?:cyan|bold|dim|green)\](.*?)\[/\w*\]", r"`\1`", inspect.cleandoc(text))
    return text.replace("\b", "").replace("<", "&lt;")


def tested_with() -> str:
    """A table of what the base install asks for, and the versions with which CI runs the tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lock = (ROOT / ".ci/requirements.lock").read_text(encoding="utf-8").splitlines()
    versions = {_package(name): version for name, _, version in (x.partition("==") for x in lock)}
    lines = ["| package | asked for | tested with |", "|---|---|---|"]
    for requirement in project["dependencies"]:
        name, extra, bound = re.findall(r"^([\w.-]+)(\[.*\])?(.*)$", requirement)[0]
        lines.append(f"| {name}{extra} | `{bound}` | {versions[_package(name)]} |")
    return "\n".join(lines)


def _package(name: str) -> str:
    """The name of a package as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def shipped_page() -> str:
    """What ships: recipes, models, meshes, chips and rule tables."""
    lines = ["# Recipes, models and meshes that ship", ""]
    lines += ["`thinksafe configs` prints this list, `thinksafe configs copy NAME` writes a copy."]
    kinds = dict.fromkeys(file.kind for file in shipped_configs())
    for kind in kinds:
        lines += ["", f"## {kind}", "", "| name | |", "|---|---|"]
        lines += [
            f"| `{file.name}` | {file.description} |"
            for file in shipped_configs()
            if file.kind == kind
        ]
    return "\n".join(lines) + "\n"
