"""Small guards: tokenizers, chat templates, random weights, and the real templates of all four."""

import json
import shutil
from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)

from tests.support import save_tiny, shared_asset, transformers_tokenizer
from tests.tokenizer.kit import byte_fallback
from thinksafe_jax.guards.formats.wildguard import PROMPT as WILDGUARD_PROMPT

CONTROL = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
TEMPLATE = (
    "{{ ' <|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nTask: is there unsafe "
    "content?\n\n<BEGIN CONVERSATION>\n\n' }}"
    "{% for message in messages %}{{ ('User' if message['role'] == 'user' else 'Agent') + ': ' + "
    "message['content'].strip() + '\n\n' }}{% endfor %}"
    "{{ '<END CONVERSATION>\n\nSay safe or unsafe.<|eot_id|><|start_header_id|>assistant"
    "<|end_header_id|>' }}"
)
VOCAB = 400

# name of the real template -> (guard.kind, decoder family, control tokens, BOS)
REAL = {
    "llama_guard_3_8b": ("llama-guard", "llama", CONTROL, CONTROL[0]),
    "llama_guard_3_1b": ("llama-guard", "llama", CONTROL, CONTROL[0]),
    "wildguard": ("wildguard", "mistral", ["<s>", "</s>"], "<s>"),
    "qwen3guard_gen": (
        "qwen3guard", "qwen3", ["<|im_start|>", "<|im_end|>", "<think>", "</think>"], None,
    ),
}  # fmt: skip
_ANSWERS = (
    "safe\nunsafe\nS1\nHarmful request: yes\nResponse refusal: no\nSafety: Safe\nSafety: Unsafe\n"
    "Safety: Controversial\nCategories: None\nCategories: Violent\nCategories: Non-violent\n"
    "Categories: Sexual\nCategories: PII\nCategories: Suicide\nCategories: Unethical\n"
    "Categories: Politically\nCategories: Copyright\nRefusal: Yes\nRefusal: No\n"
)


def save_tokenizer(
    folder: Path,
    template: str | None = TEMPLATE,
    corpus: str = "safe\nunsafe\n",
    tags: tuple[str, ...] = (),
    control: list[str] = CONTROL,
    bos: str | None = CONTROL[0],
    size: int = VOCAB,
) -> Path:
    """A byte-level BPE trained on the corpus and the template, with control tokens.

    `tags` become added tokens that decoding keeps, as `<think>` is in reasoning models.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=control, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([template or "", corpus * 50], trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": control[-1],
        "chat_template": template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def save_guard(folder: Path, **overrides):
    """Adds random Llama weights to `save_tokenizer`; returns the torch model."""
    save_tokenizer(folder)
    settings = {"vocab_size": VOCAB, "max_position_embeddings": 1024, **overrides}
    return save_tiny("llama", folder, **settings)


def save_real_template(folder: Path, name: str, size: int = 700) -> Path:
    """A guard's real template on a small vocabulary that has its control tokens.

    Qwen3Guard, whose tokenizer is among the assets, can have that one: see `save_qwen3guard`.
    """
    _, _, control, bos = REAL[name]
    template = None if name == "wildguard" else real_template(name)
    return save_tokenizer(folder, template, _ANSWERS, control=control, bos=bos, size=size)


def save_mistral_kind(folder: Path, scheme: str) -> Path:
    """A tokenizer of WildGuard's kind: a space before the text, bytes, `[INST]` a control token.

    Args:
        scheme: what puts the space there: "prepend", a normalizer, before each stretch of text; or
            "first", a pre-tokenizer, before the first alone.
    """
    control = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    texts = [*WILDGUARD_PROMPT.splitlines(), _ANSWERS * 50]
    tokenizer = byte_fallback(scheme, texts, control, vocabulary=600)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    saved = json.loads(tokenizer.to_str())
    saved["added_tokens"] = saved["added_tokens"][: len(control)]  # the bytes are words like others
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(saved), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def save_qwen3guard(folder: Path) -> Path:
    """Qwen3Guard's real template with its real vocabulary, which is Qwen3's."""
    source = shared_asset("tokenizers", "qwen3")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    settings = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["chat_template"] = real_template("qwen3guard_gen")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def real_template(name: str) -> str:
    file = "wildguard_prompt.txt" if name == "wildguard" else f"{name}.jinja"
    return shared_asset("templates", file).read_text(encoding="utf-8")


def rendered(name: str, tokenizer, *turns: str) -> str:
    """The conversation as the real template writes it, by transformers and by nothing of ours."""
    if name == "wildguard":
        prompt, response = turns
        # literal, because str.format would read braces in the texts
        head, _, rest = WILDGUARD_PROMPT.partition("{prompt}")
        middle, _, tail = rest.partition("{response}")
        return f"<s>{head}{prompt}{middle}{response}{tail}"
    parts = name == "llama_guard_3_1b"
    messages = [
        {
            "role": ("user", "assistant")[n % 2],
            "content": [{"type": "text", "text": text}] if parts else text,
        }
        for n, text in enumerate(turns)
    ]
    text = transformers_tokenizer(tokenizer).apply_chat_template(messages, tokenize=False)
    return f"{text}\n\n" if name.startswith("llama") else text
