"""Text and JSON files that come from outside, read strictly: each fault is one plain sentence.

A checkpoint's small files are edited by hand, downloaded by half, or replaced by a login page. What
cannot be read says the file, the place and the way out. A file is never larger than its limit, and
a key that stands twice is no guess which of the two counts.
"""

import json
import math
from pathlib import Path
from typing import Any

from thinksafe_jax.errors import InputError

MEBIBYTE = 2**20
_LFS = "version https://git-lfs"


def read_text(file: str | Path, hint: str = "", *, largest: int = 16 * MEBIBYTE) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Args:
        hint: what to say of a file that is not there, as "is it a complete checkpoint?".
        largest: bytes that are read; real files of this kind are far smaller.

    Raises:
        InputError: there is no such file, it cannot be read, is larger, or is no text.
    """
    file = Path(file)
    if not file.exists():
        raise InputError(f"{file}: not found" + (f"; {hint}" if hint else ""))
    if not file.is_file():  # a folder, or a device that never ends
        raise InputError(f"{file}: is no regular file")
    try:
        with file.open("rb") as stream:
            content = stream.read(largest + 1)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    if len(content) > largest:
        size = file.stat().st_size
        raise InputError(f"{file}: has {size:,} bytes; at most {largest:,} are read of such a file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text (byte {error.start})") from None
    start = text[:200].lstrip().lower()
    if start.startswith(_LFS):
        raise InputError(f"{file}: a Git LFS pointer, not the file. Run `git lfs pull` there")
    if start.startswith(("<html", "<!doctype")):
        raise InputError(
            f"{file}: an HTML page, not the file; a login page was saved. Log in (`hf auth login`) "
            "and download it again"
        )
    return text


def read_json(file: str | Path, hint: str = "", *, largest: int = 16 * MEBIBYTE) -> Any:
    """The value in a JSON file.

    Args:
        hint, largest: as in `read_text`.

    Raises:
        InputError: as `read_text`; and it is empty, is no JSON, has a key twice in one object, or
            holds a number that JSON does not have (NaN).
    """
    text = read_text(file, hint, largest=largest)
    if not text.strip():
        raise InputError(f"{file}: is empty; copy or download it again")
    return parse_json(text, str(file))


def read_json_object(
    file: str | Path, hint: str = "", *, largest: int = 16 * MEBIBYTE
) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        hint, largest: as in `read_text`.

    Raises:
        InputError: as `read_json`; and it holds a list, a text or a number.
    """
    value = read_json(file, hint, largest=largest)
    if not isinstance(value, dict):
        raise InputError(f"{file}: a JSON object was expected, not {type(value).__name__}")
    return value


def parse_json(text: str, name: str) -> Any:
    """The value that a JSON text spells.

    Args:
        name: what messages call the text.

    Raises:
        InputError: as `read_json`.
    """
    try:
        return load_unique(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{name}, line {error.lineno}, column {error.colno}: not valid JSON ({error.msg})"
        ) from None
    except ValueError as error:  # a repeated key, depth, NaN, thousands of digits
        raise InputError(f"{name}: not valid JSON ({error})") from None


def load_unique(text: str, *, nan: bool = False) -> Any:
    """The value of a JSON text in which no object has a key twice.

    For those who say themselves what a bad text means; `read_json` says it in a sentence.

    Args:
        nan: read NaN and the infinities, which JSON does not have and Python writes.

    Raises:
        ValueError: it is no JSON, is nested too deeply, or has a key twice in one object.
    """
    try:
        value = _DECODER.decode(text)
        if not nan and ("NaN" in text or "Infinity" in text):
            _refuse_no_numbers(value, "")
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:60]!r} stands there twice")
    return values


def _refuse_no_numbers(value: Any, key: str) -> None:
    """NaN and the infinities, by their key."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key or 'it'} is {json.dumps(value)}, which is no JSON number")
    if isinstance(value, dict):
        for name, item in value.items():
            _refuse_no_numbers(item, f"{key}.{name[:60]}" if key else name[:60])
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_no_numbers(item, f"{key}[{index}]")


# made once: to make a decoder costs half as much as to read a row with it
_DECODER = json.JSONDecoder(object_pairs_hook=_unique)
