"""The recipe: one frozen dataclass per room of the flow, read from YAML and `key=value` overrides.

Defaults are the paper's numbers (paper sections 5.1, B.1; the authors' `train.py`). A recipe may
change them; `paper_differences` lists every change so that the report can show it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

from thinksafe_jax.config.evaluation_section import EvaluationConfig
from thinksafe_jax.config.limits import (
    COUNT,
    INDEX,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    ConfigName,
    EachOnce,
    FolderName,
    Range,
    choice,
)
from thinksafe_jax.config.on_policy_section import (
    OnPolicyConfig,
    loop_conflicts,
    rounding_conflicts,
)
from thinksafe_jax.config.safekey_section import SafeKeyConfig, safekey_conflicts
from thinksafe_jax.config.shared_sections import (
    DTYPE,
    LATER,
    STEERING,
    TEMPERATURE,
    ModelSource,
    PromptSource,
    SamplingConfig,
)
from thinksafe_jax.variants import variant_names

_MESH = ConfigName("mesh")
_FORMATS, _MATCHERS = variant_names("guards/formats"), variant_names("guards/matchers")
_GUARD = choice(*_FORMATS, *_MATCHERS)
_PROJECTION = choice("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class GuardModel:
    """One guard: a checkpoint, a server, or the phrase matcher."""

    kind: Annotated[str, _GUARD] = "llama-guard"
    model: str = ""  # a directory, a Hub id or mini:guard; with `url`, whose tokenizer is used
    revision: str | None = None
    dtype: Annotated[str, DTYPE] = "bfloat16"
    # tokens of guard input; only the response is cut, keeping its end
    max_length: Annotated[int, COUNT] = 16384
    batch_tokens: Annotated[int, COUNT] = 16384  # padded tokens per forward pass
    # a mesh of its own, as where its heads need one; default: the recipe's
    mesh: Annotated[str | None, _MESH] = None
    authors_compat: bool = False  # the authors' double BOS (llama-guard), for comparison
    # the key of a server that wants one is read from the environment variable GUARD_API_KEY
    url: str = ""  # of an OpenAI-compatible server, as http://localhost:8000/v1; "" runs it here
    served_name: str = ""  # the server's name for the model; default `model`
    # completions: of text; tokens: completions of token ids (vLLM, SGLang)
    api: Annotated[str, choice("chat", "completions", "tokens")] = "chat"
    concurrency: Annotated[int, Range(1, 1024)] = 16  # requests in flight
    timeout_seconds: Annotated[float, POSITIVE] = 60.0  # of one request
    retries: Annotated[int, Range(0, 100)] = 5  # of one request, with back-off
    # of a served guard; 1 asks a llama-guard for its verdict alone
    answer_tokens: Annotated[int, COUNT] = 64

    @property
    def is_matcher(self) -> bool:
        """Whether it matches phrases: no model, no server."""
        return self.kind in _MATCHERS


@dataclass(frozen=True)
class GuardConfig(GuardModel):
    """What says safe, unsafe or unparsed: one guard, or the majority of several."""

    # majority: of `members`; same, for `judge`: the guard that filters
    kind: Annotated[str, choice(*_GUARD.names, "majority", "same")] = "llama-guard"
    members: list[GuardModel] = field(default_factory=list)  # of kind majority
    # the run stops when more than this share is unparsed
    max_unparsed: Annotated[float, SHARE] = 0.2


@dataclass(frozen=True)
class EngineConfig:
    """Shape of the sampler: static sizes that are compiled in."""

    slots: Annotated[int, COUNT] = 64  # rows decoded together, by each replica
    window: Annotated[int, COUNT] = 32  # decode steps per dispatch
    page_size: Annotated[int, COUNT] = 64  # tokens per KV page
    # KV pool of each replica; default: what `slots` full contexts need
    pool_tokens: Annotated[int | None, COUNT] = None
    # prompt + response; default: the model's context
    max_length: Annotated[int | None, COUNT] = None
    attention: Annotated[str, choice("auto", *variant_names("sampling/attention"))] = "auto"
    # replicas on a mesh: each by itself, or together in one program, in step
    replicas: Annotated[str, choice("apart", "together")] = "apart"
    # drafts of the next tokens, from texts that are there: off, always, or auto where they save
    # time; the text is the same token for token, up to rounding
    draft: Annotated[str, choice("off", "auto", "always")] = "off"
    draft_tokens: Annotated[int, Range(1, 15)] = 3  # a pass runs over one position more
    # int8: keys and values are stored rounded, in half the bytes. Not the model's own distribution
    kv_dtype: Annotated[str, choice("model", "int8")] = field(default="model", metadata=LATER)

    @property
    def drawn_with(self) -> tuple[str, ...]:
        """Of what is sampled, what makes the distribution another than the model's: in hashes."""
        return () if self.kv_dtype == "model" else (f"engine.kv_dtype {self.kv_dtype}",)

    def conflicts(self) -> Iterator[str]:
        """What does not go together, one sentence each, beginning with its key."""
        if self.pool_tokens is not None and self.pool_tokens < self.page_size:
            yield (
                f"pool_tokens: is {self.pool_tokens}; expected room for at least one page "
                f"(engine.page_size is {self.page_size})"
            )


