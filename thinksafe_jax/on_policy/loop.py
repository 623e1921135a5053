"""One loop for every method: prompts, rollouts, scores, streams, and a step for the trainer.

    prompts of step k ─► rollouts ─► verdicts ─► streams of weights ─► optimiser step ─► adapter
         ▲                  ▲                                                              │
         └── k + 1          └──────────────── the sampler takes it ◄───────────────────────┘

The trainer asks for its steps one by one; this is where they come from. Rollouts and verdicts are
rows of the run. After a kill the trainer begins at its last checkpoint, and the steps since then
find their rollouts: the same adapter draws the same tokens, so it ends at the same weights.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from thinksafe_jax.config import GuardConfig, Recipe
from thinksafe_jax.data import Prompt
from thinksafe_jax.errors import InputError
from thinksafe_jax.on_policy.methods import Method, Taught
from thinksafe_jax.on_policy.policy import adapter_hash, whole_adapter
from thinksafe_jax.on_policy.references import References
from thinksafe_jax.on_policy.rewards.not_refused import refuses
from thinksafe_jax.on_policy.rollouts import Asked, Rollout
from thinksafe_jax.on_policy.sampler import RolloutSampler
from thinksafe_jax.on_policy.schedule import Schedule
from thinksafe_jax.storage import content_hash
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.training import (
    Batch,
    Layout,
    RolloutExample,
    Step,
    Stream,
    TrainingMesh,
    given_streams,
    pack,
)

_log = logging.getLogger(__name__)
Tree = Any
Log = Callable[..., None]


@dataclass(frozen=True)
class StepParts:
    """Who does what in a step.

    Attributes:
        sampler: draws rollouts, and has them judged.
        method: turns them into streams.
        references: gives who looks at the rollouts before a step; asked only where the method's
            reference is not the base model itself.
        context: tokens of prompt and rollout that the sampler holds.
        mesh: of training; None on one device.
        log: `log("rollout", **numbers)`, a line of metrics.
    """

    sampler: RolloutSampler
    method: Method
    references: Callable[[], References]
    context: int
    mesh: TrainingMesh | None
    log: Log


class OnPolicySteps:
    """The steps of an on-policy run, for `training.train`.

    Args:
        recipe: what to do.
        prompts: all prompts of the run.
        tokenizer: the student's.
        parts: who does it.

    Raises:
        InputError: no prompt fits the budget.
    """

    looks_at_weights = True

    def __init__(
        self, recipe: Recipe, prompts: Sequence[Prompt], tokenizer: ChatTokenizer, parts: StepParts
    ):
        cfg, training = recipe.on_policy, recipe.training
        self._recipe, self._parts = recipe, parts
        self._prompt_ids = {prompt.id: tokenizer.prompt_ids(prompt.text) for prompt in prompts}
        fitting = [p for p in prompts if self._fits(p)]
        if not fitting:
            raise InputError(
                f"no prompt fits: the shortest has {min(map(len, self._prompt_ids.values()))} "
                f"tokens; with on_policy.sampling.max_new_tokens {cfg.sampling.max_new_tokens} "
                f"that is above training.max_length {training.max_length} or the sampler's context "
                f"{parts.context}; raise these, or lower max_new_tokens"
            )
        self._left_out = len(prompts) - len(fitting)
        if self._left_out:
            _log.warning("%d of %d prompts are too long and left out", self._left_out, len(prompts))
        self._schedule = Schedule(
            fitting,
            training.batch_size // cfg.samples,
            seed=recipe.seed,
            epochs=training.epochs,
            steps=cfg.steps,
        )
        self.num_steps, self.steps_per_epoch = (
            self._schedule.num_steps,
            self._schedule.steps_per_epoch,
        )
        self._layouts = _layouts(recipe, parts)
        self._prompts = fitting
        self.latest: dict[str, float] = {}  # numbers of the step that was drawn last

    @property
    def summary(self) -> Mapping[str, int]:
        """Prompts that are asked, and those that are too long."""
        return {"prompts": len(self._prompts), "dropped_prompts": self._left_out}

    @property
    def identity(self) -> Mapping[str, str]:
        """What decides the rollouts, beside the seed and the weights."""
        recipe = self._recipe
        asked = [[p.id, p.text, p.label] for p in self._prompts]
        limit = GuardConfig.max_unparsed  # says when to stop, not what a verdict is
        judges = self._parts.method.needs_verdicts
        guard = replace(recipe.guard, max_unparsed=limit) if judges else None
        return {
            "prompts sha256": content_hash(asked)[:16],
            "on_policy": content_hash(recipe.on_policy)[:16],
            "guard": content_hash(guard)[:16],
        }

    def steps(self, start: int, weights: Callable[[], Tree]) -> Iterator[Step]:
        """The steps from number `start` on, each drawn with the weights as they then are."""
        for number in range(start, self.num_steps):
            yield self._step(number, whole_adapter(weights(), self._parts.mesh))

    def _fits(self, prompt: Prompt) -> bool:
        cfg = self._recipe.on_policy
        ids = self._prompt_ids[prompt.id]
        length = len(ids) + cfg.sampling.max_new_tokens
        return bool(ids) and length <= min(self._recipe.training.max_length, self._parts.context)

    def _step(self, number: int, adapter: Tree) -> Step:
        began = time.perf_counter()
        parts, sampling = self._parts, self._recipe.on_policy.sampling
        parts.sampler.engine().update_adapter(adapter)
        asked = [Asked(p, number, self._prompt_ids[p.id]) for p in self._schedule[number]]
        rollouts = parts.sampler.draw(number, asked, sampling, adapter_hash(adapter))
        if parts.method.needs_verdicts:
            rollouts = parts.sampler.judge(number, rollouts)
        states, facts = [], []
        if _looks(parts):
            states, facts = parts.references().look_at(rollouts, adapter)
        taught = parts.method.teach(rollouts, facts)
        self._note(number, rollouts, taught, time.perf_counter() - began)
        # a greedy rollout was drawn at no temperature: it is then that of the model itself
        heat = (sampling.temperature or 1.0) if parts.method.tempered else None
        examples = [
            _example(rollout, streams, heat, state)
            for rollout, streams, state in zip(
                rollouts, taught.streams, states or [None] * len(rollouts), strict=True
            )
        ]
        return self._packed(examples)

    def _packed(self, examples: Sequence[RolloutExample]) -> Step:
        sizes = [len(example) for example in examples]
        layout = next(layout for layout in self._layouts if layout.holds(sizes))
        batch: Batch = pack(examples, layout, given_streams)
        if _looks(self._parts):
            batch = batch._replace(reference_head=self._parts.references().head)
        return Step(
            batch=batch,
            row_ids=tuple(example.id for example in examples),
            tokens=sum(sizes),
            capacity=int(batch.passes) * layout.pass_tokens,
        )

    def _note(
        self, number: int, rollouts: Sequence[Rollout], taught: Taught, seconds: float
    ) -> None:
        """Numbers of the step's rollouts: what people watch, where a loss would say nothing."""
        lengths = [len(rollout.token_ids) for rollout in rollouts]
        benign = [r for r in rollouts if r.prompt.label == "benign" and r.response]
        values = {
            **taught.metrics,
            "length": float(np.mean(lengths)),
            "truncated": float(np.mean([not rollout.ended for rollout in rollouts])),
        }
        if benign:
            values["over_refusal"] = float(np.mean([refuses(rollout) for rollout in benign]))
        verdicts = [
            r.verdict.verdict for r in rollouts if r.verdict and r.prompt.label == "harmful"
        ]
        if verdicts:
            values["unsafe"] = verdicts.count("unsafe") / len(verdicts)
        self.latest = values
        stats = self._parts.sampler.engine().stats
        self._parts.log(
            "rollout",
            step=number + 1,
            **values,
            rows=len(rollouts),
            tokens=sum(lengths),
            seconds=round(seconds, 3),
            sampling_seconds=round(stats.seconds, 3),
            occupancy=round(stats.occupancy, 4),
        )


