"""An on-policy recipe as stages: what its rollouts, its guard and its steps would be as a dataset.

The loop trains on each rollout once. So its parts are planned as stages of a recipe that samples
as many rows and trains on them for one epoch. What the loop adds is that sampler, guard, teacher
and trainer are on the devices at the same time. Where a server draws the rollouts there is no
sampler; what the server takes is not planned.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from thinksafe_jax.config import ModelSource, Recipe
from thinksafe_jax.planning.find_model import find_model
from thinksafe_jax.planning.memory import phase_budget
from thinksafe_jax.planning.roofline import Cost, bound_of, train_cost
from thinksafe_jax.planning.stage_plans import PlanRequest, StagePlan, start_plan
from thinksafe_jax.sharding import head_tensor

# as the plans of the parts call it
_POOL = "kv pool"
_OF_OTHERS = (_POOL, "student", "other guards")
_TEMPORARIES = ("activations", "gradients", "loss")
_SERVED = (
    "drawn by the server of on_policy.server, whose memory and hours are not planned; the stage "
    "sample is what they would be here"
)


def rollouts_of(recipe: Recipe, prompts: int) -> int:
    """How many rollouts an on-policy run draws.

    Args:
        prompts: that it asks in an epoch.
    """
    cfg, training = recipe.on_policy, recipe.training
    if cfg.steps is not None:
        return cfg.steps * training.batch_size
    return training.epochs * prompts * cfg.samples


def as_dataset(recipe: Recipe) -> Recipe:
    """The recipe whose stages cost what the parts of the loop cost."""
    synthesis = replace(recipe.synthesis, sampling=recipe.on_policy.sampling)
    training = replace(recipe.training, objective="rollout-streams", epochs=1)
    return replace(recipe, synthesis=synthesis, training=training)


def plan_loop(request: PlanRequest, parts: Sequence[StagePlan]) -> StagePlan:
    """What is on a device at the same time, over a whole step of the loop.

    Args:
        parts: the plans of sampling, guards and training.

    Returns:
        A stage whose hours are those of its parts one after the other.
    """
    recipe, mesh = request.recipe, request.mesh
    sampler, others = parts[0], parts[1:]
    teacher = _teacher(request)
    held = _held(others) | teacher.resident
    steps = f"{request.rows // recipe.training.batch_size:,} steps of "
    facts = [f"{steps}{recipe.training.batch_size} rollouts, {_SERVED}"]
    problems: list[str] = []
    if not recipe.on_policy.server.url:
        others, pool = parts, sampler.bytes.get(_POOL, 0)
        held = _held(parts) | teacher.resident
        held[_POOL] = max(0, min(pool, int(mesh.topology.hbm_bytes) - sum(held.values())))
        tokens, context = _pool_tokens(request, held[_POOL])
        problems = [] if tokens >= context else [_no_room(tokens, context)]
        beside = sum(size for name, size in held.items() if name != _POOL)
        problems += teacher.problems(beside, int(mesh.topology.hbm_bytes))
        facts = [
            f"{steps}{recipe.training.batch_size} rollouts; the base lies in the "
            "layouts of sampler and trainer, an adapter goes from one to the other each step",
            f"beside guard and trainer a pool of {tokens:,} tokens is left: set "
            f"engine.pool_tokens={tokens // 1000 * 1000}",
        ]
    model, cfg = find_model(recipe.student.model)
    settings = request.settings(cfg, recipe.student.dtype)
    plan, _ = start_plan("loop", model, cfg, mesh.train, request, settings)
    return replace(
        plan,
        bytes=held,
        problems=problems,
        facts=[
            *facts,
            *teacher.facts,
            "the hours are those of the parts one after the other, on the same devices",
        ],
        hours=sum(part.hours for part in others) + teacher.hours,
        nearest=[],
    )


def _held(parts: Sequence[StagePlan]) -> dict[str, int]:
    """Bytes that are alive while any part works: what each keeps, and temporaries of one program.

    What a guard's plan has of others is theirs.
    """
    held: Counter[str] = Counter()
    for part in parts:
        apart = (*_TEMPORARIES, *_OF_OTHERS)
        held[f"{part.name} {part.model}"] += sum(
            size for name, size in part.bytes.items() if name not in apart
        )
    held["temporaries"] = max(
        sum(part.bytes.get(name, 0) for name in _TEMPORARIES) for part in parts
    )
    return {name: size for name, size in held.items() if size}


@dataclass(frozen=True)
class _Teacher:
    """What a teacher takes of a device.

    Attributes:
        resident: bytes that are held all the time, by name.
        visiting: bytes that come from the host each step, while there is no KV pool.
        hours: in which it reads every rollout once.
    """

    resident: dict[str, int] = field(default_factory=dict)
    visiting: int = 0
    hours: float = 0.0

    @property
    def facts(self) -> list[str]:
        """What is said of a teacher: its part of the hours, and what visits."""
        said = [f"of the hours {self.hours:,.2f} are the teacher's, who reads every rollout"]
        size = self.visiting / 1e9
        visit = [f"each step {size:.1f} GB of the teacher go from the host to each device"]
        return (said if self.hours else []) + (visit if self.visiting else [])

    def problems(self, beside: int, most: int) -> list[str]:
        """Why it cannot visit a device of `most` bytes that holds `beside` of others."""
        if not self.visiting or beside + self.visiting <= most:
            return []
        return [
            f"the teacher's {self.visiting / 1e9:.1f} GB do not fit beside the {beside / 1e9:.1f} "
            f"GB of student, guard and trainer on {most / 1e9:.1f} GB, even without a KV pool; use "
            "a mesh whose train phase cuts weights over more devices"
        ]


def _teacher(request: PlanRequest) -> _Teacher:
    """The recipe's teacher, where training has its own weights; nothing where there is none."""
    recipe, mesh = request.recipe, request.mesh
    source, student = recipe.on_policy.teacher, recipe.student
    if not source.model:  # of self-distillation it is the student, whose weights are there
        itself = recipe.on_policy.method == "self-distillation"
        return _Teacher(hours=_reading_hours(request, student) if itself else 0.0)
    model, cfg = find_model(source.model)
    settings, hours = request.settings(cfg, source.dtype), _reading_hours(request, source)
    budget = phase_budget("generate", mesh.train, cfg, mesh.topology, settings)
    weights = budget.bytes.get("weights", 0)
    if recipe.on_policy.teacher_memory == "device":
        return _Teacher({f"teacher {model}": weights}, hours=hours)
    head = head_tensor(cfg).shard_elements(mesh.train.for_model(cfg))
    return _Teacher({f"LM head of the teacher {model}": settings.itemsize * head}, weights, hours)