@dataclass(frozen=True)
class Rung:
    """One step of the retry ladder; what is left out is as in `synthesis`."""

    steering: Annotated[str | None, STEERING] = None
    temperature: Annotated[float | None, TEMPERATURE] = None


SAMPLED = ("thinksafe", "rejection")  # methods that let a model answer, and a guard judge


@dataclass(frozen=True)
class SynthesisConfig:
    """What is sampled, steered how, and what of it is kept."""

    method: Annotated[
        str, choice("thinksafe", "rejection", "direct-refusal", "safepath", "external")
    ] = "thinksafe"
    # a text of synthesis/steering by name, or one of your own with {prompt} in it once
    steering: Annotated[str, STEERING] = "authors"
    # think: one closed <think> pair is required; none: the response as it is
    reasoning: Annotated[str, choice("think", "none")] = "think"
    # remove: harmful rows are trained with an empty think block
    harmful_reasoning: Annotated[str, choice("keep", "remove")] = "keep"
    # safe answers that refuse a benign prompt: train on them (the paper), leave them out, ask again
    benign_refusals: Annotated[str, choice("keep", "drop", "retry")] = field(
        default="keep", metadata=LATER
    )
    # per prompt, until the guard accepts; of `rejection`: all must be accepted
    attempts: Annotated[int, Range(1, 1000)] = 1
    ladder: list[Rung] = field(default_factory=list)  # attempt n takes rung n, then over again
    # prompts in all, drawn from every label in its own proportion
    limit: Annotated[int | None, COUNT] = None
    drop_contaminated: bool = False  # leave out prompts that an evaluation asks as well
    teacher: ModelSource = field(default_factory=ModelSource)  # answers instead of the student
    prompts: list[PromptSource] = field(default_factory=list)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def conflicts(self) -> Iterator[str]:
        """What does not go together, one sentence each, beginning with its key."""
        if len(self.ladder) > self.attempts:
            yield (
                f"attempts: is {self.attempts}; expected at least the {len(self.ladder)} rungs of "
                "synthesis.ladder"
            )
        if self.benign_refusals == "retry" and (self.attempts < 2 or self.method != "thinksafe"):
            yield (
                "benign_refusals: retry needs synthesis.method thinksafe with synthesis.attempts "
                f"of 2 or more, not {self.method} with {self.attempts}; or drop them"
            )


