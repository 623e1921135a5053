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

from thinksafe_jax.config import GuardConfig, Recipe
from thinksafe_jax.data import Prompt
from thinksafe_jax.errors import InputError
from thinksafe_jax.on_policy.horizon import Horizon
from thinksafe_jax.on_policy.methods import Method, Taught
from thinksafe_jax.on_policy.policy import adapter_hash, whole_adapter
from thinksafe_jax.on_policy.prefixes import Prefixes
from thinksafe_jax.on_policy.references import References
from thinksafe_jax.on_policy.rewards import check_classes
from thinksafe_jax.on_policy.rollouts import Asked, Draw, Rollout
from thinksafe_jax.on_policy.sampler import RolloutSampler, SamplingStats
from thinksafe_jax.on_policy.schedule import Schedule
from thinksafe_jax.on_policy.step_arrays import rollout_example, step_layouts
from thinksafe_jax.on_policy.step_metrics import rollout_metrics
from thinksafe_jax.storage import content_hash
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.training import (
    Batch,
    Step,
    StreamedExample,
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
        self._prefixes = Prefixes(cfg.prefixes, prompts, tokenizer, recipe.seed)
        check_classes(cfg.rewards if cfg.method == "grpo" else (), prompts)
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
        mesh = parts.mesh
        shards = (1, 1) if mesh is None else (mesh.num_shards, mesh.sequence_shards)
        self._layouts = step_layouts(training, *shards, with_states=_looks(parts))
        self._prompts = fitting
        self._horizon = Horizon(
            recipe,
            fitting,
            self._prompt_ids,
            parts.sampler,
            parts.method.reference_prompt,
            parts.log,
        )
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
        judges = needs_guard(recipe, self._parts.method)
        guard = replace(recipe.guard, max_unparsed=limit) if judges else None
        return {
            "prompts sha256": content_hash(asked)[:16],
            "on_policy": content_hash(recipe.on_policy.comparable)[:16],
            "guard": content_hash(guard)[:16],
            **self._prefixes.identity,
        }

    def steps(self, start: int, weights: Callable[[], Tree]) -> Iterator[Step]:
        """The steps from number `start` on, each drawn with the weights as they then are."""
        for number in range(start, self.num_steps):
            yield self._step(number, whole_adapter(weights(), self._parts.mesh))

    def _fits(self, prompt: Prompt) -> bool:
        cfg = self._recipe.on_policy
        ids = self._prompt_ids[prompt.id]
        length = len(ids) + self._prefixes.longest(prompt) + cfg.sampling.max_new_tokens
        return bool(ids) and length <= min(self._recipe.training.max_length, self._parts.context)

    def _step(self, number: int, adapter: Tree) -> Step:
        began = time.perf_counter()
        parts, policy = self._parts, adapter_hash(adapter)
        draw = self._draw(number, policy, self._horizon.tokens(number, adapter))
        engine = parts.sampler.engine()
        engine.update_adapter(adapter)
        earlier = engine.stats
        rollouts = parts.sampler.draw(draw)
        if parts.method.needs_verdicts:
            rollouts = parts.sampler.judge(draw.folder, rollouts)
        states, facts = [], []
        if _looks(parts):
            states, facts = parts.references().look_at(rollouts, adapter)
        taught = parts.method.teach(rollouts, facts)
        # where all rollouts were there, the engine has nothing to say of this step
        stats = None if engine.stats is earlier else engine.stats
        self._note(draw, rollouts, taught, seconds=time.perf_counter() - began, stats=stats)
        # a greedy rollout was drawn at no temperature: it is then that of the model itself
        heat = (draw.sampling.temperature or 1.0) if parts.method.tempered else None
        examples = [
            rollout_example(rollout, streams, heat, state)
            for rollout, streams, state in zip(
                rollouts, taught.streams, states or [None] * len(rollouts), strict=True
            )
        ]
        return self._packed(examples)

    def _draw(self, number: int, policy: str, most: int) -> Draw:
        """The rollouts of a step, of at most `most` tokens."""
        cfg = self._recipe.on_policy
        asked = []
        for prompt in self._schedule[number]:
            prefix = self._prefixes.of(prompt, number)
            asked.append(Asked(prompt, number, [*self._prompt_ids[prompt.id], *prefix], prefix))
        facts: dict[str, Any] = {"horizon": most} if cfg.horizon.lengths else {}
        if cfg.server.url:
            facts["served"] = cfg.server.served_name or self._recipe.student.model
        return Draw(
            f"step-{number:06d}",
            str(number),
            asked,
            replace(cfg.sampling, max_new_tokens=most),
            policy,
            cfg.samples,
            facts,
        )

    def _packed(self, examples: Sequence[StreamedExample]) -> Step:
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
        self,
        draw: Draw,
        rollouts: Sequence[Rollout],
        taught: Taught,
        *,
        seconds: float,
        stats: SamplingStats | None,
    ) -> None:
        """Logs a step; `stats` are those of its sampling, None where nothing was sampled."""
        self.latest = {**taught.metrics, **rollout_metrics(rollouts)}
        if "horizon" in draw.facts:
            self.latest["horizon"] = draw.facts["horizon"]
        sampled = {"sampling_seconds": 0.0}
        if stats is not None:
            sampled = {
                "sampling_seconds": round(stats.seconds, 3),
                "occupancy": round(stats.occupancy, 4),
            }
        self._parts.log(
            "rollout",
            step=rollouts[0].step + 1,
            **self.latest,
            rows=len(rollouts),
            tokens=sum(len(rollout.token_ids) for rollout in rollouts),
            seconds=round(seconds, 3),
            **sampled,
        )


def needs_guard(recipe: Recipe, method: Method) -> bool:
    """Whether a run asks the guard: about its rollouts, or about how long they may be."""
    return method.needs_verdicts or bool(recipe.on_policy.horizon.lengths)


def _looks(parts: StepParts) -> bool:
    """Whether a reference looks at the rollouts before the step's own pass."""
    return parts.method.reference not in (None, "base")
