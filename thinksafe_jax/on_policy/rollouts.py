"""Rollouts: answers that the model in training gives, as rows that survive a kill.

A rollout is named by its prompt, the step and its number in the group; with the seed these key its
random numbers, so a step that was cut short is finished with the same tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from thinksafe_jax.config import SamplingConfig
from thinksafe_jax.data import Prompt
from thinksafe_jax.guards import Verdict
from thinksafe_jax.sampling import Completion, Request

KEY = ("id", "step", "sample")
# what a row of rollouts/ needs
ROLLOUT_FIELDS = {
    "prompt": str, "label": str, "response": str, "finish_reason": str, "tokens": int,
    "token_ids": list, "logprobs": list, "sampling_logprobs": list, "adapter": str,
}  # fmt: skip
Name = tuple[str, int, int]  # (prompt id, step, sample)


@dataclass(frozen=True, eq=False)
class Rollout:
    """One answer of the model in training.

    Attributes:
        prompt: what was asked; the guard sees its text.
        step: the optimiser step it is for, from 0.
        sample: its number in the group of its prompt.
        prompt_ids: what the model read.
        token_ids: what it wrote, the end-of-sequence token included where it came to its end.
        logprobs: f32, the log-probability of each of `token_ids` under the model itself, in nats.
        sampling_logprobs: f32, that in the distribution it was drawn from. Of a server one of the
            two may be empty: it says what the method needs.
        response: the answer as text, what was given included, without the end-of-sequence token.
        finish_reason: "stop", or "length" where it was cut.
        verdict: the guard's; None where the method asks none, or before it was asked.
        prefix_ids: the end of `prompt_ids` that begins the answer: it was given, not sampled.
    """

    prompt: Prompt
    step: int
    sample: int
    prompt_ids: Sequence[int]
    token_ids: Sequence[int]
    logprobs: np.ndarray
    sampling_logprobs: np.ndarray
    response: str
    finish_reason: str
    verdict: Verdict | None = None
    prefix_ids: Sequence[int] = ()

    @property
    def name(self) -> Name:
        """What tells it from every other of the run."""
        return self.prompt.id, self.step, self.sample

    @property
    def ended(self) -> bool:
        """Whether it came to its end."""
        return self.finish_reason == "stop"

    def judged(self, verdict: Verdict | None) -> "Rollout":
        """The rollout with what the guard said."""
        return replace(self, verdict=verdict)

    def row(self, adapter: str) -> dict[str, Any]:
        """The row of rollouts/; `adapter` is the hash of the policy that wrote it."""
        row = {
            "id": self.prompt.id,
            "step": self.step,
            "sample": self.sample,
            "prompt": self.prompt.text,
            "label": self.prompt.label,
            "response": self.response,
            "finish_reason": self.finish_reason,
            "tokens": len(self.token_ids),
            "token_ids": list(self.token_ids),
            "logprobs": [float(x) for x in self.logprobs],
            "sampling_logprobs": [float(x) for x in self.sampling_logprobs],
            "adapter": adapter,
        }
        return row | {"prefix_ids": list(self.prefix_ids)} if self.prefix_ids else row


@dataclass(frozen=True)
class Asked:
    """A prompt as a step asks it.

    Attributes:
        prompt: what the user says.
        step: the optimiser step it is asked for.
        prompt_ids: what the model reads.
        prefix_ids: the end of `prompt_ids` that begins the answer.
    """

    prompt: Prompt
    step: int
    prompt_ids: Sequence[int]
    prefix_ids: Sequence[int] = ()


@dataclass(frozen=True)
class Draw:
    """Rollouts that are drawn together, by one policy.

    Attributes:
        folder: of their rows, below RUN/rollouts.
        key: with a prompt's id it keys the random numbers: another one draws anew.
        asked: the prompts.
        sampling: how the next token is drawn.
        adapter: hash of the policy.
        samples: rollouts of each prompt.
        facts: more that their rows carry, and that must be equal where they are read back.
    """

    folder: str
    key: str
    asked: Sequence[Asked]
    sampling: SamplingConfig
    adapter: str
    samples: int = 1
    facts: Mapping[str, Any] = field(default_factory=dict)

    def request(self, asked: Asked, sample: int) -> Request:
        """What is asked of the sampler for one rollout."""
        name = f"{self.key}/{asked.prompt.id}"
        return Request(name, asked.prompt_ids, self.sampling, sample=sample)


def rollout_of_row(row: Mapping[str, Any], asked: Asked) -> Rollout:
    """The rollout that a row of rollouts/ holds."""
    return Rollout(
        asked.prompt,
        row["step"],
        row["sample"],
        asked.prompt_ids,
        row["token_ids"],
        np.asarray(row["logprobs"], np.float32),
        np.asarray(row["sampling_logprobs"], np.float32),
        row["response"],
        row["finish_reason"],
        prefix_ids=asked.prefix_ids,
    )


def rollout_of(done: Completion, asked: Asked, text: str) -> Rollout:
    """The rollout of a completion.

    Args:
        asked: what it answers.
        text: the answer as text, what was given included, without the end-of-sequence token.
    """
    drawn = done.drawn
    assert drawn is not None, "the engine was built without sampling_logprobs"
    return Rollout(
        asked.prompt,
        asked.step,
        done.sample,
        asked.prompt_ids,
        drawn.token_ids,
        np.asarray(drawn.logprobs, np.float32),
        np.asarray(drawn.sampling_logprobs, np.float32),
        text,
        done.finish_reason,
        prefix_ids=asked.prefix_ids,
    )


def groups(rollouts: Sequence[Rollout]) -> list[list[Rollout]]:
    """The rollouts of a step by prompt, in the order of their first ones."""
    by_prompt: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        by_prompt.setdefault(rollout.prompt.id, []).append(rollout)
    return list(by_prompt.values())
