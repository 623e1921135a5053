"""FLOPs of a run that has been done, from its counts of rows and tokens.

The arithmetic is that of the roofline, for one device that holds every weight: what a mesh computes
twice is not counted twice. Templates of guards are left out, and drafts that came to nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from thinksafe_jax.config import SAMPLED, GuardConfig, GuardModel, Recipe
from thinksafe_jax.models import ModelConfig
from thinksafe_jax.planning.find_model import find_model
from thinksafe_jax.planning.roofline import (
    decode_cost,
    gathered_weights,
    guard_cost,
    prefill_cost,
    train_cost,
)
from thinksafe_jax.sharding import LOGICAL_AXES, Phase

_DTYPE = "bfloat16"  # FLOPs do not depend on it
ONE_DEVICE = Phase(rules=dict.fromkeys(LOGICAL_AXES, ()))
ConfigOf = Callable[[str], ModelConfig]  # the facts of a model by its name


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


def _found_config(name: str) -> ModelConfig:
    return find_model(name)[1]


def workload_flops(
    recipe: Recipe, work: Workload, config_of: ConfigOf = _found_config, *, served: bool = True
) -> dict[str, float]:
    """FLOPs by stage: sample, guard (with the teacher of an on-policy method), train.

    Args:
        config_of: the facts of a model by its name; asked where the run used it.
        served: count what servers do for the run, too: guards, and rollouts.

    Raises:
        ConfigError, InputError, EnvironmentFault: a model is not to be found, see `find_model`.
    """
    sampled = bool(recipe.on_policy.method) or recipe.synthesis.method in SAMPLED
    generator = recipe.synthesis.teacher.model or recipe.student.model
    drawn = sampled and (served or not recipe.on_policy.server.url)
    guards = [guard for guard in guards_of(recipe.guard) if served or not guard.url]
    return {
        "sample": _sampling(config_of, generator, work) if drawn else 0.0,
        "guard": _reading(config_of, recipe, guards, work) if sampled else 0.0,
        "train": _training(config_of, recipe, work),
    }


def guards_of(cfg: GuardConfig | GuardModel) -> list[GuardModel]:
    """The guards that a verdict takes: one, or the members of a majority."""
    return list(cfg.members) if isinstance(cfg, GuardConfig) and cfg.kind == "majority" else [cfg]


def _reading(
    config_of: ConfigOf, recipe: Recipe, guards: Sequence[GuardModel], work: Workload
) -> float:
    """Guards read what they judged; the teacher of an on-policy method reads every answer.

    The divergence needs what the teacher says at every token, so its head is counted.
    """
    tokens = (work.prompt_tokens + work.sampled_tokens) / max(1, work.rows)  # of an answer
    flops = sum(
        _forward(config_of, guard.model, work.judged, tokens)
        for guard in guards
        if guard.model and not guard.is_matcher
    )
    on_policy = recipe.on_policy
    teacher = on_policy.teacher.model
    if not teacher and on_policy.method == "self-distillation":
        teacher = recipe.student.model
    if not teacher or not work.rows:
        return flops
    _, head = gathered_weights(config_of(teacher), ONE_DEVICE)
    return flops + _forward(config_of, teacher, work.rows, tokens) + 2 * head * work.rows * tokens


def reads_base(recipe: Recipe) -> bool:
    """Whether the student without its adapter reads the rows of training, too.

    The divergence of ce+kl (paper section 4) is from it, and GRPO's penalty.
    """
    method = recipe.on_policy.method
    return method == "grpo" if method else recipe.training.objective == "ce+kl"


def _sampling(config_of: ConfigOf, model: str, work: Workload) -> float:
    """Prefill of every prompt, then a decode step a token at the row's mean context."""
    if not work.rows:
        return 0.0
    cfg = config_of(model)
    prompt, response = work.prompt_tokens / work.rows, work.sampled_tokens / work.rows
    prefill = prefill_cost(cfg, ONE_DEVICE, round(prompt), _DTYPE).flops
    step = decode_cost(cfg, ONE_DEVICE, 1, prompt + response / 2, _DTYPE).flops
    return work.rows * prefill + work.sampled_tokens * step


def _forward(config_of: ConfigOf, model: str, rows: int, tokens: float) -> float:
    """A pass over so many answers."""
    if not rows:
        return 0.0
    cfg = config_of(model)
    return guard_cost(cfg, ONE_DEVICE, rows, round(tokens), _DTYPE).flops


def _training(config_of: ConfigOf, recipe: Recipe, work: Workload) -> float:
    if not work.trained_rows:
        return 0.0
    cfg = config_of(recipe.student.model)
    tokens = round(work.trained_tokens / work.trained_rows)
    config = recipe.training
    return train_cost(
        cfg, ONE_DEVICE, work.trained_rows, tokens, _DTYPE,
        remat=config.remat != "none", full_finetune=config.full_finetune,
        reference=reads_base(recipe),
    ).flops  # fmt: skip
