"""Why a response ended, as servers and evaluation harnesses spell it: by itself, or cut.

The names are those of OpenAI, vLLM, SGLang (an object with `type`), TGI, Anthropic, Gemini and
lm-eval. A text that was cut is not complete, whoever cut it; an unknown reason is refused.
"""

from typing import Any

from thinksafe_jax.data.readers import Row
from thinksafe_jax.errors import InputError, quoted

STOP, LENGTH = "stop", "length"
_COMPLETE = {
    "stop", "eos", "eos_token", "eos_token_found", "end_turn", "stop_sequence", "stop_token",
    "stop_string", "end", "complete", "completed", "finished",
}  # fmt: skip
_CUT = {
    "length", "max_tokens", "max_token", "max_length", "max_new_tokens", "max_output_tokens",
    "max_completion_tokens", "model_length", "model_context_window_exceeded", "token_limit",
    "truncated", "incomplete", "abort", "aborted", "cancelled", "timeout", "error",
    "content_filter", "safety", "recitation", "refusal",
}  # fmt: skip
COLUMNS = ("finish_reason", "stop_reason")


def finish_reason(row: Row) -> str:
    """`stop` where the response ended itself, or where the row says nothing; else `length`.

    Raises:
        InputError: a reason that no server is known to give.
    """
    column = next((name for name in COLUMNS if row.values.get(name) is not None), None)
    if column is None:
        return STOP
    value: Any = row.values[column]
    kind = value.get("type") if isinstance(value, dict) else value
    name = kind.rpartition(".")[2].strip().casefold() if isinstance(kind, str) else None
    if name in _COMPLETE or name == "":
        return STOP
    if name in _CUT:
        return LENGTH
    raise InputError(
        f"{row.place}: {column} {quoted(value)} is not known; write stop where the response "
        "ended by itself, length where it was cut"
    )
