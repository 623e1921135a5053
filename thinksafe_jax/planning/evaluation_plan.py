"""What the evaluation of a recipe would take: every question, before and after training.

And the prompts that are held out of training, which the student is asked before and after it, too.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from thinksafe_jax.config import EvaluationConfig, ModelSource, Recipe
from thinksafe_jax.data import BENCHMARKS, HARMFUL, REASONING, load_questions
from thinksafe_jax.errors import ThinkSafeError
from thinksafe_jax.planning.sample_plan import plan_sample
from thinksafe_jax.planning.stage_plans import PlanRequest, StagePlan
from thinksafe_jax.sharding import Topology

TIMES = 2  # before training, and after


@dataclass(frozen=True)
class EvaluationPlan:
    """Both evaluations of a run.

    Attributes:
        answers: {kind of question: answers of one evaluation}; None where they cannot be counted.
        hours: of both, sampled and judged one after the other, at the bounds of those stages.
        facts: what is not in the hours, and what else is.
        heldout: prompts held out of training that are asked beside them.
    """

    answers: dict[str, int] | None
    hours: float = 0.0
    facts: list[str] = field(default_factory=list)
    heldout: int = 0


def count_answers(cfg: EvaluationConfig) -> dict[str, int] | None:
    """{kind of question: answers of one evaluation}, each sample of a reasoning question counted.

    Benchmarks are counted by their facts, all else by the files; None where those are not here.
    """
    counts: Counter[str] = Counter()
    try:
        counts.update(item.kind for item in load_questions(replace(cfg, suites=[])).items)
        for suite in cfg.suites:
            known = suite.name in BENCHMARKS  # which refuses other names, in `get` as well
            if known and (facts := BENCHMARKS[suite.name]).questions:
                limits = [n for n in (suite.limit, cfg.limit) if n is not None]
                counts[facts.kind] += min([facts.questions, *limits])
            else:
                alone = EvaluationConfig(suites=[suite], limit=cfg.limit)
                counts.update(item.kind for item in load_questions(alone).items)
    except (ThinkSafeError, OSError):
        return None
    counts[REASONING] *= cfg.samples
    return {kind: count for kind, count in counts.items() if count}


def plan_evaluation(request: PlanRequest, stages: Sequence[StagePlan]) -> EvaluationPlan:
    """The hours of both evaluations, from the rates of the stages that sample and judge.

    Args:
        stages: of the recipe. A teacher's sampling says nothing of the student: that is planned.
    """
    recipe, assumed = request.recipe, request.assumed.response_tokens
    answers = count_answers(recipe.evaluation)
    heldout = asked_held_out(recipe, request.prompts, request.mesh.topology)
    facts = [] if answers is not None else ["its questions are not here and not counted"]
    if heldout:
        facts.append(f"{heldout:,} prompts held out of training are asked with it")
    counts = answers or {}
    if not counts and not heldout:
        return EvaluationPlan(answers, facts=facts)
    sample = next(stage for stage in stages if stage.name == "sample")
    if recipe.synthesis.teacher.model:
        synthesis = replace(recipe.synthesis, teacher=ModelSource())
        sample = plan_sample(replace(request, recipe=replace(recipe, synthesis=synthesis)))
    if not (sample.hours and request.rows):
        facts.append("the student's sampling has no rate")
        return EvaluationPlan(answers, facts=facts, heldout=heldout)
    sampled = min(assumed, recipe.synthesis.sampling.max_new_tokens)
    token_hours = sample.hours / request.rows / sampled
    tokens = heldout * answer_tokens(recipe.evaluation, HARMFUL, assumed)
    tokens += sum(
        count * answer_tokens(recipe.evaluation, kind, assumed) for kind, count in counts.items()
    )
    hours = tokens * token_hours
    judged = sum(n for kind, n in counts.items() if kind != REASONING)
    judged *= len(recipe.evaluation.scopes)
    guards = [stage for stage in stages if stage.name == "guard"]
    if recipe.judging == recipe.guard and guards:
        hours += judged * sum(stage.hours for stage in guards) / request.rows
    elif judged:
        facts.append("judging is not in it")
    return EvaluationPlan(answers, TIMES * hours, facts, heldout)


def held_out(recipe: Recipe, prompts: int) -> int:
    """Of so many prompts those that are held out of training; phrases judge their answers."""
    return min(recipe.training.heldout_rows, prompts)


def asked_held_out(recipe: Recipe, prompts: int, topology: Topology | None) -> int:
    """Those of them that the student is asked: none where several hosts work on the run."""
    return 0 if topology is not None and topology.hosts > 1 else held_out(recipe, prompts)


def answer_tokens(cfg: EvaluationConfig, kind: str, assumed: int) -> int:
    """Of an answer to a question of this kind, on average: as assumed, or its most."""
    sampling = (cfg.reasoning_sampling if kind == REASONING else None) or cfg.sampling
    return min(assumed, sampling.max_new_tokens)
