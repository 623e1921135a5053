r"""The paper's theory as measurements (lemma 4.1, corollary 4.4).

How much of the student's own distribution the filter keeps, what steering does to that, and what
it costs in KL.

For one prompt, with alpha = P(accepted), p+ the filtered distribution:

    KL(pi+ || p_ref) = -log alpha_ref                    nobody can avoid it
                     + KL(pi+ || p_ref+)                 the excess of the source pi
    excess           = E_{pi+}[log pi - log p_ref] - log alpha_pi + log alpha_ref

Assumptions, stated with every result: the filter gives the same verdict to the same text; draws are
independent and from the model's own distribution (temperature 1, nothing cut); responses that hit
the token limit are rejected; the plug-in logarithms of alpha are biased by about (1 - alpha) / (2
n alpha). A prompt with no accepted draw has no finite estimate and is counted, not imputed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thinksafe_jax.intervals import clustered, odds_ratio, wilson

RESAMPLES = 2000


@dataclass(frozen=True)
class Draws:
    """What was drawn for one prompt.

    Attributes:
        prompt, label: whose draws they are.
        base: accepted or not, of the student's unsteered responses.
        source: accepted or not, of the steered ones (or of another source's).
        log_source, log_base: log-probability of each ACCEPTED source response under the source and
            under the unsteered student, in nats.
    """

    prompt: str
    label: str
    base: Sequence[bool]
    source: Sequence[bool]
    log_source: Sequence[float] = ()
    log_base: Sequence[float] = ()


def projection(draws: Sequence[Draws]) -> dict:
    """Everything by label and by prompt; intervals are 95 %.

    Returns:
        {labels: {label: {alpha_ref, alpha_source, omega, minus_log_alpha_ref, cost_ratio,
        cost_ratio_of_tilt, variance_ratio_of_tilt, excess_kl, prompts, no_estimate}},
        prompts: [{prompt, label, alpha_ref, alpha_source, minus_log_alpha_ref, excess_kl}]}.
    """
    labels = dict.fromkeys(d.label for d in draws)
    return {
        "labels": {label: _label([d for d in draws if d.label == label]) for label in labels},
        "prompts": [_prompt(d) for d in draws],
    }


def tilt_ratios(alpha: float, omega: float) -> tuple[float, float]:
    """(cost, variance) of m accepted rows with steering over without, if steering is a pure tilt.

    E[T_I]/E[T] = alpha + (1 - alpha)/omega and Var[T_I]/Var[T] = (1 + (omega - 1) alpha)/omega²
    (corollary A.4).
    """
    z = 1 + (omega - 1) * alpha
    return z / omega, z / omega**2


def _prompt(draw: Draws) -> dict:
    alpha = wilson(sum(draw.base), len(draw.base)).as_dict()
    return {
        "prompt": draw.prompt,
        "label": draw.label,
        "alpha_ref": alpha,
        "alpha_source": wilson(sum(draw.source), len(draw.source)).as_dict(),
        "minus_log_alpha_ref": _minus_log(alpha),
        "excess_kl": _mean_excess([draw]),
    }


def _label(draws: Sequence[Draws]) -> dict:
    base = clustered([list(map(float, d.base)) for d in draws]).as_dict()
    source = clustered([list(map(float, d.source)) for d in draws]).as_dict()
    resampled = _resampled_alphas(draws)
    steered, plain = ({str(n): flags for n, flags in enumerate(of)} for of in _sides(draws))
    omega = odds_ratio(steered, plain)
    facts = {
        "alpha_ref": base,
        "alpha_source": source,
        "omega": omega.as_dict(),
        "minus_log_alpha_ref": _minus_log(base),
        "cost_ratio": _with_interval(_ratio(base["value"], source["value"]), _ratio(*resampled)),
        "excess_kl": _mean_excess(draws),
        "prompts": len(draws),
        "no_estimate": sum(_excess(d) is None for d in draws),
    }
    if omega.value:
        cost, variance = tilt_ratios(base["value"], omega.value)
        facts |= {"cost_ratio_of_tilt": cost, "variance_ratio_of_tilt": variance}
    return facts


def _sides(draws: Sequence[Draws]) -> tuple[list[Sequence[bool]], list[Sequence[bool]]]:
    """(steered, unsteered) outcomes, prompt by prompt."""
    return [d.source for d in draws], [d.base for d in draws]


def _minus_log(rate: dict) -> dict:
    """-log of a share and of its interval, ends exchanged; None is infinity."""

    def log(value: float | None) -> float | None:
        return None if not value else abs(math.log(value))  # abs: no -0.0

    return {"value": log(rate["value"]), "low": log(rate["high"]), "high": log(rate["low"])}


def _resampled_alphas(draws: Sequence[Draws]) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap over prompts of (alpha_ref, alpha_source), both of the same prompts."""
    sums = np.array(
        [(sum(d.base), len(d.base), sum(d.source), len(d.source)) for d in draws], float
    )
    rng = np.random.default_rng(0)
    if len(draws) == 1:  # one prompt: its draws are what varies
        accepted, n, steered, m = sums[0]
        left, right = ((int(n), accepted / n), (int(m), steered / m))
        return rng.binomial(*left, RESAMPLES) / n, rng.binomial(*right, RESAMPLES) / m
    weights = rng.multinomial(len(draws), np.full(len(draws), 1 / len(draws)), size=RESAMPLES)
    totals = weights @ sums
    return totals[:, 0] / totals[:, 1], totals[:, 2] / totals[:, 3]


def _ratio(base, source):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(base, float) / np.asarray(source, float)


def _with_interval(value, resampled: np.ndarray) -> dict:
    """{value, low, high}; None stands for infinite or undefined."""
    finite = resampled[~np.isnan(resampled)]
    ends = np.quantile(finite, [0.025, 0.975], method="nearest") if finite.size else (np.nan,) * 2
    return dict(zip(("value", "low", "high"), map(_finite, (value, *ends)), strict=True))


def _finite(value) -> float | None:
    return float(value) if np.isfinite(value) else None


def _excess(draw: Draws) -> float | None:
    """Plug-in estimate of KL(pi+ || p_ref+) for one prompt, in nats; None where it has none."""
    if not len(draw.log_source) or not any(draw.base):
        return None
    gap = np.asarray(draw.log_source) - np.asarray(draw.log_base)
    alpha_source, alpha_base = np.mean(draw.source), np.mean(draw.base)
    return float(gap.mean() - math.log(alpha_source) + math.log(alpha_base))


def _mean_excess(draws: Sequence[Draws]) -> dict:
    """Mean over prompts, by bootstrap over prompts and over the draws of each."""
    estimates = [(d, estimate) for d in draws if (estimate := _excess(d)) is not None]
    usable = [d for d, _ in estimates]
    if not estimates:
        return {"value": None, "low": None, "high": None, "n": 0}
    value = float(np.mean([estimate for _, estimate in estimates]))
    rng = np.random.default_rng(0)
    columns = np.stack([_resampled_excess(d, rng) for d in usable])  # [prompts, resamples]
    if len(usable) > 1:
        chosen = rng.integers(len(usable), size=columns.shape)
        columns = np.take_along_axis(columns, chosen, axis=0)
    low, high = np.nanquantile(columns.mean(axis=0), [0.025, 0.975])
    return {"value": value, "low": float(low), "high": float(high), "n": len(usable)}


def _resampled_excess(draw: Draws, rng: np.random.Generator) -> np.ndarray:
    gap = np.asarray(draw.log_source) - np.asarray(draw.log_base)
    means = gap[rng.integers(len(gap), size=(RESAMPLES, len(gap)))].mean(axis=1)
    n, m = len(draw.base), len(draw.source)
    # half a draw is added, so that a resample without an accepted one stays finite
    base = (rng.binomial(n, np.mean(draw.base), RESAMPLES) + 0.5) / (n + 1)
    source = (rng.binomial(m, np.mean(draw.source), RESAMPLES) + 0.5) / (m + 1)
    return means - np.log(source) + np.log(base)
