"""What the stages of a run share: the student, its tokenizer, the guard, the sampler."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import jax.numpy as jnp

from thinksafe_jax.config import GuardConfig, Recipe
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.guards import Guard, load_guard
from thinksafe_jax.models import ModelConfig, Params, load_config, merge_adapter
from thinksafe_jax.parallel import ModelMesh
from thinksafe_jax.sampling import Engine
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.training import Placement, TrainResult
from thinksafe_jax.weights import import_adapter, load_params, resolve_model


class Session:
    """Loads each part of a recipe when it is first asked for, and once.

    Args:
        recipe: what to load.
        pins: file of the run that keeps the commits of student and guard, see `resolve_model`.

    Attributes:
        trained: what the train stage made, for the export stage of the same process.
    """

    def __init__(self, recipe: Recipe, pins: Path | None = None):
        self.recipe, self._pins = recipe, pins
        self.trained: TrainResult | None = None

    @cached_property
    def directory(self) -> Path:
        """The student's checkpoint."""
        student = self.recipe.student
        return resolve_model(student.model, student.revision, self._pins)

    @cached_property
    def cfg(self) -> ModelConfig:
        return load_config(self.directory)

    @cached_property
    def tokenizer(self) -> ChatTokenizer:
        return ChatTokenizer(self.directory)

    @cached_property
    def params(self) -> Params:
        """The untouched student, layers stacked, as the sampler has it."""
        return self._load(self.directory)

    @cached_property
    def generating(self) -> ModelMesh | None:
        """Where the sampler's arrays lie; None on one device."""
        mesh = self.recipe.mesh
        return None if mesh is None else ModelMesh.generating(mesh, self.cfg)

    @cached_property
    def placement(self) -> Placement | None:
        """Where training's arrays lie; None on one device."""
        mesh = self.recipe.mesh
        return None if mesh is None else Placement.load(mesh, self.cfg)

    @property
    def training_params(self) -> Params:
        """The untouched student, on training's mesh where it has one."""
        if self.placement is None:
            return self.params
        return load_params(self.directory, self.cfg, self._dtype, self.placement.params())

    @cached_property
    def guard(self) -> Guard:
        return self._load_guard(self.recipe.guard)

    @cached_property
    def judge(self) -> Guard:
        """The guard of the evaluation; the filter's own where the recipe names no other."""
        cfg = self.recipe.judge
        return (
            self.guard if cfg.kind == "same" or cfg == self.recipe.guard else self._load_guard(cfg)
        )

    def _load_guard(self, cfg: GuardConfig) -> Guard:
        return load_guard(cfg, self._pins, self.recipe.mesh)

    @cached_property
    def author(self) -> "Session":
        """Whose model answers the prompts of the synthesis: this one's, or the recipe's teacher."""
        teacher = self.recipe.synthesis.teacher
        if not teacher.model:
            return self
        return Session(replace(self.recipe, student=teacher), self._pins)

    def engine(self, tuned: Path | None = None) -> Engine:
        """A sampler of the student, or of what the run directory `tuned` has made of it."""
        self._check_top_k()
        params = self.params if tuned is None else self.tuned(tuned)
        recipe, where = self.recipe, self.generating
        return Engine(
            self.cfg,
            params,
            where and where.mesh,
            recipe.engine,
            eos_ids=self.tokenizer.eos_ids,
            seed=recipe.seed,
            rules=where and where.rules,
        )

    def _check_top_k(self) -> None:
        """top_k can only be compared with the vocabulary once the model is known."""
        for room in ("synthesis", "evaluation"):
            top_k = getattr(self.recipe, room).sampling.top_k
            if top_k > self.cfg.vocab_size:
                raise ConfigError(
                    f"{room}.sampling.top_k: {top_k} is above the vocabulary of "
                    f"{self.recipe.student.model}, {self.cfg.vocab_size} tokens; 0 switches it off"
                )

    @property
    def _dtype(self) -> jnp.dtype:
        return jnp.dtype(self.recipe.student.dtype)

    def _load(self, directory: Path) -> Params:
        where = self.generating
        return load_params(directory, self.cfg, self._dtype, where and where.params())

    def tuned(self, run_path: Path) -> Params:
        """The weights as exported: what is evaluated is what users get."""
        source = exported(run_path)
        if source.name == "merged":
            return self._load(source)
        adapter, lora = import_adapter(source, self.cfg)
        return merge_adapter(self.params, adapter, lora)


def exported(run_path: Path) -> Path:
    """RUN/adapter, or RUN/merged after full fine-tuning."""
    adapter = run_path / "adapter"
    return adapter if adapter.exists() else run_path / "merged"


def exported_weights(run_path: Path) -> list[Path]:
    """The files of the export that decide what the model says (its card does not)."""
    folder = exported(run_path)
    return [*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*config.json"))]
