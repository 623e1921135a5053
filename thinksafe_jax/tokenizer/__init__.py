"""Text to ids and back: the chat tokenizer and its template."""

from thinksafe_jax.tokenizer.chat_tokenizer import (
    THINK_CLOSE,
    THINK_OPEN,
    ChatTokenizer,
    Chunk,
    any_of,
)
from thinksafe_jax.tokenizer.same_vocabulary import vocabulary_difference
from thinksafe_jax.tokenizer.template_turns import Turns, probes, turns_of

__all__ = [
    "THINK_CLOSE",
    "THINK_OPEN",
    "ChatTokenizer",
    "Chunk",
    "Turns",
    "any_of",
    "probes",
    "turns_of",
    "vocabulary_difference",
]
