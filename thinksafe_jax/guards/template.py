"""Guard input as token ids, from the guard's own template.

The template is rendered once around placeholders. What it contributes may hold control tokens; the
user's and the student's text never become any, whatever they spell. Text that touches is tokenised
together, so a clean exchange has exactly the ids of the rendered conversation.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from thinksafe_jax.errors import InputError
from thinksafe_jax.guards.control_tokens import Marks, any_of, lines_of
from thinksafe_jax.tokenizer import ChatTokenizer, render_chat

# private-use characters: no template knows them, and no text is ever searched for them
_HOLE = "\ue000turn-{}\ue000"

Chunk = tuple[bool, str]  # (whether it is a control token, its text)


@dataclass(frozen=True)
class GuardInput:
    """Token ids of one exchange, None where not even the prompt fits."""

    ids: list[int] | None
    truncated: bool = False
    marked: bool = False  # the texts spell control tokens or lines of the template


class GuardTemplate:
    """A guard's prompt: fixed segments with the turns of a conversation between them.

    Args:
        tokenizer: the guard's.
        segments: the fixed texts for a number of turns: one before each and one after the last.
        strip: whether the template trims white space around each turn.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        segments: Callable[[int], tuple[str, ...]],
        *,
        strip: bool,
    ):
        self.tokenizer, self._make_segments, self._strip = tokenizer, segments, strip
        self._segments: dict[int, tuple[str, ...]] = {}
        self._control = _control_pattern(tokenizer)

    def segments(self, turns: int) -> tuple[str, ...]:
        """The fixed texts around that many turns; BOS first, where the model has one."""
        if turns not in self._segments:
            self._segments[turns] = self._make_segments(turns)
        return self._segments[turns]

    @cached_property
    def tail(self) -> str:
        """What follows the response of an exchange."""
        return self.segments(2)[-1]

    def render(self, *turns: str) -> str:
        """The conversation as text: user, assistant, user, … in turn."""
        first, *rest = self.segments(len(turns))
        pairs = zip(self._trimmed(turns), rest, strict=True)
        return first + "".join(turn + segment for turn, segment in pairs)

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
        *firsts, last = self._trimmed(turns)
        *before, tail = self.segments(len(turns))
        chunks: list[Chunk] = []
        for segment, turn in zip(before, [*firsts, ""], strict=True):
            chunks += [*self.chunks(segment), (False, turn)]
        after = [*self.chunks(tail), (False, answer)]
        marked = any(self.marks.occur_in(turn) for turn in (*firsts, last))
        ids = self.encode_chunks([*chunks, (False, last), *after])
        ids = ids[: len(ids) - drop]
        if len(ids) <= max_length:
            return GuardInput(ids, marked=marked)
        head, end = self.encode_chunks(chunks), self.encode_chunks(after)
        kept = max_length - len(head)  # tokens of the response and of all that follows it
        if kept <= len(end) - drop:
            return GuardInput(None, marked=marked)
        # out of the whole, where the tail stands behind the response: alone, a tokenizer that
        # begins a text with a space (SentencePiece) would put one before the tail
        return GuardInput([*head, *ids[-kept:]], truncated=True, marked=marked)

    def encode_chunks(self, chunks: Sequence[Chunk]) -> list[int]:
        """Ids of chunks; neighbouring plain text is tokenised as one."""
        ids: list[int] = []
        bos = self.tokenizer.hf.bos_token_id
        for control, group in groupby((c for c in chunks if c[1]), key=lambda chunk: chunk[0]):
            text = "".join(text for _, text in group)
            if control:
                ids += self.tokenizer.encode_template(text)
            else:
                ids += self.tokenizer.encode_text(text, inner=ids not in ([], [bos]))
        return ids

    def chunks(self, text: str) -> list[Chunk]:
        """Trusted template text as plain text and control tokens."""
        chunks: list[Chunk] = []
        end = 0
        for match in self._control.finditer(text):
            chunks += [(False, text[end : match.start()]), (True, match.group())]
            end = match.end()
        return [chunk for chunk in [*chunks, (False, text[end:])] if chunk[1]]

    @cached_property
    def marks(self) -> Marks:
        """What turns may spell and must not be taken for."""
        return Marks(self._control, lines_of("".join(self.segments(2))))

    def _trimmed(self, turns: Sequence[str]) -> list[str]:
        return [turn.strip() for turn in turns] if self._strip else list(turns)


