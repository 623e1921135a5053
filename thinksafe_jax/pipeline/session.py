"""What the stages of a run share: the student, its tokenizer, the guard, the sampler."""

import logging
import math
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp

from thinksafe_jax.config import (
    EvaluationConfig,
    GuardConfig,
    GuardModel,
    ModelSource,
    Recipe,
    evaluation_samplings,
    sampling_problems,
    shipped_path,
    synthesis_samplings,
)
from thinksafe_jax.data import benchmark_kinds, read_prompts, source_hashes
from thinksafe_jax.errors import ConfigError, ThinkSafeError
from thinksafe_jax.guards import Guard, load_guard
from thinksafe_jax.hosts import Group, compare_hosts
from thinksafe_jax.json_files import read_json_object
from thinksafe_jax.models import (
    LoraConfig,
    ModelConfig,
    Params,
    load_config,
    merge_adapter,
    unstack_layers,
)
from thinksafe_jax.pipeline.student_weights import StudentWeights
from thinksafe_jax.sampling import Engine
from thinksafe_jax.sharding import MeshConfig, ModelMesh, load_mesh
from thinksafe_jax.storage import content_hash, file_sha256, refresh
from thinksafe_jax.synthesis import Selection, synthesis_prompts
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.training import TrainingMesh, TrainResult
from thinksafe_jax.weights import fingerprint, import_adapter, load_params, resolve_model

log = logging.getLogger(__name__)


