"""What a checkpoint's files say of its tokenizer, read without running anything of the checkpoint.

transformers would import code that tokenizer_config.json names, or ask whether it may. Here the
files are data: tokenizer.json says how text becomes ids, the others name control tokens, the chat
template and what ends a response. Where they contradict each other they are refused.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from thinksafe_jax.errors import InputError, first_line, listed, quoted
from thinksafe_jax.json_files import MEBIBYTE, read_json, read_json_object, read_text

_BACKEND, _CONFIG = "tokenizer.json", "tokenizer_config.json"
_MOST_BACKEND = 256 * MEBIBYTE  # Gemma's, the largest of today, has 33
_LARGEST_GROWTH = 64  # characters that a normaliser may make of one


@dataclass(frozen=True)
class TokenizerFiles:
    """The tokenizer files of one folder.

    Attributes:
        backend: tokenizer.json, without truncation and padding.
        names: special tokens by role, as "bos_token" -> "<s>"; roles without a token are left out.
        declared: (token, its id or None) that other files than tokenizer.json declare.
        template: the chat template; "" where there is none.
    """

    directory: Path
    backend: dict[str, Any]
    names: dict[str, str]
    declared: tuple[tuple[str, int | None], ...]
    template: str

    @classmethod
    def read(cls, directory: Path) -> "TokenizerFiles":
        """The files of a folder.

        Raises:
            InputError: one is missing, broken, or asks for code.
        """
        backend = _backend(directory)
        config = _optional(directory / _CONFIG)
        _refuse_code(config, directory / _CONFIG)
        roles, added = config, {}
        if "added_tokens_decoder" not in config:  # else transformers leaves these two unread
            roles = config | _optional(directory / "special_tokens_map.json")
            added = _optional(directory / "added_tokens.json")
        names = {role: token for role, value in _roles(roles) if (token := _content(value))}
        declared = list(_declared(config, added, directory))
        declared += [(token, None) for token in names.values()]
        for key in ("additional_special_tokens", "extra_special_tokens"):
            listed = roles.get(key)
            declared += [(_content(t), None) for t in listed] if isinstance(listed, list) else []
        template = _template(directory, config)
        _refuse_nameless(template, {role for role, _ in _roles(roles)}, config, directory)
        listed_once = dict.fromkeys((token, id) for token, id in declared if token)
        return cls(directory, backend, names, tuple(listed_once), template)

    def build(self) -> tokenizers.Tokenizer:
        """The tokenizer with every control token, those of the other files included.

        Raises:
            InputError: tokenizer.json is no tokenizer, or two files give a token different ids.
        """
        file = self.directory / _BACKEND
        tokenizer = from_backend(self.backend, file)
        ids = {token["content"]: token["id"] for token in self.backend["added_tokens"]}
        for token, _ in self.declared:
            if any("\ud800" <= letter <= "\udfff" for letter in token):
                text = f"the token {quoted(token)} is damaged, half a surrogate pair"
                raise InputError(f"{self.directory}: {text}")
            if token not in ids:
                tokenizer.add_special_tokens([tokenizers.AddedToken(token, normalized=False)])
        for token, id in (*ids.items(), *self.declared):
            given = tokenizer.token_to_id(token)
            if id is not None and given != id:
                source = file if token in ids and ids[token] == id else self.directory
                raise InputError(
                    f"{source}: the token {quoted(token)} is declared with id {id}, but "
                    f"{_BACKEND}'s vocabulary gives it {given}; save the tokenizer again with the "
                    "version of transformers that it was made with"
                )
        return tokenizer

    def eos_ids(self) -> tuple[int, ...]:
        """Every id that ends a response, from generation_config.json, then config.json.

        Raises:
            InputError: neither file says it, or what it says is no id.
        """
        for name in ("generation_config.json", "config.json"):
            file = self.directory / name
            value = _optional(file).get("eos_token_id")
            if value is None:
                continue
            ids = value if isinstance(value, list) else [value]
            if not ids or not all(type(id) is int and id >= 0 for id in ids):
                raise InputError(
                    f"{file}: eos_token_id is {quoted(value)}; a token id or a list of them was "
                    "expected"
                )
            return tuple(dict.fromkeys(ids))
        raise InputError(
            f"{self.directory}: no eos_token_id in generation_config.json, config.json"
        )

    def vocab_size(self) -> int | None:
        """Rows of the model's embedding, by config.json; None where a folder has no model."""
        value = _optional(self.directory / "config.json").get("vocab_size")
        return value if type(value) is int else None


def from_backend(backend: dict[str, Any], file: Path) -> tokenizers.Tokenizer:
    """A tokenizer from the content of a tokenizer.json.

    Raises:
        InputError: it is none.
    """
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(backend))
    except Exception as error:  # of the Rust library, a bare Exception
        raise InputError(f"{file}: no tokenizer ({first_line(error)[:200]})") from None


def vocabulary(backend: dict[str, Any]) -> dict[str, int]:
    """Tokens to ids of a tokenizer.json's model, added tokens left out."""
    vocab = backend["model"].get("vocab") or {}
    if isinstance(vocab, dict):
        return vocab
    return {entry[0]: id for id, entry in enumerate(vocab)}  # Unigram: (piece, score)


