"""What judged texts may spell and must not be taken for: control tokens, lines of a template."""

import re
from dataclasses import dataclass

from thinksafe_jax.tokenizer import any_of

_SPACE = "\u200b"  # of no width


@dataclass(frozen=True)
class Marks:
    """The marks of one guard.

    Attributes:
        control: its tokenizer's control tokens.
        lines: what else divides its template; plain text to the tokenizer, but not to a reader.
    """

    control: re.Pattern[str]
    lines: re.Pattern[str]

    def occur_in(self, text: str) -> bool:
        """Whether a text spells a control token or a line of the template (faults 36, 37)."""
        return bool(self.control.search(text) or self.lines.search(text))

    def broken(self, text: str) -> str:
        """The text with a zero-width space inside every control token that it spells.

        For servers that are sent text instead of ids: their tokenizer would take it for the token.
        """
        return self.control.sub(lambda match: f"{match[0][0]}{_SPACE}{match[0][1:]}", text)


# of a guard whose tokenizer only its server has: the shapes that known tokenizers and templates use
COMMON = Marks(
    re.compile(
        r"<\|[^<>|\s]{1,60}\|>|<｜[^<>｜\s]{1,60}｜>|</?(?:s|bos|eos|pad|unk|mask|think)>"
        r"|</?[a-z]+(?:_[a-z]+)+>|<unused\d+>|\[/?(?:INST|[A-Z]+_[A-Z_]+)\]"
    ),
    re.compile(r"<[A-Z][A-Z &-]+>"),
)


def lines_of(template: str) -> re.Pattern[str]:
    """The marks of common shape that a template is divided by."""
    shapes = (COMMON.control, COMMON.lines)
    return any_of(match.group() for shape in shapes for match in shape.finditer(template))
