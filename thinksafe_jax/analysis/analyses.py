"""The analyses of a run directory, or of a model and a file: figures, a table and a plot."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from thinksafe_jax.analysis.plot import acceptance_plot, interval_plot
from thinksafe_jax.config import ModelSource, Recipe
from thinksafe_jax.data import (
    REASONING,
    Row,
    asked_text,
    finish_reason,
    read_rows,
    text_cell,
    value_cell,
)
from thinksafe_jax.errors import ConfigError, InputError, quoted
from thinksafe_jax.evaluation import read_evaluation
from thinksafe_jax.pipeline import Session
from thinksafe_jax.runs import begun_recipe

_TEXTS = {
    "instruction": ("instruction", "prompt", "question"),
    "prompt_label": ("prompt_label", "label"),
}


@dataclass(frozen=True)
class Analysis:
    """What one analysis gives: JSON content, the table (header first), an SVG document."""

    result: dict
    table: list[tuple[str, ...]]
    plot: str


@dataclass(frozen=True)
class Target:
    """What is analysed.

    Attributes:
        path: a run directory, or None where a model is named.
        recipe: the run's; of a bare model, one that names it.
        data: file of instruction/response rows in place of the run's dataset.
        prompts, samples: of the projection, prompts a label and draws a prompt.
        limit: rows read of a data file.
    """

    path: Path | None
    recipe: Recipe
    data: Path | None = None
    prompts: int = 8
    samples: int = 32
    limit: int | None = None


def target(name: str, data: Path | None, **counts: Any) -> Target:
    """A run directory where there is one of that name, else a model.

    Raises:
        ConfigError: a model without data.
    """
    given = {k: v for k, v in counts.items() if v is not None}
    if (Path(name) / "config.yaml").exists():
        return Target(Path(name), begun_recipe(Path(name)), data, **given)
    if data is None:
        raise ConfigError(f"{name} is no run directory; to analyse a model give --data FILE")
    recipe = replace(Recipe(), student=ModelSource(name, dtype="float32"))
    return Target(None, recipe, data, **given)


def analyse(kind: str, of: Target) -> Analysis:
    """Run one of ANALYSES.

    Raises:
        ConfigError: no such analysis.
        InputError: what it needs is not there yet.
    """
    if kind not in ANALYSES:
        raise ConfigError(f"no analysis {quoted(kind)}; choose from {', '.join(ANALYSES)}")
    return ANALYSES[kind](of)


def _rows(of: Target) -> list[dict[str, Any]]:
    file = of.data or (of.path / "dataset/train.jsonl" if of.path else None)
    if file is None or not file.exists():
        raise InputError(f"{file}: no dataset there yet; run the filter stage, or give --data FILE")
    return [_data_row(row) for row in islice(read_rows(file), of.limit)]


def _data_row(row: Row) -> dict[str, Any]:
    """instruction, prompt_label (None where there is none), response and finish_reason."""
    columns = {
        name: next((column for column in known if column in row.values), None)
        for name, known in _TEXTS.items()
    }
    if columns["instruction"] is None or "response" not in row.values:
        raise InputError(f"{row.place}: no instruction (or prompt, question) and response")
    label = columns["prompt_label"]
    return {
        "instruction": text_cell(row, columns["instruction"], "instruction"),
        "prompt_label": label and value_cell(row, label, "label"),
        "response": text_cell(row, "response", "response"),
        "finish_reason": finish_reason(row),
    }


def _perplexity(of: Target) -> Analysis:
    from thinksafe_jax.analysis.perplexity import perplexity

    session = Session(of.recipe)
    result = perplexity(session.params, session.cfg, session.tokenizer, _rows(of))
    table: list[tuple[str, ...]] = [("rows", "token mean", "example mean", "rows", "tokens")]
    for label, g in result["groups"].items():
        means = (shown(g[k]) for k in ("token_mean", "example_mean"))
        table.append((label, *means, f"{g['rows']:,}", f"{g['tokens']:,}"))
    if result["left_out"]:
        table.append(("left out", "–", "–", f"{result['left_out']:,}", "–"))
    rates = {
        f"{label}, {k.replace('_', ' ')}": g[k]
        for label, g in result["groups"].items()
        for k in ("token_mean", "example_mean")
    }
    return Analysis(result, table, interval_plot(rates, "perplexity under the frozen student"))


def _projection(of: Target) -> Analysis:
    from thinksafe_jax.analysis.projection import projection
    from thinksafe_jax.analysis.projection_draws import draw, prompts_of

    session = Session(of.recipe)
    draws = draw(session, prompts_of(session, of.prompts), of.samples)
    result = projection(draws)
    table = [("quantity", *result["labels"])]
    rates = ("alpha_ref", "alpha_source", "omega", "minus_log_alpha_ref", "cost_ratio", "excess_kl")
    by_label = result["labels"].values()
    table += [(name, *(shown(facts[name]) for facts in by_label)) for name in rates]
    for name in ("cost_ratio_of_tilt", "variance_ratio_of_tilt"):
        values = (facts.get(name) for facts in result["labels"].values())
        table.append((name, *("–" if v is None else f"{v:.3g}" for v in values)))
    for name in ("prompts", "no_estimate"):
        counts = (str(facts[name]) for facts in result["labels"].values())
        table += [(name, *counts)]
    return Analysis(result, table, acceptance_plot(result["prompts"], result["labels"]))


def _shift(of: Target) -> Analysis:
    from thinksafe_jax.analysis.shift import shift

    if of.path is None:
        raise ConfigError(
            "shift compares a run's tuned student with its base: give a run directory"
        )
    responses = {}
    for step in ("before", "after"):
        suites = read_evaluation(f"{of.path}:{step}").suites
        rows = [r for suite in suites.values() for r in suite if r["kind"] == REASONING]
        if not rows:
            raise InputError(f"{of.path}: no reasoning rows were evaluated {step}")
        cfg = of.recipe.evaluation
        responses[step] = [
            row | {"prompt": asked_text(cfg, row["suite"], row["prompt"])}
            for row in rows[: of.limit]
        ]
    session = Session(of.recipe)
    tuned = session.tuned(of.path)
    result = shift(tuned, session.params, session.cfg, session.tokenizer, responses)
    groups = result["groups"]
    table: list[tuple[str, ...]] = [
        ("responses of", "KL per token, nats", "rows", "tokens", "left out")
    ]
    for step, g in groups.items():
        kl = g["kl_per_token"]
        counts = (f"{n:,}" for n in (kl["n"], g["tokens"], g["left_out"]))
        table.append((step, shown(kl), *counts))
    rates = {f"responses {step}": g["kl_per_token"] for step, g in groups.items()}
    return Analysis(result, table, interval_plot(rates, "KL(tuned || base) per token, nats"))


def _lengths(of: Target) -> Analysis:
    from thinksafe_jax.analysis.lengths import lengths

    result = lengths(Session(of.recipe).tokenizer, _rows(of))
    header = ("rows", "n", "tokens, median (5-95 %)", "reasoning", "answer", "refusals", "begins")
    table: list[tuple[str, ...]] = [header]
    rates = {}
    for label, g in result["groups"].items():
        spreads = [_spread(g[k]) for k in ("tokens", "reasoning", "answer")]
        begins = ", ".join(f"{word} {share:.0%}" for word, share in g["first_answer"][:3])
        refusals = shown(g["refusals"], 100)
        table.append((label, f"{g['rows']:,}", *spreads, f"{refusals} %", begins))
        q = g["tokens"]["quantiles"]
        rates[label] = {"value": q.get("0.5"), "low": q.get("0.05"), "high": q.get("0.95")}
    return Analysis(result, table, interval_plot(rates, "tokens: median, 5 to 95 %"))


def _spread(lengths: Mapping) -> str:
    q = lengths["quantiles"]
    return f"{q['0.5']:,.0f} ({q['0.05']:,.0f}-{q['0.95']:,.0f})" if q else "–"


def shown(rate: Mapping, scale: float = 1.0) -> str:
    """`0.12 (0.08 to 0.17)`; infinite ends are named, and where there is no interval the value."""
    if rate["value"] is None:
        return "–"
    low, high = (
        "∞" if rate[end] is None else f"{scale * rate[end]:.4g}" for end in ("low", "high")
    )
    value = f"{scale * rate['value']:.4g}"
    return value if rate["low"] is rate["high"] is None else f"{value} ({low} to {high})"


ANALYSES: Mapping[str, Callable[[Target], Analysis]] = {
    "perplexity": _perplexity,
    "projection": _projection,
    "shift": _shift,
    "lengths": _lengths,
}


def table_text(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, which is also readable on a terminal; a bar in a text is escaped."""
    rows = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)
