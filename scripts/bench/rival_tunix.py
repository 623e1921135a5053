# PYTHON scripts/bench/rival_tunix.py MODEL REQUESTS.json, run by generate.py --tunix PYTHON
"""google-tunix's own sampler on the same checkpoint and requests, in an environment of its own.

Prints useful tokens a second, {batch size: rate}. Static batches, each until its longest request is
done. Every batch is run twice and the second time counts, so that nothing of it is compilation.
"""

import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from tunix.generate.sampler import CacheConfig, Sampler
from tunix.models.qwen3.model import ModelConfig
from tunix.models.qwen3.params import create_model_from_safe_tensors


class TokenIds:
    """A tokenizer of texts that are token ids already."""

    def encode(self, text: str, **_: object) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int], **_: object) -> str:
        return " ".join(map(str, ids))

    def bos_id(self) -> int:
        return 0

    pad_id = bos_id

    def eos_id(self) -> int:
        return -2  # nothing ends before its maximum


def load(folder: Path) -> tuple[ModelConfig, object]:
    hf = json.loads((folder / "config.json").read_text())
    rope = hf.get("rope_theta") or hf["rope_parameters"]["rope_theta"]
    config = ModelConfig(
        num_layers=hf["num_hidden_layers"], vocab_size=hf["vocab_size"],
        embed_dim=hf["hidden_size"], hidden_dim=hf["intermediate_size"],
        num_heads=hf["num_attention_heads"], head_dim=hf["head_dim"],
        num_kv_heads=hf["num_key_value_heads"], rope_theta=int(rope), norm_eps=hf["rms_norm_eps"],
    )  # fmt: skip
    auto = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=auto, devices=jax.devices()[:1])
    return config, create_model_from_safe_tensors(str(folder), config, mesh, jnp.float32)


def rate(sampler: Sampler, requests: list[dict], batch: int) -> float:
    seconds = useful = 0.0
    for start in range(0, len(requests), batch):
        group = requests[start : start + batch]
        texts = [" ".join(map(str, request["prompt_ids"])) for request in group]
        for last in (False, True):
            began = time.perf_counter()
            sampler(
                texts, max(r["max_new_tokens"] for r in group), max_prompt_length=64,
                temperature=0.6, top_p=0.95, top_k=20, eos_tokens=[-2],
            )  # fmt: skip
            seconds += (time.perf_counter() - began) if last else 0.0
        useful += sum(r["max_new_tokens"] for r in group)
    return useful / seconds


def main() -> None:
    folder, requests = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    config, model = load(folder)
    cache = CacheConfig(512, config.num_layers, config.num_kv_heads, config.head_dim)
    sampler = Sampler(model, TokenIds(), cache)
    print(json.dumps({batch: rate(sampler, requests, batch) for batch in (4, 8, 16, 32)}))


if __name__ == "__main__":
    main()
