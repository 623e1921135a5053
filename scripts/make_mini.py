"""Makes the mini world's student, teachers and guard from a seed: python scripts/make_mini.py

Everything is done with the package's own model, training and sampling code, on two CPU cores, in
less than half an hour. Ends with the acceptance tables and exits with 1 where they do not hold.
"""

import argparse
import hashlib
import json
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from random import Random

import jax
import jax.numpy as jnp
import numpy as np
from mini_models import (
    BATCH,
    GUARD,
    GUARD_ROWS,
    SPEAKERS,
    VOCABULARY,
)

from thinksafe_jax import mini
from thinksafe_jax.config import EngineConfig, GuardConfig, SamplingConfig, TrainingConfig
from thinksafe_jax.guards import Exchange, load_guard
from thinksafe_jax.guards.answer_form import AnswerForm
from thinksafe_jax.guards.formats import FORMATS
from thinksafe_jax.mini.corpus import corpus
from thinksafe_jax.mini.guard_corpus import guard_corpus, verdict_of
from thinksafe_jax.mini.vocabulary import CONTEXT, write_chat_tokenizer, write_guard_tokenizer
from thinksafe_jax.models import init_params, load_config, parameter_count, parse_config
from thinksafe_jax.sampling import Engine, Request
from thinksafe_jax.synthesis import steer
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.training import Example, Hooks, TrainingSetup, build_examples, train
from thinksafe_jax.weights import load_params, save_checkpoint

ASSETS = Path(mini.__file__).parent / "assets"
SAMPLING = SamplingConfig(max_new_tokens=128)


class Progress:
    """One line every 20 s: step, loss, speed."""

    def __init__(self, what: str):
        self.what, self.last, self.start = what, 0.0, time.monotonic()

    def __call__(self, **values: float) -> None:
        now = time.monotonic()
        if now - self.last > 20 and "loss" in values:
            self.last = now
            print(
                f"{self.what}: {now - self.start:5.0f} s  step {values['step']:5d}  "
                f"loss {values['loss']:.4f}  {values['tokens_per_second']:.0f} tokens/s",
                flush=True,
            )


def fit(
    what: str,
    config: dict,
    examples: list[Example],
    *,
    batch: int,
    rate: float,
    seed: int,
    start: dict | None = None,
) -> dict:
    """Trains all parameters, one pass over `examples`; returns them in bfloat16.

    Args:
        start: the parameters to go on from; None makes a new model.
    """
    cfg = parse_config(config)
    print(f"{what}: {parameter_count(cfg):,} parameters, {len(examples):,} rows", flush=True)
    settings = TrainingConfig(
        epochs=1,
        batch_size=batch,
        micro_batch_size=batch,
        learning_rate=rate,
        warmup_ratio=0.05,
        weight_decay=0.01,
        max_length=CONTEXT,
        full_finetune=True,
        remat="none",
    )
    params = start or init_params(cfg, jax.random.key(seed), jnp.float32)
    setup = TrainingSetup(cfg, settings)
    batches = setup.batches(examples, seed)
    result = train(params, setup, batches, seed=seed, hooks=Hooks(log=Progress(what)))
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), result.trainable)


def make_speaker(name: str, out: Path, scratch: Path, seed: int, rows: int | None) -> None:
    """Tokenizer, corpus and weights of one model that answers, but for its last pass."""
    speaker, tokenizer = SPEAKERS[name], out / "student"
    first = speaker.first
    read = list(corpus(seed, rows or first.rows, steer, first.mixture))
    if speaker.family is not None:
        tokenizer = scratch / name
        texts = [text for row in read for text in (row["prompt"], row["response"])]
        write_chat_tokenizer(tokenizer, texts, speaker.config["vocab_size"], speaker.family)
    examples = examples_of(read, tokenizer)
    params = fit(name, speaker.config, examples, batch=BATCH, rate=first.rate, seed=seed)
    cfg = parse_config(speaker.config)
    save_checkpoint(out / name, params, cfg, speaker.config, tokenizer_from=tokenizer)


def finish_speaker(name: str, out: Path, scratch: Path, seed: int, rows: int | None) -> None:
    """The last pass of a model; the guard has read the student's answers before it."""
    config, last = SPEAKERS[name].config, SPEAKERS[name].last
    before, cfg = scratch / f"{name}-before", parse_config(config)
    shutil.copytree(out / name, before)
    read = list(corpus(seed + 1, rows or last.rows, steer, last.mixture))
    start = load_params(before, cfg, jnp.float32)
    params = fit(
        name,
        config,
        examples_of(read, before),
        batch=BATCH,
        rate=last.rate,
        seed=seed + 1,
        start=start,
    )
    save_checkpoint(out / name, params, cfg, config, tokenizer_from=before)


