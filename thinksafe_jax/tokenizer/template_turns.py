"""What a chat template writes around the turns of a conversation, and that it leaves them alone.

A template is rendered a few times with known texts in the place of the turns:

    <|im_start|>user\n  ⟨turn 0⟩  <|im_end|>\n<|im_start|>assistant\n
    └── fixed[0] ────┘            └── fixed[1] ──────────────────────┘

From then on the fixed texts and the turns are put together here. That is right only if the template
copies a turn letter by letter, or trims white space off its ends; anything else is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from thinksafe_jax.errors import InputError
from thinksafe_jax.tokenizer.chat_template import Chat

# private-use characters: no template knows them, and no text is ever searched for them
_HOLE = "\ue000turn-{}\ue000"
# what a template might change: letters, markup, quotes, line breaks, length, a reasoning block
_RICH = (
    "Aa Zz 1,000.5 <b>&amp;'\"`\\n\\ {{x}} {y} %s $1 ｆé日本😀\u200b\t--\r\n\n\n \n## #1. a   b"
    "<think>\nhm\n</think>\n\n[1] None true" + "long " * 500
)
_MARGINS = (" ", "\n", "\u2003")
_TRIMS: tuple[Callable[[str], str], ...] = (str, str.strip, str.lstrip, str.rstrip)


@dataclass(frozen=True)
class Turns:
    """The fixed texts of a conversation with a number of turns.

    Attributes:
        fixed: one text before each turn, and one behind the last.
        trim: what the template does to the white space at a turn's ends.
    """

    fixed: tuple[str, ...]
    trim: Callable[[str], str] = str

    def join(self, turns: Sequence[str]) -> str:
        """The conversation as the template writes it."""
        first, *rest = self.fixed
        pairs = zip(map(self.trim, turns), rest, strict=True)
        return first + "".join(turn + text for turn, text in pairs)


def probes(turns: int, add_generation_prompt: bool, parts: bool = False) -> list[Chat]:
    """The conversations that `turns_of` reads a template from.

    Args:
        parts: contents are lists of parts, as multi-modal models want them.
    """
    holes = [_HOLE.format(n) for n in range(turns)]
    texts = [holes, [f"{hole}{_RICH}{hole}" for hole in holes], *_framed(holes)]
    return [_chat(contents, add_generation_prompt, parts) for contents in texts]


def turns_of(answers: Sequence[str | InputError], turns: int) -> Turns:
    """What the texts of `probes` tell.

    Raises:
        InputError: the template refuses them, does not show each turn once and in order, or
            changes what is in a turn.
    """
    for answer in answers:
        if isinstance(answer, InputError):
            raise answer
    texts = [str(answer) for answer in answers]
    plain = fixed_texts(texts[0], turns)
    holes = [_HOLE.format(n) for n in range(turns)]
    if texts[1] != Turns(plain).join([f"{hole}{_RICH}{hole}" for hole in holes]):
        raise InputError(
            "the chat template changes what is in a turn (letters, quotes, line breaks, length or "
            "a reasoning block), so prompts would not be what their files say; use a template "
            "that copies it"
        )
    for trim in _TRIMS:
        turns_read = Turns(plain, trim)
        if [turns_read.join(contents) for contents in _framed(holes)] == texts[2:]:
            return turns_read
    raise InputError(
        "the chat template takes some white space off the ends of a turn and leaves other; use one "
        "that trims all of it or none"
    )


def fixed_texts(text: str, turns: int) -> tuple[str, ...]:
    """The texts around the holes of the first of `probes`.

    Raises:
        InputError: a turn is not there exactly once, or not in order.
    """
    segments, rest = [], text
    for turn in range(turns):
        before, hole, rest = rest.partition(_HOLE.format(turn))
        if not hole or _HOLE.format(turn) in rest:
            raise InputError(
                f"the chat template shows turn {turn + 1} {text.count(_HOLE.format(turn))} times; "
                "each must appear exactly once, in order"
            )
        segments.append(before)
    return (*segments, rest)


def conversation_probes(messages: Sequence[Mapping[str, str]]) -> list[Chat]:
    """A conversation with holes for what is said, and as it is: what `turns_said` reads."""
    holes = tuple({**m, "content": _HOLE.format(n)} for n, m in enumerate(messages))
    return [Chat(holes, True), Chat(tuple(dict(m) for m in messages), True)]


def turns_said(answers: Sequence[str | InputError], contents: Sequence[str]) -> Turns:
    """What the texts of `conversation_probes` tell.

    Raises:
        InputError: the template refuses the conversation, does not show each message once and in
            order, or changes what one says.
    """
    for answer in answers:
        if isinstance(answer, InputError):
            raise answer
    fixed = fixed_texts(str(answers[0]), len(contents))
    for trim in _TRIMS:
        turns = Turns(fixed, trim)
        if turns.join(contents) == answers[1]:
            return turns
    raise InputError(
        "the chat template changes what a message says, as it does where it takes the reasoning "
        "out of earlier answers; give each message as the template writes it"
    )


def plain_probe(turns: int) -> Chat:
    """A conversation whose turns are holes, without a generation prompt."""
    return _chat([_HOLE.format(n) for n in range(turns)], False, False)


def _chat(texts: list[str], add_generation_prompt: bool, parts: bool) -> Chat:
    roles = ("user", "assistant")
    return Chat(
        tuple(
            {"role": roles[n % 2], "content": [{"type": "text", "text": t}] if parts else t}
            for n, t in enumerate(texts)
        ),
        add_generation_prompt,
    )


def _framed(holes: Sequence[str]) -> list[list[str]]:
    return [[f"{margin}{hole}{margin}" for hole in holes] for margin in _MARGINS]
