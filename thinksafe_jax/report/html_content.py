"""From run files to what the template shows: words, numbers as text, chosen rows. No HTML here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from thinksafe_jax.config import to_yaml
from thinksafe_jax.data import LISTS
from thinksafe_jax.evaluation import paper_columns
from thinksafe_jax.report.breakdowns import category_rows, source_rows
from thinksafe_jax.report.provenance import again, provenance
from thinksafe_jax.report.rollout_plots import rollout_steps
from thinksafe_jax.report.rows_to_read import (
    Example,
    evaluation_examples,
    rejected_examples,
    rollout_examples,
    sample_examples,
)
from thinksafe_jax.report.run_files import RunFiles
from thinksafe_jax.report.suite_rows import list_rows, measured_steps, named_rows, percent
from thinksafe_jax.report.training_rows import training_rows


@dataclass(frozen=True)
class Stage:
    """A box of the flow: what happens, how many, and the details below."""

    title: str
    number: str
    details: tuple[str, ...]


def paper_table_rows(summary: dict) -> dict[str, Any] | None:
    """The paper's rows of this student and the run's own, as text; None where it is not there."""
    if not summary["paper"]:
        return None
    columns = {column.key: column.title for column in paper_columns()}
    ours = {f"this run, {step}": row for step, row in summary["paper"]["run"].items()}
    lines = [
        (name, [f"{row[c]:.2f}" if c in row else "–" for c in columns])
        for name, row in (*summary["paper"]["rows"].items(), *ours.items())
    ]
    return {"model": summary["paper"]["model"], "columns": columns, "rows": lines}


def coverage_rows(summary: dict) -> list[dict]:
    """Accepted prompts by attempt and label, and those never accepted."""
    return [
        {
            "label": label,
            "attempts": ", ".join(f"attempt {k}: {n:,}" for k, n in facts["attempts"].items()),
            "never": f"{facts['never']:,}",
        }
        for label, facts in (summary["coverage"] or {}).items()
    ]


def flow(run: RunFiles, summary: dict) -> list[Stage]:
    """The stages of the run with their counts, in the order in which rows pass through them."""
    if run.recipe is None or not run.recipe.synthesis.prompts:  # a model by itself has no flow
        return []
    if run.recipe.on_policy.method:
        return _loop_flow(run, summary)
    cfg, counts = run.recipe, run.counts or {}
    labels = list(dict.fromkeys([*counts, *(row["label"] for row in run.samples)]))
    by_label = {label: [r for r in run.samples if r["label"] == label] for label in labels}
    fixed = cfg.synthesis.method == "direct-refusal"
    steering = (
        "fixed refusal, nothing is sampled"
        if fixed
        else f"“{cfg.synthesis.steering}” text for harmful prompts, none for benign"
    )
    dropped = {k: sum(c["dropped"].get(k, 0) for c in counts.values()) for k in _JUDGED}
    formal = sum(c["sampled"] - c["accepted"] for c in counts.values()) - sum(dropped.values())
    training = summary["training"]
    return [
        Stage("Prompts", _count(_ids(run.samples)), _each(by_label, lambda rows: len(_ids(rows)))),
        Stage(
            "Steer", _count(_ids(by_label.get("harmful", []))) if not fixed else "–", (steering,)
        ),
        Stage(
            "Sample",
            f"{sum(r['tokens'] for r in run.samples):,} tokens" if run.samples else "–",
            _each(by_label, lambda rows: f"{_mean([r['tokens'] for r in rows]):,.0f} a row"),
        ),
        Stage(
            "Filter",
            f"{formal + sum(dropped.values()):,} dropped" if counts else "–",
            (f"form: {formal:,}", *(f"{k}: {n:,}" for k, n in dropped.items())) if counts else (),
        ),
        Stage(
            "Dataset",
            f"{sum(c['accepted'] for c in counts.values()):,} rows" if counts else "–",
            tuple(f"{label}: {c['accepted']:,}" for label, c in counts.items()),
        ),
        Stage(
            "Train", f"{training['steps']:,} steps" if training else "–", _training(run, summary)
        ),
        Stage("Evaluate", _asked(run), _suites(run)),
    ]


def _loop_flow(run: RunFiles, summary: dict) -> list[Stage]:
    """The boxes of an on-policy run, whose rollouts are drawn while it trains."""
    assert run.recipe is not None
    cfg, training = run.recipe.on_policy, summary["training"]
    steps = rollout_steps(run.metrics)
    rewards = tuple(f"{term.name} × {term.weight:g}" for term in cfg.rewards)
    return [
        Stage(
            "Rollouts",
            f"{sum(line.get('rows') or 0 for line in steps):,}" if steps else "–",
            (
                f"{cfg.samples} of each prompt in a step",
                f"{sum(line.get('tokens') or 0 for line in steps):,} tokens",
            ),
        ),
        Stage("Method", cfg.method, rewards if cfg.method == "grpo" else ()),
        Stage(
            "Train", f"{training['steps']:,} steps" if training else "–", _training(run, summary)
        ),
        Stage("Evaluate", _asked(run), _suites(run)),
    ]


_ORDER = ("sample", "judge", "filter", "rollout", "train", "export", "evaluate")
_JUDGED = ("unsafe", "unparsed")


def _count(rows: Sequence | set) -> str:
    return f"{len(rows):,}" if rows else "–"


def _each(groups: dict[str, list], value: Any) -> tuple[str, ...]:
    return tuple(
        f"{label}: {shown:,}" if isinstance(shown := value(rows), int) else f"{label}: {shown}"
        for label, rows in groups.items()
        if rows
    )


def _ids(rows: Sequence[dict]) -> set[str]:
    """A prompt that was asked several times counts once."""
    return {row["id"] for row in rows}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _training(run: RunFiles, summary: dict) -> tuple[str, ...]:
    assert run.recipe is not None
    cfg, training = run.recipe.training, summary["training"]
    kind = "all weights" if cfg.full_finetune else f"LoRA r {cfg.lora_r}, α {cfg.lora_alpha:g}"
    learned = training and training["last_loss"] is not None
    loss = learned and f"loss {training['first_loss']:.3g} → {training['last_loss']:.3g}"
    return (kind, loss) if loss else (kind,)


def _asked(run: RunFiles) -> str:
    """How many prompts were evaluated, whatever the samples of each."""
    counts = (len({(r["suite"], r["id"]) for r in rows}) for rows in run.rows.values())
    most = max(counts, default=0)
    return f"{most:,} prompts" if most else "–"


def _suites(run: RunFiles) -> tuple[str, ...]:
    rows = next((rows for rows in run.rows.values() if rows), [])
    counts = {suite: len({r["id"] for r in rows if r["suite"] == suite}) for suite in LISTS}
    return tuple(f"{suite.replace('_', '-')}: {n:,}" for suite, n in counts.items() if n)


def dataset_rows(counts: dict | None) -> list[dict]:
    """A row per label: prompts, accepted, its share, and what was dropped."""
    return [
        {
            "label": label,
            "sampled": f"{c['sampled']:,}",
            "accepted": f"{c['accepted']:,}",
            "share": percent(c["accepted"] / c["sampled"] if c["sampled"] else None),
            "dropped": ", ".join(f"{r.replace('_', ' ')} {n:,}" for r, n in c["dropped"].items()),
        }
        for label, c in (counts or {}).items()
    ]


def refusal_rows(run: RunFiles) -> list[dict]:
    """A row per source of benign prompts: rows, how many refuse, and prompts left out for it."""
    return [
        {
            "source": source,
            "rows": f"{count.rows:,}",
            "refusals": f"{count.refusals:,}",
            "share": percent(count.share if count.rows else None),
            "left_out": f"{count.left_out:,}",
        }
        for source, count in run.refusals.items()
    ]


def throughput_rows(run: RunFiles) -> list[dict]:
    """Work and time per stage: every metrics line with `seconds` counts its own stretch of work.

    A training step that was repeated after a resume counts once. Training's rate is the trainer's
    own, which leaves the compiling step out.
    """
    records = [m for m in run.metrics if isinstance(m.get("seconds"), int | float)]
    steps = {m["step"]: m for m in records if m["stage"] == "train" and "step" in m}
    once = [m for m in records if "step" not in m] + list(steps.values())
    once.sort(key=lambda m: _ORDER.index(m["stage"]) if m["stage"] in _ORDER else len(_ORDER))
    totals: dict[tuple, dict[str, float]] = {}
    for record in once:
        key = tuple(str(record[k]) for k in ("stage", "name", "doing") if record.get(k))
        total = totals.setdefault(key, {"rows": 0, "tokens": 0, "seconds": 0.0})
        for name in total:
            total[name] += record.get(name) or 0
    stages = run.manifest.get("stages", {})
    rows = []
    for key, total in totals.items():
        rate = total["tokens"] / total["seconds"] if total["seconds"] else 0
        if key == ("train",):
            rate = stages.get("train", {}).get("facts", {}).get("tokens_per_second") or rate
        shown = {"stage": " · ".join(key), "seconds": f"{total['seconds']:,.1f}"}
        numbers = {"rows": total["rows"], "tokens": total["tokens"], "rate": rate}
        rows.append(shown | {k: f"{v:,.0f}" if v else "–" for k, v in numbers.items()})
    return rows


def differences(summary: dict) -> list[dict]:
    """Settings that are not the paper's, as text."""
    return [
        {"key": d["key"], "paper": in_words(d["paper"]), "run": in_words(d["run"])}
        for d in summary["paper_differences"]
    ]


