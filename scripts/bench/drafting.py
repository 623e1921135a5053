"""Drafts without a model: what they save on real text, what a pass costs, whether a word changes.

    python scripts/bench/drafting.py replay --json scripts/bench/results/drafting.json
    python scripts/bench/drafting.py identity cost clock --json scripts/bench/results/drafting.json

Sections, each written into the file as it ends:

    replay     tokens a pass on texts that are there, no model: those of the mini student under its
               shipped recipe, STAR-1's traces of R1 in R1's tokens (--star1 FILE --tokenizer
               FOLDER), and what a model says to GSM8K and XSTest (--model FOLDER --gsm8k FILE
               --xstest FILE). By class; with drafts from the row alone, and from rows of its class
               that finished before it as well
    identity   share of requests whose tokens are those of plain decoding, over every way to draw,
               preemption, replicas and tensor parallelism
    cost       FLOPs and bytes of a pass over K + 1 positions over those of a plain step, by XLA's
               analysis of the compiled program (one block of attention, every loop once)
    wide       of those texts of --model, the share of draws with R1's options (temperature 0.6,
               top-p 0.95, no top-k) whose filter keeps more than the 64 candidates
    clock      tokens a second with drafts over without, by turns, at 1, 4 and 16 rows and in the
               tail of a queue; on a busy machine the ratio is all that counts
"""

import argparse
import csv
import functools
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")

import jax
import jax.numpy as jnp
import numpy as np
from machine import machine

from thinksafe_jax.config import EngineConfig, SamplingConfig, load_recipe
from thinksafe_jax.models import ModelConfig, Params, forward, load_config, logits
from thinksafe_jax.sampling import Engine, Request, decode, decode_drafted, draft_shape
from thinksafe_jax.sampling.drafting import Drafting
from thinksafe_jax.sampling.drafts import passes_with_drafts
from thinksafe_jax.sampling.next_token import _draw_filtered
from thinksafe_jax.sampling.sampling_options import Options
from thinksafe_jax.sampling.vocab_split import VocabSplit
from thinksafe_jax.sharding import ModelMesh
from thinksafe_jax.synthesis import attempts, synthesis_prompts
from thinksafe_jax.synthesis.sampled_rows import plan_attempt
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.weights import load_params, resolve_model

COUNTS = (1, 3, 7)  # tokens of a draft
ROWS = 256  # of one call of the replay
Text = tuple[Request, Sequence[int]]  # what was asked, and the tokens that came

# greedy, filtered, top-p alone, min-p alone, wide, from the whole vocabulary
WAYS = [
    SamplingConfig(0.0, 1.0, 0, 0.0, 100),
    SamplingConfig(0.6, 0.95, 20, 0.0, 100),
    SamplingConfig(0.6, 0.95, 0, 0.0, 100),
    SamplingConfig(1.0, 1.0, 0, 0.05, 100),
    SamplingConfig(1.5, 0.999, 0, 0.0, 60),
    SamplingConfig(0.8, 1.0, 0, 0.0, 100),
]


# replay


def replay(asked: argparse.Namespace) -> dict:
    texts = {"mini": mini_texts(asked.limit)}
    if asked.star1:
        texts["star1 in R1's tokens"] = star1_texts(asked.star1, asked.tokenizer, asked.limit)
    if asked.model:
        texts |= model_texts(asked)
    return {name: replayed(rows) for name, rows in texts.items() if rows}


def replayed(texts: Sequence[Text]) -> dict:
    """Tokens a pass by length of the draft, source and class."""
    result: dict = {"rows": len(texts), "tokens": sum(len(tokens) for _, tokens in texts)}
    for count in COUNTS:
        for source in ("own", "own and class"):
            passes = replayed_passes(texts, count, source)
            by_class: dict[str, list[int]] = {}
            for (request, tokens), number in zip(texts, passes, strict=True):
                for kind in ("all", request.kind):
                    sums = by_class.setdefault(kind, [0, 0])
                    sums[0] += len(tokens)
                    sums[1] += number
            result[f"K {count}, {source}"] = {
                kind: round(tokens / number, 3) for kind, (tokens, number) in by_class.items()
            }
    return result


