"""Prompts of the recipe's sources, checked: labels, ids and text are right or the run stops here.

A label value that the recipe does not map is an error (the authors' code takes every unknown label
for benign); so is an id that occurs twice and a prompt that is labelled both ways. Prompts that
occur twice are kept once and counted. Empty and over-long prompts stay: they end as rows with a
reason, so that every prompt of a source is accounted for.
"""

import difflib
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from thinksafe_jax.config import PromptSource
from thinksafe_jax.errors import ConfigError, InputError
from thinksafe_jax.synthesis.readers import Row, is_dataset, read_dataset_rows, read_rows

LABELS = ("harmful", "benign")
_MINI = "mini:"
_MINI_COLUMNS = {"id": "id", "prompt": "prompt", "label": "label", "answer": "answer"}
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
    for source in sources:
        for prompt in _read_source(source, require_label):
            _refuse_repeated_id(prompt, by_id)
            first = by_text.setdefault(prompt.text, prompt)
            if first is prompt or not prompt.text.strip():
                kept.append(prompt)
            elif first.label != prompt.label:
                raise InputError(
                    f"{prompt.source}: this prompt is labelled {prompt.label!r}, but the same text "
                    f"at {first.source} is {first.label!r}; correct one of the two"
                )
    duplicates = len(by_id) - len(kept)
    if duplicates:
        _log.warning("%d prompts repeat an earlier one and are left out", duplicates)
    return PromptSet(kept, duplicates)


def source_hashes(sources: Sequence[PromptSource]) -> dict[str, str]:
    """sha256 of each source's content by path, for the run's manifest."""
    hashes = {}
    for source in sources:
        if Path(source.path).is_file():
            with Path(source.path).open("rb") as handle:
                hashes[source.path] = hashlib.file_digest(handle, "sha256").hexdigest()
        else:
            digest = hashlib.sha256()
            for row in _source_rows(source):
                digest.update(json.dumps(row.values, sort_keys=True, default=str).encode())
            hashes[source.path] = digest.hexdigest()
    return hashes


def _read_source(source: PromptSource, require_label: bool) -> list[Prompt]:
    _check_source(source, require_label)
    matching = (
        row
        for row in _source_rows(source)
        if all(_text(_cell(row, name)) == value for name, value in source.where.items())
    )
    stop = None if source.limit is None else source.start + source.limit
    prompts = [_prompt(row, source, require_label) for row in islice(matching, source.start, stop)]
    if not prompts:
        raise InputError(
            f"{source.path}: no prompts left (where={dict(source.where)}, start={source.start}, "
            f"limit={source.limit})"
        )
    return prompts


def _check_source(source: PromptSource, require_label: bool) -> None:
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
    if require_label and unlabelled and not source.path.startswith(_MINI):
        raise ConfigError(f"{name}: set label, or label_column and labels")


def _source_rows(source: PromptSource) -> Iterator[Row]:
    if source.path.startswith(_MINI):
        return _mini_rows(source.path)
    if is_dataset(source.path):
        return read_dataset_rows(source)
    return read_rows(source.path)


def _mini_rows(path: str) -> Iterator[Row]:
    from thinksafe_jax import mini

    for number, values in enumerate(mini.prompts(path.removeprefix(_MINI)), start=1):
        yield Row(number, f"{path}:{number}", dict(values))


def _prompt(row: Row, source: PromptSource, require_label: bool) -> Prompt:
    columns: Mapping[str, str | None] = {
        "id": source.id_column,
        "prompt": source.prompt_column,
        "label": source.label_column,
        "answer": source.answer_column,
        "response": source.response_column,
    }
    if source.path.startswith(_MINI):  # its columns are known, and a row may have no answer
        columns = {name: column for name, column in _MINI_COLUMNS.items() if column in row.values}
    text = _cell(row, columns["prompt"] or "prompt")
    if not isinstance(text, str):
        raise InputError(f"{row.where}: the prompt is {type(text).__name__}, not text")
    answer, response = columns.get("answer"), columns.get("response")
    label = columns.get("label")
    spelled = _text(_cell(row, label)) if label else ""
    prompt = Prompt(
        id=_identity(row, columns.get("id"), source),
        text=text,
        label=_label(row, label, source, require_label),
        answer=None if answer is None else _text(_cell(row, answer)),
        source=row.where,
        response=None if response is None else _text(_cell(row, response)),
        stratum=f"{source.path}/{spelled}",
    )
    _refuse_surrogates(prompt)
    return prompt


def _identity(row: Row, column: str | None, source: PromptSource) -> str:
    if column is None:
        return f"{Path(source.path).stem.removeprefix('hf:')}-{row.number}"
    identity = _text(_cell(row, column))
    if not identity.strip():
        raise InputError(f"{row.where}: empty id in column {column!r}")
    return identity


def _label(row: Row, column: str | None, source: PromptSource, require_label: bool) -> str:
    if source.label is not None:
        return source.label
    if column is None:
        return ""
    value = _text(_cell(row, column))
    known = source.labels or {label: label for label in LABELS}
    if value in known:
        return known[value]
    if source.path.startswith(_MINI) and not require_label:
        return ""
    raise InputError(
        f"{row.where}: label {value!r} in column {column!r} is not mapped; known values: "
        f"{', '.join(map(repr, known))} (add it to the source's `labels`)"
    )


def _cell(row: Row, column: str) -> Any:
    if column in row.values:
        return row.values[column]
    names = [str(name) for name in row.values]
    near = difflib.get_close_matches(column, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(f"{row.where}: no column {column!r}{hint} (columns: {', '.join(names)})")


def _text(value: Any) -> str:
    """A cell as text: JSON's true and null read as CSV would spell them."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _refuse_repeated_id(prompt: Prompt, seen: dict[str, Prompt]) -> None:
    first = seen.setdefault(prompt.id, prompt)
    if first is not prompt:
        raise InputError(
            f"{prompt.source}: id {prompt.id!r} was already used at {first.source}; ids must be "
            "unique over all sources (rename it, or set id_column)"
        )


def _refuse_surrogates(prompt: Prompt) -> None:
    for text in (prompt.id, prompt.text, prompt.answer or "", prompt.response or ""):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"{prompt.source}: half a surrogate pair (\\u{ord(text[error.start]):04x}) at "
                f"character {error.start}; the text is damaged, correct or remove the row"
            ) from None
