"""What is asked: the three kinds of held-out prompts as one list, so that one queue serves all."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from thinksafe_jax.config import EvaluationConfig
from thinksafe_jax.errors import InputError
from thinksafe_jax.synthesis.prompts import load_prompts

HARMFUL, OVER_REFUSAL, REASONING = "harmful", "over_refusal", "reasoning"
SUITES = (HARMFUL, OVER_REFUSAL, REASONING)


@dataclass(frozen=True)
class Question:
    """One held-out prompt. `text` is the user's turn: never steered, in evaluation."""

    suite: str
    id: str
    prompt: str
    text: str  # the prompt inside the reasoning template; elsewhere the prompt itself
    answer: str | None = None
    source: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.suite, self.id


def load_questions(cfg: EvaluationConfig) -> list[Question]:
    """Every prompt of the suites that the recipe has, in the recipe's order.

    Raises:
        InputError: a reasoning prompt without a gold answer, or what `load_prompts` refuses.
    """
    questions: list[Question] = []
    for suite in SUITES:
        sources = getattr(cfg, suite)
        template = cfg.reasoning_prompt if suite == REASONING else "{prompt}"
        for prompt in load_prompts(sources, require_label=False) if sources else []:
            if suite == REASONING and not (prompt.answer or "").strip():
                raise InputError(
                    f"{prompt.source}: reasoning prompt {prompt.id!r} has no gold answer; name its "
                    "column in answer_column"
                )
            # replaced once and literally: braces in a prompt are text, not fields
            text = template.replace("{prompt}", prompt.text, 1)
            source = prompt.source.rpartition(":")[0].rpartition("/")[2]  # "dir/file.csv:12"
            questions.append(Question(suite, prompt.id, prompt.text, text, prompt.answer, source))
    return questions


def fingerprint(questions: Sequence[Question]) -> str:
    """sha256 of all that is asked and expected: equal fingerprints make two runs comparable."""
    rows = [[q.suite, q.id, q.text, q.answer] for q in questions]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