class Session:
    """Loads each part of a recipe when it is first asked for, and once.

    Args:
        recipe: what to load.
        revisions: file of the run that keeps the commits of student and guard, see `resolve_model`.

    Attributes:
        trained: what the train stage made, for the export stage of the same process.
    """

    def __init__(self, recipe: Recipe, revisions: Path | None = None):
        self.recipe, self._revisions = recipe, revisions
        self.trained: TrainResult | None = None

    def check_hosts_agree(self, group: Group, *, training: bool) -> None:
        """Compares meshes, models and data of all hosts; the first process resolves them first.

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
            _require_whole_mesh(self.mesh, group.count)
        folders = group.in_turn("models", self._checkpoints, self._refresh_revisions)
        compare_hosts(group, "data", group.in_turn("data", self._source_hashes))
        hashes = {name: content_hash(fingerprint(folder)) for name, folder in folders.items()}
        compare_hosts(group, "models", hashes)

    def _source_hashes(self) -> dict[str, str]:
        suites = {f"suite {name}": sha256 for name, sha256 in self.suite_hashes.items()}
        return {**self.prompt_hashes, **self.question_hashes, **suites}

    def _refresh_revisions(self) -> None:
        if self._revisions is not None:
            refresh(self._revisions.parent)

    def _checkpoints(self) -> dict[str, Path]:
        """The folder of every checkpoint that the recipe names."""
        recipe = self.recipe
        sources = [recipe.student, recipe.synthesis.teacher, recipe.on_policy.teacher]
        for guard in (recipe.guard, recipe.judge):
            sources += [guard, *guard.members]
        named = [source for source in sources if source.model]
        return {source.model: self.folder(source) for source in named}

    @cached_property
    def prompt_hashes(self) -> dict[str, str]:
        """sha256 of each source of prompts, taken once: what a stage reads is what was compared."""
        return source_hashes(self.recipe.synthesis.prompts)

    @cached_property
    def selection(self) -> Selection:
        """The prompts of the synthesis, read and selected once: by the preflight, as a rule."""
        return synthesis_prompts(self.recipe, self.prompt_hashes)

    def prompt_sources(self) -> dict[str, str]:
        """{prompt id: name of its source}; empty where the sources cannot be read any more."""
        if "selection" in vars(self):  # read already
            prompts = self.selection.prompts
        else:
            try:
                prompts = read_prompts(self.recipe.synthesis.prompts, require_label=True).prompts
            except ThinkSafeError as error:
                log.warning("refusals are not counted by source: %s", error)
                return {}
        return {prompt.id: prompt.stratum.partition("/")[0] for prompt in prompts}

    @cached_property
    def question_hashes(self) -> dict[str, str]:
        """sha256 of each source of the evaluation."""
        return source_hashes(self.recipe.evaluation.sources)

    @cached_property
    def suite_hashes(self) -> dict[str, str]:
        """sha256 of each file of a named suite that is here; of the Hub's the run keeps commits."""
        files = {s.name: shipped_path(s.path) for s in self.recipe.evaluation.suites if s.path}
        return {name: file_sha256(file) for name, file in files.items() if file.is_file()}

    def asks_the_same(self, result: Path) -> bool:
        """Whether an evaluation has read the files of named suites as they are now.

        They are no part of `question_hashes`, by which earlier versions took stages for done.

        Args:
            result: its JSON file, as evaluation/after.json.
        """
        if not self.suite_hashes or not result.exists():
            return True
        asked = read_json_object(result).get("settings", {}).get("sources", {})
        seen = {name: asked.get(name, {}).get("sha256") for name in self.suite_hashes}
        return all(seen[name] in (None, sha256) for name, sha256 in self.suite_hashes.items())

    def folder(self, source: ModelSource | GuardConfig | GuardModel) -> Path:
        """The checkpoint of a model, at the commit that the run keeps."""
        return resolve_model(source.model, source.revision, self._revisions)

    @cached_property
    def directory(self) -> Path:
        """The student's checkpoint."""
        return self.folder(self.recipe.student)

    @cached_property
    def cfg(self) -> ModelConfig:
        """The student's facts."""
        return load_config(self.directory)

    @cached_property
    def tokenizer(self) -> ChatTokenizer:
        """The student's tokenizer."""
        return ChatTokenizer(self.directory)

    @cached_property
    def mesh(self) -> MeshConfig | None:
        """The recipe's mesh file, read once; None on one device."""
        name = self.recipe.mesh
        return None if name is None else load_mesh(name)

    @cached_property
    def generation_mesh(self) -> ModelMesh | None:
        """The student on this process's part of the generate phase; None on one device."""
        return None if self.mesh is None else ModelMesh.for_generation(self.mesh, self.cfg)

    @cached_property
    def training_mesh(self) -> TrainingMesh | None:
        """The student on the train phase, over all processes; None on one device."""
        return None if self.mesh is None else TrainingMesh.of_phase(self.mesh.train, self.cfg)

    @cached_property
    def weights(self) -> StudentWeights:
        """The student's weights, in the form that was last asked for."""
        return StudentWeights(
            lambda shardings: load_params(self.directory, self.cfg, self._dtype, shardings),
            generation=self.generation_mesh and self.generation_mesh.param_shardings(),
            training=self.training_mesh and self.training_mesh.param_shardings(),
        )

    @property
    def params(self) -> Params:
        """The untouched student, layers stacked `[L, ...]`, on the sampler's mesh."""
        return self.weights.for_generation()

    def merge(self, adapter: Path) -> None:
        """Makes the student the one with the adapter of this folder merged into its weights."""
        self.weights.replace(self._merged(adapter))

    @cached_property
    def guard(self) -> Guard:
        """The guard that filters the synthesis."""
        return self._load_guard(self.recipe.guard)

    @cached_property
    def judge(self) -> Guard:
        """The guard of the evaluation."""
        cfg = self.recipe.judging
        return self.guard if cfg == self.recipe.guard else self._load_guard(cfg)

    def _load_guard(self, cfg: GuardConfig) -> Guard:
        return load_guard(cfg, self._revisions, self.mesh)

    @cached_property
    def generator(self) -> "Session":
        """The session whose model answers the prompts: this one, or one of the recipe's teacher."""
        recipe, teacher = self.recipe, self.recipe.synthesis.teacher
        if not teacher.model:
            return self
        synthesis = replace(recipe.synthesis, teacher=ModelSource())
        alone = replace(recipe, student=teacher, synthesis=synthesis, evaluation=EvaluationConfig())
        return Session(alone, self._revisions)

    def release_guards(self) -> None:
        """Lets go of guard, judge and teacher, to make room for training.

        Whoever asks for one of them later loads it again.
        """
        for name in ("guard", "judge", "generator"):
            self.__dict__.pop(name, None)

    def engine(self, tuned: Path | None = None) -> Engine:
        """A sampler of the student, or of what the run directory `tuned` has made of it."""
        self.check_sampling()
        weights = self.weights
        params = weights.for_sampling() if tuned is None else unstack_layers(self.tuned(tuned))
        return Engine(
            self.cfg,
            params,
            self.recipe.engine,
            mesh=self.generation_mesh,
            eos_ids=self.tokenizer.eos_ids,
            seed=self.recipe.seed,
        )

    def engine_apart(self, params: Params, lora: LoraConfig | None) -> Engine:
        """A sampler of the student that keeps an adapter apart, beside a trainer.

        Args:
            params: the student as training has it; on one device the sampler holds the same arrays.
            lora: the adapter's shape.
        """
        self.check_sampling()
        mesh = self.generation_mesh
        if mesh is not None:  # another layout of the same weights, held beside training's
            shardings = mesh.param_shardings()  # the stack has no name: it goes as it is cut
            params = unstack_layers(load_params(self.directory, self.cfg, self._dtype, shardings))
        return Engine(
            self.cfg,
            params,
            self.recipe.engine,
            mesh=mesh,
            eos_ids=self.tokenizer.eos_ids,
            seed=self.recipe.seed,
            lora=lora,
            sampling_logprobs=True,
        )

    def check_sampling(self) -> None:
        """Refuses what can only be seen once the facts of the models are known.

        Raises:
            ConfigError: top_k above the vocabulary, or a response that leaves no room for a prompt.
        """
        recipe, cfg = self.recipe, self.cfg
        samplings = evaluation_samplings(recipe, benchmark_kinds())
        if not recipe.synthesis.teacher.model:  # else it is checked in the session of its own
            samplings |= synthesis_samplings(recipe)
        context = min(recipe.engine.max_length or math.inf, cfg.max_position_embeddings)
        model = recipe.student.model
        problems = list(sampling_problems(samplings, model, cfg.vocab_size, int(context)))
        if problems:
            raise ConfigError("\n".join(problems))

    @property
    def _dtype(self) -> jnp.dtype:
        return jnp.dtype(self.recipe.student.dtype)

    def tuned(self, run_path: Path) -> Params:
        """The weights as exported, layers stacked: what is evaluated is what users get."""
        source = exported(run_path)
        if source.name != "merged":
            return self._merged(source)
        mesh = self.generation_mesh
        return load_params(source, self.cfg, self._dtype, mesh and mesh.param_shardings())

    def _merged(self, adapter: Path) -> Params:
        """The student with an adapter; the session lets go of it as it was."""
        weights, lora = import_adapter(adapter, self.cfg, self.recipe.student.model)
        return merge_adapter(self.weights.take(), weights, lora)