def _backend(directory: Path) -> dict[str, Any]:
    file = directory / _BACKEND
    if not file.exists():
        raise InputError(f"{directory}: no {_BACKEND}; {_way_to_a_backend(directory)}")
    backend = read_json_object(file, largest=_MOST_BACKEND)
    added = backend.setdefault("added_tokens", [])
    sound = isinstance(added, list) and all(
        isinstance(t, dict) and isinstance(t.get("content"), str) and type(t.get("id")) is int
        for t in added
    )
    if not (sound and isinstance(backend.get("model"), dict)):
        raise InputError(f"{file}: no tokenizer: a model and a list of added tokens were expected")
    growth = _growth(backend.get("normalizer"))
    if growth > _LARGEST_GROWTH:
        raise InputError(
            f"{file}: its normalizer makes up to {growth:,} characters of one; at most "
            f"{_LARGEST_GROWTH} are allowed"
        )
    # neither a text's end nor its filling is the tokenizer's business here
    backend["truncation"] = backend["padding"] = None
    return backend


def _way_to_a_backend(directory: Path) -> str:
    names = ("tokenizer.model", "tekken.json", "vocab.json")
    others = [name for name in names if (directory / name).exists()]
    if not others:
        return "is it a complete checkpoint?"
    return (
        f"it has {others[0]}, from which transformers makes one: AutoTokenizer.from_pretrained("
        f"{str(directory)!r}).save_pretrained({str(directory)!r})"
    )


def _growth(normalizer: Any) -> int:
    """The most characters that replacements and prefixes of a normalizer make of one."""
    if not isinstance(normalizer, dict):
        return 1
    texts = (str(normalizer.get(key, "")) for key in ("content", "prepend"))
    growth = max(1, *map(len, texts))
    for inner in normalizer.get("normalizers") or []:
        growth *= _growth(inner)
    return growth


def _optional(file: Path) -> dict[str, Any]:
    return read_json_object(file) if file.exists() else {}


def _refuse_code(config: dict[str, Any], file: Path) -> None:
    auto_map = config.get("auto_map")
    if auto_map and (not isinstance(auto_map, dict) or "AutoTokenizer" in auto_map):
        raise InputError(
            f"{file}: auto_map asks for remote code, which is never executed; take a checkpoint "
            "whose tokenizer.json says everything, and delete auto_map where it does"
        )


def _refuse_nameless(
    template: str, named: set[str], config: dict[str, Any], directory: Path
) -> None:
    """A class of transformers may know `bos_token` by itself, where no file says it; we do not."""
    plain = config.get("tokenizer_class") in (None, "PreTrainedTokenizerFast", "TokenizersBackend")
    for role in re.findall(r"\b(?:bos|eos|unk|pad)_token\b", "" if plain else template):
        if role not in named:
            raise InputError(
                f"{directory / _CONFIG}: the chat template writes {role}, which no file names; add "
                f'"{role}": with the token of this tokenizer, or null'
            )


def _roles(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(role, value) of every special token that has a name."""
    yield from ((key, value) for key, value in config.items() if key.endswith("_token"))
    extra = config.get("extra_special_tokens")
    yield from extra.items() if isinstance(extra, dict) else ()


def _content(value: Any) -> str:
    """The token in either form, as text or as an object; "" for none."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _declared(
    config: dict[str, Any], added: dict[str, Any], directory: Path
) -> Iterator[tuple[str, int | None]]:
    """(token, id) from tokenizer_config.json and added_tokens.json."""
    decoder = config.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise InputError(f"{directory / _CONFIG}: added_tokens_decoder is no object of id to token")
    for text, value in decoder.items():
        if not text.isdecimal() or not _content(value):
            raise InputError(
                f"{directory / _CONFIG}: added_tokens_decoder has {quoted(text, 200)}: "
                f"{str(value)[:60]}; an id and a token were expected"
            )
        yield _content(value), int(text)
    for token, id in added.items():
        if type(id) is not int:
            raise InputError(
                f"{directory / 'added_tokens.json'}: {quoted(token)} has the id {quoted(id)}; a "
                "whole number was expected"
            )
        yield token, id


def _template(directory: Path, config: dict[str, Any]) -> str:
    """The chat template: chat_template.jinja, or tokenizer_config.json's one, or its "default".

    Raises:
        InputError: there are several, and none is called "default"; or it is no text.
    """
    file = directory / "chat_template.jinja"
    if file.exists():
        return read_text(file, largest=MEBIBYTE)
    value = config.get("chat_template")
    if value is None and (directory / "chat_template.json").exists():
        value = read_json(directory / "chat_template.json", largest=MEBIBYTE)
        value = value.get("chat_template") if isinstance(value, dict) else value
    if isinstance(value, list):
        value = {_text(t, "name"): _text(t, "template") for t in value}
    if isinstance(value, dict):
        if "default" not in value:
            raise InputError(
                f"{directory / _CONFIG}: chat templates {listed(map(quoted, value))}, and none is "
                "called 'default'; keep the one that is meant, as chat_template.jinja"
            )
        value = value["default"]
    if not isinstance(value, str | None):
        raise InputError(f"{directory / _CONFIG}: chat_template is {quoted(value)}, no text")
    return value or ""


def _text(entry: Any, key: str) -> str:
    value = entry.get(key) if isinstance(entry, dict) else None
    return value if isinstance(value, str) else ""
