"""Why a sampled response cannot be trained on, before any guard has seen it.

The authors' code tests only for `</think>` (and the benign branch for less); here a response must
hold exactly one closed `<think>…</think>` and an answer after it.
"""

from collections.abc import Mapping
from typing import Any

from thinksafe_jax.errors import ConfigError, quoted
from thinksafe_jax.tokenizer import THINK_CLOSE, THINK_OPEN

BENIGN_REFUSAL = "benign_refusal"  # the guard accepts it, `synthesis.benign_refusals` does not
# In the order in which they are tested; what a guard is asked for comes last.
DROP_REASONS = (
    "empty_prompt",  # nothing to sample from
    "too_long",  # the prompt does not fit the context
    "truncated",  # the token limit came before the end of the response
    "no_think_close",  # no closed <think>…</think> block (either tag absent, or in the wrong order)
    "several_think_tags",  # more than one opening or closing tag
    "empty_answer",  # nothing, or only white space, after the reasoning
    "unsafe",
    "unparsed",
    BENIGN_REFUSAL,
)


def drop_reason(response: str, finish_reason: str, reasoning: str) -> str | None:
    """One of DROP_REASONS, or None where the response may go to the guard.

    Args:
        response: decoded text, `<think>` tags included.
        finish_reason: "stop" where the model ended the response itself, else "length".
        reasoning: "think" demands one closed think block and an end; "none" takes the response
            as it is, cut or not (training then adds no end-of-turn token to a cut one).
    """
    if reasoning == "none":
        return None if response.strip() else "empty_answer"
    if reasoning != "think":
        raise ConfigError(f"synthesis.reasoning is {quoted(reasoning)}; choose think or none")
    if finish_reason != "stop":
        return "truncated"
    opened, closed = response.count(THINK_OPEN), response.count(THINK_CLOSE)
    if opened > 1 or closed > 1:
        return "several_think_tags"
    if not opened or not closed or response.index(THINK_OPEN) > response.index(THINK_CLOSE):
        return "no_think_close"
    return None if response.partition(THINK_CLOSE)[2].strip() else "empty_answer"


def row_drop_reason(row: Mapping[str, Any], reasoning: str) -> str | None:
    """`drop_reason` of a row of samples/, where a row that was never sampled says so itself."""
    if row.get("dropped"):
        return str(row["dropped"])
    return drop_reason(row["response"], row["finish_reason"], reasoning)
