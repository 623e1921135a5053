"""The train stage of an on-policy recipe: the sampler, the guard and the trainer in one loop."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from thinksafe_jax.config import Recipe
from thinksafe_jax.data import Prompt
from thinksafe_jax.errors import ConfigError, InputError
from thinksafe_jax.models import ModelConfig, load_config
from thinksafe_jax.on_policy import (
    Method,
    OnPolicySteps,
    References,
    RolloutEngine,
    RolloutSampler,
    ServedEngine,
    ServedModel,
    StepParts,
    make_method,
    needs_guard,
)
from thinksafe_jax.pipeline.session import Session
from thinksafe_jax.pipeline.take_steps import take_steps
from thinksafe_jax.runs import Run
from thinksafe_jax.sharding import in_host_memory
from thinksafe_jax.tokenizer import vocabulary_difference
from thinksafe_jax.training import RowStates, TrainingMesh, TrainingSetup, TrainResult
from thinksafe_jax.weights import load_params

_log = logging.getLogger(__name__)
Tree = Any
Metrics = Mapping[str, Any]


def rollout_and_train(run: Run, session: Session) -> TrainResult:
    """Trains on the model's own answers, from the newest checkpoint on, or from the beginning.

    Rollouts and verdicts lie in RUN/rollouts; what was drawn is never drawn again.

    Raises:
        InputError: the sampler's log-probabilities are further from training's than
            `on_policy.max_log_p_gap` allows; a reward failed; no prompt fits.
    """
    recipe, tokenizer = run.recipe, session.tokenizer
    selection = session.selection
    _warn_of_one_label(selection.prompts)
    method = make_method(recipe, tokenizer)
    config = replace(recipe.training, objective="rollout-streams")
    setup = TrainingSetup(session.cfg, config, session.training_mesh)
    # on one device sampler and trainer share the arrays of the base, layers apart
    weights = session.weights
    params = weights.for_sampling() if session.mesh is None else weights.for_training()
    served = _served(run, session, method, setup) if recipe.on_policy.server.url else None

    @cache
    def references() -> References:
        return _references(session, method, params, setup, lambda: engine())

    @cache
    def engine() -> RolloutEngine:
        # these before the sampler, whose pool takes what is left of the devices
        if method.reference not in (None, "base"):
            references()
        if needs_guard(recipe, method):
            _ = session.guard
        return served or session.engine_apart(params, setup.lora)

    parts = StepParts(
        RolloutSampler(run, engine, tokenizer, lambda: session.guard),
        method,
        references,
        recipe.engine.max_length or session.cfg.max_position_embeddings,
        session.training_mesh,
        run.log,
    )
    steps = OnPolicySteps(recipe, selection.prompts, tokenizer, parts)
    with served or nullcontext():
        result = take_steps(run, params, setup, steps, shown=_shown_of(recipe, steps))
    session.release_guards()
    result.summary.update(selection.facts)
    return result


def _warn_of_one_label(prompts: Sequence[Prompt]) -> None:
    """Says before anything is sampled that nothing holds the other kind of prompt in place."""
    labels = {prompt.label for prompt in prompts}
    if len(labels) == 1:
        _log.warning(
            "all %d prompts are %s: nothing in training speaks against %s", len(prompts), *labels,
            "refusing everything" if labels == {"harmful"} else "answering everything",
        )  # fmt: skip


def _served(run: Run, session: Session, method: Method, setup: TrainingSetup) -> ServedEngine:
    """The recipe's server of rollouts, with the student as it is asked for there."""
    recipe = session.recipe
    session.check_sampling()
    assert setup.lora is not None, "an on-policy method trains an adapter"
    server, longest = recipe.on_policy.server, session.cfg.max_position_embeddings
    model = ServedModel(
        server.served_name or recipe.student.model,
        session.cfg,
        session.tokenizer.eos_ids,
        min(recipe.engine.max_length or longest, longest),
    )
    return ServedEngine(
        server,
        model,
        setup.lora,
        seed=recipe.seed,
        mode="processed" if method.tempered else "raw",
        owner=str(run.path),
    )


