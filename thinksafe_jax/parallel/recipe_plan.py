"""What a recipe needs on a mesh, stage by stage: memory, collectives, rates and hours.

Nothing is allocated: sizes come from shapes, the rest from the compiled programs (see `programs`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from thinksafe_jax.config import GuardConfig, GuardModel, Recipe
from thinksafe_jax.errors import ThinkSafeError
from thinksafe_jax.models.config import ModelConfig
from thinksafe_jax.parallel.budget import Budget, Settings, filled_rows, nearest_axes, phase_budget
from thinksafe_jax.parallel.devices import compile_devices, is_simulated
from thinksafe_jax.parallel.find_model import find_model
from thinksafe_jax.parallel.hlo import Traffics, total
from thinksafe_jax.parallel.mesh_file import load_mesh
from thinksafe_jax.parallel.programs import (
    Compiled,
    Sampler,
    compile_program,
    decode_program,
    guard_program,
    prefill_program,
    train_program,
)
from thinksafe_jax.parallel.rules import strategy_warnings
from thinksafe_jax.parallel.strategy import MeshConfig, Phase
from thinksafe_jax.parallel.work import (
    Bound,
    bound_of,
    decode_work,
    guard_work,
    prefill_work,
    train_work,
)
from thinksafe_jax.synthesis.prompts import read_prompts
from thinksafe_jax.training.losses import default_chunk
from thinksafe_jax.training.trainer import lora_config

_TRIES = 4  # other settings that are compiled in search of some that fit


@dataclass(frozen=True)
class Assumed:
    """What no recipe says.

    Attributes:
        prompts: of the synthesis, where their files are not here.
        prompt_tokens, response_tokens: of a row, on average.
    """

    prompts: int = 40_000
    prompt_tokens: int = 300
    response_tokens: int = 5_000

    def mean_context(self, most: int) -> int:
        """Live tokens of a row, averaged over time, where a response has at most `most` tokens.

        The default lengths are taken to be those of `Settings.mean_context`; what is behind the
        prompt grows with the response. Never more than half of `most`: a row begins with none.
        """
        grown = (Settings.mean_context - Assumed.prompt_tokens) / Assumed.response_tokens
        return self.prompt_tokens + round(min(grown * self.response_tokens, most / 2))


@dataclass(frozen=True)
class Stage:
    """One stage on the mesh; bytes are per device.

    Attributes:
        axes: of the mesh, split ones divided; with the digest of the rules.
        bytes: what -> bytes, all alive at the same time.
        problems: why it cannot be at all.
        call: what `traffic` and `bound` are of.
        formula: name of the bound's formula in `work.FORMULAS`.
        tokens_per_second: of all devices.
        hours: at the bound; chip-hours are these times the chips.
        nearest: settings close to the recipe's that fit, where these do not.
    """

    name: str
    model: str
    axes: dict[str, int] = field(default_factory=dict)
    rules_hash: str = ""
    bytes: dict[str, int] = field(default_factory=dict)
    compiler: str = ""
    problems: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    call: str = ""
    traffic: Traffics = field(default_factory=dict)
    bound: Bound | None = None
    formula: str = ""
    tokens_per_second: float = 0.0
    hours: float = 0.0
    warnings: list[str] = field(default_factory=list)
    nearest: list[str] = field(default_factory=list)

    @property
    def peak(self) -> int:
        return sum(self.bytes.values())

    def fits(self, mesh: MeshConfig) -> bool:
        """Whether it can be and has room."""
        return not self.problems and self.peak <= mesh.topology.hbm_bytes


@dataclass(frozen=True)
class RecipePlan:
    """All stages of a recipe on a mesh."""

    recipe: str
    mesh: MeshConfig
    prompts: int
    counted: bool  # or assumed, as the sources are not here
    assumed: Assumed
    stages: list[Stage]

    @property
    def fits(self) -> bool:
        return all(stage.fits(self.mesh) for stage in self.stages)


@dataclass(frozen=True)
class _Case:
    """What the stages are planned from."""

    recipe: Recipe
    mesh: MeshConfig
    prompts: int
    assumed: Assumed
    devices: Sequence[Any]

    @property
    def rows(self) -> int:
        return self.prompts * max(1, self.recipe.synthesis.attempts)


def plan_recipe(recipe: Recipe, mesh: MeshConfig, assumed: Assumed | None = None) -> RecipePlan:
    """The plan of every stage; `Stage.nearest` is filled in where one does not fit.

    Raises:
        ConfigError: a model is not to be found.
        EnvironmentFault: too few simulated devices, as JAX has started before.
    """
    assumed = assumed or Assumed()
    prompts = _count_prompts(recipe)
    devices = compile_devices(mesh.topology)
    case = _Case(recipe, mesh, prompts or assumed.prompts, assumed, devices)
    stages = [_load(case), _searched(_sample, case, _other_samplers)]
    guards = _guards(recipe.guard)
    stages += [_guard(guard, case) for guard in guards]
    stages.append(_searched(_train, case, _other_trainings))
    return RecipePlan(recipe.name, mesh, case.prompts, prompts is not None, assumed, stages)


def _count_prompts(recipe: Recipe) -> int | None:
    try:
        found = len(read_prompts(recipe.synthesis.prompts, require_label=True).prompts)
    except (ThinkSafeError, OSError):  # not here, or only on the Hub
        return None
    return min(found, recipe.synthesis.limit or found)


def _guards(cfg: GuardConfig | GuardModel) -> list[GuardModel]:
    """The guards that run on the mesh: neither phrases nor servers."""
    members = cfg.members if isinstance(cfg, GuardConfig) and cfg.kind == "majority" else [cfg]
    return [m for m in members if m.kind not in ("refusal-match", "same") and not m.url]


def _settings(case: _Case, cfg: ModelConfig, dtype: str) -> Settings:
    recipe = case.recipe
    longest = recipe.engine.max_length or cfg.max_position_embeddings  # as the engine has it
    mean = case.assumed.mean_context(recipe.synthesis.sampling.max_new_tokens)
    return Settings(dtype, lora_config(recipe.training), longest, mean).capped(cfg)


def _author(recipe: Recipe) -> tuple[str, ModelConfig, str]:
    source = recipe.synthesis.teacher if recipe.synthesis.teacher.model else recipe.student
    return (*find_model(source.model), source.dtype)


def _basis(
    name: str, model: str, cfg: ModelConfig, phase: Phase, case: _Case, settings: Settings
) -> tuple[Stage, Budget]:
    """A stage with what follows from the rules alone."""
    strategy = phase.for_model(cfg)
    kind = "train" if name == "train" else "generate"
    budget = phase_budget(kind, phase, cfg, case.mesh.topology, settings)
    stage = Stage(
        name, model, strategy.axes, strategy.hash, {}, problems=budget.problems,
        warnings=[] if budget.problems else strategy_warnings(cfg, strategy, settings.itemsize),
    )  # fmt: skip
    if name != "guard" and not budget.fits:
        axes = nearest_axes(kind, phase, cfg, case.mesh.topology, settings)
        if axes:
            sizes = ", ".join(f"{axis} {size}" for axis, size in axes.items())
            stage = replace(stage, nearest=[f"{kind}.axes: {sizes}"])
    return stage, budget


def _load(case: _Case) -> Stage:
    """The student as the sampler has it; each process reads only its own slices."""
    model, cfg, dtype = _author(case.recipe)
    settings = _settings(case, cfg, dtype)
    stage, budget = _basis("load", model, cfg, case.mesh.generate, case, settings)
    return replace(stage, bytes=dict(budget.bytes), nearest=[])


def _sample(case: _Case) -> Stage:
    model, cfg, dtype = _author(case.recipe)
    settings = _settings(case, cfg, dtype)
    phase, engine = case.mesh.generate, case.recipe.engine
    stage, budget = _basis("sample", model, cfg, phase, case, settings)
    if budget.problems or not budget.fits:
        return replace(stage, bytes=dict(budget.bytes), problems=_no_room(budget, settings))
    strategy, longest = phase.for_model(cfg), settings.context
    pool = min(engine.pool_tokens or engine.slots * longest, budget.pool_tokens)
    shape = Sampler(
        engine.slots, pool, longest, case.assumed.prompt_tokens, engine.page_size,
        is_simulated(case.mesh.topology),
    )  # fmt: skip
    decoded = compile_program(partial(decode_program, cfg, phase, case.devices, shape), dtype)
    filled = compile_program(partial(prefill_program, cfg, phase, case.devices, shape), dtype)
    rows = min(engine.slots, max(1, filled_rows(pool, settings.mean_context)))
    # the program computes all of its slots; those without a row have no context
    context = rows * settings.mean_context / engine.slots
    work = decode_work(cfg, strategy, engine.slots, context, settings.itemsize)
    bound = bound_of(work, total(decoded.collectives).wire_bytes, case.mesh.topology)
    replicas = strategy.ways("batch")
    rate = replicas * rows / bound.seconds
    prompt = prefill_work(cfg, strategy, case.assumed.prompt_tokens, settings.itemsize)
    sent = total(filled.collectives).wire_bytes
    prefill = bound_of(prompt, sent, case.mesh.topology).seconds / replicas
    tokens = min(case.assumed.response_tokens, case.recipe.synthesis.sampling.max_new_tokens)
    return replace(
        stage,
        bytes={
            **budget.bytes,
            "kv pool": pool * budget.kv_bytes_per_token,
            "activations": max(decoded.temporaries, filled.temporaries),
        },
        compiler=decoded.compiler,
        facts=[
            f"{engine.slots} slots a replica, {pool // engine.page_size:,} pages of "
            f"{engine.page_size} tokens ({budget.pool_tokens // engine.page_size:,} would fit): "
            f"{pool // longest} rows of {longest:,} tokens, or {rows} at a mean of "
            f"{settings.mean_context:,}",
        ],
        call=f"a decode step of {engine.slots} slots ({rows} filled)",
        traffic=decoded.collectives,
        bound=bound,
        formula="decode",
        tokens_per_second=rate,
        hours=case.rows * (tokens / rate + prefill) / 3600,
    )


def _no_room(budget: Budget, settings: Settings) -> list[str]:
    if budget.problems:
        return budget.problems
    weights = budget.bytes["weights"]
    return [f"weights of {weights:,} bytes leave no room for a row of {settings.context:,} tokens"]


def _guard(guard: GuardModel, case: _Case) -> Stage:
    """One guard beside the student's weights; with retries also beside the sampler's pool."""
    model, cfg = find_model(guard.model)
    mesh = load_mesh(guard.mesh) if guard.mesh else case.mesh
    settings = Settings(guard.dtype).capped(cfg)
    topology = case.mesh.topology
    phase = mesh.generate
    stage, budget = _basis("guard", model, cfg, phase, case, settings)
    if budget.problems:
        return stage
    local = phase.of_host(topology.hosts)
    length = min(guard.max_length, cfg.max_position_embeddings)
    rows = max(1, guard.batch_tokens // length)
    build = partial(guard_program, cfg, local, case.devices, rows, length)
    compiled, program = compile_program(build, guard.dtype), build(guard.dtype)
    tokens = case.assumed.prompt_tokens + case.assumed.response_tokens
    per_pass = max(1, guard.batch_tokens // tokens)
    strategy = local.for_model(cfg)
    own = -(-per_pass // strategy.ways("batch"))
    work = guard_work(cfg, strategy, own, tokens, settings.itemsize)
    # the program's messages carry hidden states: they follow the tokens of the pass
    share = own * strategy.ways("batch") * tokens / program.tokens
    bound = bound_of(work, share * total(compiled.collectives).wire_bytes, topology)
    judged = topology.hosts * own * strategy.ways("batch")
    return replace(
        stage,
        bytes={**budget.bytes, **_beside_the_guard(case), "activations": compiled.temporaries},
        compiler=compiled.compiler,
        facts=[f"{rows} x {length:,} tokens a pass and host; a row of {tokens:,} in the rates"],
        call=f"a pass of {program.rows} x {length:,} tokens",
        traffic=compiled.collectives,
        bound=bound,
        formula="guard",
        tokens_per_second=judged * tokens / bound.seconds,
        hours=case.rows * bound.seconds / judged / 3600,
    )


def _beside_the_guard(case: _Case) -> dict[str, int]:
    _, cfg, dtype = _author(case.recipe)
    settings = _settings(case, cfg, dtype)
    budget = phase_budget("generate", case.mesh.generate, cfg, case.mesh.topology, settings)
    found = {"student": budget.bytes.get("weights", 0)}
    if case.recipe.synthesis.attempts > 1:
        engine = case.recipe.engine
        pool = engine.pool_tokens or engine.slots * settings.context
        found["kv pool"] = min(pool, budget.pool_tokens) * budget.kv_bytes_per_token
    return found


def _train(case: _Case) -> Stage:
    student = case.recipe.student
    model, cfg = find_model(student.model)
    settings, config = _settings(case, cfg, student.dtype), case.recipe.training
    config = replace(config, max_length=min(config.max_length, cfg.max_position_embeddings))
    phase = case.mesh.train
    stage, budget = _basis("train", model, cfg, phase, case, settings)
    if budget.problems:
        return stage
    build = partial(train_program, cfg, phase, case.devices, config)
    compiled, program = compile_program(build, student.dtype), build(student.dtype)
    strategy = phase.for_model(cfg)
    ways = strategy.ways("batch")
    work = train_work(
        cfg, strategy, program.rows // ways, config.max_length, settings.itemsize,
        again=config.remat != "none", full=config.full_finetune,
    )  # fmt: skip
    bound = bound_of(work, total(compiled.collectives).wire_bytes, case.mesh.topology)
    row = min(config.max_length, case.assumed.prompt_tokens + case.assumed.response_tokens)
    rate = program.tokens / bound.seconds
    if program.rows > config.batch_size:
        stage.warnings.append(
            f"a pass holds {program.rows} sequences, an optimiser step {config.batch_size} rows: "
            "most of them stay empty; raise training.batch_size or use smaller batch axes"
        )
    return replace(
        stage,
        bytes=_training_bytes(cfg, strategy, budget, compiled, program.tokens // ways),
        compiler=compiled.compiler,
        facts=[f"{program.rows} sequences of {config.max_length:,} tokens a pass"],
        call="a pass, forward and backward",
        traffic=compiled.collectives,
        bound=bound,
        formula="train",
        tokens_per_second=rate,
        hours=case.prompts * config.epochs * row / rate / 3600,
    )


def _training_bytes(
    cfg: ModelConfig, strategy: Any, budget: Budget, compiled: Compiled, positions: int
) -> dict[str, int]:
    kept = {name: size for name, size in budget.bytes.items() if name != "gradients"}
    words = cfg.vocab_size // strategy.ways("vocab")
    loss = 2 * 4 * default_chunk(positions, cfg.vocab_size) * words  # logits and their gradient
    return {
        **kept,
        "batch": max(0, compiled.arguments - sum(kept.values())),
        "gradients": min(budget.bytes["gradients"], compiled.temporaries),
        "loss": min(loss, compiled.temporaries),
        "activations": max(0, compiled.temporaries - loss - budget.bytes["gradients"]),
    }


def _searched(
    plan: Callable[[_Case], Stage],
    case: _Case,
    others: Callable[[_Case], Iterator[tuple[list[str], _Case]]],
) -> Stage:
    """The stage; where it does not fit, with the first of some other settings that do."""
    stage = plan(case)
    if stage.fits(case.mesh) or stage.nearest:
        return stage
    for tried, (changes, other) in enumerate(others(case)):
        if tried == _TRIES:
            break
        if plan(other).fits(other.mesh):
            return replace(stage, nearest=changes)
    return stage


def _other_samplers(case: _Case) -> Iterator[tuple[list[str], _Case]]:
    """Fewer slots."""
    slots = case.recipe.engine.slots
    while slots > 1:
        slots //= 2
        engine = replace(case.recipe.engine, slots=slots)
        yield [f"engine.slots={slots}"], replace(case, recipe=replace(case.recipe, engine=engine))


def _other_trainings(case: _Case) -> Iterator[tuple[list[str], _Case]]:
    """One sequence at a time, everything computed again, then shorter sequences."""
    changes: dict[str, Any] = {}
    config = case.recipe.training
    wanted = [("micro_batch_size", 1), ("remat", "layer")]
    wanted += [("max_length", config.max_length // 2), ("max_length", config.max_length // 4)]
    for name, value in wanted:
        if getattr(config, name) == value:
            continue
        changes[name] = value
        training = replace(config, **changes)
        named = [f"training.{key}={item}" for key, item in changes.items()]
        yield named, replace(case, recipe=replace(case.recipe, training=training))