def replayed_passes(texts: Sequence[Text], count: int, source: str) -> list[int]:
    """Passes of each text, in order; those that came before it are finished."""
    longest = max(len(request.prompt_ids) + len(tokens) for request, tokens in texts)
    shape = draft_shape(count, -(-longest // 128) * 128)
    drafting = Drafting("always", shape)
    run = jax.jit(passes_with_drafts, static_argnums=3)
    passes: list[int] = []
    for start in range(0, len(texts), ROWS):
        group = texts[start : start + ROWS]
        histories, first, end = [], np.zeros(ROWS, np.int32), np.zeros(ROWS, np.int32)
        for row, (request, tokens) in enumerate(group):
            histories.append(drafting.histories([(request, [*request.prompt_ids, *tokens])], 1))
            first[row] = shape.references + len(request.prompt_ids)
            end[row] = first[row] + len(tokens)
            if source != "own":
                drafting.finished(request, tokens)
        rows = np.concatenate([*histories, np.zeros((ROWS - len(group), shape.columns), np.int32)])
        passes += run(rows, first, end, count)[: len(group)].tolist()
    return passes


def mini_texts(limit: int) -> list[Text]:
    """What the mini student says under its shipped recipe, first attempts of every label."""
    recipe = load_recipe("mini")
    tokenizer = ChatTokenizer(resolve_model("mini:student"))
    prompts = synthesis_prompts(recipe).prompts
    step = max(1, len(prompts) // limit)
    first = attempts(recipe.synthesis)[0]
    planned = plan_attempt(prompts[::step], first, tokenizer)
    return sampled(mini_engine(recipe.engine), [r for r in planned if isinstance(r, Request)])


def sampled(engine: Engine, requests: Sequence[Request]) -> list[Text]:
    by_id = {request.id: request for request in requests}
    ends = engine.eos_ids[:1]
    return [
        (by_id[done.id], [*done.token_ids, *(ends if done.finish_reason == "stop" else ())])
        for done in engine.generate(list(requests))
    ]


def mini_engine(config: EngineConfig, mesh: ModelMesh | None = None) -> Engine:
    cfg, params, ends = mini_model()
    return Engine(cfg, params, config, mesh=mesh, eos_ids=ends, seed=42)


def mini_model() -> tuple[ModelConfig, Params, tuple[int, ...]]:
    folder = resolve_model("mini:student")
    cfg = load_config(folder)
    return cfg, load_params(folder, cfg, jnp.float32), tuple(ChatTokenizer(folder).eos_ids)


def star1_texts(file: Path, folder: Path, limit: int) -> list[Text]:
    """Answers of R1 by category, in the order of the file."""
    tokenizer = ChatTokenizer(folder)
    texts = []
    for row in json.loads(file.read_text(encoding="utf-8"))[:limit]:
        ids = tokenizer.prompt_ids(row["question"])
        request = Request(row["id"], ids, SamplingConfig(), kind=row["category"][0])
        texts.append((request, tokenizer.response_ids(row["response"], True)))
    return texts


def model_texts(asked: argparse.Namespace) -> dict[str, list[Text]]:
    """What a model says to GSM8K and XSTest, with R1's options: no top-k."""
    return _model_texts(asked.model, asked.gsm8k, asked.xstest, asked.model_rows, asked.tokens)


@functools.cache
def _model_texts(
    model: Path, gsm8k: Path | None, xstest: Path | None, count: int, longest: int
) -> dict[str, list[Text]]:
    tokenizer = ChatTokenizer(model)
    sampling = SamplingConfig(0.6, 0.95, 0, 0.0, longest)
    prompts: dict[str, list[tuple[str, str]]] = {}
    if gsm8k:
        lines = gsm8k.read_text(encoding="utf-8").splitlines()[:count]
        prompts["gsm8k"] = [(json.loads(line)["question"], "arithmetic") for line in lines]
    if xstest:
        with xstest.open(encoding="utf-8", newline="") as table:
            rows = list(csv.DictReader(table))
        step = max(1, len(rows) // count)
        prompts["xstest"] = [(row["prompt"], row["label"]) for row in rows[::step]]
    shape = {"slots": 8, "max_length": 512 + longest, "dtype": "float32"}
    engine = Engine.from_pretrained(str(model), seed=42, **shape)
    return {
        f"{model.name}, {name}": sampled(
            engine,
            [
                Request(f"{name}-{n}", tokenizer.prompt_ids(text), sampling, kind=kind)
                for n, (text, kind) in enumerate(rows)
            ],
        )
        for name, rows in prompts.items()
    }


# wide


def wide(asked: argparse.Namespace) -> dict:
    return {name: _wide_share(asked.model, texts) for name, texts in model_texts(asked).items()}


def _wide_share(folder: Path, texts: Sequence[Text]) -> dict:
    """How many positions of the texts are drawn wide, with the model's logits for each."""
    cfg = load_config(folder)
    params = load_params(folder, cfg, jnp.float32)
    longest = max(len(request.prompt_ids) + len(tokens) for request, tokens in texts)
    length = -(-longest // 64) * 64

    @jax.jit
    def doubtful(ids: jax.Array) -> jax.Array:
        steps = jnp.arange(length, dtype=jnp.int32)[None]
        hidden = forward(params, cfg, ids[None], steps, jnp.ones_like(steps))[0]
        scores = logits(params, cfg, hidden)
        options = Options.of([SamplingConfig(0.6, 0.95, 0, 0.0)] * length)
        split = VocabSplit(None, scores.shape[1])
        scaled = scores / jnp.float32(0.6)
        return _draw_filtered(scores, scaled, jnp.zeros(length), Options(*options), split)[1]

    draws = fired = rows = 0
    for request, tokens in texts:
        ids = np.zeros(length, np.int32)
        start, end = len(request.prompt_ids), len(request.prompt_ids) + len(tokens)
        ids[:end] = [*request.prompt_ids, *tokens]
        of_row = np.asarray(doubtful(ids))[start - 1 : end - 1]
        draws, fired, rows = draws + len(of_row), fired + int(of_row.sum()), rows + of_row.any()
    share = {"wide_share": round(fired / draws, 5), "rows_with_any": round(rows / len(texts), 3)}
    return {"rows": len(texts), "draws": draws, **share}


# identity


def identity(asked: argparse.Namespace) -> dict:
    """Of real text: the mini student draws in every way, and each request is compared."""
    tokenizer = ChatTokenizer(resolve_model("mini:student"))
    asked_of = [f"What is {n} + {3 * n + 1}?" for n in range(10, 28)]
    requests = [
        Request(f"row-{n}", tokenizer.prompt_ids(text), WAYS[n % len(WAYS)], kind="sum")
        for n, text in enumerate(asked_of)
    ]
    base = EngineConfig(slots=8, window=8, page_size=16, max_length=256)
    plain = {r.id: tokens for r, tokens in sampled(mini_engine(base), requests)}
    cfg = mini_model()[0]
    always = replace(base, draft="always")
    cases = {
        "one device": (always, None),
        "preemption": (replace(always, pool_tokens=640), None),
        "replicas apart": (always, {"replicas": 2}),
        "replicas together": (replace(always, replicas="together"), {"replicas": 2}),
        "tensor parallel": (always, {"tensor": 2}),
    }
    result, same = {}, 0
    for name, (config, sizes) in cases.items():
        engine = mini_engine(config, ModelMesh.of_sizes(cfg, **sizes) if sizes else None)
        drafted = {r.id: tokens for r, tokens in sampled(engine, requests)}
        equal = sum(drafted[key] == plain[key] for key in plain)
        same += equal
        result[name] = {
            "identical": round(equal / len(plain), 4),
            "tokens_per_pass": round(engine.stats.tokens_per_pass, 3),
            "preemptions": engine.stats.preemptions,
        }
    return {"drafted_identical_tokens": round(same / len(cases) / len(plain), 4), "cases": result}


# cost


def cost(asked: argparse.Namespace) -> dict:
    """By rows and by tokens of a draft, on the mini student."""
    result = {}
    for rows in (1, 4, 16):
        config = EngineConfig(slots=rows, window=1, page_size=16, max_length=512, draft="always")
        for count in COUNTS:
            engine = mini_engine(replace(config, draft_tokens=count))
            device = engine._devices[0]
            assert device.drafts is not None
            table = device.layout.put(engine._allocator(device).table)
            common = device.params, device.cache, device.slots
            lowered = [
                decode.lower(*common, table, spec=device.spec),
                decode_drafted.lower(
                    *common, device.history, table, spec=device.spec, shape=device.drafts
                ),
            ]
            plain, drafted = (program.compile().cost_analysis() or {} for program in lowered)
            result[f"rows {rows}, K {count}"] = {
                key: round(drafted[key] / plain[key], 3) for key in ("flops", "bytes accessed")
            }
    return result


# clock


def clock(asked: argparse.Namespace) -> dict:
    """Text of the mini student, greedy and under its recipe; or of --model."""
    result = {}
    for rows in (1, 4, 16):
        result[f"{rows} rows"] = _clocked(rows, rows * 4, asked)
    result["16 slots, 20 requests: a tail"] = _clocked(16, 20, asked)
    return result


def _clocked(slots: int, count: int, asked: argparse.Namespace) -> dict:
    config = EngineConfig(slots=slots, window=8, page_size=16, max_length=512)
    if asked.model:
        folder, sampling = asked.model, SamplingConfig(0.6, 0.95, 0, 0.0, asked.tokens)
    else:
        folder, sampling = resolve_model("mini:student"), SamplingConfig(0.6, 0.95, 20, 0.0, 128)
    tokenizer, cfg = ChatTokenizer(folder), load_config(folder)
    params = load_params(folder, cfg, jnp.float32)
    requests = [
        Request(f"row-{n}", tokenizer.prompt_ids(f"What is {n + 13} + {2 * n + 21}?"), sampling)
        for n in range(count)
    ]
    modes = {}
    for mode in ("off", "auto", "always"):
        modes[mode] = Engine(
            cfg, params, replace(config, draft=mode), eos_ids=tokenizer.eos_ids, seed=42
        )
    rates: dict[str, list[float]] = {mode: [] for mode in modes}
    for turn in range(1 + asked.turns):  # the first compiles
        for mode, engine in modes.items():
            began = time.perf_counter()
            list(engine.generate(list(requests)))
            if turn:
                rates[mode].append(engine.stats.tokens / (time.perf_counter() - began))
    ratio = {
        mode: statistics.median(a / b for a, b in zip(rates[mode], rates["off"], strict=True))
        for mode in modes
    }
    always = modes["always"].stats
    return {
        "tokens_per_second_off": round(statistics.median(rates["off"]), 1),
        "always_over_off": round(ratio["always"], 3),
        "auto_over_off": round(ratio["auto"], 3),
        "tokens_per_pass": round(always.tokens_per_pass, 3),
        "auto_drafted_windows": modes["auto"].stats.drafted_windows,
        "auto_windows": modes["auto"].stats.windows,
    }


SECTIONS = {"replay": replay, "wide": wide, "identity": identity, "cost": cost, "clock": clock}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sections", nargs="+", choices=SECTIONS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--limit", type=int, default=300, help="rows of a replayed text")
    parser.add_argument("--star1", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--gsm8k", type=Path)
    parser.add_argument("--xstest", type=Path)
    parser.add_argument("--tokens", type=int, default=128, help="of an answer of --model")
    parser.add_argument("--model-rows", type=int, default=32, help="of each suite")
    parser.add_argument("--turns", type=int, default=5)
    asked = parser.parse_args()
    for section in asked.sections:
        result = {section: SECTIONS[section](asked)}
        print(json.dumps(result, indent=1))
        if asked.json:
            _keep(asked.json, result | {f"machine of {section}": machine()})


def _keep(path: Path, result: dict) -> None:
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    merged = {**kept, **result}
    for section, value in result.items():
        if section == "replay":  # texts are replayed one at a time, as they are to be had
            merged[section] = {**kept.get(section, {}), **value}
    path.write_text(json.dumps(merged, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
