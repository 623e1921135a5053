"""A source of prompts as the recipe names it: its rows, its columns, its name and its hash."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from thinksafe_jax.config import PromptSource
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.synthesis.readers import HUB, Row, is_dataset, read_dataset_rows, read_rows

LABELS = ("harmful", "benign")
MINI = "mini:"
_COLUMNS = {"id": "id", "prompt": "prompt", "label": "label", "answer": "answer"}


def source_hashes(sources: Sequence[PromptSource]) -> dict[str, str]:
    """sha256 of each source's content by its name, for the run's manifest."""
    hashes = {}
    for source in sources:
        if Path(source.path).is_file():
            with Path(source.path).open("rb") as handle:
                hashes[_name(source)] = hashlib.file_digest(handle, "sha256").hexdigest()
        else:
            digest = hashlib.sha256()
            for row in source_rows(source):
                digest.update(json.dumps(row.values, sort_keys=True, default=str).encode())
            hashes[_name(source)] = digest.hexdigest()
    return hashes


def _name(source: PromptSource) -> str:
    """The path of a source, and what of its dataset is read, where that is not the default."""
    default = PromptSource()
    said = {key: getattr(source, key) for key in ("split", "subset", "revision")}
    chosen = [f"{key}={value}" for key, value in said.items() if value != getattr(default, key)]
    return f"{source.path}[{', '.join(chosen)}]" if chosen else source.path


def short_names(sources: Sequence[PromptSource]) -> list[str]:
    """The stem of each source's path; another file or split of the same is numbered, `stem.2` on.

    Ids of rows without a column for them begin so, and a limit draws by it: the same prompts come
    out wherever the files lie.
    """
    owners: dict[str, str] = {}
    names = []
    for source in sources:
        stem = short = Path(source.path).stem.removeprefix(HUB)
        name, number = _name(source), 1
        while owners.setdefault(short, name) != name:
            number += 1
            short = f"{stem}.{number}"
        names.append(short)
    return names


def check_source(source: PromptSource, require_label: bool) -> None:
    """Refuses settings that contradict each other (ConfigError)."""
    name = f"prompt source {source.path!r}"
    if source.start < 0 or (source.limit is not None and source.limit < 1):
        raise ConfigError(
            f"{name}: start must be at least 0 and limit at least 1, not {source.start} and "
            f"{source.limit}"
        )
    if source.label is not None and source.label_column is not None:
        raise ConfigError(f"{name}: label and label_column exclude each other")
    unknown = {value for value in (source.label, *source.labels.values()) if value} - {*LABELS}
    if unknown:
        raise ConfigError(f"{name}: labels are harmful or benign, not {', '.join(sorted(unknown))}")
    unlabelled = source.label is None and source.label_column is None
    if require_label and unlabelled and not source.path.startswith(MINI):
        raise ConfigError(f"{name}: set label, or label_column and labels")


def source_rows(source: PromptSource, columns: Collection[str] | None = None) -> Iterator[Row]:
    """Every row of a source; `columns` as `readers.read_rows`."""
    if source.path.startswith(MINI):
        return _mini_rows(source.path)
    if is_dataset(source.path):
        return read_dataset_rows(source)
    return read_rows(source.path, columns)


def _mini_rows(path: str) -> Iterator[Row]:
    from thinksafe_jax import mini

    for number, values in enumerate(mini.prompts(path.removeprefix(MINI)), start=1):
        yield Row(number, f"{path}:{number}", dict(values))


def columns_of(source: PromptSource) -> Mapping[str, str]:
    """The column of each field that a source has."""
    if source.path.startswith(MINI):
        return _COLUMNS
    named = {
        "id": source.id_column,
        "prompt": source.prompt_column,
        "label": source.label_column,
        "answer": source.answer_column,
        "response": source.response_column,
    }
    return {field: column for field, column in named.items() if column is not None}
