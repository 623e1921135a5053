"""Beginnings of flawed answers that a part of the prompts is given (RECAP, arXiv 2510.00938).

    another run      harmful prompt ─► answer that its guard rejected
                     benign prompt  ─► answer that refuses
    here             prompt + the first tokens of that reasoning ─► the model goes on

The model learns to turn a thought that goes the wrong way. What it was given is part of the prompt:
no loss lies on it. All rollouts of a group begin alike, so they are compared fairly.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np

from thinksafe_jax.config import PrefixConfig
from thinksafe_jax.data import Prompt
from thinksafe_jax.errors import InputError
from thinksafe_jax.guards import is_refusal
from thinksafe_jax.runs import RowStore
from thinksafe_jax.storage import content_hash, run_folder, shown
from thinksafe_jax.synthesis import SAMPLE_FIELDS, Ledger
from thinksafe_jax.tokenizer import THINK_CLOSE, THINK_OPEN, ChatTokenizer


class Prefixes:
    """The beginnings that each prompt may be given.

    Args:
        config: whose answers, and how much of them.
        prompts: those of the run.
        tokenizer: the student's.
        seed: of the run; with prompt and step it decides who is given which.

    Raises:
        InputError: the other run has no verdicts, or no flawed answer with reasoning to any of the
            prompts.
    """

    def __init__(
        self, config: PrefixConfig, prompts: Sequence[Prompt], tokenizer: ChatTokenizer, seed: int
    ):
        self._config, self._seed = config, seed
        self._by_text: Mapping[str, list[list[int]]] = {}
        if config.run:
            self._by_text = self._flawed({prompt.text for prompt in prompts}, tokenizer)

    def of(self, prompt: Prompt, step: int) -> list[int]:
        """The beginning that a prompt is given at a step, as token ids; mostly none."""
        choices = self._by_text.get(prompt.text, [])
        name = f"{self._seed}/{step}/{prompt.id}".encode("utf-8", "surrogatepass")
        words = np.frombuffer(hashlib.blake2b(name, digest_size=16).digest(), np.uint64)
        if not choices or words[0] / 2.0**64 >= self._config.share:
            return []
        return choices[int(words[1] % np.uint64(len(choices)))]

    def longest(self, prompt: Prompt) -> int:
        """Tokens of the longest beginning that a prompt may be given."""
        return max(map(len, self._by_text.get(prompt.text, [])), default=0)

    @property
    def identity(self) -> dict[str, str]:
        """A hash over all beginnings; empty where there are none."""
        return {"prefixes sha256": content_hash(self._by_text)[:16]} if self._by_text else {}

    def _flawed(self, texts: set[str], tokenizer: ChatTokenizer) -> dict[str, list[list[int]]]:
        """The beginnings of each prompt's flawed answers, in the order of their names."""
        folder = run_folder(self._config.run)
        samples = RowStore(folder / "samples", ("id", "attempt"), fields=SAMPLE_FIELDS)
        verdicts = RowStore(folder / "verdicts", ("id", "attempt"))
        if not samples.shards() or not verdicts.shards():
            raise InputError(
                f"on_policy.prefixes.run: {shown(folder)} has no samples with verdicts; first "
                "sample and filter the same prompts there, with synthesis.steering=none"
            )
        reasons = Ledger("none").read(samples, verdicts).reasons
        flawed: dict[str, list[tuple[tuple[str, int], list[int]]]] = {}
        bare = 0  # flawed answers without reasoning
        for row in samples.rows():
            key, wanted = (row["id"], row["attempt"]), row["prompt"] in texts
            if not wanted or not _is_flawed(row["label"], row["response"], reasons.get(key, "")):
                continue
            reasoning = _reasoning(row["response"])
            if reasoning is None:
                bare += 1
                continue
            ids = tokenizer.response_ids(reasoning, ended=False)[: self._config.tokens]
            flawed.setdefault(row["prompt"], []).append((key, ids))
        if not flawed:
            _refuse(shown(folder), len(texts), bare)
        return {text: [ids for _, ids in sorted(rows)] for text, rows in sorted(flawed.items())}


def _refuse(folder: str, prompts: int, bare: int) -> NoReturn:
    """Says why a run gives no beginning."""
    if bare:
        raise InputError(
            f"on_policy.prefixes.run: {folder} has {bare} rejected answers to the {prompts} "
            f"prompts of synthesis.prompts, and none has reasoning between {THINK_OPEN} and "
            f"{THINK_CLOSE}; a beginning is a thought. Ask the same prompts there of a model that "
            "thinks"
        )
    raise InputError(
        f"on_policy.prefixes.run: {folder} has no rejected answer to any of the {prompts} prompts "
        "of synthesis.prompts; ask the same prompts there"
    )


def _reasoning(response: str) -> str | None:
    """The reasoning with its opening tag; all of one that was cut before its end; None: none."""
    before, closed, _ = response.partition(THINK_CLOSE)
    return before.rstrip() if closed or THINK_OPEN in response else None


def _is_flawed(label: str, response: str, reason: str) -> bool:
    """Whether an answer does what the model shall not: comply with harm, or refuse what is fine."""
    return reason == "unsafe" if label == "harmful" else is_refusal(response)
