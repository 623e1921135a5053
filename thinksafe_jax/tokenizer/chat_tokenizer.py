"""Text to token ids and back; text from users or models never becomes control tokens.

A chat template is read once around placeholders (`template_turns`). What it contributes is trusted
and may hold control tokens, what fills the placeholders may not. Both are tokenised together, so a
text that spells no control token has exactly the ids that transformers gives it.
"""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path

from thinksafe_jax.errors import InputError, quoted
from thinksafe_jax.tokenizer.chat_template import Chat, render_chats
from thinksafe_jax.tokenizer.plain_text import PlainText, is_text
from thinksafe_jax.tokenizer.template_turns import (
    Turns,
    conversation_probes,
    fixed_texts,
    plain_probe,
    probes,
    turns_of,
    turns_said,
)
from thinksafe_jax.tokenizer.tokenizer_files import TokenizerFiles, vocabulary

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
Chunk = tuple[bool, str]  # (whether it is trusted text, in which control tokens count; the text)
_log = logging.getLogger(__name__)


class ChatTokenizer:
    """A Hugging Face tokenizer with its chat template, safe for untrusted text.

    Args:
        directory: local folder with tokenizer.json, tokenizer_config.json and, if the model
            generates, generation_config.json or config.json for the end-of-sequence ids.

    Attributes:
        control: id -> text of every control token: all added tokens but runs of white space.
        names: special tokens by role, as "bos_token" -> "<s>".
        vocab_size: rows of the model's embedding; None where the folder has no config.json.

    Raises:
        InputError: the files are missing, broken, contradict each other or ask for code; or the
            vocabulary has ids beyond the embedding.
    """

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)
        self._files = TokenizerFiles.read(self.directory)
        self.names, self.vocab_size = self._files.names, self._files.vocab_size()
        self._full = self._files.build()
        text_ids = {t["id"] for t in self._files.backend["added_tokens"] if is_text(t)}
        self._added = {
            id: token
            for id, token in self._full.get_added_tokens_decoder().items()
            if id not in text_ids
        }
        self.control = {id: token.content for id, token in self._added.items()}
        self.control_ids = frozenset(self.control)
        self.control_pattern = any_of(self.control.values())
        ends = [self.names[role] for role in ("bos_token", "eos_token") if role in self.names]
        file = self.directory / "tokenizer.json"
        self._plain = PlainText(self._files.backend, self.control, ends, file)
        words = vocabulary(self._files.backend)
        if words:
            last = max(words, key=lambda word: words[word])
            self._check_id(words[last], last, "tokenizer.json")

    # ids of text

    def encode_text(self, text: str, *, inner: bool = False) -> list[int]:
        """Token ids of plain text; control tokens spelled out in it stay ordinary text.

        Args:
            inner: the text follows other text, so that no space is put before it by a tokenizer
                that puts one at the beginning alone (Metaspace with `prepend_scheme: first`).
        """
        return self._plain.encode(text, inner=inner)

    def end_of(self, text: str, count: int) -> str:
        """The last `count` > 0 tokens of a plain text, letter by letter as they stand in it."""
        offsets = self._plain.offsets(text)
        return text[offsets[-count][0] :] if count < len(offsets) else text

    def encode_template(self, text: str, *, complete: bool = False) -> list[int]:
        """Token ids of trusted text, in which control tokens count.

        Args:
            complete: with what the tokenizer adds to every text, as a server does: BOS.
        """
        return self._full.encode(text, add_special_tokens=complete).ids

    def encode_chunks(self, chunks: Sequence[Chunk]) -> list[int]:
        """Token ids of trusted and other text in turn, tokenised as one text.

        Raises:
            InputError: a control token is beyond the model's embedding.
        """
        text = "".join(text for _, text in chunks)
        trusted = list(_trusted_spans(chunks))
        encoding = self._full.encode(text, add_special_tokens=False)
        ids = encoding.ids
        if not all(
            _within(trusted, text, *span)
            for id, span in zip(ids, encoding.offsets, strict=True)
            if id in self.control_ids
        ):
            ids = self._encode_apart(text, trusted)
        self.check_ids(ids, "what surrounds a text")
        return ids

    def _encode_apart(self, text: str, trusted: Sequence[tuple[int, int]]) -> list[int]:
        """As `encode_chunks`, where a text spells control tokens: stretch by stretch."""
        ids: list[int] = []
        end = 0
        for start, stop, id in self._control_spans(text, trusted):
            start = max(start, end)
            if start > end:
                ids += self._plain.encode(text[end:start], inner=end > 0)
            ids.append(id)
            end = stop
        return ids + (self._plain.encode(text[end:], inner=end > 0) if end < len(text) else [])

    def _control_spans(
        self, text: str, trusted: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[int, int, int]]:
        """(first character, one behind the last, id) of the control tokens of trusted text."""
        ids = {token: id for id, token in self.control.items()}
        for begin, end in trusted:
            for match in self.control_pattern.finditer(text, begin, end):
                token, (start, stop) = self._added[ids[match.group()]], match.span()
                beside = text[max(0, start - 1) : start] + text[stop : stop + 1]
                if token.single_word and re.search(r"\w", beside):
                    continue
                if token.lstrip:  # the token takes white space beside it along
                    start = len(text[:start].rstrip())
                if token.rstrip:
                    stop = len(text) - len(text[stop:].lstrip())
                yield start, stop, ids[match.group()]

    def check_ids(self, ids: Iterable[int], what: str) -> None:
        """Refuses ids that no row of the model's embedding stands for.

        Raises:
            InputError: naming token, id and the number of rows.
        """
        largest = max(ids, default=0)
        if self.vocab_size is not None and largest >= self.vocab_size:
            named = largest < 2**31 and self._full.id_to_token(largest)
            self._check_id(largest, named or "", what)

    def _check_id(self, id: int, token: str, what: str) -> None:
        if self.vocab_size is not None and id >= self.vocab_size:
            raise InputError(
                f"{self.directory}: {what} has the token {quoted(token)} with id {id}, but "
                f"vocab_size is {self.vocab_size} in config.json; tokens were added and the "
                "embedding was not resized, or tokenizer and weights are of different models"
            )

    # the chat

    @cached_property
    def _turns(self) -> Turns:
        """The single turn of a prompt, up to where the assistant speaks."""
        try:
            turns = turns_of(self.render(probes(1, add_generation_prompt=True)), 1)
        except InputError as error:
            raise InputError(f"{self.directory}: {error}") from None
        if "strftime_now" in self._files.template:
            _log.info(
                "%s: the chat template writes today's date; it is 26 July 2024 in every prompt, so "
                "that a run asks the same on all days", self.directory,
            )  # fmt: skip
        return turns

    def render(self, chats: Sequence[Chat]) -> list[str | InputError]:
        """Conversations as the chat template writes them, see `render_chats`."""
        return render_chats(self._files.template, self.names, chats)

    @property
    def opens_think(self) -> bool:
        """Whether the template itself opens the reasoning (R1-Distill does, Qwen3 does not)."""
        return self._turns.fixed[-1].rstrip().endswith(THINK_OPEN)

    @property
    def template_thinks(self) -> bool:
        """Whether the template knows a closed reasoning block, as those of reasoning models do."""
        return THINK_CLOSE in self._files.template

    def prompt_ids(self, user_text: str) -> list[int]:
        """Ids of a single-turn conversation up to where the assistant speaks."""
        head, tail = self._turns.fixed
        turn = self._turns.trim(user_text)
        return self.encode_chunks([(True, head), (False, turn), (True, tail)])

    def conversation_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of a conversation up to where the assistant speaks next.

        What the messages say is plain text, whoever says it: only the template has control tokens.

        Args:
            messages: {"role": ..., "content": ...} each, with roles that the chat template knows.

        Raises:
            InputError: a message has no role or content, or the template refuses the conversation
                or changes what it says.
        """
        for n, message in enumerate(messages):
            if not all(isinstance(message.get(key), str) for key in ("role", "content")):
                raise InputError(
                    f'message {n} has the keys {sorted(message)}; expected texts "role", "content"'
                )
        contents = [message["content"] for message in messages]
        try:
            turns = turns_said(self.render(conversation_probes(messages)), contents)
        except InputError as error:
            raise InputError(f"{self.directory}: {error}") from None
        first, *rest = turns.fixed
        chunks: list[Chunk] = [(True, first)]
        for content, text in zip(contents, rest, strict=True):
            chunks += [(False, turns.trim(content)), (True, text)]
        return self.encode_chunks(chunks)

    def response_ids(self, response: str, ended: bool = True) -> list[int]:
        """Ids of a response as the model generated it, with the end-of-turn id if it `ended`.

        The first `<think>` and the first `</think>` after it are the model's control tokens; all
        else is plain text. Where the template opens the reasoning, the opening tag belongs to the
        prompt and is left out here.
        """
        if self.opens_think:
            response = response.removeprefix(THINK_OPEN).removeprefix("\n")
        chunks: list[Chunk] = []
        for tag in (THINK_OPEN, THINK_CLOSE):
            before, tag_there, after = response.partition(tag)
            if tag_there and tag in self.control.values():
                chunks += [(False, before), (True, tag)]
                response = after
        chunks.append((False, response))
        # stretch by stretch: a tag is one token here even where its tokenizer would see letters
        text = "".join(text for _, text in chunks)
        ids = self._encode_apart(text, list(_trusted_spans(chunks)))
        return [*ids, *([self.end_of_turn_id] if ended else [])]

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """Text of generated ids: special tokens left out, `<think>` tags kept.

        Args:
            special: keep every token, as it stands in the vocabulary.
        """
        if special:
            return self._full.decode(list(map(int, ids)), skip_special_tokens=False)
        # the tags are text to us, also where a tokenizer declares them special
        kept = [id for id in map(int, ids) if id not in self._left_out]
        text = self._full.decode(kept, skip_special_tokens=False)
        if self.opens_think and not text.startswith(THINK_OPEN):
            text = f"{THINK_OPEN}\n{text}"
        return text

    @cached_property
    def _left_out(self) -> frozenset[int]:
        tags = (THINK_OPEN, THINK_CLOSE)
        return frozenset(i for i, t in self._added.items() if t.special and t.content not in tags)

    # what ends a response

    @cached_property
    def eos_ids(self) -> tuple[int, ...]:
        """Every id that ends a response: of the model's files, then the template's own end of turn.

        Raises:
            InputError: no file says it, or an id is none or is beyond the embedding.
        """
        declared = self._files.eos_ids()
        self.check_ids(declared, "eos_token_id")
        end = self._template_end
        if end is None or end in declared:
            return declared
        _log.warning(
            "%s: generation_config.json ends a response at %s, but the chat template ends a turn "
            "with %d %r; a response ends at either", self.directory, list(declared), end,
            self.control[end],
        )  # fmt: skip
        return (*declared, end)

    @property
    def end_of_turn_id(self) -> int:
        """The id that training appends to a response.

        The template's own end of a turn, else the tokenizer's eos, else the first that ends one.
        """
        if self._template_end is not None:
            return self._template_end
        eos = self._full.token_to_id(self.names.get("eos_token", ""))
        return eos if eos in self.eos_ids else self.eos_ids[0]

    @cached_property
    def _template_end(self) -> int | None:
        """The control token that the template writes behind the assistant's text, if it is one."""
        try:
            (answer,) = self.render([plain_probe(2)])
            if isinstance(answer, InputError):
                return None  # a template may refuse an assistant's turn; it then says no end
            tail = fixed_texts(answer, 2)[-1]
        except InputError:
            return None
        match = self.control_pattern.search(tail)
        if match is None or tail[: match.start()].strip():
            return None
        # a template that opens the next turn whether asked or not ends none
        tokens = self.control_pattern.findall(self._turns.fixed[-1])
        opening = [token for token in tokens if token != THINK_OPEN][-1:]
        return None if opening == [match.group()] else self._full.token_to_id(match.group())


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches one of the texts, the longest first."""
    longest_first = sorted(set(texts), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _trusted_spans(chunks: Sequence[Chunk]) -> Iterator[tuple[int, int]]:
    """(first character, one behind the last) of each stretch of trusted text."""
    place = 0
    for trusted, group in groupby(chunks, key=lambda chunk: chunk[0]):
        length = sum(len(text) for _, text in group)
        if trusted:
            yield place, place + length
        place += length


def _within(trusted: Sequence[tuple[int, int]], text: str, start: int, stop: int) -> bool:
    """Whether a token's letters stand in trusted text; the spaces that it takes along need not."""
    stop -= len(text[start:stop]) - len(text[start:stop].rstrip())
    start += len(text[start:stop]) - len(text[start:stop].lstrip())
    return any(begin <= start and stop <= end for begin, end in trusted)
