"""Recipes, studies, models, meshes, chips and rule tables by name, without a checkout too.

    --config mini      configs/recipes/mini.yaml
    study mini-smoke   configs/studies/mini-smoke.yaml
    mesh=v5e-16        configs/mesh/v5e-16.yaml
    --model Qwen3-8B   configs/models/qwen3-8b.yaml
    --rules whole      configs/rules/whole.yaml
    chip: v5e          configs/chips/v5e.yaml, in a mesh file

The files ship inside the package; the repository's `configs/` is the same folder. A file in
`./configs` comes before the shipped one of that name, so that what a user writes there is used.
"""

from dataclasses import dataclass
from pathlib import Path

from thinksafe_jax.errors import ConfigError, EnvironmentFault, did_you_mean, quoted

KINDS = {
    "recipes": "recipe",
    "studies": "study",
    "models": "model",
    "mesh": "mesh",
    "chips": "chip",
    "rules": "rule table",
}
_FOLDER = Path("configs")
_SHIPPED = Path(__file__).parents[1] / "configs"
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class ShippedFile:
    """A file that ships with the package.

    Attributes:
        kind: its folder, one of KINDS.
        name: what it is asked for by.
        command: its first line, the command that uses it.
        description: the first sentence of the comment below.
    """

    kind: str
    name: str
    command: str
    description: str


def find_config(kind: str, name: str | Path) -> Path:
    """The file that a name stands for.

    Args:
        kind: one of KINDS.
        name: a path, or a name of that kind in any case of letters. A path that begins with
            `configs/` and is not there is the shipped file's.

    Raises:
        ConfigError: there is none; the message has the nearest name.
    """
    path = Path(name)
    if path.exists() and not path.is_dir():
        return path
    if path.suffix in _SUFFIXES:
        if (shipped := shipped_path(path)) != path:
            return shipped
        raise ConfigError(f"no {KINDS[kind]} at {path}{_hint(kind, path.stem)}")
    file = named_configs(kind).get(str(name).lower())
    if file is not None:
        return file
    if path.is_dir():
        raise ConfigError(f"{path}: is a directory; expected a {KINDS[kind]} (YAML file)")
    raise ConfigError(
        f"no {KINDS[kind]} {quoted(str(name), 200)}: neither a file nor a name in {_FOLDER / kind}"
        f"{_hint(kind, str(name))}"
    )


def shipped_path(path: str | Path) -> Path:
    """The file itself; the shipped one where a path that begins with `configs/` is not there."""
    path = Path(path)
    shipped = _SHIPPED.parent / path
    inside = path.parts[:1] == (_FOLDER.name,) and ".." not in path.parts
    return shipped if inside and not path.exists() and shipped.is_file() else path


def named_configs(kind: str) -> dict[str, Path]:
    """The files of one kind by name in lower case: the shipped ones, and those in ./configs."""
    folders = (_SHIPPED / kind, _FOLDER / kind)
    return {p.stem.lower(): p for folder in folders for p in sorted(folder.glob("*.yaml"))}


def shipped_configs() -> list[ShippedFile]:
    """All that ships, kind by kind, by name."""
    files = [(kind, path) for kind in KINDS for path in sorted((_SHIPPED / kind).glob("*.yaml"))]
    return [ShippedFile(kind, path.stem, *_comment(path)) for kind, path in files]


def copy_config(name: str, out: Path | None = None) -> Path:
    """Writes a copy of a shipped file to edit, and never over a file that is there.

    Args:
        name: as `shipped_configs` has it; where two kinds share it, the first in KINDS is meant,
            and `models/qwen3-8b` is the other.
        out: the new file; default NAME.yaml in the current directory.

    Raises:
        ConfigError: no such name, or the new file is there already.
        EnvironmentFault: it cannot be written.
    """
    kind, _, stem = name.rpartition("/")
    if kind and kind not in KINDS:
        raise ConfigError(f"no kind {quoted(kind)}{did_you_mean(kind, KINDS)} ({', '.join(KINDS)})")
    files = {f"{f.kind}/{f.name}": f for f in shipped_configs()}
    wanted = [f"{k}/{stem.lower()}" for k in ([kind] if kind else KINDS)]
    match = next((files[key] for key in wanted if key in files), None)
    if match is None:
        known = [key if kind else key.partition("/")[2] for key in files]
        near = did_you_mean(name, known) or ";"
        raise ConfigError(
            f"{name}: nothing of that name ships{near} `thinksafe configs` lists the names"
        )
    target = out or Path(f"{match.name}.yaml")
    content = (_SHIPPED / match.kind / f"{match.name}.yaml").read_text(encoding="utf-8")
    write_new(target, content)
    return target


def write_new(file: Path, text: str) -> None:
    """Writes a file for the user to edit, and never over one that is there.

    Raises:
        ConfigError: it is there.
        EnvironmentFault: it cannot be written.
    """
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        raise ConfigError(f"{file} is there already; name another file with --out") from None
    except OSError as error:
        raise EnvironmentFault(f"cannot write {file}: {error.strerror}") from None


def _hint(kind: str, name: str) -> str:
    near = did_you_mean(name.lower(), named_configs(kind))
    return f"{near or ';'} `thinksafe configs` lists the names"


def _comment(file: Path) -> tuple[str, str]:
    """The command in the first line, and the first sentence of the paragraph that follows."""
    lines = file.read_text(encoding="utf-8").splitlines()
    command = lines[0].removeprefix("#").strip()
    text = ""
    for line in lines[2:]:
        if not line.startswith("# ") or ". " in text:
            break
        text = f"{text} {line.removeprefix('# ')}".lstrip()
    sentence, stop, _ = text.partition(". ")
    return command, sentence + stop.strip()
