"""Small tokenizers of every family, and students that carry them."""

import json
import shutil
from pathlib import Path

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from thinksafe_jax.weights import resolve_model

CONTROL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"]
TAGS = ["<think>", "</think>"]
CORPUS = [
    "How do I bake bread in an oven?", "Tell me about the sea and the sky.",
    "What is the answer to this question?", "<|user|> [INST] go [/INST] <|assistant|>",
] * 20  # fmt: skip
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "mistral": "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] "
    "{{ m['content'] }}[/INST]{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}",
    "llama-2": "{{ bos_token }}[INST] {{ messages[0]['content'] }} [/INST]",
    "zephyr": "<|user|>\n{{ messages[0]['content'] }}{{ eos_token }}\n<|assistant|>\n",
}


def student(folder: Path, **config) -> Path:
    """A copy of mini:student to change; `config` replaces keys of tokenizer_config.json."""
    shutil.copytree(resolve_model("mini:student"), folder)
    for file in folder.iterdir():
        file.chmod(0o644)
    edit(folder / "tokenizer_config.json", **config)
    return folder


def edit(file: Path, **values) -> None:
    """Sets keys of a JSON file; Ellipsis removes one."""
    content = json.loads(file.read_text(encoding="utf-8")) | values
    kept = {key: value for key, value in content.items() if value is not ...}
    file.write_text(json.dumps(kept), encoding="utf-8")


def byte_level() -> Tokenizer:
    """As Qwen and Llama 3 have."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_fallback(
    scheme: str, texts=CORPUS, control=("<unk>",), vocabulary: int = 520
) -> Tokenizer:
    """As Llama 2 and Mistral have: a space before the text, and bytes for unknown characters.

    Args:
        scheme: "prepend", a normalizer, before each stretch of text; "first" or "always", a
            pre-tokenizer, before the first stretch or each.
        texts: that it is trained on.
        control: its control tokens; the first ids are theirs.
    """
    spelled = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if scheme == "prepend":
        spaces = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        tokenizer.normalizer = normalizers.Sequence(spaces)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    text = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*text, decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[*control, *spelled],
        max_token_length=8,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return without_added(tokenizer)


def unigram() -> Tokenizer:
    """A SentencePiece vocabulary that has every control token as a piece of its own."""
    letters = sorted({letter for line in CORPUS for letter in line} - {" "} | set("<|>/[]_▁"))
    pieces = [("<unk>", 0.0), *((letter, -5.0) for letter in letters)]
    pieces += [(token, -3.0) for token in (*CONTROL, *TAGS)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    return tokenizer


def merging() -> Tokenizer:
    """BPE whose last merges spell control tokens, and no pre-tokenizer that would part them."""
    vocab, merges = {}, []
    for letter in sorted({c for line in CORPUS for c in line} | set("".join([*CONTROL, *TAGS]))):
        vocab.setdefault(letter, len(vocab))
    for token in (*CONTROL, *TAGS):
        for end in range(2, len(token) + 1):
            merges.append((token[: end - 1], token[end - 1]))
            vocab.setdefault(token[:end], len(vocab))
    merges = list(dict.fromkeys(merges))
    vocab.setdefault("<unk>", len(vocab))
    return Tokenizer(models.BPE(vocab, merges, unk_token="<unk>"))


def word_piece() -> Tokenizer:
    """Whole words, control tokens among them, split at white space alone."""
    words = {word for line in CORPUS for word in line.split()} | {*CONTROL, *TAGS, "<unk>"}
    letters = sorted({letter for word in words for letter in word})
    listed = [*sorted(words), *(x for x in letters if x not in words), *(f"##{x}" for x in letters)]
    vocab = {word: n for n, word in enumerate(dict.fromkeys(listed))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="<unk>", max_input_chars_per_word=100))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def without_added(tokenizer: Tokenizer) -> Tokenizer:
    """What training made control tokens are words like others again."""
    saved = json.loads(tokenizer.to_str())
    saved["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(saved))


FAMILIES = {
    "byte-level": byte_level,
    "byte-fallback, prepend": lambda: byte_fallback("prepend"),
    "byte-fallback, first": lambda: byte_fallback("first"),
    "byte-fallback, always": lambda: byte_fallback("always"),
    "unigram": unigram,
    "merging": merging,
    "word-piece": word_piece,
}


def save(folder: Path, tokenizer: Tokenizer, template: str = CHATML, **config) -> Path:
    """A folder with the tokenizer, its control tokens added, and BOS before every text."""
    tokenizer.add_special_tokens(["<unk>", *CONTROL])
    tokenizer.add_tokens(TAGS)
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bos)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
        "chat_template": template, **config,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder
