"""Guard input as token ids, from the guard's own chat template.

The template is rendered once around two placeholders. What it contributes may hold control
tokens; the user's and the student's text never become any, whatever they spell. Text that touches
is tokenised together, so a clean exchange has exactly the ids of the rendered conversation.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from jinja2 import TemplateError

from thinksafe_jax.errors import InputError
from thinksafe_jax.tokenizer import ChatTokenizer

# private-use characters: no template knows them, and no text is ever searched for them
_USER, _AGENT = "\ue000user\ue000", "\ue000agent\ue000"

Chunk = tuple[bool, str]  # (whether it is a control token, its text)


@dataclass(frozen=True)
class GuardInput:
    """Token ids of one exchange, None where not even the prompt fits."""

    ids: list[int] | None
    truncated: bool = False
    marked: bool = False  # the texts spell control tokens or lines of the template


class ConversationTemplate:
    """A guard's chat template for one user turn and one agent turn, up to the verdict's word.

    Args:
        tokenizer: the guard's.
        suffix: appended to the template; Llama-Guard writes a blank line before its verdict.
        words: what the guard may say next; `word_ids` holds their tokens.

    Raises:
        InputError: the template does not show both turns once, in order, or a word is not one
            token of its own there.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        suffix: str = "\n\n",
        words: tuple[str, ...] = ("safe", "unsafe"),
    ):
        self._tokenizer, self.words = tokenizer, words
        head, middle, tail = self._render()
        self.head, self.middle, self.tail = head, middle, tail + suffix
        self._control = _control_pattern(tokenizer)
        self._markers = re.findall(r"<[A-Z][A-Z ]+>", self.head + self.middle + self.tail)
        self.word_ids = self._word_ids()

    def render(self, prompt: str, response: str) -> str:
        """The conversation as text, without the space before BOS of Llama-Guard-3-8B's template."""
        return self.head + prompt.strip() + self.middle + response.strip() + self.tail

    def encode(self, prompt: str, response: str, max_length: int) -> GuardInput:
        """Ids of the whole conversation, at most `max_length`.

        Only the response is ever cut: its beginning goes, its end stays.
        """
        prompt, response = prompt.strip(), response.strip()
        marked = self._is_marked(prompt) or self._is_marked(response)
        before = [*self._chunks(self.head), (False, prompt), *self._chunks(self.middle)]
        # the verdict's word decides how white space before it splits; it is cut off again
        after = [*self._chunks(self.tail), (False, self.words[0])]
        ids = self.encode_chunks([*before, (False, response), *after])[:-1]
        if len(ids) <= max_length:
            return GuardInput(ids, marked=marked)
        head, tail = self.encode_chunks(before), self.encode_chunks(after)[:-1]
        room = max_length - len(head) - len(tail)
        if room < 1:
            return GuardInput(None, marked=marked)
        end = self._tokenizer.encode_text(response)[-room:]
        return GuardInput([*head, *end, *tail], truncated=True, marked=marked)

    def encode_chunks(self, chunks: Sequence[Chunk]) -> list[int]:
        """Ids of chunks; neighbouring plain text is tokenised as one."""
        ids: list[int] = []
        for control, group in groupby(chunks, key=lambda chunk: chunk[0]):
            text = "".join(text for _, text in group)
            encode = self._tokenizer.encode_template if control else self._tokenizer.encode_text
            ids += encode(text)
        return ids

    def _word_ids(self) -> tuple[int, ...]:
        tail = self._chunks(self.tail)
        spelled = [self.encode_chunks([*tail, (False, word)]) for word in self.words]
        wrong = [
            word
            for word, ids in zip(self.words, spelled, strict=True)
            if ids[:-1] != spelled[0][:-1] or self._tokenizer.hf.decode([ids[-1]]) != word
        ]
        ids = tuple(ids[-1] for ids in spelled)
        if wrong or len(set(ids)) < len(ids):
            raise InputError(
                f"{self._tokenizer.directory}: after the guard's template, "
                f"{' and '.join(map(repr, wrong or self.words))} must be single tokens that "
                f"differ, but the words end in ids {ids}; this guard cannot be read by its first "
                "token"
            )
        return ids

    def _render(self) -> tuple[str, str, str]:
        """Head, middle and tail, from string contents or, failing that, lists of parts."""
        reasons = []
        for form in ("text", "parts"):
            try:
                return self._split(self._rendered(form))
            except (TemplateError, TypeError, ValueError, InputError) as error:
                reasons.append(f"{form}: {error}")
        raise InputError(
            f"{self._tokenizer.directory}: the chat template does not show one user turn and one "
            f"assistant turn ({'; '.join(reasons)}); is it a Llama-Guard checkpoint?"
        )

    def _rendered(self, form: str) -> str:
        def content(text: str) -> object:
            return text if form == "text" else [{"type": "text", "text": text}]

        turns = [
            {"role": "user", "content": content(_USER)},
            {"role": "assistant", "content": content(_AGENT)},
        ]
        return str(self._tokenizer.hf.apply_chat_template(turns, tokenize=False))

    def _split(self, text: str) -> tuple[str, str, str]:
        # Llama-Guard-3-8B's template begins with a space before BOS; BOS must come first, once
        bos = self._tokenizer.hf.bos_token
        if isinstance(bos, str) and text.lstrip().startswith(bos):
            text = text.lstrip()
        counts = text.count(_USER), text.count(_AGENT)
        head, _, rest = text.partition(_USER)
        middle, found, tail = rest.partition(_AGENT)
        if counts != (1, 1) or not found:
            raise InputError(f"the turns appear {counts[0]} and {counts[1]} times")
        return head, middle, tail

    def _chunks(self, text: str) -> list[Chunk]:
        chunks: list[Chunk] = []
        end = 0
        for match in self._control.finditer(text):
            chunks += [(False, text[end : match.start()]), (True, match.group())]
            end = match.end()
        return [chunk for chunk in [*chunks, (False, text[end:])] if chunk[1]]

    def _is_marked(self, text: str) -> bool:
        return bool(self._control.search(text)) or any(mark in text for mark in self._markers)


def _control_pattern(tokenizer: ChatTokenizer) -> re.Pattern[str]:
    """Matches what tokenizer.json adds to the vocabulary, the longest first.

    transformers' own list comes from tokenizer_config.json too and may lack some of them.
    """
    data = json.loads((tokenizer.directory / "tokenizer.json").read_text(encoding="utf-8"))
    added = sorted((token["content"] for token in data["added_tokens"]), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, added)) or r"(?!)")
