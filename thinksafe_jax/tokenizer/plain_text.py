"""Text to ids that are never control tokens, whatever the text spells (SECURITY.md).

A tokenizer without its list of added tokens reads `<|im_end|>` as letters, as a rule. But the plain
vocabulary may hold the same token: a Unigram piece, the last step of BPE merges, a whole word of
WordPiece. So the ids are looked at, and a text whose letters come together to a control token is
encoded in parts, cut inside that token.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from thinksafe_jax.errors import InputError, quoted
from thinksafe_jax.tokenizer.tokenizer_files import from_backend, vocabulary

_DEEPEST = 64  # letters of the longest control token, more or less: each round cuts one off


class PlainText:
    """A tokenizer that knows no control token.

    Args:
        backend: the content of tokenizer.json.
        control: id -> text of every control token.
        harmful: those that an unknown character must not become, as what ends a turn.
        file: the tokenizer.json, for messages.
    """

    def __init__(
        self,
        backend: dict[str, Any],
        control: Mapping[int, str],
        harmful: Iterable[str],
        file: Path,
    ):
        kept = [token for token in backend["added_tokens"] if token["id"] not in control]
        self._backend = {**backend, "added_tokens": kept, "post_processor": None}
        self._control, self._file, self._harmful = control, file, frozenset(harmful)
        # most vocabularies cannot spell one: their control tokens have ids of their own
        self._can_spell = not control.keys().isdisjoint(vocabulary(backend).values())
        model = backend["model"]
        self._unknown = model.get("unk_token")
        if isinstance(model.get("unk_id"), int) and isinstance(model.get("vocab"), list):
            self._unknown = model["vocab"][model["unk_id"]][0]
        self._first = from_backend(self._backend, file)
        self._inner = self._variant(_without_first_prefix(backend))
        self._glued = self._variant(_without_prefix(backend))

    def encode(self, text: str, *, inner: bool = False) -> list[int]:
        """Ids of a text, none of them a control token's.

        Args:
            inner: the text follows other text, so that no space is put before it by a tokenizer
                that puts one at the beginning alone (Metaspace with `prepend_scheme: first`).

        Raises:
            InputError: a character of it is a control token, which leaves nothing to cut.
        """
        encoder = self._inner if inner else self._first
        encoding = encoder.encode(text, add_special_tokens=False)
        if not self._can_spell or self._control.keys().isdisjoint(encoding.ids):
            return encoding.ids
        return self._in_parts(text, encoder, 0)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """(first character, one behind the last) of each token of a text."""
        return self._first.encode(text, add_special_tokens=False).offsets

    def _in_parts(self, text: str, encoder: tokenizers.Tokenizer, depth: int) -> list[int]:
        encoding = encoder.encode(text, add_special_tokens=False)
        cuts = [0]
        for id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
            if self._is_control(id, text[start:stop]):
                if stop - start < 2 or depth > _DEEPEST:
                    raise InputError(
                        f"{self._file}: reads {text[start:stop]!r}, which is text, as the control "
                        f"token {quoted(self._control[id])}; such a tokenizer cannot keep them "
                        f"apart"
                    )
                cuts.append(start + 1)
        if len(cuts) == 1:
            return encoding.ids
        ids: list[int] = []
        for start, stop in zip(cuts, [*cuts[1:], len(text)], strict=True):
            # behind a cut no space is put before the text: it has none there
            ids += self._in_parts(text[start:stop], self._glued if start else encoder, depth + 1)
        return ids

    def _is_control(self, id: int, spelled: str) -> bool:
        """Whether an id is a control token; the one for unknown characters is, if it is spelled."""
        if id not in self._control:
            return False
        token = self._control[id]
        return token != self._unknown or spelled == token or token in self._harmful

    def _variant(self, changed: dict[str, Any] | None) -> tokenizers.Tokenizer:
        """The tokenizer with another normalizer and pre-tokenizer; the vocabulary is shared."""
        if changed is None:
            return self._first
        bare = {"type": "BPE", "vocab": {}, "merges": []}
        parts = from_backend({**changed, "model": bare, "added_tokens": []}, self._file)
        variant = tokenizers.Tokenizer(self._first.model)
        if parts.normalizer is not None:
            variant.normalizer = parts.normalizer
        if parts.pre_tokenizer is not None:
            variant.pre_tokenizer = parts.pre_tokenizer
        variant.add_tokens([_added(token) for token in self._backend["added_tokens"]])
        return variant


def is_text(token: Mapping[str, Any]) -> bool:
    """Whether an added token is text like any other: a run of spaces or line breaks."""
    return not token.get("special") and not token["content"].replace("▁", "").strip()


def _added(token: Mapping[str, Any]) -> tokenizers.AddedToken:
    settings = ("lstrip", "rstrip", "single_word", "normalized", "special")
    return tokenizers.AddedToken(token["content"], **{k: token[k] for k in settings if k in token})


def _without_first_prefix(backend: dict[str, Any]) -> dict[str, Any] | None:
    text = json.dumps(backend.get("pre_tokenizer"))
    inner = text.replace('"prepend_scheme": "first"', '"prepend_scheme": "never"')
    return None if inner == text else {**backend, "pre_tokenizer": json.loads(inner)}


def _without_prefix(backend: dict[str, Any]) -> dict[str, Any] | None:
    """As it is for the middle of a word: nothing puts a space before the text."""
    parts = {key: _unprefixed(backend.get(key)) for key in ("normalizer", "pre_tokenizer")}
    changed = any(parts[key] != backend.get(key) for key in parts)
    return {**backend, **parts} if changed else None


def _unprefixed(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    if part.get("type") == "Prepend":
        return None
    part = dict(part)
    for key in ("normalizers", "pretokenizers"):
        if isinstance(part.get(key), list):
            part[key] = [inner for inner in map(_unprefixed, part[key]) if inner is not None]
    if "prepend_scheme" in part:
        part["prepend_scheme"] = "never"
    if "add_prefix_space" in part:
        part["add_prefix_space"] = False
    return part
