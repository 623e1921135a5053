"""The model card of an export: what it was made from, with what, and how it measures."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thinksafe_jax.config import SAMPLED, Recipe
from thinksafe_jax.data import BENCHMARKS, KINDS, LISTS, RATES
from thinksafe_jax.report.dataset_card import escape, rounded_cache
from thinksafe_jax.report.model_usage import usage
from thinksafe_jax.report.run_files import STEPS, read_evaluations, read_refusals, read_run
from thinksafe_jax.report.suite_rows import (
    AGREEMENT,
    better,
    ground_bounds,
    named_suites,
    read_facts,
)
from thinksafe_jax.report.summary import build_summary
from thinksafe_jax.runs import data_folder
from thinksafe_jax.storage import file_sha256
from thinksafe_jax.synthesis import RefusalCounts
from thinksafe_jax.weights import model_revision

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+", re.ASCII)
_RELATION = {"adapter": "adapter", "merged": "finetune"}
_ROWS = {
    "thinksafe": "responses that it wrote itself and a guard accepted",
    "rejection": "responses that it wrote itself, all to a prompt accepted by a guard",
    "teacher": "responses that another model wrote and a guard accepted",
    "direct-refusal": "one fixed refusal for every harmful request",
    "safepath": "one fixed first line of thought for every harmful request",
    "external": "responses that others wrote",
    "on-policy": "what it answered while it was trained (on-policy)",
}
_RATES = {RATES[name]: KINDS[name].card for name in LISTS}
_RATES |= {AGREEMENT: "guard's agreement with the exact judge"}


_TRIAL = (
    "**A trial.** Trained and measured on few prompts, to look whether all works; no model to use."
)


@dataclass(frozen=True)
class CardFacts:
    """What a card states.

    Attributes:
        name: title.
        base_model: Hub id or directory of the student; `base_revision` its commit, where known.
        kind: adapter | merged.
        method: `SynthesisConfig.method`; "teacher" where another model wrote the responses, or
            "on-policy".
        recipe: settings worth a line each, by name.
        dataset_sha256: of dataset/train.jsonl.
        evaluation: "before" and "after" as in RUN/evaluation; empty where not measured yet.
        readable: as in summary.json; a rate of few readable rows is no result.
        usage: Markdown on how to load it.
        trial: trained on few prompts, to look whether all works.
    """

    name: str
    base_model: str
    base_revision: str | None
    kind: str
    method: str
    recipe: dict[str, Any]
    dataset_sha256: str | None
    evaluation: dict[str, dict[str, Any]]
    readable: dict[str, dict[str, Any]] = field(default_factory=dict)
    usage: str = ""
    trial: bool = False


def card_of_run(run_path: Path, recipe: Recipe, base: Path, kind: str) -> str:
    """The card of what a run exported, with the evaluation as far as there is one.

    Args:
        run_path: the run directory.
        recipe: what was done.
        base: folder of the student's checkpoint.
        kind: adapter | merged.

    Raises:
        InputError: an evaluation file is damaged.
    """
    dataset = data_folder(run_path) / "dataset" / "train.jsonl"
    digest = file_sha256(dataset) if dataset.exists() else None
    evaluation = read_evaluations(run_path, STEPS)
    revision = model_revision(base)
    student, settings = recipe.student.model, _settings(recipe)
    if refusals := read_refusals(run_path):
        total = sum(refusals.values(), RefusalCounts())
        settings["benign rows that refuse"] = (
            f"{total.refusals} of {total.rows} ({recipe.synthesis.benign_refusals})"
        )
    synthesis, rank = recipe.synthesis, recipe.training.lora_r
    facts = CardFacts(
        recipe.name,
        student,
        revision,
        kind,
        _method(recipe),
        settings,
        digest,
        evaluation,
        readable=build_summary(read_run(run_path))["readable"] if evaluation else {},
        usage=usage(kind, student, revision, rank, synthesis.reasoning),
        trial=recipe.trial,
    )
    return model_card(facts)


def _method(recipe: Recipe) -> str:
    """The key of `_ROWS`: who wrote what was trained on."""
    if recipe.on_policy.method:
        return "on-policy"
    sampled = recipe.synthesis.method in SAMPLED
    return "teacher" if sampled and recipe.synthesis.teacher.model else recipe.synthesis.method


def _settings(recipe: Recipe) -> dict[str, Any]:
    """What the recipe says of this run; a key that its method does not read is not stated."""
    training, synthesis, loop = recipe.training, recipe.synthesis, recipe.on_policy
    stabilised = " (rank-stabilised)" if training.lora_rslora else ""
    lora = (
        f"r {training.lora_r}, alpha {training.lora_alpha:g}{stabilised}, dropout "
        f"{training.lora_dropout:g}, on {', '.join(training.lora_targets)}"
    )
    judged = synthesis.method in SAMPLED
    if loop.method:
        judged = loop.method == "grpo" or bool(loop.horizon.lengths)
    steered = synthesis.method == "thinksafe" and not loop.method
    steps = loop.steps if loop.method else None
    return {
        **({"on-policy method": loop.method} if loop.method else {"method": synthesis.method}),
        **({"steering of harmful prompts": synthesis.steering} if steered else {}),
        **({"guard": recipe.guard.model or recipe.guard.kind} if judged else {}),
        "LoRA": "none: all weights were trained" if training.full_finetune else lora,
        "training": (
            f"{f'{training.epochs} epochs' if steps is None else f'{steps} steps'}, batch "
            f"{training.batch_size}, learning rate {training.learning_rate:g}, length "
            f"{training.max_length}"
        ),
        **rounded_cache(recipe.engine.kv_dtype),
        "seed": recipe.seed,
    }


def model_card(facts: CardFacts) -> str:
    """Text of README.md, with the front matter that the Hub reads."""
    from huggingface_hub import ModelCard, ModelCardData

    on_hub = _HUB_ID.fullmatch(facts.base_model) and not Path(facts.base_model).exists()
    data = ModelCardData(
        base_model=facts.base_model if on_hub else None,
        base_model_relation=_RELATION[facts.kind] if on_hub else None,
        library_name="peft" if facts.kind == "adapter" else "transformers",
        pipeline_tag="text-generation",
        tags=["safety", "reasoning", "thinksafe", *(["lora"] if facts.kind == "adapter" else [])],
        **_model_index(facts),
    )
    what = "A LoRA adapter for" if facts.kind == "adapter" else "A fine-tuned copy of"
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {escape(facts.name or 'model')}",
        f"{what} {escape(facts.base_model)}, trained for safety on {_ROWS[facts.method]} (with the "
        "tools of ThinkSafe, arXiv 2601.23143). What came of it stands under Evaluation.",
        *([_TRIAL] if facts.trial else []),
        *(["## Use", facts.usage] if facts.usage else []),
        "## How it was made",
        _facts_table(facts),
        "## Evaluation",
        _evaluation_table(facts),
        "## Limits",
        "The filter and the judge are models and err. Measure on your own prompts before use. The "
        "base model's licence applies.",
    ]
    return str(ModelCard("\n\n".join(parts) + "\n"))


def _model_index(facts: CardFacts) -> dict[str, Any]:
    """The rates after training in the form that the Hub reads (model-index)."""
    after = facts.evaluation.get("after", {})
    from huggingface_hub import EvalResult

    measured = [
        EvalResult(
            task_type="text-generation",
            dataset_type="custom",
            dataset_name="the run's held-out prompts",
            metric_type=name,
            metric_name=_RATES[name],
            metric_value=rate["value"],
        )
        for name in _RATES
        if (rate := _rate(after, name)) is not None and not _bounds(facts, "after", name)
    ]
    sources = after.get("settings", {}).get("sources", {})
    results = measured + [
        _suite_result(name, of_suite, sources.get(name, {}))
        for name, of_suite in _suites(after).items()
        if not _bounds(facts, "after", name)
    ]
    return {"model_name": facts.name or "model", "eval_results": results} if results else {}


def _suites(evaluation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The facts of the named suites that have a rate."""
    return {
        name: facts
        for name, facts in named_suites(evaluation.get("suites", {})).items()
        if _rate(facts, "rate") is not None
    }