def in_words(value: Any) -> str:
    """A value of summary.json in words: what is left out of an object is not named."""
    if isinstance(value, dict):
        given = {name.replace("_", " "): part for name, part in value.items()}
        return " ".join(
            f"{k} {in_words(v)}" for k, v in given.items() if v not in (None, "", [], {})
        )
    if isinstance(value, list | tuple):
        mark = "; " if any(isinstance(part, dict) for part in value) else ", "
        return mark.join(map(in_words, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, "") else str(value)


def page(run: RunFiles, summary: dict) -> dict[str, Any]:
    """Everything that the template reads, but for the plots."""
    examples: dict[str, list[Example]] = {
        "evaluation": evaluation_examples(run),
        "training": sample_examples(run),
        "rejected": rejected_examples(run),
        "rollouts": rollout_examples(run),
    }
    return {
        "summary": summary,
        "rates": list_rows(summary),
        "suites": named_rows(summary),
        "steps": measured_steps(summary),
        "trainings": ["this run", *(training.name for training in run.trainings)],
        "training_rows": training_rows(run.recipe, summary, run.trainings),
        "paper": paper_table_rows(summary),
        "coverage": coverage_rows(summary),
        "flow": flow(run, summary),
        "dataset": dataset_rows(run.counts),
        "refusals": refusal_rows(run),
        "throughput": throughput_rows(run),
        "differences": differences(summary),
        "config": to_yaml(run.recipe) if run.recipe else "",
        "provenance": provenance(run),
        "again": again(run),
        "sources": source_rows(run),
        "categories": category_rows(run),
        "examples": examples,
    }
