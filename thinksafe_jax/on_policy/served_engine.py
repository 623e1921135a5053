"""Rollouts of an OpenAI-compatible server that takes LoRA adapters, as vLLM does.

It stands where the sampler stands: requests in, completions out, a new adapter each step. Prompts
go out as token ids and completions come back as token ids, so nobody tokenises anew. The server
draws in its own arithmetic: its log-probabilities go into the importance ratio and the gap metric.
"""

import hashlib
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import chain, islice
from types import TracebackType
from typing import Any, Self

from thinksafe_jax.config import RolloutServerConfig
from thinksafe_jax.errors import EnvironmentFault, InputError
from thinksafe_jax.http_client import Refused, Server, ServerRole
from thinksafe_jax.models import LoraConfig
from thinksafe_jax.on_policy.completion_reply import (
    LogprobsMode,
    ServedModel,
    likeliest,
    needs_mode,
    read_completion,
)
from thinksafe_jax.on_policy.served_adapter import ServedAdapter
from thinksafe_jax.sampling import Completion, Request

# a token of an answer is some 150 bytes
_ROLE = ServerRole("rollout server", "on_policy.server", "ROLLOUT_API_KEY", "what was drawn", 2**26)
_UNLOAD_SECONDS = 30.0  # a server that is stuck does not hold up the end of a run
_MODE_FLAGS = {
    "processed": "start vLLM with --logprobs-mode processed_logprobs, or set "
    "on_policy.sampling.temperature to 1",
    "raw": "start vLLM with --logprobs-mode raw_logprobs, its default",
}
Tree = Any


@dataclass
class ServedStats:
    """Counters of one `generate` call: seconds of it, and of all its requests together."""

    places: int
    seconds: float = 0.0
    request_seconds: float = 0.0

    @property
    def occupancy(self) -> float:
        """Share of the time in which a place for a request was used."""
        return self.request_seconds / (self.places * self.seconds) if self.seconds else 0.0


