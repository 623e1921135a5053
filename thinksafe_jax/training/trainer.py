"""The training loop: steps, metrics, skipped steps, checkpoints, stopping and resuming."""

import dataclasses
import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from thinksafe_jax.config import HARMLESS_KEYS, TrainingConfig
from thinksafe_jax.errors import ConfigError, InputError, Terminated
from thinksafe_jax.hosts import compare_hosts, current
from thinksafe_jax.models import LoraConfig, ModelConfig, init_adapter
from thinksafe_jax.training.batches import Batches, Step
from thinksafe_jax.training.checkpoints import CheckpointStore, describe_differences
from thinksafe_jax.training.examples import Example
from thinksafe_jax.training.mesh import Placement
from thinksafe_jax.training.metrics import Tally
from thinksafe_jax.training.step import Metrics, TrainState, Tree, init_state, make_step

_log = logging.getLogger(__name__)
Evaluate = Callable[[int, Tree], Mapping[str, float]]  # (steps taken, trainable) -> values to log
MAX_SKIPPED_IN_A_ROW = 5


@dataclass(frozen=True)
class TrainResult:
    """What training made.

    Attributes:
        trainable: float32 adapter, or the parameters in full fine-tuning.
        lora: the adapter's shape; None in full fine-tuning.
        summary: steps, epochs, rows, dropped_rows, loss (mean of this process's last 20 steps),
            skipped_steps, seconds (without the first step, which compiles), tokens_per_second,
            padding, compiles, compile_seconds, checkpoint_seconds (of waiting for them).
    """

    trainable: Tree
    lora: LoraConfig | None
    summary: dict[str, Any]


def lora_config(config: TrainingConfig) -> LoraConfig:
    """The adapter's shape as the recipe has it."""
    return LoraConfig(
        config.lora_r,
        config.lora_alpha,
        config.lora_dropout,
        tuple(config.lora_targets),
        config.lora_rslora,
    )


def train(
    params: Tree,
    model_cfg: ModelConfig,
    config: TrainingConfig,
    examples: Sequence[Example],
    *,
    seed: int,
    checkpoint_dir: str | Path | None = None,
    log: Callable[..., None] = lambda **values: None,
    check_stop: Callable[[], None] = lambda: None,
    placement: Placement | None = None,
    evaluate: Evaluate | None = None,
    evaluate_every: int = 100,
) -> TrainResult:
    """Trains a LoRA adapter, or all parameters, on `examples` (paper section 5.1).

    Args:
        params: the base model; untouched.
        model_cfg: its architecture.
        config: the numbers. Examples longer than `max_length` are dropped and counted.
        examples: training rows.
        seed: of the order of rows, the adapter's initialisation and the dropout.
        checkpoint_dir: where to save, and to resume from; None saves nothing.
        log: called once a step, as `log(step=…, loss=…, …)` or, where the step was skipped because
            its loss or gradient was not finite, as `log(step=…, skipped=True, rows=[…])`.
        check_stop: polled each step; when it raises Terminated in one process, all of them write a
            checkpoint first and stop.
        placement: the mesh; `params` are moved there unless they lie there. Default: one device.
        evaluate: called with (steps taken, trainable) every `evaluate_every` steps and at the end;
            what it returns is logged.

    Raises:
        InputError: nothing to train on; a checkpoint of another configuration; five steps in a row
            without a finite loss and gradient.
        ConfigError: full fine-tuning of parameters that are not float32.
        EnvironmentFault: a checkpoint could not be written; said at the latest a step after.
        RetryLater: another process was lost.

    Several processes (`hosts.join`) call this with the same arguments and a mesh over all of their
    devices; each feeds what its devices hold, and `checkpoint_dir` is the same for all.
    """
    hooks = _Hooks(log, check_stop, evaluate, evaluate_every)
    loop = _Loop(params, model_cfg, config, examples, seed, checkpoint_dir, hooks, placement)
    try:
        return loop.run()
    finally:  # whatever happens, the checkpoint in flight gets finished
        if loop.store is not None:
            loop.store.wait()


@dataclass(frozen=True)
class _Hooks:
    log: Callable[..., None]
    check_stop: Callable[[], None]
    evaluate: Evaluate | None
    evaluate_every: int