def _reading_hours(request: PlanRequest, source: ModelSource) -> float:
    """Of a teacher's pass over every rollout and of its LM head in the loss, by its FLOPs."""
    mesh, recipe, assumed = request.mesh, request.recipe, request.assumed
    response = min(assumed.response_tokens, recipe.synthesis.sampling.max_new_tokens)
    tokens = min(assumed.prompt_tokens + response, recipe.training.max_length)
    _, cfg = find_model(source.model)
    phase = mesh.train.for_model(cfg)
    without, with_pass = (
        train_cost(cfg, phase, 1, tokens, source.dtype, reference=reads).flops
        for reads in (False, True)
    )
    seconds = bound_of(Cost(with_pass - without, 0.0), 0.0, mesh.topology).seconds
    return request.rows * seconds / phase.num_shards("batch") / 3600


def _pool_tokens(request: PlanRequest, pool: int) -> tuple[int, int]:
    """(tokens that a KV pool of so many bytes holds, tokens of the longest row)."""
    student, mesh = request.recipe.student, request.mesh
    _, cfg = find_model(student.model)
    settings = request.settings(cfg, student.dtype)
    budget = phase_budget("generate", mesh.generate, cfg, mesh.topology, settings)
    token = budget.kv_bytes_per_token
    return pool // token if token else 0, settings.context


def _no_room(tokens: int, context: int) -> str:
    return (
        f"beside guard, teacher and trainer the KV pool would hold {tokens:,} tokens, one longest "
        f"row has {context:,}"
    )
