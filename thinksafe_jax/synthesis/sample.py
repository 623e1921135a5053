"""Between prompts and samples/: what is asked of the engine, and the rows that come of it.

Every prompt ends as exactly one row per attempt. A prompt that cannot be sampled is a row as well:
its response is empty, its finish_reason is "", and its extra key `dropped` holds the reason.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from thinksafe_jax.config import SynthesisConfig
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.sampling import Completion, Request
from thinksafe_jax.synthesis.prompts import Prompt
from thinksafe_jax.synthesis.steering import steer, steering_of
from thinksafe_jax.tokenizer import ChatTokenizer

Row = dict[str, Any]

# The DirectRefusal baseline (paper section 1.7): the thought is the one of the Safety-Tax data;
# the answer is the stock refusal of chat models, since the baseline's own answers are not given.
DIRECT_REFUSAL_THOUGHT = "<think>\nI should not answer this question!\n</think>\n\n"
DIRECT_REFUSAL_ANSWER = "I'm sorry, but I can't help with that."

_log = logging.getLogger(__name__)


def build_requests(
    prompts: Sequence[Prompt],
    cfg: SynthesisConfig,
    tokenizer: ChatTokenizer,
    refuses: Callable[[Request], str | None] | None = None,
) -> tuple[list[Request], list[Row]]:
    """One request per prompt that can be sampled, and finished rows for all others.

    Args:
        prompts: labelled prompts; a request's id is its prompt's id.
        refuses: says why a request cannot fit the engine (`Engine.refuses`), None where it can.

    Returns:
        (requests, rows). With method "direct-refusal" there is nothing to sample: harmful prompts
        become rows with the fixed refusal, benign prompts are no part of that baseline.

    Raises:
        ConfigError: unknown method, steering or reasoning.
    """
    if cfg.method == "direct-refusal":
        return [], _direct_refusals(prompts, cfg, tokenizer)
    if cfg.method != "thinksafe":
        raise ConfigError(f"synthesis.method is {cfg.method!r}; choose thinksafe or direct-refusal")
    requests: list[Request] = []
    rows: list[Row] = []
    for prompt in prompts:
        name = steering_of(cfg.steering, prompt.label)
        if not prompt.text.strip():
            rows.append(_row(prompt, name, dropped="empty_prompt"))
            continue
        ids = tokenizer.prompt_ids(steer(cfg.steering, prompt.text, prompt.label))
        request = Request(prompt.id, ids, cfg.sampling)
        why = refuses(request) if refuses else None
        if why is None:
            requests.append(request)
        else:
            _log.warning("not sampled, too long: %s", why)
            rows.append(_row(prompt, name, dropped="too_long"))
    return requests, rows


def sample_rows(
    completions: Iterable[Completion],
    prompts: Iterable[Prompt],
    cfg: SynthesisConfig,
    tokenizer: ChatTokenizer,
    *,
    keep_token_ids: bool = False,
) -> Iterator[Row]:
    """Rows of samples/ for completions, in the order in which they arrive."""
    by_id = {prompt.id: prompt for prompt in prompts}
    for done in completions:
        prompt = by_id[done.id]
        row = _row(
            prompt,
            steering_of(cfg.steering, prompt.label),
            response=tokenizer.decode(done.token_ids),
            finish_reason=done.finish_reason,
            tokens=len(done.token_ids),
            attempt=done.sample + 1,
        )
        yield {**row, "token_ids": list(done.token_ids)} if keep_token_ids else row


def _direct_refusals(
    prompts: Sequence[Prompt], cfg: SynthesisConfig, tokenizer: ChatTokenizer
) -> list[Row]:
    thought = DIRECT_REFUSAL_THOUGHT if cfg.reasoning == "think" else ""
    response = thought + DIRECT_REFUSAL_ANSWER
    tokens = len(tokenizer.response_ids(response))
    harmful = [prompt for prompt in prompts if prompt.label == "harmful"]
    _log.info("direct-refusal leaves out %d benign prompts", len(prompts) - len(harmful))
    return [
        _row(prompt, "none", response=response, finish_reason="stop", tokens=tokens)
        if prompt.text.strip()
        else _row(prompt, "none", dropped="empty_prompt")
        for prompt in harmful
    ]


def _row(
    prompt: Prompt,
    steering: str,
    *,
    response: str = "",
    finish_reason: str = "",
    tokens: int = 0,
    attempt: int = 1,
    dropped: str | None = None,
) -> Row:
    row = {
        "id": prompt.id,
        "prompt": prompt.text,
        "label": prompt.label,
        "steering": steering,
        "response": response,
        "finish_reason": finish_reason,
        "tokens": tokens,
        "attempt": attempt,
    }
    return row if dropped is None else {**row, "dropped": dropped}
