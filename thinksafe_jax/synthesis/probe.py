"""`thinksafe probe`: what a long run will accept and cost, measured on a small fair sample first.

Every template answers the same harmful prompts; the same prompts without steering give α, benign
prompts theirs. What follows is arithmetic: the odds ratio ω̂ of each template, tokens for each
accepted row, and the cost of the whole run (paper section 4).
"""

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinksafe_jax.analysis.acceptance import OddsRatio, acceptance, odds_ratio
from thinksafe_jax.config import Recipe, SynthesisConfig
from thinksafe_jax.errors import ConfigError, InputError
from thinksafe_jax.evaluation.statistics import Rate
from thinksafe_jax.guards import Guard
from thinksafe_jax.runs import RowStore, atomic_write, content_hash, prepare_directory
from thinksafe_jax.synthesis.ladder import ACCEPTED, Ledger, attempts
from thinksafe_jax.synthesis.prompts import Prompt, source_hashes
from thinksafe_jax.synthesis.rounds import Rounds, Sampler
from thinksafe_jax.synthesis.selection import stratified, synthesis_prompts
from thinksafe_jax.synthesis.steering import TEMPLATES, steering_of

if TYPE_CHECKING:
    from thinksafe_jax.session import Session
    from thinksafe_jax.tokenizer import ChatTokenizer


@dataclass(frozen=True)
class Arm:
    """One template on the sample.

    Attributes:
        acceptance: α without steering, α_I with it; Wilson's interval.
        odds_ratio: ω̂ against no steering; None for the arm without, and for benign prompts.
        tokens_per_response, tokens_per_accepted: means; None where nothing was accepted.
        expected_accepted: prompts of the whole run that one attempt at each would accept.
        expected_tokens: generated tokens of the whole run, one attempt a prompt.
        expected_tokens_to_one: tokens until every prompt has an accepted row, on average 1/α
            attempts each, were all prompts alike.
        expected_hours: for `expected_tokens`, at the speed of the probe.
    """

    template: str
    label: str
    responses: int
    acceptance: Rate
    odds_ratio: OddsRatio | None
    tokens_per_response: float
    tokens_per_accepted: float | None
    reasons: dict[str, int]
    expected_accepted: float
    expected_tokens: float
    expected_tokens_to_one: float | None
    expected_hours: float


@dataclass(frozen=True)
class Probe:
    """The result: an arm for each template, and the recommended one."""

    arms: list[Arm]
    recommended: str
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
) -> Probe:
    """Samples, judges and sums up; rows in OUT/<template>, result in OUT/probe.json.

    Args:
        templates: names or texts, as `synthesis.steering`; "none" is always measured.
        prompts: how many of each label, drawn from every stratum in its proportion.
        samples: responses to each prompt under each template.

    Raises:
        ConfigError: unknown template, or a method that samples nothing.
        InputError: the recipe has no harmful prompt.
    """
    whole = synthesis_prompts(recipe).prompts
    by_label = {label: [p for p in whole if p.label == label] for label in ("harmful", "benign")}
    if not by_label["harmful"]:
        raise InputError("the recipe has no harmful prompt; a probe measures how those are refused")
    chosen = {label: stratified(ps, prompts, recipe.seed) for label, ps in by_label.items() if ps}
    names = list(dict.fromkeys(["none", *templates]))
    for name in names:
        steering_of(name, "harmful")  # refuses an unknown one before anything is sampled
    run_prompts = {label: len(ps) for label, ps in by_label.items()}
    author, guard = session.author, session.guard
    engine, tokenizer = author.engine(), author.tokenizer
    _discard_other_rows(out, recipe, prompts, samples)
    arms: list[Arm] = []
    plain: dict[str, list[bool]] = {}
    for name in names:
        for label in ("harmful", "benign") if name == "none" else ("harmful",):
            if label not in chosen:
                continue
            cfg = replace(
                recipe.synthesis, steering=name, attempts=samples, ladder=[], method="rejection"
            )
            folder = out / f"{steering_of(name, 'harmful')}-{label}"
            rows, ledger, seconds = _answers(cfg, engine, tokenizer, guard, chosen[label], folder)
            outcomes = _outcomes(ledger)
            arm = _arm(name, label, rows, ledger, outcomes, plain, run_prompts[label], seconds)
            if label == "harmful" and name == "none":
                plain = outcomes
            arms.append(arm)
    best, why = recommend([arm for arm in arms if arm.label == "harmful"])
    result = Probe(
        arms, best, why, recipe.synthesis.teacher.model or recipe.student.model, guard.name,
        {label: len(ps) for label, ps in chosen.items()}, run_prompts, samples,
    )  # fmt: skip
    atomic_write(out / "probe.json", json.dumps(result.as_dict(), indent=2) + "\n")
    return result


