"""Prompts of the recipe's sources, checked: labels, ids and text are right or the run stops here.

A label value that the recipe does not map is an error (the authors' code takes every unknown label
for benign); so is an id that occurs twice and a prompt that is labelled both ways. Prompts that
occur twice are kept once and counted. Empty and over-long prompts stay: they end as rows with a
reason, so that every prompt of a source is accounted for.
"""

import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

from thinksafe_jax.config import PromptSource, shipped_path
from thinksafe_jax.data.cells import cell, name_cell, scalar_text, text_cell, value_cell
from thinksafe_jax.data.readers import HUB, Row, is_dataset, read_dataset_rows, read_rows
from thinksafe_jax.errors import ConfigError, InputError, listed, quoted
from thinksafe_jax.storage import file_sha256

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompt:
    """One prompt; `label` is "" in reasoning suites, `source` says where it was read."""

    id: str
    text: str
    label: str
    answer: str | None = None
    source: str = ""
    response: str | None = None  # of external data
    # characters of the response up to the ends of its marked parts, rising
    spans: tuple[int, ...] = ()
    stratum: str = ""  # source and label as the source spells it, for a fair limit


@dataclass(frozen=True)
class PromptSet:
    """Prompts in the order of their sources, and how many repeated texts were left out."""

    prompts: list[Prompt]
    duplicates: int


def load_prompts(sources: Sequence[PromptSource], *, require_label: bool) -> list[Prompt]:
    """`read_prompts` without the count."""
    return read_prompts(sources, require_label=require_label).prompts


def read_prompts(sources: Sequence[PromptSource], *, require_label: bool) -> PromptSet:
    """Reads, labels and checks every source.

    Args:
        sources: files, or splits of the mini world as `mini:<split>`.
        require_label: whether each prompt must be harmful or benign (synthesis, harmful suites).

    Raises:
        ConfigError: a source contradicts itself.
        InputError: a file, row, label, id or text is wrong; the message names file and line.
    """
    if not sources:
        raise ConfigError("no prompt sources: give at least one with a path")
    by_id: dict[str, Prompt] = {}
    by_text: dict[str, Prompt] = {}
    kept: list[Prompt] = []
    for source, short in zip(sources, short_names(sources), strict=True):
        for prompt in _read_source(source, short, require_label):
            _refuse_repeated_id(prompt, by_id)
            first = by_text.setdefault(prompt.text, prompt)
            if first is prompt or not prompt.text.strip():
                kept.append(prompt)
            elif first.label != prompt.label:
                raise InputError(
                    f"{prompt.source}: this prompt is labelled {quoted(prompt.label)}, but the "
                    f"same text at {first.source} is {quoted(first.label)}; correct one of the two"
                )
    duplicates = len(by_id) - len(kept)
    if duplicates:
        _log.warning("%d prompts repeat an earlier one and are left out", duplicates)
    return PromptSet(kept, duplicates)


def _read_source(source: PromptSource, short: str, require_label: bool) -> list[Prompt]:
    check_source(source, require_label)
    columns = columns_of(source)
    matching = (
        row
        for row in source_rows(source, {*columns.values(), *source.span_columns, *source.where})
        if all(scalar_text(cell(row, name)) == value for name, value in source.where.items())
    )
    stop = None if source.limit is None else source.start + source.limit
    prompts = [
        _prompt(row, source, columns, short, require_label)
        for row in islice(matching, source.start, stop)
    ]
    if not prompts:
        kept = [f"where {key} is {value}" for key, value in source.where.items()]
        kept += [f"from row {source.start} on"] if source.start else []
        none = f"no row {', '.join(kept)}" if kept else "it has no rows"
        raise InputError(f"{source.path}: no prompts left: {none}")
    return prompts


