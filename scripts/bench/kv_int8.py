"""What `engine.kv_dtype: int8` gives and what it costs, without a chip.

    python scripts/bench/kv_int8.py bytes plan replay --json scripts/bench/results/kv_int8.json
    python scripts/bench/kv_int8.py replay --model SMOLLM2 --gsm8k FILE --xstest FILE --json ...

Sections, each written into the file as it ends:

    bytes     of a token in int8 over bfloat16, scales counted, by head_dim
    plan      of Qwen3-8B on v5e-8: tokens that a replica's pool holds, rows at a mean context of
              5,200 tokens, and the bytes that a decode step reads at least for 64 slots
    replay    texts that the model itself gave (the mini student under its shipped recipe; what
              --model says to GSM8K and XSTest with R1's options), read again with keys and values
              rounded to int8: the mean KL(model, rounded) of the next token in nats, and the share
              of draws that come out otherwise with the row's own random number, each given the
              same tokens before it. Beside it what bfloat16 keys and values change, and as a check
              the share of the row's tokens that the replay of the model itself draws

The bytes of a step as the TPU's compiler sees them: tpu_programs.py --kv-dtype int8.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from drafting import Text, mini_model, mini_texts, model_texts
from machine import machine

from thinksafe_jax.models import (
    ModelConfig,
    Params,
    causal_attention,
    forward,
    load_config,
    logits,
)
from thinksafe_jax.planning.find_model import find_model
from thinksafe_jax.planning.memory import Settings, filled_rows, phase_budget
from thinksafe_jax.planning.roofline import decode_cost
from thinksafe_jax.sampling import KvCache, Options
from thinksafe_jax.sampling.kv_rounding import from_int8, to_int8
from thinksafe_jax.sampling.next_token import sample
from thinksafe_jax.sharding import load_mesh
from thinksafe_jax.weights import load_params

MODEL, MESH, SLOTS, MEAN_CONTEXT = "Qwen3-8B", "v5e-8", 64, 5200
HEAD_DIMS = (128, 64)  # of Qwen3 and R1-Distill; of SmolLM2
ROUNDINGS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "model": lambda x: x,
    "int8": lambda x: from_int8(*to_int8(x)),
    "bfloat16": lambda x: x.astype(jnp.bfloat16).astype(x.dtype),
}
SEED = 42  # of the texts


def bytes_held(asked: argparse.Namespace) -> dict:
    cfg = find_model(MODEL)[1]
    ratios = {}
    for head_dim in HEAD_DIMS:
        of_width = replace(cfg, head_dim=head_dim)
        held = [KvCache.bytes_per_token(of_width, dtype) for dtype in ("int8", "bfloat16")]
        ratios[f"head_dim {head_dim}"] = round(held[0] / held[1], 4)
    return {"pool_bytes_over_bf16": ratios}


def plan(asked: argparse.Namespace) -> dict:
    cfg, mesh = find_model(MODEL)[1], load_mesh(MESH)
    phase = mesh.generate.for_model(cfg)
    result: dict = {"of": f"{MODEL} on {MESH}", "mean_context": MEAN_CONTEXT}
    for name in ("model", "int8"):
        settings = Settings(mean_context=MEAN_CONTEXT, kv_dtype=name).capped(cfg)
        budget = phase_budget("generate", mesh.generate, cfg, mesh.topology, settings)
        rows = filled_rows(budget.pool_tokens, MEAN_CONTEXT)
        cost = decode_cost(cfg, phase, rows, MEAN_CONTEXT, "bfloat16", settings.cache_dtype)
        seconds = cost.bytes / mesh.topology.hbm_bandwidth
        result[name] = {
            "bytes_per_token_and_chip": budget.kv_bytes_per_token,
            "pool_tokens": budget.pool_tokens,
            "rows_of_the_longest": budget.pool_tokens // settings.context,
            "rows": rows,
            "step_floor_bytes": round(cost.bytes),
            "tokens_per_second_at_most": round(rows / seconds),
        }
    return result


def replay(asked: argparse.Namespace) -> dict:
    if asked.model:
        cfg = load_config(asked.model)
        params = load_params(asked.model, cfg, jnp.float32)
        texts = model_texts(asked)
    else:
        cfg, params, _ = mini_model()
        texts = {"mini": mini_texts(asked.limit)}
    return {name: replayed(cfg, params, rows) for name, rows in texts.items() if rows}


def replayed(cfg: ModelConfig, params: Params, texts: Sequence[Text]) -> dict:
    """Figures over all tokens of the texts, by rounding."""
    longest = max(len(request.prompt_ids) + len(tokens) for request, tokens in texts)
    length = -(-longest // 64) * 64
    run = jax.jit(partial(_pass, cfg, length), static_argnames="rounding")
    divergence = dict.fromkeys(ROUNDINGS, 0.0)
    changed, count = dict.fromkeys(ROUNDINGS, 0), 0
    whole = dict.fromkeys(ROUNDINGS, 0)  # rows whose every draw is the row's token
    for request, tokens in texts:
        start, end = len(request.prompt_ids), len(request.prompt_ids) + len(tokens)
        ids = np.zeros(length, np.int32)
        ids[:end] = [*request.prompt_ids, *tokens]
        words = np.asarray(request.random_words, np.uint32)
        options = Options(*Options.of([request.sampling] * length))
        scores = {}
        for name in ROUNDINGS:
            log_p, draws = run(params, ids, words, options, rounding=name)
            scores[name] = np.asarray(log_p[start - 1 : end - 1], np.float64)
            other = np.asarray(draws)[start - 1 : end - 1] != ids[start:end]
            changed[name] += int(other.sum())
            whole[name] += not other.any()
            terms = np.exp(scores["model"]) * (scores["model"] - scores[name])
            divergence[name] += float(terms.sum())
        count += len(tokens)
    return {
        "rows": len(texts),
        "tokens": count,
        "drawn_again_by_the_model": round(1 - changed["model"] / count, 5),
        **{
            name: {
                "mean_kl_nats": float(f"{divergence[name] / count:.3g}"),
                "changed_draws": round(changed[name] / count, 5),
                "rows_without_a_change": round(whole[name] / len(texts), 3),
            }
            for name in ("int8", "bfloat16")
        },
    }


def _pass(
    cfg: ModelConfig,
    length: int,
    params: Params,
    ids: jax.Array,
    words: jax.Array,
    options: Options,
    *,
    rounding: str,
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities `[T, V]` behind each token of a row, and what is drawn there `[T]`."""
    read_back = ROUNDINGS[rounding]

    def attention(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> jax.Array:
        return causal_attention(q, read_back(k), read_back(v), segments)

    steps = jnp.arange(length, dtype=jnp.int32)
    ones = jnp.ones_like(steps)[None]
    hidden = forward(params, cfg, ids[None], steps[None], ones, attention=attention)[0]
    scores = logits(params, cfg, hidden)
    key = jax.random.key(np.uint32(SEED))
    for word in range(3):  # as `insert` keys a row
        key = jax.random.fold_in(key, words[word])
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, steps + 1)
    return jax.nn.log_softmax(scores, axis=-1), sample(scores, keys, options)[0]


SECTIONS = {"bytes": bytes_held, "plan": plan, "replay": replay}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="+", choices=SECTIONS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--limit", type=int, default=128, help="rows of the mini student's text")
    parser.add_argument("--model", type=Path, help="another model whose texts are replayed")
    parser.add_argument("--gsm8k", type=Path)
    parser.add_argument("--xstest", type=Path)
    parser.add_argument("--tokens", type=int, default=128, help="of an answer of --model")
    parser.add_argument("--model-rows", type=int, default=24, help="of each suite")
    asked = parser.parse_args()
    for section in asked.sections:
        result = SECTIONS[section](asked)
        print(json.dumps({section: result}, indent=1), flush=True)
        if asked.json:
            _keep(asked.json, section, result)


def _keep(path: Path, section: str, result: dict) -> None:
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    before = kept.get(section, {}) if section == "replay" else {}
    kept |= {section: {**before, **result}, "machine": machine()}
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