def _references(
    session: Session,
    method: Method,
    params: Tree,
    setup: TrainingSetup,
    engine: Callable[[], RolloutEngine],
) -> References:
    """What looks at the rollouts before a step; a visitor takes the place of the KV pool."""

    def make_room() -> None:
        if session.recipe.on_policy.teacher_memory == "host":
            engine().release_pool()

    student = RowStates(session.cfg, params, setup.lora, setup.mesh)
    model = student if method.reference == "guided" else _teacher(session)
    return References(model, student, method, make_room)


def _teacher(session: Session) -> RowStates:
    """The recipe's teacher, beside the student or in the memory of the hosts."""
    source = session.recipe.on_policy.teacher
    folder = session.folder(source)
    cfg = load_config(folder)
    check_vocabulary(session.recipe, (session.directory, session.cfg), (folder, cfg))
    mesh = session.mesh and TrainingMesh.of_phase(session.mesh.train, cfg)
    dtype = jnp.dtype(source.dtype)
    params = load_params(folder, cfg, dtype, mesh and mesh.param_shardings())
    if session.recipe.on_policy.teacher_memory == "host":
        params = in_host_memory(params)
    return RowStates(cfg, params, mesh=mesh)


def check_vocabulary(
    recipe: Recipe, student: tuple[Path, ModelConfig], teacher: tuple[Path, ModelConfig]
) -> None:
    """Compares the vocabularies of student and teacher, each a folder and its facts.

    Raises:
        ConfigError: they differ, so the teacher's distributions say nothing of the student's.
    """
    (folder, cfg), (teacher_folder, teacher_cfg) = student, teacher
    name = recipe.on_policy.teacher.model
    if difference := vocabulary_difference(folder, teacher_folder):
        raise ConfigError(
            f"on_policy.teacher {name} has another vocabulary than the student "
            f"{recipe.student.model}: {difference}. opd compares distributions over one "
            "vocabulary; choose a teacher of the student's family"
        )
    if teacher_cfg.vocab_size < cfg.vocab_size:
        raise ConfigError(
            f"on_policy.teacher {name} has {teacher_cfg.vocab_size} rows in its LM head, the "
            f"student {cfg.vocab_size}; choose a teacher of the student's family"
        )


def _check_gap(values: Mapping[str, Any], most: float | None) -> None:
    gap = values.get("log_p_gap_max")
    if most is not None and gap is not None and gap > most:
        raise InputError(
            f"step {values['step']}: the sampler's log-probability of a token is {gap:.3g} nats "
            f"from training's, above on_policy.max_log_p_gap {most:g}. Sampler and trainer are "
            "not the same model: a stale adapter, other dtypes, or a kernel; the last checkpoint "
            "is from before"
        )


def _shown_of(recipe: Recipe, steps: OnPolicySteps) -> Callable[[Metrics], Metrics]:
    """What the progress line shows of a step's metrics, once their gap is within the bound."""

    def shown(values: Metrics) -> Metrics:
        _check_gap(values, recipe.on_policy.max_log_p_gap)
        return _watched(steps.latest, values, corrected=recipe.training.ratio_cap > 0)

    return shown


def _watched(
    rollouts: Mapping[str, float], values: Mapping[str, Any], *, corrected: bool
) -> dict[str, Any]:
    """What the progress line shows: rewards, lengths and refusals, for the loss says nothing.

    Args:
        corrected: whether importance ratios correct the gradient; then how well they can.
    """
    names = {
        "reward": "reward",
        "unsafe": "unsafe",
        "over_refusal": "over_refusal",
        "length": "length",
        "truncated": "truncated",
        "flat_groups": "flat",
        "repeats_guidance": "repeats",
    }
    shown = {short: rollouts[name] for name, short in names.items() if name in rollouts}
    ratios = ("effective_sample_share",) if corrected else ()
    return shown | {k: values[k] for k in ("kl", "log_p_gap_max", *ratios) if k in values}
