"""What goes into the sampler and what comes out."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from thinksafe_jax.config import SamplingConfig
from thinksafe_jax.errors import InputError, quoted


@dataclass(frozen=True)
class Request:
    """One completion to sample.

    Attributes:
        id: stable name of the row; with `sample` it decides the random numbers.
        prompt_ids: token ids up to where the model speaks, at least one.
        sampling: temperature, top-k, top-p, min-p and the most new tokens.
        sample: index among several completions of one prompt.
        kind: requests of one kind have answers that are like each other's: how long they are and
            where drafts of them are found is guessed from them. No token depends on it.
        stop: what ends the completion beside the end-of-sequence tokens. Given its tokens so far
            and how many were looked at before, it says how many are kept, from 0 on, or None to
            go on; see `StopStrings`.
    """

    id: str
    prompt_ids: Sequence[int]
    sampling: SamplingConfig
    sample: int = 0
    kind: str = ""
    stop: Callable[[Sequence[int], int], int | None] | None = None

    @property
    def random_words(self) -> tuple[int, int, int]:
        """Three 32-bit words that key this completion: a 64-bit hash of the id, and `sample`.

        Two words, because among 40,000 ids a 32-bit hash collides with probability 0.17.
        """
        digest = hashlib.blake2b(self.id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        high, low = (int.from_bytes(digest[i : i + 4], "little") for i in (0, 4))
        return high, low, self.sample


def refusal(request: Request, room: Mapping[str, int], vocab_size: int) -> str | None:
    """Why a request can never run, or None.

    Args:
        room: {what: tokens that it holds, of prompt and completion}.
        vocab_size: of the model.
    """
    if not isinstance(request.id, str):
        return f"{quoted(request.id)}: the id of a request is {type(request.id).__name__}, no text"
    if not 0 <= request.sample < 2**32:
        return f"{request.id}: sample is {request.sample}; expected a number from 0 to {2**32 - 1}"
    if not len(request.prompt_ids):
        return f"{request.id}: the prompt has no tokens"
    low, high = min(request.prompt_ids), max(request.prompt_ids)
    if low < 0 or high >= vocab_size:
        return (
            f"{request.id}: the prompt has the token {low if low < 0 else high}; the model knows 0 "
            f"to {vocab_size - 1}"
        )
    need = len(request.prompt_ids) + request.sampling.max_new_tokens
    for what, most in room.items():
        if need > most:
            return (
                f"{request.id}: prompt of {len(request.prompt_ids)} + max_new_tokens "
                f"{request.sampling.max_new_tokens} = {need} tokens, the {what} holds {most}"
            )
    return None


def refuse_repeated(requests: Sequence[Request]) -> None:
    """Refuses two requests whose random numbers would be the same.

    Raises:
        InputError: naming the id and the sample.
    """
    seen: set[tuple[str, int]] = set()
    for request in requests:
        if (request.id, request.sample) in seen:
            raise InputError(
                f"{request.id}: two requests have this id and sample {request.sample}; they would "
                "draw the same random numbers. Give each an id, or a sample, of its own"
            )
        seen.add((request.id, request.sample))


@dataclass(frozen=True)
class Drawn:
    """All tokens of a completion as they were drawn, the end-of-sequence token among them.

    Attributes:
        token_ids: what a trainer puts behind the prompt.
        logprobs: of each under the model itself (temperature 1, nothing filtered), in nats.
        sampling_logprobs: of each in the distribution that it was drawn from, at the request's
            temperature among the tokens that its filters keep, in nats; 0 where it is greedy.
    """

    token_ids: list[int]
    logprobs: list[float]
    sampling_logprobs: list[float]

    def as_json(self) -> dict[str, list]:
        """The three lists; nine digits hold every bit of a float32."""
        scores = {
            name: [float(f"{x:.9g}") for x in getattr(self, name)]
            for name in ("logprobs", "sampling_logprobs")
        }
        return {"token_ids": self.token_ids, **scores}


@dataclass(frozen=True)
class Completion:
    """A finished completion.

    Attributes:
        token_ids: what was generated, without the end-of-sequence token.
        logprobs: log-probability of each token of `token_ids` under the model itself
            (temperature 1, nothing filtered), in nats.
        finish_reason: "stop" (an end-of-sequence token, or a stop string, whose tokens are kept)
            or "length" (max_new_tokens).
        text: `token_ids` as text up to the stop string, where the prompt was a text; else "".
        drawn: for training on it; of an engine that was built with `sampling_logprobs`.
    """

    id: str
    sample: int
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str
    text: str = ""
    drawn: Drawn | None = None
