"""Each stage of a recipe on a mesh: load, sample, guard, train; from its compiled programs.

Nothing is allocated: sizes come from shapes, the rest from the programs (see `programs`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from thinksafe_jax.config import EngineConfig, GuardModel, Recipe
from thinksafe_jax.models import ModelConfig
from thinksafe_jax.planning.abstract_programs import (
    Compiled,
    Sampler,
    compile_program,
    decode_program,
    guard_program,
    prefill_program,
    train_program,
)
from thinksafe_jax.planning.collectives import Traffics, total
from thinksafe_jax.planning.devices import is_simulated
from thinksafe_jax.planning.find_model import find_model
from thinksafe_jax.planning.memory import Budget, Settings, filled_rows, nearest_axes, phase_budget
from thinksafe_jax.planning.roofline import (
    Bound,
    bound_of,
    decode_work,
    guard_work,
    prefill_work,
    train_work,
)
from thinksafe_jax.sharding import MeshConfig, Phase, load_mesh, sharding_warnings
from thinksafe_jax.training import default_chunk, lora_config


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
class Case:
    """What the stages are planned from; `devices` are those to compile for."""

    recipe: Recipe
    mesh: MeshConfig
    prompts: int
    assumed: Assumed
    devices: Sequence[Any]

    @property
    def rows(self) -> int:
        """Responses of the synthesis, all attempts needed."""
        return self.prompts * max(1, self.recipe.synthesis.attempts)


def plan_load(case: Case) -> Stage:
    """The student as the sampler has it; each process reads only its own slices."""
    model, cfg, dtype = author_of(case.recipe)
    settings = settings_of(case, cfg, dtype)
    stage, budget = stage_on("load", model, cfg, case.mesh.generate, case, settings)
    return replace(stage, bytes=dict(budget.bytes), nearest=[])


def plan_sample(case: Case) -> Stage:
    """Decode and prefill of one replica; rates are those of all replicas."""
    model, cfg, dtype = author_of(case.recipe)
    settings = settings_of(case, cfg, dtype)
    phase, engine = case.mesh.generate, case.recipe.engine
    stage, budget = stage_on("sample", model, cfg, phase, case, settings)
    if budget.problems or not budget.fits:
        return replace(stage, bytes=dict(budget.bytes), problems=_no_room(budget, settings))
    strategy, pool = phase.for_model(cfg), _pool_tokens(engine, settings, budget)
    shape = Sampler(
        engine.slots, pool, settings.context, case.assumed.prompt_tokens, engine.page_size,
        is_simulated(case.mesh.topology),
    )  # fmt: skip
    decoded = compile_program(partial(decode_program, cfg, phase, case.devices, shape), dtype)
    filled = compile_program(partial(prefill_program, cfg, phase, case.devices, shape), dtype)
    rows = min(engine.slots, max(1, filled_rows(pool, settings.mean_context)))
    # the program computes all of its slots; those without a row have no context
    context = rows * settings.mean_context / engine.slots
    work = decode_work(cfg, strategy, engine.slots, context, settings.itemsize)
    bound = bound_of(work, total(decoded.collectives).wire_bytes, case.mesh.topology)
    replicas = strategy.num_shards("batch")
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
        facts=[_slots_and_pages(engine, settings, pool, budget.pool_tokens, rows)],
        call=f"a decode step of {engine.slots} slots ({rows} filled)",
        traffic=decoded.collectives,
        bound=bound,
        formula="decode",
        tokens_per_second=rate,
        hours=case.rows * (tokens / rate + prefill) / 3600,
    )


def _pool_tokens(engine: EngineConfig, settings: Settings, budget: Budget) -> int:
    """Of one replica: what the recipe asks for, or as much as there is room for."""
    return min(engine.pool_tokens or engine.slots * settings.context, budget.pool_tokens)


def _slots_and_pages(
    engine: EngineConfig, settings: Settings, pool: int, most: int, rows: int
) -> str:
    pages, could, size = pool // engine.page_size, most // engine.page_size, engine.page_size
    return (
        f"{engine.slots} slots a replica, {pages:,} pages of {size} tokens ({could:,} would fit): "
        f"{pool // settings.context} rows of {settings.context:,} tokens, or {rows} at a mean of "
        f"{settings.mean_context:,}"
    )


def _no_room(budget: Budget, settings: Settings) -> list[str]:
    if budget.problems:
        return budget.problems
    weights = budget.bytes["weights"]
    return [f"weights of {weights:,} bytes leave no room for a row of {settings.context:,} tokens"]


def plan_guard(guard: GuardModel, case: Case) -> Stage:
    """One guard beside the student's weights; with retries also beside the sampler's pool."""
    model, cfg = find_model(guard.model)
    mesh = load_mesh(guard.mesh) if guard.mesh else case.mesh
    settings = Settings(guard.dtype).capped(cfg)
    topology = case.mesh.topology
    phase = mesh.generate
    stage, budget = stage_on("guard", model, cfg, phase, case, settings)
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
    own = -(-per_pass // strategy.num_shards("batch"))
    work = guard_work(cfg, strategy, own, tokens, settings.itemsize)
    # the program's messages carry hidden states: they follow the tokens of the pass
    share = own * strategy.num_shards("batch") * tokens / program.tokens
    bound = bound_of(work, share * total(compiled.collectives).wire_bytes, topology)
    judged = topology.hosts * own * strategy.num_shards("batch")
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


def _beside_the_guard(case: Case) -> dict[str, int]:
    _, cfg, dtype = author_of(case.recipe)
    settings = settings_of(case, cfg, dtype)
    budget = phase_budget("generate", case.mesh.generate, cfg, case.mesh.topology, settings)
    found = {"student": budget.bytes.get("weights", 0)}
    if case.recipe.synthesis.attempts > 1:
        pool = _pool_tokens(case.recipe.engine, settings, budget)
        found["kv pool"] = pool * budget.kv_bytes_per_token
    return found


def plan_train(case: Case) -> Stage:
    """One training step over the whole mesh."""
    student = case.recipe.student
    model, cfg = find_model(student.model)
    settings, config = settings_of(case, cfg, student.dtype), case.recipe.training
    config = replace(config, max_length=min(config.max_length, cfg.max_position_embeddings))
    phase = case.mesh.train
    stage, budget = stage_on("train", model, cfg, phase, case, settings)
    if budget.problems:
        return stage
    build = partial(train_program, cfg, phase, case.devices, config)
    compiled, program = compile_program(build, student.dtype), build(student.dtype)
    strategy = phase.for_model(cfg)
    ways = strategy.num_shards("batch")
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
    cfg: ModelConfig, strategy: Phase, budget: Budget, compiled: Compiled, positions: int
) -> dict[str, int]:
    kept = {name: size for name, size in budget.bytes.items() if name != "gradients"}
    words = cfg.vocab_size // strategy.num_shards("vocab")
    loss = 2 * 4 * default_chunk(positions, cfg.vocab_size) * words  # logits and their gradient
    return {
        **kept,
        "batch": max(0, compiled.arguments - sum(kept.values())),
        "gradients": min(budget.bytes["gradients"], compiled.temporaries),
        "loss": min(loss, compiled.temporaries),
        "activations": max(0, compiled.temporaries - loss - budget.bytes["gradients"]),
    }


def settings_of(case: Case, cfg: ModelConfig, dtype: str) -> Settings:
    """What the recipe and the assumed lengths say of the model `cfg`, sampled or trained."""
    recipe = case.recipe
    longest = recipe.engine.max_length or cfg.max_position_embeddings  # as the engine has it
    mean = case.assumed.mean_context(recipe.synthesis.sampling.max_new_tokens)
    return Settings(dtype, lora_config(recipe.training), longest, mean).capped(cfg)


def author_of(recipe: Recipe) -> tuple[str, ModelConfig, str]:
    """Who writes the responses, the teacher or the student: name, facts, dtype."""
    source = recipe.synthesis.teacher if recipe.synthesis.teacher.model else recipe.student
    return (*find_model(source.model), source.dtype)


def stage_on(
    name: str, model: str, cfg: ModelConfig, phase: Phase, case: Case, settings: Settings
) -> tuple[Stage, Budget]:
    """A stage with what follows from the rules alone, and its budget.

    Args:
        name: load, sample, guard or train.
        model: what to call the model `cfg`.
        phase: of the mesh, or of the guard's own.
    """
    strategy = phase.for_model(cfg)
    kind = "train" if name == "train" else "generate"
    budget = phase_budget(kind, phase, cfg, case.mesh.topology, settings)
    stage = Stage(
        name, model, strategy.axes, strategy.hash, {}, problems=budget.problems,
        warnings=[] if budget.problems else sharding_warnings(cfg, strategy, settings.itemsize),
    )  # fmt: skip
    if name != "guard" and not budget.fits:
        axes = nearest_axes(kind, phase, cfg, case.mesh.topology, settings)
        if axes:
            sizes = ", ".join(f"{axis} {size}" for axis, size in axes.items())
            stage = replace(stage, nearest=[f"{kind}.axes: {sizes}"])
    return stage, budget