def _prompt(
    row: Row, source: PromptSource, columns: Mapping[str, str], short: str, require_label: bool
) -> Prompt:
    if source.path.startswith(MINI):  # a row may have no answer
        columns = {field: column for field, column in columns.items() if column in row.values}
    label, answer, response = (columns.get(name) for name in ("label", "answer", "response"))
    spelled = value_cell(row, label, "label") if label else ""
    text = None if response is None else value_cell(row, response, "response")
    return Prompt(
        id=_identity(row, columns.get("id"), short),
        text=text_cell(row, columns["prompt"], "prompt"),
        label=_label(row, label, source, require_label),
        answer=None if answer is None else value_cell(row, answer, "gold answer"),
        source=row.place,
        response=text,
        spans=_spans(row, source, text or ""),
        stratum=f"{short}/{spelled}",
    )


def _spans(row: Row, source: PromptSource, response: str) -> tuple[int, ...]:
    """Where the marked parts of a response end; none where the row has no marks."""
    cells = [value_cell(row, column, "end of a span") for column in source.span_columns]
    if not any(cells):
        return ()
    ends = [int(text) if text.isdecimal() else 0 for text in cells]
    if any(a >= b for a, b in pairwise([0, *ends])) or ends[-1] > len(response):
        columns = ", ".join(source.span_columns)
        raise InputError(
            f"{row.place}: {columns} are {', '.join(map(quoted, cells))}; expected numbers of "
            f"characters that rise from 1 to at most the response's {len(response):,}"
        )
    return tuple(ends)


def _identity(row: Row, column: str | None, short: str) -> str:
    if column is None:
        return f"{short}-{row.number}"
    return name_cell(row, column)


def _label(row: Row, column: str | None, source: PromptSource, require_label: bool) -> str:
    if source.label is not None:
        return source.label
    if column is None:
        return ""
    value = value_cell(row, column, "label")
    known = source.labels or {label: label for label in LABELS}
    if value in known:
        return known[value]
    if source.path.startswith(MINI) and not require_label:
        return ""
    raise InputError(
        f"{row.place}: label {quoted(value)} in column {quoted(column)} is not mapped; known "
        f"values: {listed(map(quoted, known), 20)}; add it to the source, as "
        f"labels={{{quoted(value)}: harmful}}"
    )


def _refuse_repeated_id(prompt: Prompt, seen: dict[str, Prompt]) -> None:
    first = seen.setdefault(prompt.id, prompt)
    if first is not prompt:
        raise InputError(
            f"{prompt.source}: id {quoted(prompt.id)} was already used at {first.source}; ids "
            "must be unique over all sources (rename it, or set id_column)"
        )


LABELS = ("harmful", "benign")


MINI = "mini:"


_COLUMNS = {"id": "id", "prompt": "prompt", "label": "label", "answer": "answer"}


def source_hashes(sources: Sequence[PromptSource]) -> dict[str, str]:
    """sha256 of each source's content by its name, for the run's manifest."""
    hashes = {}
    for source in sources:
        file = shipped_path(source.path)
        if file.is_file():
            hashes[_name(source)] = file_sha256(file)
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
    name = f"prompt source {quoted(source.path, 200)}"
    if source.start < 0 or (source.limit is not None and source.limit < 1):
        raise ConfigError(
            f"{name}: start must be at least 0 and limit at least 1, not {source.start} and "
            f"{source.limit}"
        )
    if source.label is not None and source.label_column is not None:
        raise ConfigError(f"{name}: label and label_column exclude each other")
    unknown = {value for value in (source.label, *source.labels.values()) if value} - {*LABELS}
    if unknown:
        raise ConfigError(f"{name}: labels are harmful or benign, not {listed(sorted(unknown))}")
    unlabelled = source.label is None and source.label_column is None
    if require_label and unlabelled and not source.path.startswith(MINI):
        raise ConfigError(f"{name}: set label, or label_column and labels")


def source_rows(source: PromptSource, columns: Collection[str] | None = None) -> Iterator[Row]:
    """Every row of a source; `columns` as `readers.read_rows`."""
    if source.path.startswith(MINI):
        return _mini_rows(source.path)
    if is_dataset(source.path):
        return read_dataset_rows(source)
    return read_rows(shipped_path(source.path), columns)


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
