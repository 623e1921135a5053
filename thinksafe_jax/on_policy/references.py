"""What a reference makes of the rollouts of a step, before the step: the states of its tokens.

    student    prompt             | answer            the step's own pass
    guided     guidance + prompt  | answer            the same weights, adapter off
    teacher    prompt             | answer            another model, with an LM head of its own

The prompts may differ in length, so states are taken at the answer's tokens and put where the
student has them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from thinksafe_jax.on_policy.methods import Method, TokenFacts
from thinksafe_jax.on_policy.rollouts import Rollout
from thinksafe_jax.training import RowStates

Tree = Any


@dataclass(frozen=True)
class References:
    """A reference that has to look at the rollouts itself.

    Attributes:
        model: the reference; for `guided` the student without its adapter.
        student: the student, for methods that need its likeliest tokens.
        method: says what the reference reads.
        make_room: called before the reference looks; what the devices hold for others may go.
    """

    model: RowStates
    student: RowStates
    method: Method
    make_room: Callable[[], None] = lambda: None

    @cached_property
    def head(self) -> jax.Array | None:
        """The reference's LM head, over the student's words; None where it is the student's.

        Models of a family pad their heads by size: Qwen2.5-7B has 152,064 rows, 1.5B 151,936. The
        rows that only the reference has are no words, and its distribution is that over the others.
        """
        if self.model is self.student:
            return None
        head, words = self.model.head, self.student.cfg.vocab_size
        return head if len(head) == words else head[:words]

    def look_at(
        self, rollouts: Sequence[Rollout], adapter: Tree
    ) -> tuple[list[np.ndarray], list[TokenFacts]]:
        """States `[n, D]` of the reference at each token of each rollout, and the likeliest tokens.

        Args:
            adapter: the student's, where its own likeliest tokens are needed.
        """
        rows = [(self.method.reference_prompt(r), r.token_ids) for r in rollouts]
        self.make_room()
        top = self.method.needs_top
        seen = self.model([([*prompt, *answer], len(prompt)) for prompt, answer in rows], top=top)
        states = [state.states for state in seen]
        if not top:
            return states, []
        students = self.student(
            [([*r.prompt_ids, *r.token_ids], len(r.prompt_ids)) for r in rollouts],
            adapter,
            top=True,
        )
        facts = [
            TokenFacts(mine.top, theirs.top) for mine, theirs in zip(students, seen, strict=True)
        ]
        return states, facts
