"""The training stage on a mesh: one optimiser step over all devices."""

from dataclasses import replace
from functools import partial

from thinksafe_jax.models import ModelConfig
from thinksafe_jax.planning.abstract_programs import train_program
from thinksafe_jax.planning.collectives import total
from thinksafe_jax.planning.compiler import Compiled, compile_program
from thinksafe_jax.planning.evaluation_plan import held_out
from thinksafe_jax.planning.find_model import find_model
from thinksafe_jax.planning.memory import Budget
from thinksafe_jax.planning.roofline import bound_of, train_cost
from thinksafe_jax.planning.stage_plans import PlanRequest, StagePlan, start_plan
from thinksafe_jax.planning.workload import reads_base
from thinksafe_jax.sharding import Phase
from thinksafe_jax.training import default_chunk


def plan_train(request: PlanRequest) -> StagePlan:
    """One training step over the whole mesh."""
    student = request.recipe.student
    model, cfg = find_model(student.model)
    settings, config = request.settings(cfg, student.dtype), request.recipe.training
    config = replace(config, max_length=min(config.max_length, cfg.max_position_embeddings))
    phase = request.mesh.train
    plan, budget = start_plan("train", model, cfg, phase, request, settings)
    if budget.problems:
        return plan
    build = partial(train_program, cfg, phase, request.devices(), config)
    name = f"train-step-{model}-{request.mesh.name}"
    compiled, program = compile_program(build, student.dtype, name), build(student.dtype)
    divided = phase.for_model(cfg)
    shards, parts = divided.num_shards("batch"), divided.num_shards("sequence")
    cost = train_cost(
        cfg, divided, program.rows // shards, config.max_length, settings.dtype,
        remat=config.remat != "none", full_finetune=config.full_finetune,
        reference=reads_base(request.recipe),
    )  # fmt: skip
    sent = total(compiled.collectives)
    bound = bound_of(cost, sent.wire_bytes, request.mesh.topology, sent.dcn_bytes)
    assumed, trained = request.assumed, request.prompts - held_out(request.recipe, request.prompts)
    response = min(assumed.response_tokens, request.recipe.synthesis.sampling.max_new_tokens)
    row = min(config.max_length, assumed.prompt_tokens + response)
    rate = program.tokens / bound.seconds
    if program.rows > config.batch_size:
        plan.warnings.append(
            f"a pass holds {program.rows} sequences, an optimiser step {config.batch_size} rows: "
            "most of them stay empty; raise training.batch_size or use smaller batch axes"
        )
    return replace(
        plan,
        bytes=_peak_bytes(cfg, divided, budget, compiled, program.tokens // (shards * parts)),
        compiler=compiled.compiler,
        facts=[f"{program.rows} sequences of {config.max_length:,} tokens a pass"],
        call="a pass, forward and backward",
        traffic=compiled.collectives,
        bound=bound,
        formula="train",
        tokens_per_second=rate,
        hours=trained * config.epochs * row / rate / 3600,
    )


def _peak_bytes(
    cfg: ModelConfig, phase: Phase, budget: Budget, compiled: Compiled, positions: int
) -> dict[str, int]:
    """What is alive at the step's peak: the program's temporaries are shared out by what is known.

    Args:
        positions: tokens of one device's part of a pass.
    """
    kept = {name: size for name, size in budget.bytes.items() if name != "gradients"}
    words = cfg.vocab_size // phase.num_shards("vocab")
    loss = 2 * 4 * default_chunk(positions, cfg.vocab_size) * words  # logits and their gradient
    gradients = min(budget.bytes["gradients"], compiled.temporaries)
    loss = min(loss, compiled.temporaries - gradients)
    return {
        **kept,
        "batch": max(0, compiled.arguments - sum(kept.values())),
        "gradients": gradients,
        "loss": loss,
        "activations": compiled.temporaries - gradients - loss,
    }