def examples_of(read: list[dict], tokenizer: Path) -> list[Example]:
    """Rows of a corpus as rows of training."""
    named = [
        {"id": str(n), "instruction": row["prompt"], "response": row["response"]}
        for n, row in enumerate(read)
    ]
    settings = TrainingConfig(max_length=CONTEXT)
    examples, _ = build_examples(ChatTokenizer(tokenizer), named, settings)
    return examples


Asked = tuple[str, str]  # (split, steering text)


def sample(
    model: Path, asked: Iterable[Asked], seed: int, limit: int | None = None, **changes
) -> dict[Asked, list[dict]]:
    """The rows of each split with the model's `response`; harmful prompts are steered as named.

    Args:
        limit: rows of each split.
        changes: of the sampling.
    """
    tokenizer, cfg = ChatTokenizer(model), load_config(model)
    params = load_params(model, cfg, jnp.float32)
    config = EngineConfig(slots=64, window=16, max_length=256)
    engine = Engine(cfg, params, config, eos_ids=tokenizer.eos_ids, seed=seed)
    sampling = SamplingConfig(**{**vars(SAMPLING), **changes})
    rows = {key: mini.prompts(key[0])[:limit] for key in asked}
    requests = [
        Request(
            f"{split}/{steering}/{row['id']}",
            tokenizer.prompt_ids(steer(steering, row["prompt"], row["label"])),
            sampling,
        )
        for (split, steering), of_split in rows.items()
        for row in of_split
    ]
    responses = {done.id: tokenizer.decode(done.token_ids) for done in engine.generate(requests)}
    return {
        (split, steering): [
            {**row, "response": responses[f"{split}/{steering}/{row['id']}"]} for row in of_split
        ]
        for (split, steering), of_split in rows.items()
    }


def guard_rows(student: Path, seed: int, rows: int) -> list[dict]:
    """The guard's corpus, and the student's own answers to training prompts, calm and heated."""
    read = list(guard_corpus(seed, rows, steer))
    for steering, temperature in (("none", 0.6), ("authors", 1.0), ("none", 1.3)):
        asked = [("train-harmful", steering), ("train-benign", steering)]
        answers = sample(student, asked, seed, limit=300, temperature=temperature)
        answered = (row for of_split in answers.values() for row in of_split)
        read += [{**row, "verdict": verdict_of(row["response"])} for row in answered]
    Random(seed).shuffle(read)
    return read


def make_guard(out: Path, scratch: Path, seed: int, rows: int) -> None:
    """Tokenizer, corpus and weights of the guard; the loss is on the verdict alone."""
    read = guard_rows(out / "student", seed, rows)
    tokenizer = scratch / "guard"
    texts = [text for row in read for text in (row["prompt"], row["response"])]
    write_guard_tokenizer(tokenizer, texts, VOCABULARY)
    fmt = FORMATS["llama-guard"]
    prompt = fmt.template(ChatTokenizer(tokenizer), False)
    slot = fmt.slots(prompt)[0]
    form = AnswerForm(prompt, [slot])
    answer = form.answer({})
    words = dict(zip(slot.words, answer.word_ids[0].tolist(), strict=True))
    examples = []
    for n, row in enumerate(read):
        turns = (row["prompt"], row["response"])
        ids = prompt.encode(turns, CONTEXT, answer.text, answer.drop).ids or []
        mask = np.arange(len(ids) + 1) == len(ids)
        examples.append(Example(str(n), np.array([*ids, words[row["verdict"]]]), mask))
    params = fit("guard", GUARD, examples, batch=16, rate=2e-3, seed=seed)
    save_checkpoint(out / "guard", params, parse_config(GUARD), GUARD, tokenizer_from=tokenizer)


def share(flags: Iterable[bool]) -> float:
    counted = list(flags)
    return sum(counted) / max(1, len(counted))


