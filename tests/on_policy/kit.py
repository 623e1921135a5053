"""Rollouts without a sampler, for the tests of what is made of them."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from thinksafe_jax.config import OnPolicyConfig, Recipe, SamplingConfig
from thinksafe_jax.data import Prompt
from thinksafe_jax.guards import Verdict
from thinksafe_jax.hosts import Group
from thinksafe_jax.on_policy import Rollout, RolloutSampler
from thinksafe_jax.runs import WHOLE, RowStore
from thinksafe_jax.sampling import Completion, Drawn, EngineStats, Request

CLOSED = "<think>\nfine\n</think>\n\nHere you are."
REFUSED = "<think>\nno\n</think>\n\nI cannot help with that."


def verdict(p_unsafe: float | None, word: str | None = None) -> Verdict:
    """Of a guard that gives a probability, or only a word."""
    word = word or ("unsafe" if p_unsafe is not None and p_unsafe > 0.5 else "safe")
    return Verdict("", word, p_unsafe, "full", False, "guard", word=word)


def rollout(
    prompt: str = "p0",
    sample: int = 0,
    *,
    tokens: int = 3,
    label: str = "harmful",
    response: str = CLOSED,
    ended: bool = True,
    of_guard: Verdict | None = None,
) -> Rollout:
    """One that the guard found harmless, unless told otherwise."""
    return Rollout(
        Prompt(prompt, f"text of {prompt}", label),
        0,
        sample,
        [1, 2],
        list(range(3, 3 + tokens)),
        np.zeros(tokens, np.float32),
        np.zeros(tokens, np.float32),
        response,
        "stop" if ended else "length",
        verdict(0.0) if of_guard is None else of_guard,
    )


def recipe(**on_policy) -> Recipe:
    """A recipe of GRPO with rewards of at most ten tokens."""
    sampling = SamplingConfig(1.0, 1.0, 0, max_new_tokens=10)
    return Recipe(on_policy=OnPolicyConfig(**{"method": "grpo", "sampling": sampling, **on_policy}))


# a tokenizer whose tokens are letters
LETTERS: Any = SimpleNamespace(
    prompt_ids=lambda text: list(map(ord, text)),
    response_ids=lambda text, ended=True: list(map(ord, text)),
    decode=lambda ids: "".join(map(chr, ids)),
)


class Engine:
    """Answers with `say(request)`, one token a letter; counts what it was asked."""

    slots = 8

    def __init__(self, say: Callable[[Request], str]):
        self.say, self.asked, self.adapter = say, [], "none yet"
        self.stats = EngineStats()

    def update_adapter(self, adapter) -> None:
        self.adapter = adapter

    def refuses(self, request: Request) -> str | None:
        return None

    def generate(self, requests):
        self.stats = EngineStats()
        for request in requests:
            self.asked.append(request)
            ids = [ord(letter) for letter in self.say(request)][: request.sampling.max_new_tokens]
            drawn = Drawn(ids, [0.0] * len(ids), [0.0] * len(ids))
            yield Completion(request.id, request.sample, ids, [0.0] * len(ids), "stop", drawn=drawn)


class Guard:
    """Finds an answer unsafe that ends in an x."""

    name, weak, template = "guard", False, ""

    def __init__(self):
        self.seen = []

    def judge(self, exchanges):
        for exchange in exchanges:
            self.seen.append(exchange)
            word = "unsafe" if exchange.response.endswith("x") else "safe"
            yield Verdict(exchange.id, word, None, exchange.scope, False, self.name, word=word)


def sampler(folder: Path, engine: Engine, guard: Guard, recipe: Recipe) -> RolloutSampler:
    """A sampler whose rows lie in a folder, as a run of one process has it."""

    def store(name, key, fields):
        return RowStore(folder / name, key, fields=fields)

    run = SimpleNamespace(
        store=store,
        part=WHOLE,
        group=Group(),
        check_stop=lambda: None,
        recipe=recipe,
    )
    return RolloutSampler(run, lambda: engine, LETTERS, lambda: guard)
