"""Text to token ids and back; text from users or models never becomes control tokens.

A chat template is rendered once around a placeholder; its fixed parts are tokenised with the
control tokens, the text that fills the hole is tokenised without any (tokenizers' own
`encode_special_tokens` is not enough: it leaves `<think>` alone, which is added but not special).
"""

import json
from functools import cached_property
from pathlib import Path

import tokenizers

from thinksafe_jax.errors import InputError
from thinksafe_jax.tokenizer.chat_template import render_chat

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
_HOLE = "\u2983text-goes-here\u2984"  # no template and no tokenizer knows it


class ChatTokenizer:
    """A Hugging Face tokenizer with its chat template, safe for untrusted text.

    Args:
        directory: local folder with tokenizer.json, tokenizer_config.json and, if the model
            generates, generation_config.json or config.json for the end-of-sequence ids.

    Raises:
        InputError: the folder has no tokenizer.json.
    """

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)
        file = self.directory / "tokenizer.json"
        if not file.exists():
            raise InputError(f"{self.directory}: no tokenizer.json; is it a complete checkpoint?")
        from transformers import AutoTokenizer  # seconds, where PyTorch is installed as well

        self.hf = AutoTokenizer.from_pretrained(str(self.directory), local_files_only=True)
        self._full = tokenizers.Tokenizer.from_file(str(file))
        plain = json.loads(file.read_text(encoding="utf-8"))
        self.control_ids = frozenset(token["id"] for token in plain["added_tokens"])
        plain["added_tokens"], plain["post_processor"] = [], None
        self._plain = tokenizers.Tokenizer.from_str(json.dumps(plain))

    @cached_property
    def _plain_inner(self) -> tokenizers.Tokenizer:
        plain = self._plain.to_str()
        inner = plain.replace('"prepend_scheme":"first"', '"prepend_scheme":"never"')
        return self._plain if inner == plain else tokenizers.Tokenizer.from_str(inner)

    @cached_property
    def eos_ids(self) -> tuple[int, ...]:
        """Every id that ends a response, from generation_config.json, then config.json."""
        for name in ("generation_config.json", "config.json"):
            file = self.directory / name
            eos = json.loads(file.read_text()).get("eos_token_id") if file.exists() else None
            if eos is not None:
                return tuple(eos) if isinstance(eos, list) else (eos,)
        raise InputError(
            f"{self.directory}: no eos_token_id in generation_config.json, config.json"
        )

    @property
    def end_of_turn_id(self) -> int:
        """The id that training appends to a response: the tokenizer's own eos, else the first."""
        own = self.hf.eos_token_id
        return own if own in self.eos_ids else self.eos_ids[0]

    def encode_text(self, text: str, *, inner: bool = False) -> list[int]:
        """Token ids of plain text; control tokens spelled out in it stay ordinary text.

        Args:
            inner: the text follows other text, so that no space is put before it by a tokenizer
                that puts one at the beginning alone (Metaspace with `prepend_scheme: first`).
        """
        plain = self._plain_inner if inner else self._plain
        return plain.encode(text, add_special_tokens=False).ids

    def end_of(self, text: str, count: int) -> str:
        """The last `count` > 0 tokens of a plain text, letter by letter as they stand in it."""
        offsets = self._plain.encode(text, add_special_tokens=False).offsets
        return text[offsets[-count][0] :] if count < len(offsets) else text

    def encode_template(self, text: str) -> list[int]:
        """Token ids of trusted template text, in which control tokens count."""
        return self._full.encode(text, add_special_tokens=False).ids

    @cached_property
    def _chat_parts(self) -> tuple[str, str]:
        try:
            text = render_chat(
                self.hf, [{"role": "user", "content": _HOLE}], add_generation_prompt=True
            )
        except InputError as error:
            raise InputError(f"{self.directory}: {error}") from None
        head, *rest = text.split(_HOLE)
        if len(rest) != 1:
            raise InputError(
                f"{self.directory}: the chat template shows the user's text {len(rest)} times; "
                "it must appear exactly once"
            )
        return head, rest[0]

    @cached_property
    def _chat_ids(self) -> tuple[list[int], list[int]]:
        head, tail = self._chat_parts
        return self.encode_template(head), self.encode_template(tail)

    @property
    def opens_think(self) -> bool:
        """Whether the template itself opens the reasoning (R1-Distill does, Qwen3 does not)."""
        return self._chat_parts[1].rstrip().endswith(THINK_OPEN)

    def prompt_ids(self, user_text: str) -> list[int]:
        """Ids of a single-turn conversation up to where the assistant speaks."""
        head, tail = self._chat_ids
        return head + self.encode_text(user_text) + tail

    def response_ids(self, response: str, ended: bool = True) -> list[int]:
        """Ids of a response as the model generated it, with the end-of-turn id if it `ended`.

        The first `<think>` and the first `</think>` after it are the model's control tokens; all
        else is plain text. Where the template opens the reasoning, the opening tag belongs to the
        prompt and is left out here.
        """
        if self.opens_think:
            response = response.removeprefix(THINK_OPEN).removeprefix("\n")
        ids: list[int] = []
        for tag in (THINK_OPEN, THINK_CLOSE):
            before, found, after = response.partition(tag)
            if found and tag in self._added_text:
                ids += self.encode_text(before) + self.encode_template(tag)
                response = after
        return [*ids, *self.encode_text(response), *([self.end_of_turn_id] if ended else [])]

    @cached_property
    def _added_text(self) -> frozenset[str]:
        return frozenset(t.content for t in self._full.get_added_tokens_decoder().values())

    def decode(self, ids) -> str:
        """Text of generated ids: special tokens left out, `<think>` tags kept."""
        text = self._full.decode(list(map(int, ids)), skip_special_tokens=True)
        if self.opens_think and not text.startswith(THINK_OPEN):
            text = f"{THINK_OPEN}\n{text}"
        return text
