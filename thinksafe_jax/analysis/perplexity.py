"""Perplexity of a dataset under the frozen student (the paper's figure 8).

H(pi+, p_ref) = E[-log p_ref(y | x)] is what fine-tuning on the data must pay at first; the paper
shows its exponential. It does not say whether tokens or examples are averaged, nor over which
rows: both means are given, for harmful rows and for all.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from thinksafe_jax.analysis.likelihood import log_probabilities, sequence
from thinksafe_jax.intervals import mapped, mean_interval
from thinksafe_jax.models import ModelConfig, Params
from thinksafe_jax.tokenizer import ChatTokenizer


def perplexity(
    params: Params, cfg: ModelConfig, tokenizer: ChatTokenizer, rows: Sequence[Mapping[str, Any]]
) -> dict:
    """Perplexity by label.

    Args:
        params: the frozen student.
        rows: instruction, response, prompt_label ("" where unknown) and, where the response was
            cut, finish_reason "length".

    Returns:
        {groups: {label or "all": {token_mean, example_mean (perplexities with 95 % bootstrap
        intervals over rows), rows, tokens}}, left_out: rows longer than the model's context, or
        without a token}.
    """
    built = [
        (
            str(row.get("prompt_label") or "unlabelled"),
            sequence(
                tokenizer,
                row["instruction"],
                row["response"],
                ended=row.get("finish_reason") != "length",
            ),
        )
        for row in rows
    ]
    kept = [(label, s) for label, s in built if s.fits(cfg)]
    scores = log_probabilities(params, cfg, [s for _, s in kept])
    losses = [(label, -float(s.mean()), len(s)) for (label, _), s in zip(kept, scores, strict=True)]
    labels = [*dict.fromkeys(label for label, _ in kept), "all"]
    groups = {}
    for label in labels:
        of_label = [(loss, n) for name, loss, n in losses if label in (name, "all")]
        means, tokens = [loss for loss, _ in of_label], [n for _, n in of_label]
        groups[label] = {
            "token_mean": mapped(mean_interval(means, tokens), math.exp),
            "example_mean": mapped(mean_interval(means), math.exp),
            "rows": len(of_label),
            "tokens": sum(tokens),
        }
    return {"groups": groups, "left_out": len(built) - len(kept)}
