"""A guard on a mesh: its forward pass, beside what the student keeps there."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from thinksafe_jax.config import GuardModel
from thinksafe_jax.planning.abstract_programs import guard_program
from thinksafe_jax.planning.collectives import total
from thinksafe_jax.planning.compiler import compile_program
from thinksafe_jax.planning.find_model import find_model
from thinksafe_jax.planning.memory import Settings, phase_budget
from thinksafe_jax.planning.roofline import bound_of, guard_cost
from thinksafe_jax.planning.sample_plan import pool_tokens
from thinksafe_jax.planning.stage_plans import PlanRequest, StagePlan, start_plan
from thinksafe_jax.sharding import load_mesh


def plan_guard(
    guard: GuardModel, request: PlanRequest, others: Sequence[GuardModel] = ()
) -> StagePlan:
    """One guard beside the student's weights; with retries also beside the sampler's pool.

    Args:
        others: guards of a majority, all of which are loaded.
    """
    model, cfg = find_model(guard.model)
    mesh = load_mesh(guard.mesh) if guard.mesh else request.mesh
    phase = mesh.generate
    settings, topology = Settings(guard.dtype).capped(cfg), request.mesh.topology
    plan, budget = start_plan("guard", model, cfg, phase, request, settings)
    if budget.problems:
        return plan
    of_host = phase.of_host(topology.hosts)
    length = min(guard.max_length, cfg.max_position_embeddings)
    rows = max(1, guard.batch_tokens // length)
    build = partial(guard_program, cfg, of_host, request.devices(of_host), rows, length)
    name = f"guard-pass-{model}-{mesh.name}"
    compiled, program = compile_program(build, guard.dtype, name), build(guard.dtype)
    divided = of_host.for_model(cfg)
    most = request.recipe.synthesis.sampling.max_new_tokens
    row = request.assumed.prompt_tokens + min(request.assumed.response_tokens, most)
    tokens = min(row, length)
    # a pass of mean rows, not of the longest: those of one device, and of one host
    device_rows = -(-max(1, guard.batch_tokens // tokens) // divided.num_shards("batch"))
    host_rows = device_rows * divided.num_shards("batch")
    cost = guard_cost(cfg, divided, device_rows, tokens, guard.dtype)
    # the program's messages carry hidden states: they follow the tokens of the pass
    share = host_rows * tokens / program.tokens
    bound = bound_of(cost, share * total(compiled.collectives).wire_bytes, topology)
    judged = topology.hosts * host_rows
    return replace(
        plan,
        bytes={**budget.bytes, **_beside(request, others), "activations": compiled.temporaries},
        compiler=compiled.compiler,
        facts=[f"{rows} x {length:,} tokens a pass and host; a row of {tokens:,} in the rates"],
        call=f"a pass of {program.rows} x {length:,} tokens",
        traffic=compiled.collectives,
        bound=bound,
        formula="guard",
        tokens_per_second=judged * tokens / bound.seconds,
        hours=request.rows * bound.seconds / judged / 3600,
    )


def _beside(request: PlanRequest, others: Sequence[GuardModel]) -> dict[str, int]:
    """Bytes per device of what is kept while the guard works: the sampler's, and other guards."""
    _, cfg, dtype = request.generator()
    settings, mesh = request.settings(cfg, dtype), request.mesh
    budget = phase_budget("generate", mesh.generate, cfg, mesh.topology, settings)
    kept = {"student": budget.bytes.get("weights", 0)}
    if request.recipe.synthesis.attempts > 1:
        pool = pool_tokens(request.recipe.engine, settings, budget)
        kept["kv pool"] = pool * budget.kv_bytes_per_token
    if others:
        kept["other guards"] = sum(_weights(other, request) for other in others)
    return kept


def _weights(guard: GuardModel, request: PlanRequest) -> int:
    """Bytes per device of a guard's weights."""
    _, cfg = find_model(guard.model)
    mesh = load_mesh(guard.mesh) if guard.mesh else request.mesh
    settings = Settings(guard.dtype).capped(cfg)
    budget = phase_budget("generate", mesh.generate, cfg, request.mesh.topology, settings)
    return budget.bytes.get("weights", 0)
