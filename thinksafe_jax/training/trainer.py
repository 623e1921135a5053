"""The training loop: steps, metrics, skipped steps, checkpoints, stopping and resuming."""

import dataclasses
import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from thinksafe_jax import profiling
from thinksafe_jax.compilations import compilations_so_far
from thinksafe_jax.config import RESUMABLE_KEYS, TrainingConfig
from thinksafe_jax.errors import ConfigError, InputError, Terminated
from thinksafe_jax.hosts import compare_hosts, current
from thinksafe_jax.models import LoraConfig, ModelConfig, init_adapter
from thinksafe_jax.training.batches import Step, StepSource
from thinksafe_jax.training.checkpoints import CheckpointStore, describe_differences
from thinksafe_jax.training.metrics import RunMetrics
from thinksafe_jax.training.setup import TrainingSetup, Tree, place_beside
from thinksafe_jax.training.step import Metrics, TrainState, init_state, make_step, state_shardings

_log = logging.getLogger(__name__)
MAX_SKIPPED_IN_A_ROW = 5


class _Log(Protocol):
    def __call__(self, **values: Any) -> None: ...


def _no_log(**values: Any) -> None:
    del values


@dataclass(frozen=True)
class Hooks:
    """What the trainer calls on its way.

    Attributes:
        log: once a step, as `log(step=…, loss=…, …)` or, where the step was skipped because its
            loss or gradient was not finite, as `log(step=…, skipped=True, rows=[…])`.
        check_stop: before each step; when it raises Terminated in one process, all of them write a
            checkpoint first and stop.
        evaluate: with (steps taken, what is in training) every `evaluate_every` steps and at the
            end; what it returns is logged.
    """

    log: _Log = _no_log
    check_stop: Callable[[], None] = lambda: None
    evaluate: Callable[[int, Tree], Mapping[str, float]] | None = None
    evaluate_every: int = 100


@dataclass(frozen=True)
class TrainResult:
    """What training made.

    Attributes:
        trainable: float32 adapter, or the parameters in full fine-tuning.
        lora: the adapter's shape; None in full fine-tuning.
        summary: steps, epochs, rows, dropped_rows, loss (mean of this process's last 20 steps),
            skipped_steps, seconds (without steps that compile), tokens_per_second, padding,
            compiles, compile_seconds (of such steps), checkpoint_seconds (of waiting for them).
    """

    trainable: Tree
    lora: LoraConfig | None
    summary: dict[str, Any]


def train(
    params: Tree,
    setup: TrainingSetup,
    source: StepSource,
    *,
    seed: int,
    checkpoint_dir: str | Path | None = None,
    hooks: Hooks | None = None,
) -> TrainResult:
    """Trains a LoRA adapter, or all parameters, on the steps of `source` (paper section 5.1).

    Args:
        params: the base model; untouched. Moved to the setup's mesh unless it lies there. Under an
            adapter its layers may be apart, as a sampler has them (`unstack_layers`).
        setup: model, numbers and mesh.
        source: the steps, as `Batches` of a dataset.
        seed: of the adapter's initialisation and the dropout.
        checkpoint_dir: where to save, and to resume from; None saves nothing.
        hooks: what to call on the way.

    Raises:
        InputError: a checkpoint of another configuration; five steps in a row without a finite
            loss and gradient.
        ConfigError: full fine-tuning of parameters that are not float32.
        EnvironmentFault: a checkpoint could not be written; said at the latest a step after.
        RetryLater: another process was lost.

    Several processes (`hosts.join`) call this with the same arguments and a mesh over all of their
    devices; each feeds what its devices hold, and `checkpoint_dir` is the same for all.
    """
    identity = _identity(setup, source, seed)
    compare_hosts(current(), "training", identity)
    store = None
    if checkpoint_dir is not None:
        store = CheckpointStore(checkpoint_dir, setup.config.keep_checkpoints)
    start = _begin(params, setup, seed)
    trainer = _Trainer(start, setup, source, store, _Facts(seed, identity), hooks or Hooks())
    try:
        return trainer.run()
    finally:  # whatever happens, the checkpoint in flight gets finished
        if store is not None:
            store.wait()


@dataclass(frozen=True)
class _Start:
    """Arrays of a run before its first step, where they belong."""

    state: TrainState
    frozen: Tree  # the base under an adapter, else None
    key: jax.Array  # of the dropout