class ServedEngine:
    """The student at a server, with the adapter of the step.

    Args:
        config: of the server.
        model: the student as it is served.
        lora: the adapter's shape.
        seed: of the run; with a request's id and sample it seeds the server's random numbers.
        mode: what the method needs log-probabilities of, where the temperature is not 1 or
            something is filtered.
        owner: names the run.

    Attributes:
        stats: of the last `generate`.

    Raises:
        ConfigError: `config.url` is no address, or holds a secret.
    """

    def __init__(
        self,
        config: RolloutServerConfig,
        model: ServedModel,
        lora: LoraConfig,
        *,
        seed: int,
        mode: LogprobsMode,
        owner: str,
    ):
        self._model, self._seed = model, seed
        self._mode: LogprobsMode = mode
        seconds = config.timeout_seconds
        self._server = Server(config.url, _ROLE, timeout=seconds, retries=config.retries)
        unloading = Server(config.url, _ROLE, timeout=min(seconds, _UNLOAD_SECONDS), retries=0)
        self._adapter = ServedAdapter(self._server, unloading, config, model, lora, owner)
        self._policy: Tree | None = None
        self._checked = False  # whether the server's log-probabilities are those of `mode`
        self.slots = config.concurrency
        self.stats = ServedStats(self.slots)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._adapter.unload()

    def update_adapter(self, adapter: Tree | None) -> None:
        """Takes the adapter of the next `generate`, which loads it; None is the student itself."""
        self._policy = adapter

    def release_pool(self) -> None:
        """Nothing is held here for requests."""

    def refuses(self, request: Request) -> str | None:
        """Why a request can never run, or None."""
        prompt, new = len(request.prompt_ids), request.sampling.max_new_tokens
        if prompt and prompt + new <= self._model.max_length:
            return None
        return (
            f"{request.id}: prompt of {prompt} + max_new_tokens {new} tokens; expected a prompt, "
            f"and at most {self._model.max_length} tokens together"
        )

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Completions as they finish; `slots` requests are in flight.

        Raises:
            EnvironmentFault: the server loads no adapters, or its answers cannot be used.
            RetryLater: it does not answer; what came before has been yielded.
        """
        self.stats, began = ServedStats(self.slots), time.perf_counter()
        self._server.restart()
        name, rest = self._adapter.load(self._policy), iter(requests)
        first = list(islice(rest, 1))
        if first and not self._checked and needs_mode(first[0].sampling):
            self._check_mode(name, first[0])
        rest = chain(first, rest)
        with ThreadPoolExecutor(self.slots) as pool:
            running = {pool.submit(self._ask, name, r) for r in islice(rest, self.slots)}
            try:
                while running:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    if any(map(_has_failed, done)):
                        # the call ends; what is on its way is waited for, and kept
                        self._server.stop()
                        done |= {future for future in running if not future.cancel()}
                        wait(done)
                        running, rest = set(), iter(())
                    running |= {pool.submit(self._ask, name, r) for r in islice(rest, len(done))}
                    for future in sorted(done, key=_has_failed):
                        completion, seconds = future.result()
                        self.stats.request_seconds += seconds
                        self.stats.seconds = time.perf_counter() - began
                        yield completion
            finally:
                self._server.stop()
                for future in running:
                    future.cancel()

    def _ask(self, name: str, request: Request) -> tuple[Completion, float]:
        """A completion, and the seconds that it took."""
        began = time.perf_counter()
        try:
            reply = self._server.post("completions", self._body(name, request))
        except Refused as refused:
            raise InputError(
                f"rollout server {self._server.url}: refuses the prompt {request.id} of "
                f"{len(request.prompt_ids)} tokens ({refused}); prompt and max_new_tokens need a "
                f"context (vLLM: --max-model-len) of {self._model.max_length} tokens"
            ) from None
        completion = read_completion(reply, request, self._model, self._mode)
        return completion, time.perf_counter() - began

    def _body(self, name: str, request: Request, **changes: Any) -> dict[str, Any]:
        """A request with every option said: vLLM takes the rest from generation_config.json."""
        sampling = request.sampling
        return {
            "model": name,
            "prompt": list(request.prompt_ids),
            "n": 1,
            "seed": _seed(self._seed, request),
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "min_p": sampling.min_p,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop_token_ids": list(self._model.eos_ids),
            "logprobs": 1,
            "return_tokens_as_token_ids": True,
            **changes,
        }

    def _check_mode(self, name: str, request: Request) -> None:
        """Refuses a server whose log-probabilities are not those that the method needs.

        At temperature 2 the distances between log-probabilities of the distribution that is drawn
        from are half of those at 1; those of the model itself stay.
        """
        bare = {"max_tokens": 1, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "logprobs": 5}
        try:
            cold, hot = (
                likeliest(
                    self._server.post(
                        "completions", self._body(name, request, **bare, temperature=temperature)
                    )
                )
                for temperature in (1.0, 2.0)
            )
        except Refused as refused:
            raise EnvironmentFault(
                f"rollout server {self._server.url}: refuses `logprobs: 5` ({refused}), by which "
                "it is seen what its log-probabilities are of; vLLM needs --max-logprobs 5 or more"
            ) from None
        spread = [_spread(values, sorted(cold.keys() & hot.keys())) for values in (cold, hot)]
        served = "raw" if spread[1] > 0.75 * spread[0] else "processed"
        if not spread[0] or served != self._mode:
            of = f"are {served}" if spread[0] else "cannot be told apart"
            raise EnvironmentFault(
                f"rollout server {self._server.url}: its log-probabilities {of}; at temperature "
                f"{request.sampling.temperature:g} this method needs {self._mode} ones: "
                f"{_MODE_FLAGS[self._mode]}"
            )
        self._checked = True


def _spread(values: dict[str, float], tokens: list[str]) -> float:
    """The distance in nats between the likeliest and the least likely of some tokens."""
    listed = [values[token] for token in tokens]
    return max(listed) - min(listed) if listed else 0.0


def _has_failed(future: Future[Any]) -> bool:
    return future.exception() is not None


def _seed(seed: int, request: Request) -> int:
    """31 bits that are the same whenever a rollout is asked for, and another for each."""
    text = f"{seed}/{request.id}/{request.sample}"
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return int.from_bytes(digest, "little") >> 1
