"""What the report takes from the JSON files of a run. Another form is refused by its key.

A form is a type, or several; a mapping of names to forms, `"name?"` where it may be missing;
`Each(form)` for a mapping with any names; or a function that says what is wrong with a value.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinksafe_jax.data import KINDS, RATES
from thinksafe_jax.errors import InputError, quoted, shortened
from thinksafe_jax.json_files import load_unique

NUMBER = (int, float)


@dataclass(frozen=True)
class Each:
    """A mapping of texts to values of one form."""

    form: Any


def read_figures(file: Path, form: Any, way_out: str) -> Any:
    """The content of a JSON file; None where there is no file.

    Args:
        way_out: what to do about a file that is not as `form` has it.

    Raises:
        InputError: it cannot be read, or has another form; names the file and the key.
    """
    if not file.exists():
        return None
    try:
        content = load_unique(file.read_text(encoding="utf-8"), nan=True)
    except ValueError as error:
        raise InputError(f"{file}: not readable as JSON ({error}); {way_out}") from None
    if text := form_problem(content, form):
        raise InputError(
            f"{file}: {text}; another version of thinksafe wrote it, or it was edited: {way_out}"
        )
    return content


def form_problem(value: Any, form: Any, key: str = "") -> str:
    """The first thing in a value that is not as the form has it; "" where there is none."""
    if isinstance(form, Mapping | Each):
        if not isinstance(value, dict):
            return f"{key or 'it'} is {quoted(value)}, not an object"
        parts = dict.fromkeys(value, form.form) if isinstance(form, Each) else form
        needed = [name for name in parts if not name.endswith("?") or isinstance(form, Each)]
        if missing := [name for name in needed if name not in value]:
            return f"no {', '.join(missing)}" + (f" in {key}" if key else "")
        present = {n: f for name, f in parts.items() if (n := _plain(name, form)) in value}
        keys = {name: f"{key}.{shortened(name)}" if key else shortened(name) for name in present}
        texts = (form_problem(value[name], part, keys[name]) for name, part in present.items())
        return next(filter(None, texts), "")
    if isinstance(form, type | tuple):
        types = form if isinstance(form, tuple) else (form,)
        return "" if type(value) in types else f"{key or 'it'} is {quoted(value)}"
    return (text := form(value)) and f"{key}: {text}"


def _plain(name: str, form: Any) -> str:
    return name if isinstance(form, Each) else name.removesuffix("?")


def _anything(value: Any) -> str:
    del value
    return ""


def _count(value: Any) -> str:
    return "" if type(value) is int and value >= 0 else f"{quoted(value)} is no count"


def _share(*names: str) -> Any:
    """A form: numbers of these names, null where n is 0."""

    def check(value: Any) -> str:
        if text := form_problem(
            value, {"n": _count, **dict.fromkeys(names, (*NUMBER, type(None)))}
        ):
            return text
        given = [value[name] is not None for name in names]
        return "" if all(given) or not (value["n"] or any(given)) else f"n is {value['n']}, a null"

    return check


def _kind(value: Any) -> str:
    return "" if isinstance(value, str) and value in KINDS else f"{quoted(value)} is no kind"


RATE, BOUNDS = _share("value", "low", "high"), _share("low", "high")
SUITE = {
    "kind": _kind,
    "metric": str,
    "lower_is_better": bool,
    "rate": RATE,
    **dict.fromkeys(("questions", "rows", "unparsed", "truncated"), _count),
    "timeout?": _count,
    "bounds?": BOUNDS,
    "by_scope?": Each(RATE),
    "pass_at_k?": Each(RATE),
    "skythought_compat?": RATE,
}
EVALUATION = {
    **dict.fromkeys(RATES.values(), RATE),
    "guard_agreement?": RATE,
    "unparsed": Each(_count),
    "truncated": Each(_count),
    "bounds": Each(BOUNDS),
    "settings": {
        "guard?": {"name?": str, "weak?": bool},
        "prompts_sha256?": str,
        "sources?": Each({"revision?": (str, type(None))}),
    },
    "suites?": Each(SUITE),
    "by_source?": Each(Each(RATE)),
    "skipped?": Each(Each(_count)),
}
MANIFEST = {
    "versions?": Each(_anything),
    "stages?": Each({"facts?": {"tokens_per_second?": (*NUMBER, type(None))}}),
}
COUNTS = Each(
    {
        "sampled": _count,
        "accepted": _count,
        "dropped": Each(_count),
        "accepted_at?": Each(_count),
    }
)
REFUSALS = Each({"rows": _count, "refusals": _count, "left_out": _count})
_MEASURED = {
    "stage": str,
    "step?": int,
    "heldout_loss?": NUMBER,
    **dict.fromkeys(("loss?", "seconds?", "tokens?", "rows?"), (*NUMBER, type(None))),
}


def measurement_problem(value: Any) -> str:
    """What is wrong with a line of metrics.jsonl; "" for nothing. A loss has its step."""
    if text := form_problem(value, _MEASURED):
        return text
    return "no step" if value.keys() & {"loss", "heldout_loss"} and "step" not in value else ""
