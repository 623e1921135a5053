"""A server's completion read strictly: token ids, a log-probability for each, and how it ended.

What is missing or contradicts itself is refused, with what to change at the server: a token id that
is guessed from text, or a log-probability of another distribution, would train without complaint.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from thinksafe_jax.config import SamplingConfig
from thinksafe_jax.errors import EnvironmentFault, quoted
from thinksafe_jax.models import ModelConfig
from thinksafe_jax.sampling import Completion, Drawn, Request

# what a server's log-probabilities are of: the model itself, or what it drew from
LogprobsMode = Literal["raw", "processed"]
_TOKEN = "token_id:"  # vLLM's `return_tokens_as_token_ids` writes tokens so


@dataclass(frozen=True)
class ServedModel:
    """The student as a server is asked for it.

    Attributes:
        name: the server's, without an adapter.
        cfg: its facts.
        eos_ids: every id that ends a completion.
        max_length: tokens of prompt and completion, at most.
    """

    name: str
    cfg: ModelConfig
    eos_ids: Sequence[int]
    max_length: int


class Unreadable(Exception):
    """What of an answer cannot be used, as the rest of a sentence that begins with the server."""


def read_completion(
    reply: Any, request: Request, model: ServedModel, mode: LogprobsMode
) -> Completion:
    """The completion of a reply of `/v1/completions`.

    Args:
        mode: what the log-probabilities are of, where the two differ.

    Raises:
        EnvironmentFault: the reply is not what was asked for.
    """
    try:
        choice = _choice(reply, request)
        token_ids, logprobs = _tokens(choice, model.cfg.vocab_size)
        reason = _finish_reason(choice, token_ids, request, model)
    except Unreadable as unreadable:
        raise EnvironmentFault(f"rollout server, {request.id}: {unreadable}") from None
    of_model, of_draw = _by_distribution(logprobs, request.sampling, mode)
    ended = reason == "stop"  # the end-of-sequence token is not part of the text
    return Completion(
        request.id,
        request.sample,
        token_ids[:-1] if ended else token_ids,
        of_model[:-1] if ended else of_model,
        reason,
        drawn=Drawn(token_ids, of_model, of_draw),
    )


def needs_mode(sampling: SamplingConfig) -> bool:
    """Whether the model's distribution and the one that is drawn from differ."""
    filtered = sampling.top_k or sampling.top_p < 1 or sampling.min_p
    return bool(filtered) or sampling.temperature not in (0.0, 1.0)


def likeliest(reply: Any) -> dict[str, float]:
    """The likeliest first tokens of a reply, with their log-probabilities; {} where it has none."""
    try:
        listed = reply["choices"][0]["logprobs"]["top_logprobs"][0]
        return {str(token): float(value) for token, value in listed.items()}
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        return {}


def _by_distribution(
    logprobs: list[float], sampling: SamplingConfig, mode: LogprobsMode
) -> tuple[list[float], list[float]]:
    """(of the model itself, of what was drawn from); empty is what the server did not say."""
    if sampling.temperature == 0:
        return logprobs, [0.0] * len(logprobs)
    if not needs_mode(sampling):
        return logprobs, logprobs
    return (logprobs, []) if mode == "raw" else ([], logprobs)


def _choice(reply: Any, request: Request) -> dict[str, Any]:
    try:
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        read = usage.get("prompt_tokens", len(request.prompt_ids))
    except (AttributeError, KeyError, IndexError, TypeError):
        raise Unreadable(f"its answer is no completion: {quoted(reply)}") from None
    if read != len(request.prompt_ids):
        raise Unreadable(
            f"it read {read} prompt tokens instead of {len(request.prompt_ids)}; it cuts prompts "
            "or adds tokens to them, so its rollouts answer other prompts"
        )
    return choice


def _tokens(choice: Any, vocab_size: int) -> tuple[list[int], list[float]]:
    try:
        names, scores = choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"]
        count, scored = len(names), len(scores)
    except (KeyError, TypeError):
        raise Unreadable(
            "its answer has no log-probabilities, which the importance ratio needs; the server "
            "must answer `logprobs: 1` (vLLM: --max-logprobs 1 or more)"
        ) from None
    if count != scored:
        raise Unreadable(f"its answer has {count} tokens and {scored} log-probabilities")
    ids = [_token_id(name, vocab_size) for name in names]
    if (told := choice.get("token_ids")) is not None and list(told) != ids:
        raise Unreadable(f"its answer names {count} tokens, and gives {len(told)} other token ids")
    return ids, [_logprob(score) for score in scores]


def _token_id(name: Any, vocab_size: int) -> int:
    digits = str(name).removeprefix(_TOKEN)
    if not (str(name).startswith(_TOKEN) and digits.isdecimal()):
        raise Unreadable(
            f"its answer names a token {quoted(name)} instead of its id; the server must take "
            "`return_tokens_as_token_ids`, as vLLM does: the same text can be other tokens"
        )
    if int(digits) >= vocab_size:
        raise Unreadable(
            f"its answer has the token {digits}, the student's vocabulary {vocab_size}; it serves "
            "another model"
        )
    return int(digits)


def _logprob(score: Any) -> float:
    # a little above zero is rounding; vLLM writes -9999 for a probability of 0
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise Unreadable(f"a log-probability is {quoted(score)}")
    if not (math.isfinite(score) and -1000 < score <= 1e-3):
        raise Unreadable(f"the log-probability of a drawn token is {score}")
    return min(0.0, float(score))


def _finish_reason(
    choice: Any, token_ids: Sequence[int], request: Request, model: ServedModel
) -> str:
    reason, most = choice.get("finish_reason"), request.sampling.max_new_tokens
    if not 1 <= len(token_ids) <= most:
        raise Unreadable(f"its answer has {len(token_ids)} tokens; expected 1 to {most}")
    if reason == "stop":
        if token_ids[-1] not in model.eos_ids:
            raise Unreadable(
                f"its answer ends with the token {token_ids[-1]}, expected an end-of-sequence "
                f"token ({', '.join(map(str, model.eos_ids))}); the server leaves it out, or stops "
                "at something else: its --generation-config or a stop word of its own"
            )
    elif reason != "length":
        raise Unreadable(f"its answer ended by {quoted(reason)}; expected stop or length")
    elif len(token_ids) < most:
        raise Unreadable(
            f"it cut an answer at {len(token_ids)} of {most} tokens; its context (vLLM: "
            f"--max-model-len) must hold {model.max_length} tokens"
        )
    return reason