@dataclass(frozen=True)
class TrainingConfig:
    """How the adapter, or the whole model, is trained."""

    epochs: Annotated[int, COUNT] = 3
    batch_size: Annotated[int, COUNT] = 8  # rows per optimiser step (effective)
    # bounds a forward pass: tokens of so many longest rows
    micro_batch_size: Annotated[int, COUNT] = 8
    learning_rate: Annotated[float, POSITIVE] = 1e-5
    beta2: Annotated[float, Range(0, 1, open_high=True)] = field(default=0.999, metadata=LATER)
    warmup_ratio: Annotated[float, SHARE] = 0.1
    weight_decay: Annotated[float, NOT_NEGATIVE] = 0.0
    clip_norm: Annotated[float, POSITIVE] = 1.0
    max_length: Annotated[int, COUNT] = 16384  # tokens of prompt and response
    # longer rows: drop them (and count), or cut their end
    too_long: Annotated[str, choice("drop", "truncate")] = "drop"
    # authors: two newlines after every </think>
    think_newlines: Annotated[str, choice("keep", "authors")] = "keep"
    # ce+kl: cross-entropy on harmful rows, KL from the adapter switched off on benign ones
    objective: Annotated[str, choice(*variant_names("training/objectives"))] = "ce"
    # with its schedule of the learning rate
    optimizer: Annotated[str, choice(*variant_names("training/optimizers"))] = "adamw"
    # forward: KL(p_ref || p)
    kl: Annotated[str, choice(*variant_names("training/divergences"))] = "forward"
    # forward KL over the reference's k likeliest tokens; 0 is all of them
    kl_top_k: Annotated[int, INDEX] = 0
    kl_weight: Annotated[float, POSITIVE] = 1.0
    # of rollouts: above 0, a token's importance ratio to the policy that sampled it, cut at this
    ratio_cap: Annotated[float, NOT_NEGATIVE] = field(default=0.0, metadata=LATER)
    # what counts alike: every target token, or (authors) every row
    weighting: Annotated[str, choice("tokens", "authors")] = "tokens"
    lora_r: Annotated[int, COUNT] = 32
    # an update is scaled by alpha / r, with rslora by alpha / sqrt(r)
    lora_alpha: Annotated[float, POSITIVE] = 16.0
    lora_rslora: bool = False
    lora_dropout: Annotated[float, Range(0, 1, open_high=True)] = 0.05
    lora_targets: Annotated[list[Annotated[str, _PROJECTION]], EachOnce("name")] = field(
        default_factory=lambda: ["q_proj", "v_proj"]
    )
    full_finetune: bool = False
    # what the backward pass computes again
    remat: Annotated[str, choice("none", "dots", "attention", "layer")] = "layer"
    safekey: SafeKeyConfig = field(default_factory=SafeKeyConfig, metadata=LATER)
    # kept out of training; their loss is measured as it goes on, their prompts asked at its ends
    heldout_rows: Annotated[int, INDEX] = 0
    # optimiser steps between those measurements; and at the end
    evaluate_every: Annotated[int, COUNT] = 100
    checkpoint_every: Annotated[int, COUNT] = 100  # optimiser steps
    checkpoint_minutes: Annotated[float, POSITIVE] = 30.0  # and at least so often
    keep_checkpoints: Annotated[int, COUNT] = 2
    # beside metrics.jsonl
    trackers: list[Annotated[str, choice(*variant_names("training/trackers"))]] = field(
        default_factory=list
    )

    def conflicts(self) -> Iterator[str]:
        """What does not go together, one sentence each, beginning with its key."""
        if self.micro_batch_size >= 1 and self.batch_size % self.micro_batch_size:
            yield (
                f"batch_size: is {self.batch_size}; expected a multiple of micro_batch_size "
                f"{self.micro_batch_size}"
            )
        if self.kl_top_k and self.kl not in ("forward", "top-forward"):
            yield f"kl_top_k: goes with training.kl forward and top-forward, not {self.kl}"
        if self.objective == "ce+kl" and self.full_finetune:
            yield (
                "objective: ce+kl needs an adapter that can be switched off; set "
                "training.full_finetune: false"
            )


@dataclass(frozen=True)
class Recipe:
    """All that a run is told to do."""

    # of the report and the cards; the run directory is runs/<name> where run_dir names none
    name: Annotated[str, FolderName()] = ""
    run_dir: str = ""
    # a run on few prompts, to look whether all works: report and cards say so
    trial: bool = field(default=False, metadata=LATER)
    seed: Annotated[int, INDEX] = 42
    # a file, or a name in configs/mesh; default: one device
    mesh: Annotated[str | None, _MESH] = None
    student: ModelSource = field(default_factory=ModelSource)
    guard: GuardConfig = field(default_factory=GuardConfig)  # filters what is trained on
    judge: GuardConfig = field(default_factory=lambda: GuardConfig(kind="same"))  # evaluates
    engine: EngineConfig = field(default_factory=EngineConfig)
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    # rollouts and training in one loop, instead of a dataset first
    on_policy: OnPolicyConfig = field(default_factory=OnPolicyConfig, metadata=LATER)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def conflicts(self) -> Iterator[str]:
        """What does not go together, one sentence each, beginning with its key."""
        context, synthesis, evaluation = self.engine.max_length, self.synthesis, self.evaluation
        asks_first = synthesis.prompts and not self.on_policy.method
        for key, sampling in (
            ("synthesis.sampling", synthesis.sampling if asks_first else None),
            ("on_policy.sampling", self.on_policy.sampling if self.on_policy.method else None),
            ("evaluation.sampling", evaluation.sampling),
            ("evaluation.reasoning_sampling", evaluation.reasoning_sampling),
        ):
            new = 0 if sampling is None else sampling.max_new_tokens
            if context is not None and new >= context:
                yield (
                    f"{key}.max_new_tokens: is {new}; expected less than engine.max_length "
                    f"({context}), which holds the prompt too"
                )
        yield from loop_conflicts(self.on_policy, self.training, synthesis, context)
        yield from safekey_conflicts(self.training, synthesis)
        yield from rounding_conflicts(self.on_policy, self.training, self.engine)

    @property
    def judging(self) -> GuardConfig:
        """The guard of the evaluation: the filter's own where `judge` names no other."""
        return self.guard if self.judge.kind == "same" else self.judge
