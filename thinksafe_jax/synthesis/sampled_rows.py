"""Between prompts and samples/: what is asked of the engine, and the rows that come of it.

Every prompt ends as exactly one row per attempt. A prompt that cannot be sampled is a row as well:
its response is empty, its finish_reason is "", and its extra key `dropped` holds the reason.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from thinksafe_jax.config import SAMPLED, SynthesisConfig
from thinksafe_jax.data import Prompt
from thinksafe_jax.sampling import Completion, Request
from thinksafe_jax.synthesis.ladder import Attempt
from thinksafe_jax.synthesis.steering import steer, steering_of
from thinksafe_jax.tokenizer import THINK_OPEN, ChatTokenizer

Row = dict[str, Any]

# what later stages need of a row of samples/
SAMPLE_FIELDS = {
    "id": str, "prompt": str, "label": str, "response": str, "finish_reason": str, "tokens": int,
    "attempt": int,
}  # fmt: skip

# The DirectRefusal baseline (paper section 1.7): the thought is the one of the Safety-Tax data;
# the answer is the stock refusal of chat models, since the baseline's own answers are not given.
DIRECT_REFUSAL_THOUGHT = "<think>\nI should not answer this question!\n</think>\n\n"
DIRECT_REFUSAL_ANSWER = "I'm sorry, but I can't help with that."

# SafePath trains on the first eight tokens of the reasoning and leaves the rest to the model
# (arXiv 2505.14667, section 3)
SAFEPATH_PRIMER = "Let's think about safety first."
HARMFUL_ONLY = ("direct-refusal", "safepath")  # methods that train on no benign prompt

_log = logging.getLogger(__name__)


def needed_labels(method: str) -> tuple[str, ...]:
    """The labels without whose rows a method makes no sense."""
    return ("harmful", "benign") if method in SAMPLED else ("harmful",)


def plan_attempt(
    prompts: Iterable[Prompt],
    attempt: Attempt,
    tokenizer: ChatTokenizer,
    refuses: Callable[[Request], str | None] | None = None,
) -> Iterator[Request | Row]:
    """A request for each prompt that can be sampled, a finished row for every other.

    Args:
        prompts: labelled prompts; a request's id is its prompt's id. Taken one by one, so a long
            list costs no memory in token ids.
        refuses: says why a request cannot fit the engine (`Engine.refuses`), None where it can.
    """
    for prompt in prompts:
        name, number = steering_of(attempt.steering, prompt.label), attempt.number
        if not prompt.text.strip():
            yield _row(prompt, name, attempt=number, dropped="empty_prompt")
            continue
        ids = tokenizer.prompt_ids(steer(attempt.steering, prompt.text, prompt.label))
        request = Request(prompt.id, ids, attempt.sampling, number - 1, kind=prompt.label)
        why = refuses(request) if refuses else None
        if why is None:
            yield request
        else:
            _log.warning("not sampled, too long: %s", why)
            yield _row(prompt, name, attempt=number, dropped="too_long")


def sample_rows(
    completions: Iterable[Completion],
    prompts: Mapping[str, Prompt],
    attempts: Sequence[Attempt],
    tokenizer: ChatTokenizer,
) -> Iterator[Row]:
    """Rows of samples/ for completions, in the order in which they arrive.

    A completion that carries what was drawn has it in its row, as `drawn`.
    """
    for done in completions:
        prompt, attempt = prompts[done.id], attempts[done.sample]
        row = _row(
            prompt,
            steering_of(attempt.steering, prompt.label),
            response=tokenizer.decode(done.token_ids),
            finish_reason=done.finish_reason,
            tokens=len(done.token_ids),
            attempt=attempt.number,
            temperature=attempt.sampling.temperature,
        )
        yield row if done.drawn is None else {**row, "drawn": done.drawn.as_json()}


def fixed_rows(
    prompts: Iterable[Prompt], cfg: SynthesisConfig, tokenizer: ChatTokenizer
) -> Iterator[Row]:
    """Rows of the methods that sample nothing.

    direct-refusal and safepath answer every prompt with one text, so `prompts` must be harmful ones
    (`synthesis_prompts` takes no others); external takes the responses of its source.
    """
    for prompt in prompts:
        if not prompt.text.strip():
            yield _row(prompt, "none", dropped="empty_prompt")
            continue
        response, ended = _fixed_response(prompt, cfg)
        tokens = len(tokenizer.response_ids(response, ended))
        reason = "stop" if ended else "length"
        row = _row(prompt, "none", response=response, finish_reason=reason, tokens=tokens)
        yield {**row, "spans": list(prompt.spans)} if prompt.spans else row


def _fixed_response(prompt: Prompt, cfg: SynthesisConfig) -> tuple[str, bool]:
    """(response, whether it ends there)."""
    if cfg.method == "external":
        return prompt.response or "", True
    if cfg.method == "safepath":
        return f"{THINK_OPEN}\n{SAFEPATH_PRIMER}", False
    thought = DIRECT_REFUSAL_THOUGHT if cfg.reasoning == "think" else ""
    return thought + DIRECT_REFUSAL_ANSWER, True


def _row(
    prompt: Prompt,
    steering: str,
    *,
    response: str = "",
    finish_reason: str = "",
    tokens: int = 0,
    attempt: int = 1,
    temperature: float | None = None,
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
        "temperature": temperature,
    }
    return row if dropped is None else {**row, "dropped": dropped}
