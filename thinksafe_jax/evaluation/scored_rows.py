"""Scored rows as they lie in evaluation/STEP/rows.jsonl, read back strictly."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thinksafe_jax.data import HARMFUL, KINDS, REASONING
from thinksafe_jax.errors import InputError, quoted
from thinksafe_jax.storage import parse

_NOTHING = type(None)
_FIELDS: dict[str, tuple[type, ...]] = {
    "suite": (str,),
    "kind": (str,),
    "id": (str,),
    "sample": (int,),
    "prompt": (str,),
    "response": (str,),
    "finish_reason": (str,),
}
# where they stand there
_OPTIONAL: dict[str, tuple[type, ...]] = {
    "source": (str,),
    "status": (str, _NOTHING),
    "verdict": (str,),
    "verdicts": (dict,),
    "guard_verdict": (str,),
    "guard_truncated": (bool,),
    "skythought_correct": (bool, _NOTHING),
}


def read_scored_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows, whose outcome can be told.

    Raises:
        InputError: a line is no scored row; with file, line and what is wrong.
    """
    with file.open("rb") as lines:  # as bytes: a text may hold other ends of lines
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            row = parse(line)
            problem = "not a JSON object" if row is None else _problem(row)
            if row is None or problem:
                raise InputError(
                    f"{file}:{number}: not a scored row of this version ({problem}). Remove "
                    f"{file.parent} and evaluate again"
                )
            yield row


def _problem(row: dict[str, Any]) -> str:
    """What is wrong with a row; "" for nothing."""
    kind = row.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        return f"kind is {quoted(kind)}"
    wanted = dict(_FIELDS)
    if kind == REASONING:
        wanted |= {"extracted": (str, _NOTHING), "correct": (bool,)}
    elif kind != HARMFUL:
        wanted |= {"refused": (bool, _NOTHING)}
    if missing := [name for name in wanted if name not in row]:
        return f"no {' and no '.join(missing)}"
    wanted |= {name: types for name, types in _OPTIONAL.items() if name in row}
    wrong = [name for name, types in wanted.items() if not isinstance(row[name], types)]
    return f"{wrong[0]} is {quoted(row[wrong[0]])}" if wrong else ""