def mesh_hashes(recipe: Recipe) -> dict[str, str]:
    """sha256, shortened, of every mesh that a recipe names, as read: comments do not count."""
    guards = [cfg for guard in (recipe.guard, recipe.judge) for cfg in (guard, *guard.members)]
    names = {mesh for mesh in (recipe.mesh, *(guard.mesh for guard in guards)) if mesh}
    # as text, for the order of the axes matters, which `content_hash` overlooks in a mapping
    return {name: content_hash(repr(load_mesh(name)))[:12] for name in sorted(names)}


def _require_whole_mesh(mesh: MeshConfig | None, processes: int) -> None:
    devices = jax.device_count()
    if mesh is None:
        raise ConfigError(
            f"{processes} processes train on one mesh over all their {devices} devices; name "
            "it: mesh=v5e-16, or a file of your own"
        )
    if (chips := mesh.topology.chips) != devices:
        raise ConfigError(
            f"mesh {mesh.name}: its train phase has {chips} devices, the {processes} processes "
            f"have {devices}; all must take part"
        )


def exported(run_path: Path) -> Path:
    """RUN/adapter, or RUN/merged after full fine-tuning."""
    adapter = run_path / "adapter"
    return adapter if adapter.exists() else run_path / "merged"


def exported_weights(run_path: Path) -> list[Path]:
    """The files of the export that decide what the model says (its card does not)."""
    folder = exported(run_path)
    return [*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*config.json"))]
