"""The section `on_policy`: a loop of rollouts and training steps instead of a dataset first.

The numbers are those of the sources, which each recipe in configs/recipes names; the defaults are a
GRPO that avoids the known traps. `qwen3-0.6b-grpo-authors` is the paper's own.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Annotated, Any

from thinksafe_jax.config.limits import (
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    choice,
)
from thinksafe_jax.config.rollout_server_section import RolloutServerConfig, server_conflicts
from thinksafe_jax.config.shared_sections import LABEL, LATER, STEERING, ModelSource, SamplingConfig
from thinksafe_jax.variants import variant_names

_OF_METHOD = {  # the keys that only some methods look at
    "rewards": ("grpo",), "advantage": ("grpo",), "std_floor": ("grpo",),
    "rewards_apart": ("grpo",), "flat_groups": ("grpo",), "teacher": ("opd",),
    "teacher_memory": ("opd",),
    "guidance": ("self-distillation",), "taught": ("self-distillation",),
    "horizon": ("self-distillation",), "prefixes": ("grpo",),
}  # fmt: skip
# keys of other sections that no method looks at
_TRAINING_UNREAD = ("objective", "weighting", "heldout_rows", "full_finetune")
_SYNTHESIS_UNREAD = (
    "method", "teacher", "harmful_reasoning", "benign_refusals", "ladder", "attempts"
)  # fmt: skip


@dataclass(frozen=True)
class RewardTerm:
    """One of the rewards that are added up."""

    # a file of on_policy/rewards by name, or a function of your own as package.module:function
    name: str = "guard-safe"
    weight: Annotated[float, POSITIVE] = 1.0
    # only for prompts of this label; default both
    label: Annotated[str | None, LABEL] = None
    # only for prompts of this class: of a source (the stem of its path; a second source of one stem
    # is stem.2), or of a value in its label column; default all
    stratum: str | None = field(default=None, metadata=LATER)


def _default_rewards() -> list[RewardTerm]:
    return [
        RewardTerm("guard-safe"),
        RewardTerm("format"),
        # or refusing everything would win
        RewardTerm("not-refused", label="benign"),
    ]


@dataclass(frozen=True)
class PrefixConfig:
    """Beginnings of flawed answers, which a part of the prompts is given to go on from."""

    # a run directory that asked the same prompts: taken is the reasoning of the answers to harmful
    # ones that its guard rejected, and of refusals of benign ones; "" is off
    run: str = ""
    share: Annotated[float, SHARE] = 0.5  # of the prompts of a step that have such an answer
    tokens: Annotated[int, COUNT] = 512  # of the reasoning, at most

    def conflicts(self) -> Iterator[str]:
        """What does not go together, one sentence each, beginning with its key."""
        if not self.run and self != PrefixConfig():
            yield "run: no value given; expected the run directory whose answers are begun with"


@dataclass(frozen=True)
class HorizonConfig:
    """Rollouts that grow: as long as the teacher still turns unsafe answers around."""

    # tokens of a rollout, rising: it begins with the first; empty: always sampling.max_new_tokens
    lengths: list[Annotated[int, COUNT]] = field(default_factory=list)
    every: Annotated[int, COUNT] = 50  # optimiser steps between measurements
    prompts: Annotated[int, COUNT] = 100  # harmful ones that a measurement asks, at most
    unsafe: Annotated[int, COUNT] = 10  # answers that must be unsafe, or the length stays
    rescued: Annotated[float, SHARE] = 0.75  # of those, share that the teacher must turn around
    answer_tokens: Annotated[int, COUNT] = 4096  # of an answer of a measurement, at most
    rescue_tokens: Annotated[int, COUNT] = 2048  # that the teacher goes on for, at most

    def conflicts(self) -> Iterator[str]:
        """What does not go together, one sentence each, beginning with its key."""
        if any(a >= b for a, b in pairwise(self.lengths)):
            yield f"lengths: is {self.lengths}; expected lengths that rise"


@dataclass(frozen=True)
class OnPolicyConfig:
    """How rollouts are drawn and what is learnt from them; prompts are those of `synthesis`."""

    # "" is off: a dataset first, then training on it
    method: Annotated[str, choice("", *variant_names("on_policy/methods"))] = ""
    # optimiser steps; default training.epochs over the prompts. A step holds training.batch_size
    # rollouts: of batch_size / samples prompts
    steps: Annotated[int | None, COUNT] = None
    samples: Annotated[int, COUNT] = 8  # rollouts of a prompt in a step, the group
    sampling: SamplingConfig = field(
        default_factory=lambda: SamplingConfig(1.0, 1.0, 0, max_new_tokens=4096)
    )
    # what every rollout counts for: a file of on_policy/normalizations
    loss: Annotated[str, choice(*variant_names("on_policy/normalizations"))] = "grpo"
    # rollouts that were cut at max_new_tokens: trained on, or left out
    truncated: Annotated[str, choice("keep", "drop")] = "keep"
    # nats between the sampler's log p of a token and training's; above it the run stops
    max_log_p_gap: Annotated[float | None, POSITIVE] = None
    server: RolloutServerConfig = field(default_factory=RolloutServerConfig, metadata=LATER)

    # grpo
    rewards: list[RewardTerm] = field(default_factory=_default_rewards)
    advantage: Annotated[str, choice(*variant_names("on_policy/advantages"))] = "grpo"
    # standard deviations of a group's rewards below it count as it: noise is not amplified
    std_floor: Annotated[float, NOT_NEGATIVE] = 1e-3
    # each reward becomes an advantage by itself, then they are added up
    rewards_apart: bool = False
    prefixes: PrefixConfig = field(default_factory=PrefixConfig, metadata=LATER)
    # groups without spread: keep their divergence from the reference, or leave them out
    flat_groups: Annotated[str, choice("keep", "drop")] = "keep"

    # opd
    teacher: ModelSource = field(default_factory=ModelSource)
    # where its weights lie while rollouts are drawn and a step is taken: on the devices, or with
    # the hosts, which takes a copy each step, and the KV pool is given up for its pass
    teacher_memory: Annotated[str, choice("device", "host")] = field(
        default="device", metadata=LATER
    )

    # self-distillation: what the teacher, who is the student untrained, reads around a prompt of
    # the label harmful or benign: a name of synthesis/steering, or a text of your own with {prompt}
    # in it once; default: the texts of on_policy/methods/self_distillation.py
    guidance: dict[str, Annotated[str, STEERING]] = field(default_factory=dict)
    # the tokens that are learnt from: a file of on_policy/token_rules
    taught: Annotated[str, choice(*variant_names("on_policy/token_rules"))] = "all"
    horizon: HorizonConfig = field(default_factory=HorizonConfig, metadata=LATER)

    @property
    def comparable(self) -> "OnPolicyConfig":
        """What decides rollouts and weights: a server or a teacher may lie elsewhere since."""
        return replace(self, server=self.server.comparable, teacher_memory="device")

    def conflicts(self) -> Iterator[str]:
        """What does not go together, one sentence each, beginning with its key."""
        for key, methods in _OF_METHOD.items():
            if self.method not in methods and getattr(self, key) != getattr(_UNSET, key):
                wanted = " or ".join(methods)
                of = f"method is {self.method!r}" if self.method else "no method is set"
                yield f"{key}: is read by on_policy.method {wanted} alone, and {of}"
        if self.method == "opd" and not self.teacher.model:
            yield "teacher.model: no value given; expected the model that opd learns from"
        if self.method == "grpo" and self.samples < 2:
            yield f"samples: is {self.samples}; a group of grpo needs 2 or more to compare"
        drawn = self.sampling
        if self.method == "grpo" and (drawn.top_k or drawn.top_p < 1 or drawn.min_p):
            yield (
                "sampling: a policy gradient is that of the distribution that was drawn from; set "
                "top_k 0, top_p 1 and min_p 0"
            )
        if self.method == "grpo" and not self.rewards:
            yield "rewards: is empty; grpo needs one reward or more"
        lengths, most = self.horizon.lengths, drawn.max_new_tokens
        if lengths and lengths[-1] != most:
            yield (
                f"sampling.max_new_tokens: is {most}; expected the last of "
                f"on_policy.horizon.lengths, {lengths[-1]}"
            )
        if unknown := sorted(set(self.guidance) - {"harmful", "benign"}):
            yield f"guidance: has {', '.join(unknown)}; expected the keys harmful and benign"


_UNSET = OnPolicyConfig()


def loop_conflicts(
    cfg: OnPolicyConfig, training: Any, synthesis: Any, context: int | None
) -> Iterator[str]:
    """What of the other sections does not go with an on-policy method.

    Args:
        context: `engine.max_length`.
    """
    yield from server_conflicts(cfg.method, cfg.server, training)
    if not cfg.method:
        if training.objective == "rollout-streams":
            yield "training.objective: rollout-streams is what on_policy.method sets, not a recipe"
        if training.ratio_cap:
            yield "training.ratio_cap: is for rollouts, and no on_policy.method is set"
        return
    if training.batch_size % cfg.samples:
        yield (
            f"training.batch_size: is {training.batch_size}; expected a multiple of "
            f"on_policy.samples {cfg.samples}: a step holds whole groups"
        )
    for name, section, keys in (
        ("training", training, _TRAINING_UNREAD),
        ("synthesis", synthesis, _SYNTHESIS_UNREAD),
    ):
        for key in keys:
            if getattr(section, key) != getattr(type(section)(), key):
                yield f"{name}.{key}: on_policy.method {cfg.method} does not read it; leave it out"
    if cfg.max_log_p_gap is not None and training.lora_dropout:
        yield (
            f"on_policy.max_log_p_gap: cannot be held with training.lora_dropout "
            f"{training.lora_dropout}: rollouts have no dropout; set it to 0"
        )
    if cfg.sampling.max_new_tokens >= training.max_length:
        yield (
            f"on_policy.sampling.max_new_tokens: is {cfg.sampling.max_new_tokens}; expected less "
            f"than training.max_length ({training.max_length}), which holds the prompt too"
        )
    for name in ("answer_tokens", "rescue_tokens") if cfg.horizon.lengths else ():
        tokens = getattr(cfg.horizon, name)
        if context is not None and tokens >= context:
            yield (
                f"on_policy.horizon.{name}: is {tokens}; expected less than engine.max_length "
                f"({context}), which holds the prompt too"
            )


def rounding_conflicts(cfg: OnPolicyConfig, training: Any, engine: Any) -> Iterator[str]:
    """Why `engine.kv_dtype` cannot be int8 for an on-policy method.

    Rollouts carry the log-probability of the distribution they were drawn from, rounded keys and
    values included. The importance ratio to the policy in training, cut at `ratio_cap`, corrects
    the policy gradient with it; no method corrects a divergence over the positions of the rollouts.
    """
    if not cfg.method or cfg.server.url or engine.kv_dtype == "model":
        return
    if cfg.max_log_p_gap is not None:
        yield (
            f"on_policy.max_log_p_gap: cannot be held with engine.kv_dtype {engine.kv_dtype}: "
            "training does not round keys and values; set it to null"
        )
    key = f"engine.kv_dtype: {engine.kv_dtype} draws rollouts from another distribution than the "
    if cfg.method != "grpo":
        yield (
            f"{key}model's own, and nothing corrects the divergence of on_policy.method "
            f"{cfg.method}; leave it at model"
        )
    elif not training.ratio_cap:
        yield (
            f"{key}policy that is trained; set training.ratio_cap (2 cuts a token's importance "
            "ratio at 2), or leave it at model"
        )
