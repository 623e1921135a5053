"""Strings that end a completion: looked for on the host, window by window."""

from collections.abc import Sequence
from dataclasses import dataclass

from thinksafe_jax.errors import InputError, quoted
from thinksafe_jax.tokenizer import ChatTokenizer

_MARGIN = 8  # tokens: at the beginning of a piece of text a tokenizer may drop a space


@dataclass(frozen=True)
class StopStrings:
    """As `Request.stop`: where the first of some strings is complete.

    It depends on the tokens alone, not on where windows end.
    """

    tokenizer: ChatTokenizer
    strings: tuple[str, ...]

    @staticmethod
    def of(given: str | Sequence[str] | None, tokenizer: ChatTokenizer) -> "StopStrings | None":
        """What a user gives; None where it is nothing.

        Raises:
            InputError: something else than texts of one character or more.
        """
        strings = (given,) if isinstance(given, str) else tuple(given or ())
        for text in strings:
            if not isinstance(text, str) or not text:
                raise InputError(f"stop: {quoted(text)} is no text of one character or more")
        return StopStrings(tokenizer, strings) if strings else None

    def __call__(self, tokens: Sequence[int], seen: int) -> int | None:
        """How many tokens there are when the first of the strings is complete; None: none is.

        Args:
            tokens: of a completion so far.
            seen: how many of them were looked at before, without success.
        """
        # a string that ends in a new token begins at most so many tokens (of a byte each) before it
        longest = max(len(text.encode()) for text in self.strings)
        begin = max(0, seen - longest - _MARGIN)
        if not self._is_in(tokens[begin:]):
            return None
        ends = range(seen + 1, len(tokens) + 1)
        return next((end for end in ends if self._is_in(tokens[begin:end])), None)

    def before(self, text: str, begin: int = 0) -> str:
        """The text up to the first of the strings that stands at `begin` or behind it."""
        places = (text.find(string, begin) for string in self.strings)
        return text[: min((place for place in places if place >= 0), default=None)]

    def _is_in(self, tokens: Sequence[int]) -> bool:
        text = self.tokenizer.decode(tokens, special=True)
        return any(string in text for string in self.strings)
