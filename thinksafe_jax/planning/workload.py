"""FLOPs of a run that has been done, from its counts of rows and tokens.

The arithmetic is that of the roofline, for one device that holds every weight: what a mesh computes
twice is not counted twice. Templates of guards are left out, and drafts that came to nothing.
"""

from dataclasses import dataclass

from thinksafe_jax.config import SAMPLED, GuardConfig, GuardModel, Recipe
from thinksafe_jax.planning.find_model import find_model
from thinksafe_jax.planning.roofline import decode_cost, guard_cost, prefill_cost, train_cost
from thinksafe_jax.sharding import LOGICAL_AXES, Phase

_DTYPE = "bfloat16"  # FLOPs do not depend on it
_ONE_DEVICE = Phase(rules=dict.fromkeys(LOGICAL_AXES, ()))


@dataclass(frozen=True)
class Workload:
    """What a run has done.

    Attributes:
        rows, prompt_tokens, sampled_tokens: answers, the tokens before them, and of them.
        judged: answers that the guard has read.
        trained_tokens: of all epochs, prompts included.
        trained_rows: as often as they were trained on.
    """

    rows: int
    prompt_tokens: int
    sampled_tokens: int
    judged: int
    trained_tokens: int
    trained_rows: int


def workload_flops(recipe: Recipe, work: Workload) -> dict[str, float]:
    """FLOPs by stage: sample, guard (with the reference of an on-policy method), train.

    A model is looked up where the run used it.

    Raises:
        ConfigError, InputError, EnvironmentFault: a model is not to be found, see `find_model`.
    """
    sampled = bool(recipe.on_policy.method) or recipe.synthesis.method in SAMPLED
    student = recipe.student.model
    generator = recipe.synthesis.teacher.model or student
    return {
        "sample": _sampling(generator, work) if sampled else 0.0,
        "guard": _reading(recipe, work) if sampled else 0.0,
        "train": _training(recipe, student, work),
    }


def guards_of(cfg: GuardConfig | GuardModel) -> list[GuardModel]:
    """The guards that a verdict takes: one, or the members of a majority."""
    return list(cfg.members) if isinstance(cfg, GuardConfig) and cfg.kind == "majority" else [cfg]


def _reading(recipe: Recipe, work: Workload) -> float:
    """Guards read what they judged; the reference of an on-policy method reads every answer."""
    tokens = (work.prompt_tokens + work.sampled_tokens) / max(1, work.rows)  # of an answer
    flops = sum(
        _forward(guard.model, work.judged, tokens)
        for guard in guards_of(recipe.guard)
        if guard.model and not guard.is_matcher
    )
    on_policy = recipe.on_policy
    reference = on_policy.teacher.model
    if not reference and on_policy.method == "self-distillation":
        reference = recipe.student.model
    return flops + (_forward(reference, work.rows, tokens) if reference else 0.0)


def _sampling(model: str, work: Workload) -> float:
    """Prefill of every prompt, then a decode step a token at the row's mean context."""
    if not work.rows:
        return 0.0
    _, cfg = find_model(model)
    prompt, response = work.prompt_tokens / work.rows, work.sampled_tokens / work.rows
    prefill = prefill_cost(cfg, _ONE_DEVICE, round(prompt), _DTYPE).flops
    step = decode_cost(cfg, _ONE_DEVICE, 1, prompt + response / 2, _DTYPE).flops
    return work.rows * prefill + work.sampled_tokens * step


def _forward(model: str, rows: int, tokens: float) -> float:
    """A pass over so many answers."""
    if not rows:
        return 0.0
    _, cfg = find_model(model)
    return guard_cost(cfg, _ONE_DEVICE, rows, round(tokens), _DTYPE).flops


def _training(recipe: Recipe, model: str, work: Workload) -> float:
    if not work.trained_rows:
        return 0.0
    _, cfg = find_model(model)
    tokens = round(work.trained_tokens / work.trained_rows)
    config = recipe.training
    return train_cost(
        cfg, _ONE_DEVICE, work.trained_rows, tokens, _DTYPE,
        remat=config.remat != "none", full_finetune=config.full_finetune,
    ).flops  # fmt: skip
