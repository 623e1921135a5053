"""Texts and conversations as requests: what `Engine.generate` makes of them."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from thinksafe_jax.config import SamplingConfig
from thinksafe_jax.errors import InputError
from thinksafe_jax.sampling.requests import Completion, Request
from thinksafe_jax.sampling.stop_strings import StopStrings
from thinksafe_jax.tokenizer import ChatTokenizer

Message = Mapping[str, str]  # {"role": "user", "content": "What is 17 + 25?"}
Prompt = str | Sequence[Message]  # what a user says, or a conversation


def as_prompts(given: object) -> list[Prompt] | None:
    """The prompts in a text, a conversation, or a list of these; None where they are requests.

    Raises:
        InputError: a list holds something else, or requests beside texts.
    """
    if isinstance(given, str):
        return [given]
    if not isinstance(given, Sequence) or not given:
        return None
    if all(isinstance(item, Request) for item in given):
        return None
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
    stop: StopStrings | None = None,
) -> list[Request]:
    """A request for each sample of each prompt, in order; prompt number n has the id str(n).

    Args:
        sampling: of every prompt, or one for each; default the paper's.
        samples: completions of each prompt.
        longest: tokens of a prompt and its completion at most; max_new_tokens is cut to what the
            prompt leaves of them.
        stop: ends a completion early.

    Raises:
        InputError: another number of options than of prompts, fewer than one sample, or messages
            that the chat template does not take.
    """
    if samples < 1:
        raise InputError(f"samples is {samples}; expected 1 or more")
    if sampling is None or isinstance(sampling, SamplingConfig):
        options: Iterable[SamplingConfig] = [sampling or SamplingConfig()] * len(prompts)
    elif len(sampling) == len(prompts):
        options = sampling
    else:
        raise InputError(f"{len(sampling)} sampling options for {len(prompts)} prompts")
    requests = []
    for number, (prompt, option) in enumerate(zip(prompts, options, strict=True)):
        if isinstance(prompt, str):
            ids = tokenizer.prompt_ids(prompt)
        else:
            ids = tokenizer.conversation_ids(prompt)
        room = longest - len(ids)
        if 0 < room < option.max_new_tokens:
            option = dataclasses.replace(option, max_new_tokens=room)
        requests += [Request(str(number), ids, option, sample=n, stop=stop) for n in range(samples)]
    return requests


def with_texts(
    requests: Sequence[Request], completions: Iterable[Completion], tokenizer: ChatTokenizer
) -> list[Completion]:
    """The completions of `text_requests` in the order of the requests, each with its text."""
    done = {(completion.id, completion.sample): completion for completion in completions}
    texts = []
    for request in requests:
        completion = done[request.id, request.sample]
        text = tokenizer.decode(completion.token_ids)
        if isinstance(request.stop, StopStrings):
            text = request.stop.before(text)
        texts.append(dataclasses.replace(completion, text=text))
    return texts
