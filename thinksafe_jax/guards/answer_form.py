"""The form that a guard fills in, as tokens: where each blank is and which tokens may fill it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32

from thinksafe_jax.errors import InputError
from thinksafe_jax.guards.guard_format import Slot
from thinksafe_jax.guards.template import GuardTemplate


@dataclass(frozen=True)
class Answer:
    """An answer filled in as guessed, up to its last blank.

    Attributes:
        text: what is appended to the prompt, the last blank's first word included.
        drop: tokens of that word, which are cut off again.
        from_end: for each slot the tokens after the one that predicts it, counted from the end.
        word_ids: i32 `[S, W]`: the token that tells each word of a slot apart, padded with -1.
    """

    text: str
    drop: int
    from_end: tuple[int, ...]
    word_ids: np.ndarray


@dataclass(frozen=True)
class FormReading:
    """How far one pass filled in the form.

    Attributes:
        words: the guard's words by slot; it ends at the first blank that cannot be read.
        p_unsafe, other_mass: of the verdict's blank, as in `Verdict`.
        correction: {slot: word} of the first guess that was wrong, where blanks behind it must be
            read again; empty where the reading is final.
    """

    words: Mapping[str, str] = field(default_factory=dict)
    p_unsafe: float | None = None
    other_mass: float | None = None
    correction: Mapping[str, str] = field(default_factory=dict)


class AnswerForm:
    """The slots of a format on one tokenizer.

    Raises:
        InputError: the words of a slot are not told apart by one token after the same ones, or are
            not the single tokens they must be; this guard cannot be read without generating.
    """

    def __init__(self, template: GuardTemplate, slots: Sequence[Slot]):
        self._template = template
        self.slots = tuple(slots)
        if self.slots[-1].optional and self._problem(self.slots) is not None:
            self.slots = self.slots[:-1]
        if problem := self._problem(self.slots):
            raise InputError(f"{template.tokenizer.directory}: {problem}")
        self._answers: dict[tuple[str, ...], Answer] = {}

    def answer(self, guess: Mapping[str, str]) -> Answer:
        """The answer with every slot but the last filled in; without a guess, by its first word."""
        words = tuple(guess.get(slot.name) or slot.words[0] for slot in self.slots[:-1])
        if words not in self._answers:
            self._answers[words] = self._tokenised(words)
        return self._answers[words]

    def read(
        self,
        scores: Float32[np.ndarray, "S W_and_rest"],
        guess: Mapping[str, str],
        unsafe: frozenset[str],
    ) -> FormReading:
        """The blanks of one row in order, as far as the guess behind which they stand was right.

        Args:
            scores: the probabilities of a pass: W words of each of S blanks, then all else.
            guess: the words that this pass was filled in with, see `answer`.
            unsafe: the words that mean unsafe.
        """
        words: dict[str, str] = {}
        p_unsafe = other_mass = None
        for slot, row in zip(self.slots, scores, strict=True):
            if slot.only_after and words.get(slot.only_after[0]) != slot.only_after[1]:
                continue
            word, p, other = read_slot(slot, row, unsafe)
            if slot.name == "verdict":
                p_unsafe, other_mass = p, other
            if word is None:
                break
            words[slot.name] = word
            if word != guess.get(slot.name, slot.words[0]) and self._goes_on_after(words):
                return FormReading(words, p_unsafe, other_mass, {slot.name: word})
        return FormReading(words, p_unsafe, other_mass)

    def _goes_on_after(self, words: Mapping[str, str]) -> bool:
        """Whether a blank remains that is part of the answer after these words."""
        remaining = [slot for slot in self.slots if slot.name not in words]
        conditions = [slot.only_after for slot in remaining]
        return any(c is None or words.get(c[0]) in (None, c[1]) for c in conditions)

    @property
    def listing(self) -> Slot | None:
        """The slot whose blank may hold several words."""
        return next((slot for slot in self.slots if slot.listing), None)

    def said(self, words: Mapping[str, str], last: Slot) -> str:
        """The answer filled in with `words`, up to `last` and its word."""
        upto = self.slots[: self.slots.index(last) + 1]
        return "".join(slot.lead + words[slot.name] for slot in upto)

    def goes_on(self, said: str, slot: Slot) -> Answer:
        """What may follow `said`, an answer up to a word of a listing slot: a separator, another.

        Its two blanks are the separator's first token, alone in its row, and the next word.
        """
        text = said + slot.listing
        shared, next_ids = self._split_words(text, slot)
        whole = self._ids(text + slot.words[0])
        before = len(self._ids(said))
        separator = [whole[before], *[-1] * (len(next_ids) - 1)]
        ids = np.array([separator, next_ids], np.int32)
        return Answer(text + slot.words[0], len(whole) - shared, (shared - before, 0), ids)

    def _tokenised(self, words: tuple[str, ...]) -> Answer:
        text, ends, ids = "", [], []
        for slot, word in zip(self.slots, (*words, ""), strict=True):
            text += slot.lead
            shared, next_ids = self._split_words(text, slot)
            ends.append(shared)
            ids.append(next_ids)
            if slot is not self.slots[-1]:
                text += word
        widest = max(map(len, ids))
        padded = np.array([[*row, *[-1] * (widest - len(row))] for row in ids], np.int32)
        text += self.slots[-1].words[0]
        drop = len(self._ids(text)) - ends[-1]
        return Answer(text, drop, tuple(ends[-1] - end for end in ends), padded)

    def _split_words(self, text: str, slot: Slot) -> tuple[int, list[int]]:
        """(tokens that all words share, the next token of each word)."""
        spelled = [self._ids(text + word) for word in slot.words]
        shared = 0
        while all(len(ids) > shared for ids in spelled) and (
            len({ids[shared] for ids in spelled}) == 1
        ):
            shared += 1
        return shared, [ids[shared] if len(ids) > shared else -1 for ids in spelled]

    def _problem(self, slots: Sequence[Slot]) -> str | None:
        text = ""
        for slot in slots:
            text += slot.lead
            shared, next_ids = self._split_words(text, slot)
            lengths = [len(self._ids(text + word)) for word in slot.words]
            single = not slot.single or set(lengths) == {shared + 1}
            if len(set(next_ids)) < len(next_ids) or -1 in next_ids or not single:
                words = " and ".join(repr(word) for word in slot.words)
                return (
                    f"after the guard's template, {words} must begin with single tokens that "
                    f"differ, but they are read as {next_ids}; tokenizer and guard.kind do not "
                    "match"
                )
            text += slot.words[0]
        return None

    def _ids(self, text: str) -> list[int]:
        tail = self._template.tail
        return self._template.tokenizer.encode_chunks([(True, tail), (False, text)])


MAX_OTHER_MASS = 0.5  # above it, none of the words is the guard's answer


def template_hash(prompt: GuardTemplate, form: AnswerForm) -> str:
    """16 hex digits that change with every byte of the prompt or of the answer's form."""
    slots = [[slot.name, slot.lead, list(slot.words)] for slot in form.slots]
    text = json.dumps([list(prompt.segments(2)), slots])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_slot(
    slot: Slot, scores: Float[np.ndarray, " W_and_rest"], unsafe: frozenset[str]
) -> tuple[str | None, float | None, float | None]:
    """(word or None, P(unsafe) among the words, mass of everything else) of one blank.

    The comparisons are written so that NaN ends as unreadable, and a tie as the graver word.
    """
    p, other = scores[: len(slot.words)], float(scores[-1])
    total = float(p.sum())
    mass = other if np.isfinite(other) else None
    if not (other <= MAX_OTHER_MASS and total > 0.0):
        return None, None, mass
    best = max(zip(p, slot.words, strict=True), key=lambda pair: (pair[0], pair[1] in unsafe))[1]
    bad = sum(float(x) for x, word in zip(p, slot.words, strict=True) if word in unsafe)
    return best, bad / total, mass