def _discard_other_rows(out: Path, recipe: Recipe, prompts: int, samples: int) -> None:
    """Rows in OUT are taken up only where they answer the same question of the same models."""
    cfg = replace(recipe.synthesis, steering="", ladder=[], attempts=1)
    asked = content_hash(
        recipe.student, recipe.guard, cfg, recipe.seed, source_hashes(cfg.prompts), prompts, samples
    )
    mark = prepare_directory(out) / "inputs.sha256"
    if not mark.exists() or mark.read_text(encoding="utf-8") != asked:
        for store in [*out.glob("*/samples"), *out.glob("*/verdicts")]:
            shutil.rmtree(store)
        atomic_write(mark, asked)


def recommend(arms: Sequence[Arm]) -> tuple[str, str]:
    """(template, reason): the cheapest accepted row among the templates that accept the most.

    Templates count as equal while the intervals of their acceptance overlap the best one's.
    """
    best = max(arms, key=lambda arm: arm.acceptance.value or 0.0)
    equal = [arm for arm in arms if (arm.acceptance.high or 0.0) >= (best.acceptance.low or 0.0)]
    cheapest = min(equal, key=lambda arm: arm.tokens_per_accepted or float("inf"))
    if len(equal) == 1:
        return best.template, "it accepts the most, and no other comes near within its interval"
    names = ", ".join(arm.template for arm in equal)
    return cheapest.template, f"the fewest tokens for an accepted row among those alike ({names})"


def _answers(
    cfg: SynthesisConfig,
    engine: Sampler,
    tokenizer: "ChatTokenizer",
    guard: Guard,
    prompts: list[Prompt],
    folder: Path,
) -> tuple[RowStore, Ledger, float]:
    """All samples of one arm, judged; rows that an earlier, equal probe left are taken up."""
    stores = [RowStore(folder / name, ("id", "attempt")) for name in ("samples", "verdicts")]
    ledger = Ledger(cfg.reasoning).read(stores[0].rows(), stores[1].rows())
    rounds = Rounds(cfg, prompts, tokenizer, stores[0], stores[1], ledger, lambda: None)
    seconds = 0.0
    for attempt in attempts(cfg):
        if rounds.sample(engine, attempt):
            seconds += engine.stats.seconds
    rounds.judge(guard)
    return stores[0], ledger, seconds


def _outcomes(ledger: Ledger) -> dict[str, list[bool]]:
    return {
        id: [reason == ACCEPTED for reason in reasons.values()]
        for id, reasons in ledger.by_prompt().items()
    }


def _arm(
    name: str,
    label: str,
    rows: RowStore,
    ledger: Ledger,
    outcomes: dict[str, list[bool]],
    plain: dict[str, list[bool]],
    run_prompts: int,
    seconds: float,
) -> Arm:
    alpha = acceptance(outcomes)
    tokens = sum(row["tokens"] for row in rows.rows())
    accepted = sum(map(sum, outcomes.values()))
    mean = tokens / max(1, alpha.n)
    reasons = _tally(reason for reason in ledger.reasons.values() if reason)
    steered = label == "harmful" and name != "none"
    return Arm(
        template=name,
        label=label,
        responses=alpha.n,
        acceptance=alpha,
        odds_ratio=odds_ratio(outcomes, plain) if steered else None,
        tokens_per_response=mean,
        tokens_per_accepted=tokens / accepted if accepted else None,
        reasons=reasons,
        expected_accepted=run_prompts * (alpha.value or 0.0),
        expected_tokens=run_prompts * mean,
        expected_tokens_to_one=run_prompts * mean / alpha.value if alpha.value else None,
        expected_hours=run_prompts * seconds / max(1, alpha.n) / 3600,
    )


def _tally(reasons: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for reason in reasons:
        found[reason] = found.get(reason, 0) + 1
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def default_templates(recipe: Recipe) -> list[str]:
    """Every known template and the recipe's own, where that is a text."""
    if recipe.synthesis.method not in ("thinksafe", "rejection"):
        raise ConfigError(
            f"synthesis.method {recipe.synthesis.method} samples nothing; there is nothing to probe"
        )
    return list(dict.fromkeys([*TEMPLATES, recipe.synthesis.steering]))
