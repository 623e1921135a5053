"""Texts and conversations as requests: what `Engine.generate` makes of them."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from thinksafe_jax.config import SamplingConfig
from thinksafe_jax.errors import InputError, quoted
from thinksafe_jax.sampling.requests import Completion, Request
from thinksafe_jax.sampling.stop_strings import StopStrings
from thinksafe_jax.tokenizer import ChatTokenizer

Message = Mapping[str, str]  # {"role": "user", "content": "What is 17 + 25?"}
Prompt = str | Sequence[Message]  # what a user says, or a conversation


def as_prompts(given: object, with_options: bool) -> list[Prompt] | None:
    """The prompts in a text, a conversation, or a list of these; None where they are requests.

    Args:
        with_options: sampling options, a number of samples or stop strings came with them, which
            only texts take.

    Raises:
        InputError: a list holds something else, or requests beside texts; options of requests.
    """
    if isinstance(given, str):
        return [given]
    listed = isinstance(given, Sequence)
    if not listed or all(isinstance(item, Request) for item in given):
        if not with_options:
            return None
        if given or not listed:
            raise InputError("requests have their own sampling options, sample number and stop")
        return []
    if all(isinstance(item, Mapping) for item in given):
        return [given]
    for n, item in enumerate(given):
        if not isinstance(item, str) and not _is_conversation(item):
            raise InputError(
                f"prompt {n} is {type(item).__name__}; expected a text, or a list of messages "
                '{"role": ..., "content": ...}; requests go in a list of their own'
            )
    return list(given)


def _is_conversation(item: object) -> bool:
    return isinstance(item, Sequence) and all(isinstance(message, Mapping) for message in item)


def text_requests(
    prompts: Sequence[Prompt],
    sampling: SamplingConfig | Sequence[SamplingConfig] | None,
    samples: int,
    tokenizer: ChatTokenizer,
    longest: int,
    stop: str | Sequence[str] | None = (),
) -> list[Request]:
    """A request for each sample of each prompt, in order; prompt number n has the id str(n).

    Args:
        sampling: of every prompt, or one for each; default the paper's.
        samples: completions of each prompt.
        longest: tokens of a prompt and its completion at most; max_new_tokens is cut to what the
            prompt leaves of them.
        stop: strings that end a completion early.

    Raises:
        InputError: options that are none, another number of them than of prompts, fewer than one
            sample, a stop string that is none, or messages that the chat template does not take.
    """
    if samples < 1:
        raise InputError(f"samples is {samples}; expected 1 or more")
    ends, requests = StopStrings.of(stop, tokenizer), []
    options = _options_of_each(sampling, len(prompts))
    for number, (prompt, option) in enumerate(zip(prompts, options, strict=True)):
        if isinstance(prompt, str):
            ids = tokenizer.prompt_ids(prompt)
        else:
            ids = tokenizer.conversation_ids(prompt)
        room = longest - len(ids)
        if 0 < room < option.max_new_tokens:
            option = dataclasses.replace(option, max_new_tokens=room)
        requests += [Request(str(number), ids, option, sample=n, stop=ends) for n in range(samples)]
    return requests


def _options_of_each(
    sampling: SamplingConfig | Sequence[SamplingConfig] | None, count: int
) -> Sequence[SamplingConfig]:
    if sampling is None or isinstance(sampling, SamplingConfig):
        return [sampling or SamplingConfig()] * count
    options: Sequence[Any] = sampling if isinstance(sampling, Sequence) else [sampling]
    for option in options:
        if not isinstance(option, SamplingConfig):
            raise InputError(
                f"sampling: {quoted(option)} is no SamplingConfig, as SamplingConfig(temperature=0)"
            )
    if len(options) != count:
        raise InputError(f"{len(options)} sampling options for {count} prompts")
    return options


def with_texts(
    requests: Sequence[Request], completions: Iterable[Completion], tokenizer: ChatTokenizer
) -> list[Completion]:
    """The completions of `text_requests` in the order of the requests, each with its text."""
    done = {(completion.id, completion.sample): completion for completion in completions}
    opened = tokenizer.decode([])  # what the template has begun, as R1's does: nobody drew it
    texts = []
    for request in requests:
        completion = done[request.id, request.sample]
        text = tokenizer.decode(completion.token_ids)
        if isinstance(request.stop, StopStrings):
            text = request.stop.before(text, len(opened) if text.startswith(opened) else 0)
        texts.append(dataclasses.replace(completion, text=text))
    return texts
