"""The sampling stage on a mesh: decode and prefill of one replica, beside its KV pool."""

from dataclasses import replace
from functools import partial

from thinksafe_jax.config import (
    EngineConfig,
    Recipe,
    evaluation_samplings,
    sampling_problems,
    synthesis_samplings,
)
from thinksafe_jax.data import benchmark_kinds
from thinksafe_jax.models import ModelConfig
from thinksafe_jax.planning.abstract_programs import (
    Sampler,
    decode_program,
    prefill_program,
)
from thinksafe_jax.planning.collectives import total
from thinksafe_jax.planning.compiler import compile_program
from thinksafe_jax.planning.devices import is_simulated
from thinksafe_jax.planning.find_model import find_model
from thinksafe_jax.planning.memory import Budget, Settings, filled_rows
from thinksafe_jax.planning.roofline import Bound, bound_of, decode_cost, prefill_cost
from thinksafe_jax.planning.stage_plans import PlanRequest, StagePlan, start_plan


def plan_sample(request: PlanRequest) -> StagePlan:
    """Decode and prefill of one replica; rates are those of all replicas."""
    model, cfg, dtype = request.generator()
    settings, engine = request.settings(cfg, dtype), request.recipe.engine
    phase = request.mesh.generate
    plan, budget = start_plan("sample", model, cfg, phase, request, settings)
    samplings = synthesis_samplings(request.recipe)
    if problems := list(sampling_problems(samplings, model, cfg.vocab_size, settings.context)):
        nearest = _options_that_fit(request, settings, cfg.vocab_size)
        return replace(plan, problems=problems, nearest=nearest)
    if problems := _problems_of_lengths(request, model, cfg) or _no_room(budget, settings):
        return replace(plan, bytes=dict(budget.bytes), problems=problems)
    pool = pool_tokens(engine, settings, budget)
    sampler = Sampler(
        engine.slots, pool, settings.context, request.assumed.prompt_tokens, engine.page_size,
        is_simulated(request.mesh.topology), kv_dtype=engine.kv_dtype,
    )  # fmt: skip
    devices = request.devices(phase.for_model(cfg).of_replica())
    decode, prefill = (
        compile_program(
            partial(program, cfg, phase, devices, sampler),
            dtype,
            f"sample-{name}-{model}-{request.mesh.name}",
        )
        for name, program in (("decode", decode_program), ("prefill", prefill_program))
    )
    rows = min(engine.slots, max(1, filled_rows(pool, settings.mean_context)))
    bound = _decode_bound(request, cfg, settings, rows, total(decode.collectives).wire_bytes)
    replicas = phase.for_model(cfg).num_shards("batch")
    rate = replicas * rows / bound.seconds
    sent = total(prefill.collectives).wire_bytes
    prefill_seconds = _prefill_bound(request, cfg, settings, sent).seconds / replicas
    sampling = request.recipe.synthesis.sampling
    tokens = min(request.assumed.response_tokens, sampling.max_new_tokens)
    return replace(
        plan,
        bytes={
            **budget.bytes,
            "kv pool": pool * budget.kv_bytes_per_token,
            "activations": max(decode.temporaries, prefill.temporaries),
        },
        compiler=decode.compiler,
        facts=[_slots_and_pages(engine, settings, pool, budget.pool_tokens, rows)],
        call=f"a decode step of {engine.slots} slots ({rows} filled)",
        traffic=decode.collectives,
        bound=bound,
        formula="decode",
        tokens_per_second=rate,
        hours=request.rows * (tokens / rate + prefill_seconds) / 3600,
    )


def _problems_of_lengths(request: PlanRequest, model: str, cfg: ModelConfig) -> list[str]:
    """Why a prompt as it is assumed has no room, or the evaluation has none for any."""
    if (assumed := request.assumed.prompt_tokens) >= cfg.max_position_embeddings:
        most = f"the context of {model} is {cfg.max_position_embeddings} tokens"
        return [f"--prompt-tokens {assumed}: {most}"]
    return _evaluation_problems(request.recipe)


def _evaluation_problems(recipe: Recipe) -> list[str]:
    """Why the student cannot be evaluated so: a run says it before it samples anything."""
    model, cfg = find_model(recipe.student.model)
    longest = cfg.max_position_embeddings
    context = min(recipe.engine.max_length or longest, longest)
    samplings = evaluation_samplings(recipe, benchmark_kinds())
    return list(sampling_problems(samplings, model, cfg.vocab_size, context))


def _options_that_fit(request: PlanRequest, settings: Settings, vocab_size: int) -> list[str]:
    """Sampling options by which a prompt of the assumed length can be sampled, on any mesh."""
    sampling = request.recipe.synthesis.sampling
    room = settings.context - min(request.assumed.prompt_tokens, settings.context // 2)
    changes = []
    if sampling.max_new_tokens > room:
        changes.append(f"synthesis.sampling.max_new_tokens={room}")
    if sampling.top_k > vocab_size:
        changes.append("synthesis.sampling.top_k=0")
    return changes


def _decode_bound(
    request: PlanRequest, cfg: ModelConfig, settings: Settings, rows: int, wire_bytes: float
) -> Bound:
    """The bound of a step in which `rows` of the slots have a row."""
    slots = request.recipe.engine.slots
    # the program computes all of its slots; those without a row have no context
    context = rows * settings.mean_context / slots
    phase = request.mesh.generate.for_model(cfg)
    cost = decode_cost(cfg, phase, slots, context, settings.dtype, settings.cache_dtype)
    return bound_of(cost, wire_bytes, request.mesh.topology)


def _prefill_bound(
    request: PlanRequest, cfg: ModelConfig, settings: Settings, wire_bytes: float
) -> Bound:
    phase = request.mesh.generate.for_model(cfg)
    tokens = request.assumed.prompt_tokens
    cost = prefill_cost(cfg, phase, tokens, settings.dtype, settings.cache_dtype)
    return bound_of(cost, wire_bytes, request.mesh.topology)


def pool_tokens(engine: EngineConfig, settings: Settings, budget: Budget) -> int:
    """Tokens of one replica's pool: as the recipe asks, or as many as there is room for."""
    return min(engine.pool_tokens or engine.slots * settings.context, budget.pool_tokens)


def _slots_and_pages(
    engine: EngineConfig, settings: Settings, pool: int, most: int, rows: int
) -> str:
    pages, could, size = pool // engine.page_size, most // engine.page_size, engine.page_size
    rounded = "" if engine.kv_dtype == "model" else f" in {engine.kv_dtype}"
    return (
        f"{engine.slots} slots a replica, {pages:,} pages of {size} tokens{rounded} "
        f"({could:,} would fit): "
        f"{pool // settings.context} rows of {settings.context:,} tokens, or {rows} at a mean of "
        f"{settings.mean_context:,}"
    )


def _no_room(budget: Budget, settings: Settings) -> list[str]:
    """Why the pool cannot hold a single row; nothing where it can."""
    if budget.problems or budget.fits:
        return budget.problems
    weights = budget.bytes["weights"]
    return [f"weights of {weights:,} bytes leave no room for a row of {settings.context:,} tokens"]
