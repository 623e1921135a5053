"""`thinksafe probe`: what a long run will accept and cost, measured on a small fair sample first.

Every template answers the same harmful prompts; the same prompts without steering give α, benign
prompts theirs. What follows is arithmetic: the odds ratio ω̂ of each template, tokens for each
accepted row, and the cost of the whole run (paper section 4). For self-distillation, whose teacher
reads the template: how often it turns an unsafe answer into a safe one, from the beginning and from
a given token on.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinksafe_jax.analysis.guided_rates import (
    Rescue,
    UnsafeAnswer,
    flip_rate,
    repeat_rate,
    unsafe_answers,
)
from thinksafe_jax.analysis.probe_arm import Arm, answers, measure, outcomes
from thinksafe_jax.config import Recipe
from thinksafe_jax.data import Prompt
from thinksafe_jax.errors import ConfigError, InputError
from thinksafe_jax.intervals import Outcomes, odds_ratio
from thinksafe_jax.storage import atomic_write, content_hash, prepare_directory
from thinksafe_jax.synthesis import (
    TEMPLATES,
    Ledger,
    short_name,
    steering_of,
    stratified,
    synthesis_prompts,
)

if TYPE_CHECKING:
    from thinksafe_jax.pipeline import Session

ROWS = "probe-rows"  # in OUT; by it a folder is known for a probe's


@dataclass(frozen=True)
class Probe:
    """The result: an arm for each template, and the recommended one; None if none is."""

    arms: list[Arm]
    recommended: str | None
    why: str
    student: str
    guard: str
    prompts: dict[str, int]  # label -> prompts in the sample
    run_prompts: dict[str, int]  # label -> prompts of the whole run
    samples: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def run_probe(
    recipe: Recipe,
    session: "Session",
    out: Path,
    *,
    templates: Sequence[str],
    prompts: int,
    samples: int,
    rescue_at: Sequence[int] = (),
) -> Probe:
    """Samples, judges and sums up; rows in OUT/probe-rows, result in OUT/probe.json.

    Args:
        out: new, empty, or of an earlier probe, whose rows are taken up where it asked the same.
        templates: names or texts, as `synthesis.steering`; "none" is always measured.
        prompts: how many of each label, drawn from every stratum in its proportion.
        samples: responses to each prompt under each template.
        rescue_at: tokens after which unsafe answers go on under each template, for rescue rates.

    Raises:
        ConfigError: unknown template, a method that samples nothing, or OUT holds other things.
        InputError: the recipe has no harmful prompt.
    """
    _require_probe_folder(out)
    whole = synthesis_prompts(recipe).prompts
    by_label = {label: [p for p in whole if p.label == label] for label in ("harmful", "benign")}
    if not by_label["harmful"]:
        raise InputError("the recipe has no harmful prompt; a probe measures how those are refused")
    asked = {label: stratified(ps, prompts, recipe.seed) for label, ps in by_label.items() if ps}
    names = list(dict.fromkeys(["none", *templates]))
    for name in names:
        steering_of(name, "harmful")  # refuses an unknown one before anything is sampled
    run_prompts = {label: len(ps) for label, ps in by_label.items()}
    rows = prepare_directory(out / ROWS / _question(recipe, asked, samples))
    sample = _Sample(asked, run_prompts, rows, samples, sorted(set(rescue_at)))
    arms, harmful = _measured(recipe, session, names, sample)
    best, why = recommend([arm for arm in arms if arm.label == "harmful"], harmful)
    student = recipe.synthesis.teacher.model or recipe.student.model
    counts = {label: len(ps) for label, ps in asked.items()}
    result = Probe(arms, best, why, student, session.guard.name, counts, run_prompts, samples)
    atomic_write(out / "probe.json", json.dumps(result.as_dict(), indent=2) + "\n")
    return result


@dataclass(frozen=True)
class _Sample:
    """What every template is asked.

    Attributes:
        asked: the prompts of each label.
        run_prompts: how many the whole run has of each label.
        folder: a folder in it for the rows of each arm.
        samples: responses to each prompt.
        rescue_at: horizons of the rescue rates, in tokens.
    """

    asked: Mapping[str, list[Prompt]]
    run_prompts: Mapping[str, int]
    folder: Path
    samples: int
    rescue_at: Sequence[int]


def _measured(
    recipe: Recipe, session: "Session", names: Sequence[str], sample: _Sample
) -> tuple[list[Arm], dict[str, Outcomes]]:
    """The arm of each template and label, and the outcomes on harmful prompts by template.

    Args:
        names: templates; the first is "none", with which the others are compared.
    """
    generator, guard = session.generator, session.guard
    engine, tokenizer = generator.engine(), generator.tokenizer
    arms: list[Arm] = []
    harmful: dict[str, Outcomes] = {}
    unsteered: Ledger | None = None
    unsafe: list[UnsafeAnswer] = []  # of "none"
    for name in names:
        config = replace(
            recipe.synthesis, steering=name, attempts=sample.samples, ladder=[], method="rejection"
        )
        changed = replace(recipe, synthesis=config)
        for label in sample.asked if name == "none" else ("harmful",):
            place = sample.folder / f"{steering_of(name, 'harmful')}-{label}"
            rows, ledger = answers(changed, engine, tokenizer, guard, sample.asked[label], place)
            plain = harmful.get("none") if label == "harmful" else None
            arm = measure(name, label, rows, ledger, plain, sample.run_prompts[label])
            if label == "harmful":
                harmful[name] = outcomes(ledger)
            if label == "harmful" and name == "none":
                unsteered = ledger
                unsafe = unsafe_answers(rows, ledger, tokenizer) if sample.rescue_at else []
            elif label == "harmful" and unsteered is not None:
                rescue = Rescue(changed, engine, tokenizer, guard)
                rates = {
                    str(n): rescue.rate(unsafe, n, place / f"rescue-{n}") for n in sample.rescue_at
                }
                flips, repeats = flip_rate(ledger, unsteered), repeat_rate(rows, name)
                arm = replace(arm, flip_rate=flips, repeats=repeats, rescue_rates=rates)
            arms.append(arm)
    return arms, harmful


def _require_probe_folder(out: Path) -> None:
    """Refuses a folder with content that no probe has left: a run, or all of them."""
    known = not out.is_dir() or (out / ROWS).is_dir()
    others = [] if known else sorted(p.name for p in out.iterdir() if not p.name.startswith("."))
    if others:
        names = ", ".join(others[:3]) + ", …" * (len(others) > 3)
        raise ConfigError(
            f"--out {out}: holds {names} and no {ROWS} of an earlier probe; name a new folder"
        )


def _question(recipe: Recipe, asked: Mapping[str, Sequence[Prompt]], samples: int) -> str:
    """The name of all rows that answer the same question of the same models.

    Every question has rows of its own, so none is ever taken for another's, or deleted.
    """
    cfg = replace(recipe.synthesis, steering="", ladder=[], attempts=samples)
    questions = [[p.id, p.text, p.label] for prompts in asked.values() for p in prompts]
    drawn_with = recipe.engine.drawn_with
    return content_hash(recipe.student, recipe.guard, cfg, recipe.seed, questions, *drawn_with)[:16]


def recommend(arms: Sequence[Arm], outcomes_of: Mapping[str, Outcomes]) -> tuple[str | None, str]:
    """(template, reason): the cheapest accepted row among the templates that accept the most.

    All answered the same prompts, so each is compared with the best prompt by prompt; it counts as
    the best's equal while the interval of their odds ratio holds 1.

    Args:
        arms: of the harmful prompts.
        outcomes_of: outcomes of each arm's template.

    Returns:
        None for the template where nothing was accepted.
    """
    best = max(arms, key=lambda arm: (arm.acceptance.value or 0.0, -_cost(arm)))
    if not best.acceptance.value:
        reasons = sum((Counter(arm.reasons) for arm in arms), Counter())
        why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        return None, f"nothing was accepted under any template ({why})"
    ratios = {
        a.template: odds_ratio(outcomes_of[best.template], outcomes_of[a.template]) for a in arms
    }
    alike = [arm for arm in arms if (ratios[arm.template].low or 0.0) <= 1]
    cheapest = min(alike, key=_cost)
    fewest = f"{_cost(cheapest):,.0f} tokens for an accepted row"
    shares = ", ".join(f"{short_name(a.template)} {a.acceptance.value or 0:.1%}" for a in alike)
    if len(arms) == 1:
        return best.template, f"no other was measured ({shares}, {fewest})"
    if len(alike) == 1:
        return best.template, f"on the same prompts every other accepts fewer ({shares}, {fewest})"
    return (
        cheapest.template,
        f"{fewest}, the fewest among those that the same prompts do not tell from the best "
        f"({shares}); more --prompts might",
    )


def _cost(arm: Arm) -> float:
    return float("inf") if arm.tokens_per_accepted is None else arm.tokens_per_accepted


def default_templates(recipe: Recipe) -> list[str]:
    """Every known template and the recipe's own, where that is a text."""
    if recipe.synthesis.method not in ("thinksafe", "rejection"):
        raise ConfigError(
            f"synthesis.method {recipe.synthesis.method} samples nothing; there is nothing to probe"
        )
    return list(dict.fromkeys([*TEMPLATES, recipe.synthesis.steering]))
