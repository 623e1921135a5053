"""Turns: what was said on each side, and what of it the model sees again."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from thinksafe_jax.chat.student_sides import StudentSides
from thinksafe_jax.config import SamplingConfig
from thinksafe_jax.guards import answer_part
from thinksafe_jax.tokenizer import THINK_CLOSE, THINK_OPEN

Message = dict[str, str]


@dataclass(frozen=True)
class Answer:
    """One answer, taken apart.

    Attributes:
        side: who says it, "before" or "after".
        reasoning: the text between the tags; "" of a model that does not reason.
        text: what follows it; "" where the reasoning never ended.
        tokens: that were generated.
        cut: whether it ended because it had no tokens left.
        finished: or it is still being written.
    """

    side: str
    reasoning: str
    text: str
    tokens: int
    cut: bool
    finished: bool = True


def taken_apart(
    side: str, response: str, tokens: int, cut: bool, *, finished: bool = True
) -> Answer:
    """A response as an `Answer`."""
    text = answer_part(response)
    before, closed, _ = response.rpartition(THINK_CLOSE)
    reasoning = before if closed else "" if text else response
    reasoning = reasoning.replace(THINK_OPEN, "", 1).strip()
    return Answer(side, reasoning, text, tokens, cut, finished)


def _as_written(side: str, watch: Callable[[Answer], None], text: str, tokens: int) -> None:
    watch(taken_apart(side, text, tokens, False, finished=False))


class Conversation:
    """The same questions to each side, each of which goes on from its own answers.

    Reasoning is left out of earlier turns, as chat templates do. A turn that ended within its
    reasoning has no answer: that side forgets it.

    Args:
        sampling: options of every answer.
        system: a system prompt; "" is none.

    Attributes:
        sides: their names, in the order in which they answer.
    """

    def __init__(self, students: StudentSides, sampling: SamplingConfig, system: str = ""):
        self._students, self._sampling = students, sampling
        self.sides = students.names
        self._opening = [{"role": "system", "content": system}] if system else []
        self._asked = 0
        self.reset()

    def reset(self) -> None:
        """Forgets what was said; a question that is asked again is drawn anew."""
        self._said: dict[str, list[Message]] = {side: [] for side in self.sides}

    def ask(self, question: str, watch: Callable[[Answer], None] | None = None) -> Iterator[Answer]:
        """The answer of each side; it is part of the conversation once all have come.

        Args:
            watch: called with an answer as far as it is written, again and again.

        Raises:
            InputError: the conversation is too long, or the chat template refuses it.
        """
        self._asked += 1
        asked, answers = {"role": "user", "content": question}, []
        for side, said in self._said.items():
            messages = [*self._opening, *said, asked]
            turn = f"turn {self._asked}"
            seen = watch and partial(_as_written, side, watch)
            text, done = self._students.answer(side, messages, self._sampling, turn, seen)
            cut = done.finish_reason == "length"
            answers.append(taken_apart(side, text, len(done.token_ids), cut))
            yield answers[-1]
        for answer in answers:
            if answer.text:
                self._said[answer.side] += [asked, {"role": "assistant", "content": answer.text}]