def _looks(parts: StepParts) -> bool:
    """Whether a reference looks at the rollouts before the step's own pass."""
    return parts.method.reference not in (None, "base")


def _layouts(recipe: Recipe, parts: StepParts) -> list[Layout]:
    """Shapes of a step, smallest first: known before any rollout, so a run compiles them once.

    With states of a reference an array holds a vector for each token, so there are shapes of 1, 2,
    4 ... passes; without them there is the largest alone.
    """
    training = recipe.training
    shards = 1 if parts.mesh is None else parts.mesh.num_shards
    grain = 16 if training.max_length <= 1024 else 128
    length = -(-training.max_length // grain) * grain
    sequences = max(shards, training.micro_batch_size // shards * shards)
    most = -(-training.batch_size // sequences)
    passes = [most]
    if _looks(parts):
        passes = sorted({min(2**n, most) for n in range(most.bit_length() + 1)})
    return [Layout(count, sequences, length) for count in passes]


def _example(
    rollout: Rollout,
    streams: Mapping[str, Stream],
    heat: float | None,
    states: np.ndarray | None,
) -> RolloutExample:
    """The row of a rollout: its streams and facts stand at the targets of its response.

    Args:
        heat: the temperature that the loss is at; None is the model itself, at temperature 1.
        states: of the reference, at the tokens of the response.
    """
    prompt, response = rollout.prompt_ids, rollout.token_ids
    token_ids = np.asarray([*prompt, *response], np.int32)
    mask = np.arange(len(token_ids)) >= len(prompt)
    targets, first = len(token_ids) - 1, len(prompt) - 1

    def at_response(values: np.ndarray, fill: float = 0.0) -> np.ndarray:
        whole = np.full((targets, *values.shape[1:]), fill, values.dtype)
        whole[first:] = values
        return whole

    sampled = rollout.logprobs if heat is None else rollout.sampling_logprobs
    temperature = np.full(len(response), heat or 1.0, np.float32)
    facts = {"temperature": at_response(temperature, 1.0), "sampled": at_response(sampled)}
    if states is not None:
        facts["reference"] = at_response(states)
    placed = {
        name: replace(stream, weights=at_response(stream.weights))
        for name, stream in streams.items()
    }
    return RolloutExample(
        f"{rollout.prompt.id}#{rollout.sample}", token_ids, mask, facts=facts, streams=placed
    )
