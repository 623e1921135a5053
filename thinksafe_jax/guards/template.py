"""Guard input as token ids, from the guard's own template.

The template is rendered around placeholders. What it contributes may hold control tokens; the
user's and the student's text never become any, whatever they spell. Text that touches is tokenised
together, so a clean exchange has exactly the ids of the rendered conversation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

from thinksafe_jax.errors import InputError
from thinksafe_jax.guards.control_tokens import Marks, lines_of
from thinksafe_jax.tokenizer import ChatTokenizer, Chunk, Turns, probes, turns_of


@dataclass(frozen=True)
class GuardInput:
    """Token ids of one exchange, None where not even the prompt fits."""

    ids: list[int] | None
    truncated: bool = False
    marked: bool = False  # the texts spell control tokens or lines of the template


class GuardTemplate:
    """A guard's prompt: fixed texts with the turns of a conversation between them.

    Args:
        tokenizer: the guard's.
        turns_of: the fixed texts for a number of turns; BOS first, where the model has one.
        bos: the text of BOS, where it is put before the text by the tokenizer and is no part of
            it: what follows is then the beginning of a text to the tokenizer.
    """

    def __init__(
        self, tokenizer: ChatTokenizer, turns_of: Callable[[int], Turns], *, bos: str = ""
    ):
        self.tokenizer, self._turns_of, self._bos = tokenizer, cache(turns_of), bos

    def segments(self, turns: int) -> tuple[str, ...]:
        """The fixed texts around that many turns: one before each, one after the last."""
        return self._turns_of(turns).fixed

    @cached_property
    def tail(self) -> str:
        """What follows the response of an exchange."""
        return self.segments(2)[-1]

    def render(self, *turns: str) -> str:
        """The conversation as text: user, assistant, user, … in turn."""
        return self._turns_of(len(turns)).join(turns)

    def encode(
        self, turns: Sequence[str], max_length: int, answer: str = "", drop: int = 0
    ) -> GuardInput:
        """Ids of the whole conversation, at most `max_length`.

        Only the last turn is ever cut: its beginning goes, its end stays.

        Args:
            turns: prompt and response, or a longer conversation.
            answer: how the guard's own turn begins; tokenised together with the template's end.
            drop: tokens that are then taken off the end. The word that comes next decides how the
                white space before it splits, so it is spelled out and cut off again.
        """
        trim = self._turns_of(len(turns)).trim
        *firsts, last = map(trim, turns)
        *before, tail = self.segments(len(turns))
        chunks: list[Chunk] = []
        for segment, turn in zip(before, [*firsts, ""], strict=True):
            chunks += [(True, segment), (False, turn)]
        after: list[Chunk] = [(True, tail), (False, answer)]
        marked = any(self.marks.occur_in(turn) for turn in (*firsts, last))
        ids = self.encode_chunks([*chunks, (False, last), *after])
        ids = ids[: len(ids) - drop]
        if len(ids) <= max_length:
            return GuardInput(ids, marked=marked)
        head, end = self.encode_chunks(chunks), self.tokenizer.encode_chunks(after)
        kept = max_length - len(head)  # tokens of the response and of all that follows it
        if kept <= len(end) - drop:
            return GuardInput(None, marked=marked)
        # out of the whole, where the tail stands behind the response: alone, a tokenizer that
        # begins a text with a space (SentencePiece) would put one before the tail
        return GuardInput([*head, *ids[-kept:]], truncated=True, marked=marked)

    def encode_chunks(self, chunks: Sequence[Chunk]) -> list[int]:
        """Ids of the beginning of a conversation: trusted and other text in turn."""
        (_, first), *rest = chunks
        bos = self.tokenizer.encode_template(self._bos) if self._bos else []
        return bos + self.tokenizer.encode_chunks([(True, first.removeprefix(self._bos)), *rest])

    @cached_property
    def marks(self) -> Marks:
        """What turns may spell and must not be taken for."""
        return Marks(self.tokenizer.control_pattern, lines_of("".join(self.segments(2))))


def chat_template(
    tokenizer: ChatTokenizer, *, suffix: str = "", double_bos: bool = False
) -> GuardTemplate:
    """The chat template of a guard's tokenizer.

    Args:
        suffix: appended; Llama-Guard writes a blank line before its verdict.
        double_bos: as the authors' code tokenised Llama-Guard-3-8B: BOS, the space with which the
            template begins, and the template's own BOS (paper.md D6). For comparison only.

    Raises:
        InputError: the template does not show each turn once, in order and letter by letter.
    """
    bos = tokenizer.names.get("bos_token", "")

    def turns_with_bos(turns: int) -> Turns:
        rendered = _rendered_turns(tokenizer, turns)
        first, *between, tail = rendered.fixed
        if bos and first.lstrip().startswith(bos):
            # Llama-Guard-3-8B's template begins with a space; BOS must come first, and once
            first = bos + first if double_bos else first.lstrip()
        return replace(rendered, fixed=(first, *between, tail + suffix))

    turns_with_bos(2)  # refused now, and not with the first exchange
    return GuardTemplate(tokenizer, turns_with_bos)


def text_template(tokenizer: ChatTokenizer, text: str) -> GuardTemplate:
    """A fixed prompt with `{prompt}` and `{response}` in it, BOS before it where there is one."""
    head, _, rest = text.partition("{prompt}")
    middle, _, tail = rest.partition("{response}")
    bos = tokenizer.names.get("bos_token", "")

    def two_turns(turns: int) -> Turns:
        if turns != 2:
            raise InputError(f"this guard judges one prompt and one response, not {turns} turns")
        return Turns((f"{bos}{head}", middle, tail))

    return GuardTemplate(tokenizer, two_turns, bos=bos)


def _rendered_turns(tokenizer: ChatTokenizer, turns: int) -> Turns:
    """Turns from text contents or, failing that, from lists of parts (the 1B template)."""
    reasons = []
    for parts in (False, True):
        try:
            return turns_of(tokenizer.render(probes(turns, False, parts)), turns)
        except InputError as error:
            reasons.append(f"{'parts' if parts else 'text'}: {error}")
    raise InputError(
        f"{tokenizer.directory}: the chat template does not show {turns} turns once each, in order "
        f"({'; '.join(reasons)}); is it the guard's own, and is guard.kind right?"
    )
