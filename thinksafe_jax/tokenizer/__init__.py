"""Text to ids and back: the chat tokenizer and its template."""

from thinksafe_jax.tokenizer.chat_template import render_chat
from thinksafe_jax.tokenizer.chat_tokenizer import THINK_CLOSE, THINK_OPEN, ChatTokenizer

__all__ = ["THINK_CLOSE", "THINK_OPEN", "ChatTokenizer", "render_chat"]