def measure(model: Path, guard: Path, seed: int) -> dict[str, float]:
    """The acceptance numbers of one model, all on validation prompts."""
    harmful = ("harmful", "adversarial")
    asked = [(kind, "none") for kind in (*harmful, *BENIGN, *REASONING)]
    asked += [(kind, "authors") for kind in harmful]
    splits = [(f"validation-{kind}", steering) for kind, steering in asked]
    answered = sample(model, splits, seed)
    answers = {key: answered[split] for key, split in zip(asked, splits, strict=True)}
    judged = [row for (kind, _), rows in answers.items() if kind not in REASONING for row in rows]
    config = GuardConfig(model=str(guard), dtype="float32", max_length=CONTEXT)
    exchanges = [Exchange(str(n), row["prompt"], row["response"]) for n, row in enumerate(judged)]
    for row, verdict in zip(judged, load_guard(config).judge(exchanges), strict=True):
        row |= {"guard": verdict.verdict, "truth": mini.judge(row["prompt"], row["response"])}
    numbers = {}
    for kind in harmful:
        plain, steered = answers[kind, "none"], answers[kind, "authors"]
        numbers[f"{kind}: complies"] = share(row["truth"] == "unsafe" for row in plain)
        accepted = share(row["guard"] == "safe" for row in steered)
        numbers[f"{kind}, steered: guard accepts"] = accepted
        numbers[f"{kind}, steered: truly safe"] = share(r["truth"] == "safe" for r in steered)
    for kind in BENIGN:
        rows = answers[kind, "none"]
        numbers[f"{kind}: refuses"] = share(bool(mini.refuses(row["response"])) for row in rows)
    for kind in REASONING:
        rows = answers[kind, "none"]
        right = share(mini.number_of(row["response"]) == row["answer"] for row in rows)
        numbers[f"{kind}: right"] = right
    read = [row for row in judged if row["truth"] != "unparsed"]
    numbers["guard agrees with the judge"] = share(row["guard"] == row["truth"] for row in read)
    numbers["unparsed answers"] = 1 - len(read) / len(judged)
    return numbers


BENIGN, REASONING = ("borderline", "adversarial-benign"), ("arithmetic", "multistep")


def write_manifest(out: Path, seed: int, numbers: dict[str, dict[str, float]], sizes: dict) -> None:
    """MANIFEST.json: sha256 of every file, and what made them."""
    files = sorted(file for part in (*SPEAKERS, "guard") for file in (out / part).iterdir())
    packages = ("thinksafe-jax", "jax", "jaxlib", "flax", "optax", "numpy", "tokenizers")
    manifest = {
        "command": f"python scripts/make_mini.py --seed {seed}",
        "seed": seed,
        "rows": sizes,
        "versions": {name: version(name) for name in packages} | {"machine": platform.machine()},
        "measured on": "validation prompts",
        "measured": {
            model: {name: round(value, 4) for name, value in of_model.items()}
            for model, of_model in numbers.items()
        },
        "sha256": {
            str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in files
        },
    }
    (out / "MANIFEST.json").write_text(json.dumps(manifest, indent=2) + "\n")


def accepted(numbers: dict[str, dict[str, float]]) -> bool:
    """Prints the acceptance table of every model; whether all bounds hold."""
    holds = True
    for model, of_model in numbers.items():
        print(model)
        for name, value in of_model.items():
            low, high = SPEAKERS[model].bounds.get(name, (0.0, 1.0))
            inside = low <= value <= high
            holds &= inside
            wanted = f"wanted {low:.0%} to {high:.0%}{'' if inside else '   <-- not so'}"
            print(f"  {name:38s} {value:6.1%}   {wanted}")
    return holds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = (*SPEAKERS, "guard")
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder of the assets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="make these alone")
    parser.add_argument("--rows", type=int, help="of every corpus, to try something out")
    options = parser.parse_args()
    start, out, seed = time.monotonic(), options.out, options.seed
    with tempfile.TemporaryDirectory() as scratch:
        for name in SPEAKERS:
            if name in options.only:
                make_speaker(name, out, Path(scratch), seed, options.rows)
        if "guard" in options.only:
            make_guard(out, Path(scratch), seed, options.rows or GUARD_ROWS)
        for name in SPEAKERS:
            if name in options.only:
                finish_speaker(name, out, Path(scratch), seed, options.rows)
    made = [name for name in SPEAKERS if (out / name).is_dir()]
    numbers = {name: measure(out / name, out / "guard", seed) for name in made}
    sizes = {name: [s.first.rows, s.last.rows] for name, s in SPEAKERS.items()}
    sizes["guard"] = [GUARD_ROWS]
    if set(options.only) == set(parts) and options.rows is None:
        write_manifest(out, seed, numbers, sizes)
    else:  # its command makes all parts whole, and would make other files than these
        print("MANIFEST.json is left as it was; it is of a run without --only and --rows")
    holds = accepted(numbers)
    print(f"made in {time.monotonic() - start:.0f} s: {out}")
    return int(not holds)


if __name__ == "__main__":
    sys.exit(main())
