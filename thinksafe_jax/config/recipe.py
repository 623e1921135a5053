"""The recipe: one frozen dataclass per room of the flow, read from YAML and `key=value` overrides.

Defaults are the paper's numbers (paper sections 5.1, B.1; the authors' `train.py`). A recipe may
change them; `paper_differences` lists every change so that the report can show it.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ModelSource:
    """Which checkpoint plays a role."""

    model: str = ""  # a directory, a Hub id, or mini:student / mini:guard
    revision: str | None = None
    dtype: str = "bfloat16"  # float32 | bfloat16


@dataclass(frozen=True)
class GuardModel:
    """One guard: a checkpoint, a server, or the phrase matcher."""

    # llama-guard | wildguard | qwen3guard | refusal-match; majority, of several; and for `judge`
    # same: the guard that filters
    kind: str = "llama-guard"
    model: str = ""  # a directory, a Hub id or mini:guard; with `url`, whose tokenizer is used
    revision: str | None = None
    dtype: str = "bfloat16"
    max_length: int = 16384  # tokens of guard input; only the response is cut, keeping its end
    batch_tokens: int = 16384  # padded tokens per forward pass
    mesh: str | None = None  # a mesh of its own, as where its heads need one; default: the recipe's
    authors_compat: bool = False  # the authors' double BOS (llama-guard), for comparison
    # the key of a server that wants one is read from the environment variable GUARD_API_KEY
    url: str = ""  # of an OpenAI-compatible server, as http://localhost:8000/v1; "" runs it here
    served_name: str = ""  # the server's name for the model; default `model`
    api: str = "chat"  # chat | completions (text) | tokens (completions of token ids: vLLM, SGLang)
    concurrency: int = 16  # requests in flight
    timeout_seconds: float = 60.0  # of one request
    retries: int = 5  # of one request, with back-off
    answer_tokens: int = 64  # of a served guard; 1 asks a llama-guard for its verdict alone


@dataclass(frozen=True)
class GuardConfig(GuardModel):
    """What says safe, unsafe or unparsed: one guard, or the majority of several."""

    members: list[GuardModel] = field(default_factory=list)  # of kind majority
    max_unparsed: float = 0.2  # the run stops when more than this share is unparsed


@dataclass(frozen=True)
class PromptSource:
    """One source of prompts: a file, a dataset, or a split of the mini world."""

    # a JSONL, JSON, CSV or Parquet file; a folder with a dataset; hf:owner/name on the Hub;
    # mini:train-harmful, mini:heldout-arithmetic, ...
    path: str = ""
    split: str = "train"  # of a dataset
    subset: str | None = None  # configuration of a dataset, where it has several
    revision: str | None = None  # branch, tag or commit on the Hub
    prompt_column: str = "prompt"
    id_column: str | None = None  # default: "<file stem>-<row number>"
    label_column: str | None = None
    label: str | None = None  # one label for all rows, instead of label_column
    labels: dict[str, str] = field(default_factory=dict)  # column value -> harmful | benign
    answer_column: str | None = None  # gold answer, for reasoning suites
    response_column: str | None = None  # what to train on, with method external
    where: dict[str, str] = field(default_factory=dict)  # keep rows whose column equals the value
    start: int = 0  # first row kept, counted after `where`
    limit: int | None = None  # rows kept


@dataclass(frozen=True)
class SamplingConfig:
    temperature: float = 0.6  # 0 is greedy
    top_p: float = 0.95
    top_k: int = 20  # 0 switches it off (R1-Distill)
    min_p: float = 0.0
    max_new_tokens: int = 16384


@dataclass(frozen=True)
class EngineConfig:
    """Shape of the sampler: static sizes that are compiled in."""

    slots: int = 64  # rows decoded together, by each replica
    window: int = 32  # decode steps per dispatch
    page_size: int = 64  # tokens per KV page
    pool_tokens: int | None = (
        None  # KV pool of each replica; default: what `slots` full contexts need
    )
    max_length: int | None = None  # prompt + response; default: the model's context
    attention: str = "auto"  # auto, or an implementation in sampling.attention
    replicas: str = "apart"  # replicas on a mesh: apart | together (one program, in step)


@dataclass(frozen=True)
class Rung:
    """One step of the retry ladder; what is left out is as in `synthesis`."""

    steering: str | None = None
    temperature: float | None = None


@dataclass(frozen=True)
class SynthesisConfig:
    # thinksafe | rejection | direct-refusal | safepath | external
    method: str = "thinksafe"
    # a name in synthesis.steering.TEMPLATES, or a text of your own with {prompt} in it once
    steering: str = "authors"
    reasoning: str = "think"  # think: one closed <think> pair is required | none: response as it is
    harmful_reasoning: str = "keep"  # remove: harmful rows are trained with an empty think block
    attempts: int = 1  # per prompt, until the guard accepts; of `rejection`: all must be accepted
    ladder: list[Rung] = field(default_factory=list)  # attempt n takes rung n, then over again
    limit: int | None = None  # prompts in all, drawn from every label in its own proportion
    drop_contaminated: bool = False  # leave out prompts that an evaluation asks as well
    teacher: ModelSource = field(default_factory=ModelSource)  # answers instead of the student
    prompts: list[PromptSource] = field(default_factory=list)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass(frozen=True)
class TrainingConfig:
    epochs: int = 3
    batch_size: int = 8  # rows per optimiser step (effective)
    micro_batch_size: int = 8  # bounds a forward pass: tokens of so many longest rows
    learning_rate: float = 1e-5
    warmup_ratio: float = 0.1
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    max_length: int = 16384  # tokens of prompt and response
    too_long: str = "drop"  # drop (and count) | truncate: cut the end of longer rows
    think_newlines: str = "keep"  # keep | authors: two newlines after every </think>
    objective: str = "ce"  # ce | ce+kl: harmful rows CE, benign rows KL from the adapter off
    kl: str = "forward"  # forward: KL(p_ref || p) | reverse | symmetric
    kl_top_k: int = 0  # forward KL over the reference's k likeliest words; 0 is all of them
    kl_weight: float = 1.0
    weighting: str = "tokens"  # tokens: every target counts alike | authors: every row does
    lora_r: int = 32
    lora_alpha: float = 16.0  # an update is scaled by alpha / r, with rslora by alpha / sqrt(r)
    lora_rslora: bool = False
    lora_dropout: float = 0.05
    lora_targets: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])
    full_finetune: bool = False
    remat: str = "layer"  # what is computed again: none | dots | attention | layer
    heldout_rows: int = 0  # kept out of training; their loss is measured as it goes on
    evaluate_every: int = 100  # optimiser steps between those measurements; and at the end
    checkpoint_every: int = 100  # optimiser steps
    checkpoint_minutes: float = 30.0  # and at least so often
    keep_checkpoints: int = 2
    trackers: list[str] = field(default_factory=list)  # tensorboard, wandb: beside metrics.jsonl


@dataclass(frozen=True)
class SuiteConfig:
    """One suite: a name of evaluation.catalogue.BENCHMARKS, or a file of your own with a kind."""

    name: str = ""
    kind: str = ""  # harmful | over_refusal | compliance | reasoning; "" is the benchmark's own
    path: str = ""  # local JSONL, JSON, CSV or Parquet file instead of the Hub's
    revision: str | None = None  # of the Hub dataset; the commit found at first is kept
    style: str = ""  # math | gsm8k | choice, how answers are read; "" is the benchmark's own
    limit: int | None = None  # questions kept


@dataclass(frozen=True)
class EvaluationConfig:
    harmful: list[PromptSource] = field(default_factory=list)
    over_refusal: list[PromptSource] = field(default_factory=list)
    reasoning: list[PromptSource] = field(default_factory=list)
    judge: str = "guard"  # guard | mini (the mini world's exact judge, guard agreement beside it)
    reasoning_prompt: str = "{prompt}"  # {prompt} is replaced once, literally
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    suites: list[SuiteConfig] = field(default_factory=list)  # named ones, beside the lists above
    samples: int = 1  # responses per reasoning question
    reasoning_sampling: SamplingConfig | None = None  # of the reasoning suites; None is `sampling`
    scopes: list[str] = field(default_factory=lambda: ["full"])  # judged: full | answer | think

    @property
    def sources(self) -> list[PromptSource]:
        """The prompts of every suite."""
        return [*self.harmful, *self.over_refusal, *self.reasoning]


@dataclass(frozen=True)
class Recipe:
    name: str = ""
    run_dir: str = ""
    seed: int = 42
    mesh: str | None = None  # a file, or a name in configs/mesh; default: one device
    student: ModelSource = field(default_factory=ModelSource)
    guard: GuardConfig = field(default_factory=GuardConfig)  # filters what is trained on
    judge: GuardConfig = field(default_factory=lambda: GuardConfig(kind="same"))  # evaluates
    engine: EngineConfig = field(default_factory=EngineConfig)
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    @property
    def judging(self) -> GuardConfig:
        """The guard of the evaluation: the filter's own where `judge` names no other."""
        return self.guard if self.judge.kind == "same" else self.judge
