"""Requests on their way and windows on the device, as the scheduler knows them."""

from array import array
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from thinksafe_jax.sampling.requests import Completion, Drawn, Request


def prefill_lengths(page_size: int, longest: int) -> list[int]:
    """Padded prompt lengths up to one that holds `longest` tokens: 1, 2, 3, 4, 6, 8, 12 ... pages.

    A request's bucket depends on its own length only, and so do the last bits of its keys.
    """
    pages = [1, 2, 3]
    while pages[-2] * page_size < longest:
        pages += [pages[-2] * 2, pages[-1] * 2]
    return [n * page_size for n in pages]


@dataclass
class Running:
    """A request on its way: what the host knows of it."""

    request: Request
    order: int
    # four bytes each, where a list of Python numbers would take tens
    tokens: "array[int]" = field(default_factory=lambda: array("i"))
    logprobs: "array[float]" = field(default_factory=lambda: array("f"))  # one or two a token
    slot: int = -1
    cursor: int = 0  # tokens to prefill: all but the newest

    @property
    def ids(self) -> list[int]:
        return [*self.request.prompt_ids, *self.tokens]

    @property
    def limit(self) -> int:
        """Cache entries when finished: the last token's keys are never needed."""
        return len(self.request.prompt_ids) + self.request.sampling.max_new_tokens - 1

    def ends_by_request(self, seen: int) -> bool:
        """Whether its `Request.stop` ends it in the tokens behind the first `seen`; drops the rest.

        The device knows nothing of it.
        """
        kept = None if self.request.stop is None else self.request.stop(self.tokens, seen)
        if kept is not None:
            del self.logprobs[kept * (len(self.logprobs) // len(self.tokens)) :]
            del self.tokens[kept:]
        return kept is not None

    def finish_reason(self, eos_ids: Container[int]) -> str | None:
        """Why it ends with its newest token; None where it goes on."""
        if self.tokens[-1] in eos_ids:
            return "stop"
        if len(self.tokens) >= self.request.sampling.max_new_tokens:
            return "length"
        return None

    def completion(self, reason: str, eos_ids: Container[int]) -> Completion:
        """What is given to who asked."""
        request, tokens = self.request, self.tokens.tolist()
        count = len(tokens) - sum(token in eos_ids for token in tokens[-1:])
        columns = len(self.logprobs) // max(1, len(tokens))
        scores = np.asarray(self.logprobs, np.float32).reshape(len(tokens), max(1, columns))
        logprobs, *of_draw = scores.T.tolist()
        drawn = Drawn(tokens, logprobs, *of_draw) if of_draw else None
        return Completion(
            request.id, request.sample, tokens[:count], logprobs[:count], reason, drawn=drawn
        )


@dataclass(frozen=True)
class Dispatched:
    """A window on the device."""

    window: Any
    owners: list[tuple[int, Running | None]]
    most: int  # tokens of a slot
    drafted: bool