def _begin(params: Tree, setup: TrainingSetup, seed: int) -> _Start:
    lora, mesh = setup.lora, setup.mesh
    init_key, key = jax.random.split(jax.random.key(seed))
    if lora is None:
        _require_float32(params)
        trainable, frozen = jax.tree.map(jnp.copy, params), None  # the step donates it
    else:
        trainable, frozen = init_adapter(setup.cfg, lora, init_key), params
    trainable = setup.with_heads(trainable, init_key)
    if mesh is None:  # committed as what a step returns is, or the second step compiles again
        state, key = jax.device_put((init_state(trainable, setup), key), place_beside(params))
        return _Start(state, frozen, key)
    trainable = mesh.put(trainable, setup.trainable_shardings())
    init = jax.jit(
        lambda tree: init_state(tree, setup), donate_argnums=0, out_shardings=state_shardings(setup)
    )
    frozen = frozen and mesh.put(frozen, mesh.shardings_like(frozen))
    return _Start(init(trainable), frozen, mesh.put(key, mesh.replicated))


@dataclass(frozen=True)
class _Facts:
    """What is written beside every checkpoint."""

    seed: int
    identity: dict[str, str]  # equal for as long as the run can be continued


class _Trainer:
    """The loop over the steps that are left."""

    def __init__(
        self,
        start: _Start,
        setup: TrainingSetup,
        source: StepSource,
        store: CheckpointStore | None,
        facts: _Facts,
        hooks: Hooks,
    ):
        self.state, self.frozen, self.key = start.state, start.frozen, start.key
        self.setup, self.source, self.store, self.facts = setup, source, store, facts
        self.hooks, self.group = hooks, current()
        self.step_fn = make_step(setup, source.num_steps)
        self.metrics = RunMetrics(source.steps_per_epoch)
        self.done, self.saved = 0, -1  # steps taken, steps in the newest checkpoint
        self.saved_at = time.monotonic()
        self.shapes: set[tuple[int, ...]] = set()  # of batches so far
        self.pending: tuple[int, Step, Metrics] | None = None
        if store is not None:
            self._resume(store)

    def run(self) -> TrainResult:
        self.metrics.lap()  # reading a checkpoint is not training time
        steps = self.source.steps(self.done, lambda: self.state.trainable)
        for number in range(self.done, self.source.num_steps):
            self.group.beat(f"train, step {number + 1}")
            self._agree_on_stop_and_save()
            self._take(number, self._next(steps))
            self._evaluate()
            self._save_when_due()
        self._settle()
        counts = {"steps": self.done, "epochs": self.setup.config.epochs, **self.source.summary}
        trained = self.setup.without_heads(self.state.trainable)
        return TrainResult(trained, self.setup.lora, counts | self.metrics.summary())

    def _next(self, steps: Iterator[Step]) -> Step:
        """The next step; drawing it from the weights is not training time."""
        if not self.source.looks_at_weights:
            return next(steps)
        self._settle()
        try:
            step = next(steps)
        except Terminated:  # while it is drawn, which takes long
            if self.group.count == 1:  # several would have to agree on it
                self._save(wait=True)
            raise
        self.metrics.lap()
        return step

    def _take(self, number: int, step: Step) -> None:
        shape = step.batch.rows.tokens.shape
        if shape not in self.shapes:  # the time of compiling must not fall into the step before
            self._settle()
        self.shapes.add(shape)
        mesh = self.setup.mesh
        batch = step.batch if mesh is None else mesh.feed(step.batch)
        profiling.step("train", self.state)
        earlier = compilations_so_far().count
        self.state, metrics = self.step_fn(self.state, self.frozen, batch, self.key)
        programs = compilations_so_far().count - earlier
        self.metrics.compiles += programs
        self._settle(programs > 0)  # the previous step's numbers, while this one runs
        self.pending, self.done = (number, step, metrics), number + 1
        if programs:
            self._settle(compiling=True)

    def _evaluate(self) -> None:
        due = self.done % self.hooks.evaluate_every == 0 or self.done == self.source.num_steps
        if due and self.hooks.evaluate is not None:
            self._settle()
            values = self.hooks.evaluate(self.done, self.state.trainable)
            self.hooks.log(step=self.done, **values)
            self.metrics.lap()  # not training time

    def _settle(self, compiling: bool = False) -> None:
        """Waits for the step in flight and accounts for it."""
        if self.pending is None:
            return
        (number, step, metrics), self.pending = self.pending, None
        values = jax.tree.map(lambda x: x.item(), jax.device_get(metrics))._asdict()
        self.hooks.log(**self.metrics.add(number + 1, step, values, compiling))
        if not values["finite"]:
            self._warn_skipped(number + 1, step, values)

    def _warn_skipped(self, number: int, step: Step, values: dict[str, Any]) -> None:
        facts = f"loss {values['loss']}, gradient norm {values['grad_norm']}"
        rows = ", ".join(step.row_ids)
        _log.warning("step %d skipped: %s; its rows: %s", number, facts, rows)
        if self.metrics.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise InputError(
                f"{MAX_SKIPPED_IN_A_ROW} steps in a row without a finite loss and gradient, up to "
                f"step {number} ({facts}); the weights are as before them. Rows of the last: "
                f"{rows}. Look for non-finite weights, or lower training.learning_rate"
            )

    def _agree_on_stop_and_save(self) -> None:
        """Stops or saves where one process wants to: all of them, before the same step.

        Their clocks and the signals they get differ, so they agree; for that they meet each step.
        """
        stop = None
        try:
            self.hooks.check_stop()
        except Terminated as error:
            stop = error
        minutes = (time.monotonic() - self.saved_at) / 60
        due = self.done > max(self.saved, 0) and minutes >= self.setup.config.checkpoint_minutes
        wishes = self.group.gather("train", {"stop": stop and stop.signum, "save": due})
        signals = [wish["stop"] for wish in wishes if wish["stop"]]
        if signals:
            self._save(wait=True)
            raise stop or Terminated(signals[0])
        if wishes[0]["save"]:
            self._save(wait=False)

    def _save_when_due(self) -> None:
        if self.store is None:
            return
        self.store.check()
        last = self.done == self.source.num_steps
        if last or self.done % self.setup.config.checkpoint_every == 0:
            self._save(wait=last)

    def _save(self, wait: bool) -> None:
        """Writes a checkpoint of the steps done, unless this process just did."""
        if self.store is None:
            return
        if self.done == self.saved:
            self.store.wait()
            return
        self._settle()
        self.metrics.lap()
        epoch, batch = divmod(self.done, self.source.steps_per_epoch)
        identity = repr(sorted(self.facts.identity.items()))
        meta = {
            "position": {"epoch": epoch, "batch": batch},
            "seed": self.facts.seed,
            "config": self.facts.identity,
            "config_hash": hashlib.sha256(identity.encode()).hexdigest(),
            "skipped": self.metrics.skipped,
            "skipped_in_a_row": self.metrics.skipped_in_a_row,
        }
        self.store.save(self.done, self.state, meta, wait=wait)
        self.saved, self.saved_at = self.done, time.monotonic()
        self.metrics.checkpoint_seconds += self.metrics.lap()

    def _resume(self, store: CheckpointStore) -> None:
        meta = store.newest()
        if meta is None:
            return
        saved = _defaults() | meta["config"]
        if differences := describe_differences(saved, self.facts.identity):
            raise InputError(
                f"{store.directory} belongs to another configuration: {differences}. Use a new run "
                "directory, or the settings and data it was made with"
            )
        self.state = store.restore(meta["step"], self.state)
        self.done = self.saved = meta["step"]
        self.metrics.skipped = meta["skipped"]
        self.metrics.skipped_in_a_row = meta["skipped_in_a_row"]
        _log.info("resuming at step %d of %d", self.done, self.source.num_steps)