class _Loop:
    def __init__(
        self,
        params: Tree,
        model_cfg: ModelConfig,
        config: TrainingConfig,
        examples: Sequence[Example],
        seed: int,
        checkpoint_dir: str | Path | None,
        hooks: _Hooks,
        placement: Placement | None,
    ):
        kept = [example for example in examples if len(example) <= config.max_length]
        self.dropped = len(examples) - len(kept)
        self.config, self.seed, self.hooks, self.placement = config, seed, hooks, placement
        self.group = current()
        self.batches = Batches(
            kept,
            config.batch_size,
            config.micro_batch_size,
            model_cfg.hidden_size,
            seed,
            ways=1 if placement is None else placement.num_shards,
            weighting=config.weighting,
        )
        self.rows = len(kept)
        self.total = config.epochs * self.batches.steps_per_epoch
        self.lora = None if config.full_finetune else lora_config(config)
        init_key, key = jax.random.split(jax.random.key(seed))
        self.key = key if placement is None else placement.put(key, placement.replicated)
        if self.lora is None:
            _require_float32(params)
            self.frozen, trainable = None, jax.tree.map(jnp.copy, params)  # the step donates it
        else:
            self.frozen, trainable = params, init_adapter(model_cfg, self.lora, init_key)
        self.state = self._place(trainable)
        self.step_fn = make_step(model_cfg, config, self.lora, self.total, placement)
        self.tally = Tally(self.batches.steps_per_epoch)
        self.done, self.saved = 0, -1  # steps taken, steps in the newest checkpoint
        self.saved_at = time.monotonic()
        self.shapes: set[tuple[int, ...]] = set()  # of batches that the step is compiled for
        self.pending: tuple[int, Step, Metrics] | None = None
        self.identity = _identity(config, model_cfg, kept, seed)
        compare_hosts(self.group, "training", self.identity)
        self.store = None
        if checkpoint_dir is not None:
            self.store = CheckpointStore(checkpoint_dir, config.keep_checkpoints)
            self._resume(self.store)

    def _place(self, trainable: Tree) -> TrainState:
        """The first state, and the base model, where they belong."""
        if self.placement is None:
            return init_state(trainable, self.config)
        place = self.placement
        if self.frozen is not None:
            self.frozen = place.put(self.frozen, place.param_shardings())
        where, everywhere = place.trainable(self.lora), place.replicated
        trainable = place.put(trainable, where)
        lies: Any = (where, place.opt_state(trainable, self.config, self.lora), everywhere)
        init = partial(init_state, config=self.config)
        start = jax.jit(init, donate_argnums=0, out_shardings=TrainState(*lies))
        return start(trainable)

    def run(self) -> TrainResult:
        self.tally.lap()  # reading a checkpoint is not training time
        for step in range(self.done, self.total):
            self.group.beat(f"train, step {step + 1}")
            self._heed_orders()
            item = self.batches[step]
            new = item.batch.tokens.shape not in self.shapes
            if new:  # the time of compiling must not fall into the step before
                self._settle()
            self._take(step, item)
            if new:
                self.shapes.add(item.batch.tokens.shape)
                self._settle(compiling=True)
            self._evaluate()
            self._save_when_due()
        self._settle()
        counts = {"steps": self.done, "epochs": self.config.epochs}
        counts |= {"rows": self.rows, "dropped_rows": self.dropped}
        return TrainResult(self.state.trainable, self.lora, counts | self.tally.summary())

    def _take(self, step: int, item: Step) -> None:
        batch = item.batch if self.placement is None else self.placement.feed(item.batch)
        self.state, metrics = self.step_fn(self.state, self.frozen, batch, self.key)
        self._settle()  # the previous step's numbers, while this one runs
        self.pending, self.done = (step, item, metrics), step + 1

    def _evaluate(self) -> None:
        if self.hooks.evaluate is None:
            return
        if self.done % self.hooks.evaluate_every == 0 or self.done == self.total:
            self._settle()
            values = self.hooks.evaluate(self.done, self.state.trainable)
            self.hooks.log(step=self.done, **values)
            self.tally.lap()  # not training time

    def _settle(self, compiling: bool = False) -> None:
        """Waits for the step in flight and accounts for it."""
        if self.pending is None:
            return
        (step, item, metrics), self.pending = self.pending, None
        values = {name: value.item() for name, value in jax.device_get(metrics)._asdict().items()}
        self.hooks.log(**self.tally.add(step + 1, item, values, compiling))
        if not values["finite"]:
            self._warn_skipped(step + 1, item, values)

    def _warn_skipped(self, step: int, item: Step, values: dict[str, Any]) -> None:
        facts = f"loss {values['loss']}, gradient norm {values['grad_norm']}"
        rows = ", ".join(item.row_ids)
        _log.warning("step %d skipped: %s; its rows: %s", step, facts, rows)
        if self.tally.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise InputError(
                f"{MAX_SKIPPED_IN_A_ROW} steps in a row without a finite loss and gradient, up to "
                f"step {step} ({facts}); the weights are as before them. Rows of the last: {rows}. "
                "Look for non-finite weights, or lower training.learning_rate"
            )

    def _heed_orders(self) -> None:
        """Stops or saves where one process wants to: all of them, before the same step.

        Their clocks and the signals they get differ, so they agree; for that they meet each step.
        """
        asked = None
        try:
            self.hooks.check_stop()
        except Terminated as error:
            asked = error
        minutes = (time.monotonic() - self.saved_at) / 60
        due = self.done > max(self.saved, 0) and minutes >= self.config.checkpoint_minutes
        orders = self.group.gather("train", {"stop": asked and asked.signum, "save": due})
        signals = [order["stop"] for order in orders if order["stop"]]
        if signals:
            self._save(wait=True)
            raise asked or Terminated(signals[0])
        if orders[0]["save"]:
            self._save(wait=False)

    def _save_when_due(self) -> None:
        if self.store is None:
            return
        self.store.check()
        last = self.done == self.total
        if last or self.done % self.config.checkpoint_every == 0:
            self._save(wait=last)

    def _save(self, wait: bool) -> None:
        """Writes a checkpoint of the steps done, unless this process just did."""
        if self.store is None:
            return
        if self.done == self.saved:
            self.store.wait()
            return
        self._settle()
        self.tally.lap()
        epoch, batch = divmod(self.done, self.batches.steps_per_epoch)
        meta = {
            "position": {"epoch": epoch, "batch": batch},
            "seed": self.seed,
            "config": self.identity,
            "config_hash": _hash(repr(sorted(self.identity.items()))),
            "skipped": self.tally.skipped,
            "skipped_in_a_row": self.tally.skipped_in_a_row,
        }
        self.store.save(self.done, self.state, meta, wait=wait)
        self.saved, self.saved_at = self.done, time.monotonic()
        self.tally.checkpoint_seconds += self.tally.lap()

    def _resume(self, store: CheckpointStore) -> None:
        meta = store.newest()
        if meta is None:
            return
        if differences := describe_differences(meta["config"], self.identity):
            raise InputError(
                f"{store.directory} belongs to another configuration: {differences}. Use a new run "
                "directory, or the settings and data it was made with"
            )
        self.state = store.restore(meta["step"], self.state)
        self.done = self.saved = meta["step"]
        self.tally.skipped = meta["skipped"]
        self.tally.skipped_in_a_row = meta["skipped_in_a_row"]
        _log.info("resuming at step %d of %d", self.done, self.total)


def _require_float32(params: Tree) -> None:
    odd = {str(leaf.dtype) for leaf in jax.tree.leaves(params)} - {"float32"}
    if odd:
        raise ConfigError(
            f"training.full_finetune needs float32 parameters, these are {', '.join(sorted(odd))}: "
            "updates of 1e-5 vanish in bfloat16. Set student.dtype: float32"
        )


def _identity(
    config: TrainingConfig, model_cfg: ModelConfig, examples: Sequence[Example], seed: int
) -> dict[str, str]:
    """What must be equal for a checkpoint to be continued, as flat text."""
    settings = dataclasses.asdict(config)
    facts = {f"training.{k}": str(v) for k, v in settings.items()}
    facts = {k: v for k, v in facts.items() if k not in HARMLESS_KEYS}
    facts |= {f"model.{k}": str(v) for k, v in dataclasses.asdict(model_cfg).items()}
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{example.id}\0{len(example)}\0".encode())
        digest.update(example.token_ids.tobytes())
        digest.update(example.loss_mask.tobytes())
        digest.update(bytes([example.keep_near]))
    return {**facts, "data sha256": digest.hexdigest()[:16], "seed": str(seed)}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
