"""What the stages of a run share: the student, its tokenizer, the guard, the sampler."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from thinksafe_jax.config import GuardConfig, Recipe
from thinksafe_jax.data import source_hashes
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.guards import Guard, load_guard
from thinksafe_jax.hosts import Group, compare_hosts
from thinksafe_jax.models import (
    ModelConfig,
    Params,
    load_config,
    merge_adapter,
    stack_layers,
    unstack_layers,
)
from thinksafe_jax.sampling import Engine
from thinksafe_jax.sharding import ModelMesh, load_mesh, move
from thinksafe_jax.storage import content_hash, refresh
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.training import Placement, TrainResult
from thinksafe_jax.weights import fingerprint, import_adapter, load_params, resolve_model


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
        self._held: dict[str, Params] = {}  # the student, under the phase whose layout it has

    def meet(self, group: Group, *, training: bool) -> None:
        """Compares meshes, models and data of all hosts; the first process finds them first.

        Args:
            training: whether the run will train, which takes a mesh over all processes.

        Raises:
            ConfigError: they differ, or the mesh is not one over all processes.
        """
        if group.count == 1:
            return
        recipe = self.recipe
        compare_hosts(group, "meshes", mesh_hashes(recipe))
        if training:
            _require_whole_mesh(recipe.mesh, group.count)
        folders = group.in_turn("models", self._folders, self._see_pins)
        sources = [*recipe.synthesis.prompts, *recipe.evaluation.sources]
        compare_hosts(group, "data", group.in_turn("data", lambda: source_hashes(sources)))
        facts = {name: content_hash(fingerprint(folder)) for name, folder in folders.items()}
        compare_hosts(group, "models", facts)

    def _see_pins(self) -> None:
        if self._pins is not None:
            refresh(self._pins.parent)

    def _folders(self) -> dict[str, Path]:
        """Every checkpoint that the recipe names."""
        recipe = self.recipe
        sources = [recipe.student, recipe.synthesis.teacher]
        for guard in (recipe.guard, recipe.judge):
            sources += [guard, *guard.members]
        named = [source for source in sources if source.model]
        return {s.model: resolve_model(s.model, s.revision, self._pins) for s in named}

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

    @property
    def params(self) -> Params:
        """The untouched student, layers stacked, on the sampler's mesh."""
        return self._student("generate")

    def fold(self, adapter: Path) -> None:
        """Makes the student the one with this adapter."""
        self._held["generate"] = self._folded(adapter)

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
        """The untouched student, on training's mesh where it has one.

        Guards and teacher make room for it: whoever needs one again loads it again.
        """
        for name in ("guard", "judge", "author"):
            self.__dict__.pop(name, None)
        return self.params if self.placement is None else self._student("train")

    def _student(self, phase: str) -> Params:
        """The student's weights as a phase has them, which is the only place where they are.

        Phases: "generate" and "train" with layers stacked, each on its mesh; "sample" with layers
        apart, on the mesh of "generate". From one to the other they go array by array.
        """
        held, stacked = self._held, "train" if phase == "train" else "generate"
        if phase not in held:
            if "sample" in held:
                held["generate"] = move(
                    stack_layers(held.pop("sample")), self._shardings("generate")
                )
            if stacked not in held and jax.process_count() > 1:
                held.clear()  # the other processes hold other parts: each reads what it needs
            if not held:
                where = self._shardings(stacked)
                held[stacked] = load_params(self.directory, self.cfg, self._dtype, where)
            if stacked not in held:
                held[stacked] = move(held.popitem()[1], self._shardings(stacked))
            if phase == "sample":
                held["sample"] = unstack_layers(held.pop("generate"))
        return held[phase]

    def _shardings(self, phase: str) -> Any:
        where = self.placement if phase == "train" else self.generating
        return where and where.params()

    @cached_property
    def guard(self) -> Guard:
        return self._load_guard(self.recipe.guard)

    @cached_property
    def judge(self) -> Guard:
        """The guard of the evaluation."""
        cfg = self.recipe.judging
        return self.guard if cfg == self.recipe.guard else self._load_guard(cfg)

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
        params = self._student("sample") if tuned is None else unstack_layers(self.tuned(tuned))
        return Engine(
            self.cfg,
            params,
            self.recipe.engine,
            mesh=self.generating,
            eos_ids=self.tokenizer.eos_ids,
            seed=self.recipe.seed,
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

    def tuned(self, run_path: Path) -> Params:
        """The weights as exported: what is evaluated is what users get."""
        source = exported(run_path)
        if source.name != "merged":
            return self._folded(source)
        return load_params(source, self.cfg, self._dtype, self._shardings("generate"))

    def _folded(self, adapter: Path) -> Params:
        """The student with an adapter; the session lets go of it as it was."""
        weights, lora = import_adapter(adapter, self.cfg)
        self._student("generate")
        return merge_adapter(self._held.pop("generate"), weights, lora)


def mesh_hashes(recipe: Recipe) -> dict[str, str]:
    """sha256, shortened, of every mesh that a recipe names, as read: comments do not count."""
    guards = [cfg for guard in (recipe.guard, recipe.judge) for cfg in (guard, *guard.members)]
    names = {mesh for mesh in (recipe.mesh, *(guard.mesh for guard in guards)) if mesh}
    # as text, for the order of the axes matters, which `content_hash` overlooks in a mapping
    return {name: content_hash(repr(load_mesh(name)))[:12] for name in sorted(names)}


def _require_whole_mesh(name: str | None, processes: int) -> None:
    devices = jax.device_count()
    if name is None:
        raise ConfigError(
            f"{processes} processes train on one mesh over all their {devices} devices; name "
            "it: mesh=v5e-16, or a file of your own"
        )
    if (chips := load_mesh(name).topology.chips) != devices:
        raise ConfigError(
            f"mesh {name}: its train phase has {chips} devices, the {processes} processes have "
            f"{devices}; all must take part"
        )


def exported(run_path: Path) -> Path:
    """RUN/adapter, or RUN/merged after full fine-tuning."""
    adapter = run_path / "adapter"
    return adapter if adapter.exists() else run_path / "merged"


def exported_weights(run_path: Path) -> list[Path]:
    """The files of the export that decide what the model says (its card does not)."""
    folder = exported(run_path)
    return [*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*config.json"))]
