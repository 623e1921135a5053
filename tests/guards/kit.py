"""A small guard in Llama-Guard's format: tokenizer, chat template, random Llama weights."""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.support import save_tiny

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


def save_tokenizer(
    folder: Path,
    template: str = TEMPLATE,
    corpus: str = "safe\nunsafe\n",
    tags: tuple[str, ...] = (),
) -> Path:
    """A byte-level BPE trained on the corpus and the template, with control tokens.

    `tags` become added tokens that decoding keeps, as `<think>` is in reasoning models.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=CONTROL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([template, corpus * 50], trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": CONTROL[0],
        "eos_token": CONTROL[-1],
        "chat_template": template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def save_guard(folder: Path, **overrides):
    """Adds random Llama weights to `save_tokenizer`; returns the torch model."""
    save_tokenizer(folder)
    settings = {"vocab_size": VOCAB, "max_position_embeddings": 1024, **overrides}
    return save_tiny("llama", folder, **settings)
