"""Cells of rows as text: each is read as what it is, or refused with its place.

`str(["70"])` is the text "['70']", which is no answer to anything; a list, an object or NaN in a
cell is a mistake in the file, or another format of it.
"""

import math
from datetime import date, time
from decimal import Decimal
from typing import Any

from thinksafe_jax.data.readers import Row, no_column
from thinksafe_jax.errors import InputError, listed, quoted


def cell(row: Row, column: str) -> Any:
    """The value of a column.

    Raises:
        InputError: the row has no such column; the message names the nearest.
    """
    if column in row.values:
        return row.values[column]
    raise no_column(row.place, column, list(row.values))


def text_cell(row: Row, column: str, what: str) -> str:
    """The text in a column.

    Args:
        what: what it is, for the message: "prompt".

    Raises:
        InputError: it is no text, or half a surrogate pair stands in it.
    """
    value = cell(row, column)
    if not isinstance(value, str):
        raise _refused(row, column, what, value, "not text")
    return whole_text(value, row.place)


def value_cell(row: Row, column: str, what: str) -> str:
    """The text, number or truth value in a column, as text; null is "".

    Raises:
        InputError: it is a list, an object, bytes, NaN or infinite, or damaged text.
    """
    value = cell(row, column)
    text = scalar_text(value)
    if text is None:
        raise _refused(row, column, what, value, "not a text or a number")
    return whole_text(text, row.place)


def name_cell(row: Row, column: str) -> str:
    """The id in a column.

    Raises:
        InputError: as `value_cell`, or it is empty.
    """
    name = value_cell(row, column, "id")
    if not name.strip():
        raise InputError(
            f"{row.place}: empty id in column {quoted(column)}; give every row an id, or remove "
            "the column"
        )
    return name


def scalar_text(value: Any) -> str | None:
    """A text, number, truth value, date or null as JSON and CSV spell it; None for anything else.

    Numbers are written out: 1e22 is "10000000000000000000000".
    """
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return ""
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f") if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return str(value) if value.is_finite() else None
    return str(value) if isinstance(value, str | int | date | time) else None


def whole_text(text: str, place: str) -> str:
    """The text itself.

    Raises:
        InputError: half a surrogate pair stands in it; no file could hold it as UTF-8.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{place}: half a surrogate pair (\\u{ord(text[error.start]):04x}) at character "
            f"{error.start}; the text is damaged, correct or remove the row"
        ) from None
    return text


def _refused(row: Row, column: str, what: str, value: Any, why: str) -> InputError:
    return InputError(
        f"{row.place}: the {what} in column {quoted(column)} is {_shape(value)}, {why}; name a "
        "column that holds it, or correct the row"
    )


def _shape(value: Any) -> str:
    """What a value is, in JSON's words."""
    if isinstance(value, float):
        return f"the number {value}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"a list of objects with {listed(value[0])}"
    names = {bool: "true or false", int: "a number", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