def _suite_result(name: str, facts: dict[str, Any], source: dict[str, Any]) -> Any:
    """A suite's rate, with the dataset at its commit where the rows came from the Hub.

    The Hub's library puts results of one dataset, configuration, split and commit under the first
    one's name: a file's suite is a configuration of its own, and each metric names its suite.
    """
    from huggingface_hub import EvalResult

    known = BENCHMARKS[name].hub if name in BENCHMARKS else None
    hub = known if known and source.get("revision") else None
    return EvalResult(
        task_type="text-generation",
        dataset_type=hub[0] if hub else "custom",
        dataset_name=hub[0] if hub else name,
        dataset_config=hub[1] if hub else name,
        dataset_split=hub[2] if hub else None,
        dataset_revision=source.get("revision"),
        metric_type=facts["metric"].replace(" ", "_"),
        metric_name=f"{name}: {facts['metric']}, {better(facts)}",
        metric_value=facts["rate"]["value"],
    )


def _facts_table(facts: CardFacts) -> str:
    rows = {
        "base model": facts.base_model,
        "base revision": facts.base_revision or "not a Hub commit",
        "dataset sha256": facts.dataset_sha256 or "unknown",
        **facts.recipe,
    }
    return "\n".join(
        ["| | |", "|---|---|", *(f"| {escape(k)} | {escape(v)} |" for k, v in rows.items())]
    )