def _require_float32(params: Tree) -> None:
    odd = {str(leaf.dtype) for leaf in jax.tree.leaves(params)} - {"float32"}
    if odd:
        raise ConfigError(
            f"training.full_finetune needs float32 parameters, these are {', '.join(sorted(odd))}: "
            "updates of 1e-5 vanish in bfloat16. Set student.dtype: float32"
        )


def _identity(setup: TrainingSetup, source: StepSource, seed: int) -> dict[str, str]:
    """What must be equal for a checkpoint to be continued, as flat text."""
    model = {f"model.{k}": str(v) for k, v in dataclasses.asdict(setup.cfg).items()}
    return {**_settings(setup.config), **model, **source.identity, "seed": str(seed)}


def _settings(config: TrainingConfig) -> dict[str, str]:
    """The recipe's `training` section, without what may change in the middle of a run."""
    settings = {f"training.{k}": str(v) for k, v in dataclasses.asdict(config).items()}
    return {k: v for k, v in settings.items() if k not in RESUMABLE_KEYS}


def _defaults() -> dict[str, str]:
    """What a checkpoint means that was written before a setting existed: its default."""
    model = {
        f"model.{fact.name}": str(fact.default)
        for fact in dataclasses.fields(ModelConfig)
        if fact.default is not dataclasses.MISSING
    }
    return _settings(TrainingConfig()) | model
