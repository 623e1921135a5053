"""How far training moved the model on reasoning: mean per-token KL(tuned || base).

Measured where each model itself goes: on the responses that the base model wrote (before) and on
those that the tuned one wrote (after). The second is the forward KL per token of the paper's
theory.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from thinksafe_jax.analysis.likelihood import sequence, token_divergence
from thinksafe_jax.intervals import mean_interval
from thinksafe_jax.models import ModelConfig, Params
from thinksafe_jax.tokenizer import ChatTokenizer


def shift(
    tuned: Params,
    base: Params,
    cfg: ModelConfig,
    tokenizer: ChatTokenizer,
    responses: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict:
    """Mean KL per token, in nats, by whose responses ("before", "after").

    Args:
        responses: rows with prompt (as it was asked), response, finish_reason by step.

    Returns:
        {groups: {step: {kl_per_token: {value, low, high, n}, tokens, left_out}}}, 95 % bootstrap
        over rows; left_out as in `perplexity`.
    """
    groups = {}
    for step, rows in responses.items():
        built = [
            sequence(tokenizer, r["prompt"], r["response"], ended=r["finish_reason"] == "stop")
            for r in rows
        ]
        fit = [s for s in built if s.fits(cfg)]
        divergences = token_divergence(tuned, base, cfg, fit)
        means, tokens = [float(v.mean()) for v in divergences], [len(v) for v in divergences]
        groups[step] = {
            "kl_per_token": mean_interval(means, tokens),
            "tokens": sum(tokens),
            "left_out": len(built) - len(fit),
        }
    return {"groups": groups}