def chat_template(
    tokenizer: ChatTokenizer, *, suffix: str = "", double_bos: bool = False
) -> GuardTemplate:
    """The chat template of a guard's tokenizer.

    Args:
        suffix: appended; Llama-Guard writes a blank line before its verdict.
        double_bos: as the authors' code tokenised Llama-Guard-3-8B: BOS, the space with which the
            template begins, and the template's own BOS (paper.md D6). For comparison only.

    Raises:
        InputError: the template does not show each turn once, in order.
    """
    bos = tokenizer.hf.bos_token

    def segments(turns: int) -> tuple[str, ...]:
        *before, tail = _rendered_segments(tokenizer, turns)
        first = before[0]
        if isinstance(bos, str) and first.lstrip().startswith(bos):
            # Llama-Guard-3-8B's template begins with a space; BOS must come first, and once
            first = bos + first if double_bos else first.lstrip()
        return (first, *before[1:], tail + suffix)

    strip = not _rendered_segments(tokenizer, 2, margin="\u2003")[0].endswith("\u2003")
    return GuardTemplate(tokenizer, segments, strip=strip)


def text_template(tokenizer: ChatTokenizer, text: str) -> GuardTemplate:
    """A fixed prompt with `{prompt}` and `{response}` in it, BOS before it where there is one."""
    head, _, rest = text.partition("{prompt}")
    middle, _, tail = rest.partition("{response}")
    bos = tokenizer.hf.bos_token

    def segments(turns: int) -> tuple[str, ...]:
        if turns != 2:
            raise InputError(f"this guard judges one prompt and one response, not {turns} turns")
        return (f"{bos if isinstance(bos, str) else ''}{head}", middle, tail)

    return GuardTemplate(tokenizer, segments, strip=False)


def _rendered_segments(tokenizer: ChatTokenizer, turns: int, margin: str = "") -> tuple[str, ...]:
    """Segments from string contents or, failing that, from lists of parts (the 1B template)."""
    reasons = []
    for form in ("text", "parts"):
        try:
            return _split(_rendered(tokenizer, turns, form, margin), turns)
        except InputError as error:
            reasons.append(f"{form}: {error}")
    raise InputError(
        f"{tokenizer.directory}: the chat template does not show {turns} turns once each, in order "
        f"({'; '.join(reasons)}); is it the guard's own, and is guard.kind right?"
    )


def _rendered(tokenizer: ChatTokenizer, turns: int, form: str, margin: str) -> str:
    messages = []
    for turn in range(turns):
        text = f"{margin}{_HOLE.format(turn)}{margin}"
        content: object = text if form == "text" else [{"type": "text", "text": text}]
        messages.append({"role": ("user", "assistant")[turn % 2], "content": content})
    return render_chat(tokenizer.hf, messages)


def _split(text: str, turns: int) -> tuple[str, ...]:
    segments, rest = [], text
    for turn in range(turns):
        before, hole, rest = rest.partition(_HOLE.format(turn))
        if not hole or _HOLE.format(turn) in rest:
            raise InputError(f"turn {turn + 1} appears {text.count(_HOLE.format(turn))} times")
        segments.append(before)
    return (*segments, rest)


def _control_pattern(tokenizer: ChatTokenizer) -> re.Pattern[str]:
    """Matches what tokenizer.json adds to the vocabulary.

    transformers' own list comes from tokenizer_config.json too and may lack some of them.
    """
    data = json.loads((tokenizer.directory / "tokenizer.json").read_text(encoding="utf-8"))
    return any_of(token["content"] for token in data["added_tokens"])
