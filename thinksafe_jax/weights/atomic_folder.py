"""Directories that appear complete or not at all: written beside their place and renamed."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from thinksafe_jax.errors import EnvironmentFault, InputError
from thinksafe_jax.json_files import read_json_object
from thinksafe_jax.storage import free_bytes, storage_errors, sync_folder
from thinksafe_jax.weights.links import refuse_link_out

_OURS = ("config.json", "adapter_config.json")  # what every directory written here holds
_QUANTISED = ("quantization_config", "compression_config")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)


@contextmanager
def written_aside(out: Path, needs: int = 0) -> Iterator[Path]:
    """A scratch directory beside `out` that takes its place when the block ends well.

    Args:
        out: a new directory, or an earlier export or copy, which is replaced.
        needs: bytes that will be written.

    Raises:
        InputError: `out` holds something else.
        EnvironmentFault: the disk is full, or cannot be written.
    """
    if out.exists() and not _replaceable(out):
        raise InputError(f"{out}: holds something else than a model; choose a new directory")
    if free_bytes(out) < needs:
        raise EnvironmentFault(
            f"{out}: needs {needs:,} bytes, {free_bytes(out):,} are free; make room or choose "
            "another disk"
        )
    partial = scratch_of(out)
    with storage_errors(out):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            sync_folder(partial)
            shutil.rmtree(out, ignore_errors=True)
            partial.rename(out)
            sync_folder(out.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def scratch_of(out: Path) -> Path:
    """Where `written_aside` lets `out` be written."""
    return out.with_name(f".{out.name}.partial")


def _replaceable(out: Path) -> bool:
    return out.is_dir() and (not any(out.iterdir()) or any((out / name).exists() for name in _OURS))


def write_text(file: Path, text: str) -> None:
    """A text file, on the disk when this returns."""
    with file.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def write_json(file: Path, value: Any) -> None:
    """An indented JSON file, on the disk when this returns."""
    write_text(file, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def copy_files(source: Path, out: Path, names: tuple[str, ...] = TOKENIZER_FILES) -> None:
    """Copies those of `names` that `source` has.

    Raises:
        InputError: one is a link out of `source`.
    """
    for name in names:
        if (source / name).exists():
            refuse_link_out(source / name)
            shutil.copyfile(source / name, out / name)


def config_of_plain_weights(config_json: dict[str, Any]) -> dict[str, Any]:
    """A config.json for weights that are written as numbers: nobody may look for quantised ones."""
    return {key: value for key, value in config_json.items() if key not in _QUANTISED}


def read_config_json(directory: Path) -> dict[str, Any]:
    """DIRECTORY/config.json as it stands."""
    return read_json_object(directory / "config.json")