def _evaluation_table(facts: CardFacts) -> str:
    steps = {step: facts.evaluation.get(step, {}) for step in STEPS}
    rows = {
        _RATES[name]: [
            _shown(_rate(of_step, name), _bounds(facts, step, name))
            for step, of_step in steps.items()
        ]
        for name in _RATES
    }
    suites = {step: _suites(of_step) for step, of_step in steps.items()}
    for name, of_suite in {**suites["before"], **suites["after"]}.items():
        rows[f"{escape(name)}: {of_suite['metric']}, {better(of_suite)}"] = [
            _shown(_rate(suites[step].get(name, {}), "rate"), _bounds(facts, step, name))
            for step in STEPS
        ]
    if readable := facts.readable:
        rates = [readable[step]["rate"] if step in readable else None for step in STEPS]
        rows["responses that can be read, higher is better"] = [_shown(rate) for rate in rates]
    measured = {title: cells for title, cells in rows.items() if set(cells) != {_NOTHING}}
    if not measured:
        return "Not measured yet; `thinksafe evaluate` does."
    lines = ["| | before | after |", "|---|---|---|"]
    lines += [f"| {title} | {' | '.join(cells)} |" for title, cells in measured.items()]
    return "\n".join([*lines, "", "In brackets: 95 % interval and number of rows."])


def _bounds(facts: CardFacts, step: str, name: str) -> Mapping[str, Any] | None:
    """The bounds that stand in place of a rate of which too few rows could be read."""
    suite = next((suite for suite, rate in RATES.items() if rate == name), name)
    return ground_bounds(read_facts({"readable": facts.readable}, step, suite))


def _rate(evaluation: dict[str, Any], name: str) -> dict[str, Any] | None:
    rate = evaluation.get(name)
    return rate if isinstance(rate, dict) and rate.get("value") is not None else None


_NOTHING = "–"


def _shown(rate: Mapping[str, Any] | None, instead: Mapping[str, Any] | None = None) -> str:
    if rate is None:
        return _NOTHING
    if instead:
        low, high = instead["low"], instead["high"]
        return f"no result: {low:.1%} to {high:.1%}, too few of {instead['n']} rows can be read"
    low, high, n = (rate.get(key) for key in ("low", "high", "n"))
    bounds = f"{low:.1%} to {high:.1%}, " if low is not None and high is not None else ""
    return f"{rate['value']:.1%} ({bounds}n = {n})"
