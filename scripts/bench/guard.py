"""Guard throughput: this package's prefill scoring beside transformers' padded batches.

    python scripts/bench/guard.py --json scripts/bench/results/guard.json

A guard of SmolLM2-135M's shapes with random float32 weights judges pairs whose lengths are
long-tailed, as reasoning traces are (lognormal). transformers gets the same ids in the same order,
in left-padded batches, one forward pass a batch with the LM head on the last position only, which
is what its `generate` does. Both are warmed up on the whole set (compilation is reported apart);
then they take turns, and the ratio is that of the medians.

    pairs_ratio   our pairs/s over transformers' padded batches
    padding       our computed tokens over real ones
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from machine import machine

SHAPES = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
}
MEDIAN, SIGMA = 160, 1.15  # tokens of a response: median, and spread of its logarithm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--longest", type=int, default=2048, help="tokens of guard input")
    parser.add_argument("--batch", type=int, default=8, help="pairs in a batch of transformers")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(Path(scratch), options)
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def measure(folder: Path, options: argparse.Namespace) -> dict:
    from thinksafe_jax.config import GuardModel
    from thinksafe_jax.guards.native import GuardStats, NativeGuard

    model = save_checkpoint(folder)
    cfg = GuardModel(model="bench", dtype="float32", max_length=options.longest, batch_tokens=1024)
    guard = NativeGuard.from_directory(folder, cfg)
    exchanges = long_tailed(guard, options.pairs, options.longest)
    answer = guard.form.answer({"verdict": "unsafe"})
    encode = guard.prompt.encode
    inputs = [encode((e.prompt, e.response), options.longest).ids or [] for e in exchanges]
    ours, theirs = [], []
    began = time.monotonic()
    verdicts = list(guard.judge(exchanges))
    compiling = time.monotonic() - began
    reference = padded(model, inputs, options.batch)
    worst = compare(guard, encode, exchanges, answer, reference, options.longest)
    for _ in range(options.repeats):
        guard.stats = GuardStats()
        ours.append(seconds(lambda: list(guard.judge(exchanges))))
        theirs.append(seconds(lambda: padded(model, inputs, options.batch)))
    lengths = np.array([len(ids) for ids in inputs])
    return {
        "pairs_ratio": round(statistics.median(theirs) / statistics.median(ours), 3),
        "padding": round(guard.stats.padding, 4),
        "pairs": len(verdicts),
        "pairs_per_s": round(len(verdicts) / statistics.median(ours), 3),
        "transformers_pairs_per_s": round(len(verdicts) / statistics.median(theirs), 3),
        "transformers_padding": round(padding_of(lengths, options.batch), 4),
        "transformers_batch": options.batch,
        "seconds": [round(x, 3) for x in ours],
        "transformers_seconds": [round(x, 3) for x in theirs],
        "first_run_seconds": round(compiling, 3),
        "largest_difference": worst,
        "tokens": {
            "mean": round(float(lengths.mean()), 1),
            "median": int(np.median(lengths)),
            "longest": int(lengths.max()),
        },
        "machine": machine(),
    }


def save_checkpoint(folder: Path):
    """The mini guard's tokenizer with its Llama-Guard template, and random weights; torch model."""
    import shutil

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from thinksafe_jax.weights import resolve_model

    source = resolve_model("mini:guard")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(source / name, folder / name)
    torch.manual_seed(0)
    model = LlamaForCausalLM._from_config(LlamaConfig(**SHAPES), dtype=torch.float32).eval()
    model.save_pretrained(folder)
    return model


def long_tailed(guard, count: int, longest: int) -> list:
    """Pairs of the mini world's sentences whose responses have lognormal lengths."""
    from thinksafe_jax.guards import Exchange
    from thinksafe_jax.mini.guard_corpus import guard_corpus
    from thinksafe_jax.synthesis import steer

    rng = Random(0)
    texts = [row["response"] for row in guard_corpus(seed=3, rows=200, steer=steer)]
    fixed = len(guard.prompt.encode(("How?", ""), longest).ids or [])
    pairs = []
    for n in range(count):
        wanted = min(longest - fixed - 64, max(24, int(rng.lognormvariate(np.log(MEDIAN), SIGMA))))
        text = " ".join(rng.choice(texts) for _ in range(1 + wanted // 40))
        ids = guard.prompt.tokenizer.encode_text(text)[:wanted]
        response = guard.prompt.tokenizer.decode(ids)
        pairs.append(Exchange(str(n), f"How would you do that, case {n}?", response, "harmful"))
    return pairs


def padded(model, inputs: list, size: int) -> list[np.ndarray]:
    """transformers: left-padded batches in the given order; logits of each last position."""
    import torch

    last_logits = []
    for start in range(0, len(inputs), size):
        batch = inputs[start : start + size]
        width = max(map(len, batch))
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros(len(batch), width, dtype=torch.long)
        for row, tokens in enumerate(batch):
            ids[row, width - len(tokens) :] = torch.tensor(tokens)
            mask[row, width - len(tokens) :] = 1
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.inference_mode():
            out = model(
                ids, attention_mask=mask, position_ids=positions, logits_to_keep=1, use_cache=False
            )
        last_logits += list(out.logits[:, -1].numpy())
    return last_logits


def compare(guard, encode, exchanges, answer, reference, longest) -> float:
    """Largest difference between the two in P(safe), P(unsafe) at the verdict."""
    inputs = [
        encode((e.prompt, e.response), longest, answer.text, answer.drop).ids or []
        for e in exchanges
    ]
    scores = guard.scores(inputs, [answer] * len(inputs))
    worst = 0.0
    for ours, logits in zip(scores, reference, strict=True):
        p = np.exp(logits - logits.max())
        p /= p.sum()
        words = [p[i] for i in answer.word_ids[0] if i >= 0]
        worst = max(worst, float(np.abs(ours[0][: len(words)] - words).max()))
    return worst


def padding_of(lengths: np.ndarray, size: int) -> float:
    batches = [lengths[n : n + size] for n in range(0, len(lengths), size)]
    return sum(b.max() * len(b) for b in batches) / lengths.sum()


def seconds(work) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


if __name__ == "__main__":
    main()
