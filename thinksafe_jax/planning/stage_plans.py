"""A stage of a recipe on a mesh: what every plan of one starts from, and what it says.

Nothing is allocated: sizes come from shapes, the rest from compiled programs (`abstract_programs`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from thinksafe_jax.config import Recipe
from thinksafe_jax.models import ModelConfig
from thinksafe_jax.planning.collectives import Collectives
from thinksafe_jax.planning.devices import compile_devices
from thinksafe_jax.planning.find_model import find_model
from thinksafe_jax.planning.memory import Budget, Settings, nearest_axes, phase_budget
from thinksafe_jax.planning.roofline import Bound
from thinksafe_jax.sharding import MeshConfig, Phase, sharding_warnings


@dataclass(frozen=True)
class Assumed:
    """What no recipe says.

    Attributes:
        prompts: of the synthesis, where their files are not here.
        prompt_tokens, response_tokens: of a row, on average.
    """

    prompts: int = 40_000
    prompt_tokens: int = 300
    response_tokens: int = 5_000

    def mean_context(self, most: int) -> int:
        """Live tokens of a row, averaged over time, where a response has at most `most` tokens.

        The default lengths are taken to be those of `Settings.mean_context`; what is behind the
        prompt grows with the response. Never more than half of `most`: a row begins with none.
        """
        grown = (Settings.mean_context - Assumed.prompt_tokens) / Assumed.response_tokens
        return self.prompt_tokens + round(min(grown * self.response_tokens, most / 2))


@dataclass(frozen=True)
class StagePlan:
    """One stage on the mesh; bytes are per device.

    Attributes:
        axes: of the mesh, split ones divided; with the digest of the rules.
        bytes: what -> bytes, all alive at the same time.
        problems: why it cannot be at all.
        call: what `traffic` and `bound` are of.
        formula: name of the bound's formula in `roofline.FORMULAS`.
        tokens_per_second: of all devices.
        hours: at the bound; chip-hours are these times the chips.
        nearest: settings close to the recipe's that fit, where these do not.
    """

    name: str
    model: str
    axes: dict[str, int] = field(default_factory=dict)
    rules_hash: str = ""
    bytes: dict[str, int] = field(default_factory=dict)
    compiler: str = ""
    problems: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    call: str = ""
    traffic: Collectives = field(default_factory=dict)
    bound: Bound | None = None
    formula: str = ""
    tokens_per_second: float = 0.0
    hours: float = 0.0
    warnings: list[str] = field(default_factory=list)
    nearest: list[str] = field(default_factory=list)

    @property
    def peak(self) -> int:
        """Bytes that are alive at the same time."""
        return sum(self.bytes.values())

    def fits(self, mesh: MeshConfig) -> bool:
        """Whether it can be and has room."""
        return not self.problems and self.peak <= mesh.topology.hbm_bytes


@dataclass(frozen=True)
class PlanRequest:
    """What the stages are planned from."""

    recipe: Recipe
    mesh: MeshConfig
    prompts: int
    assumed: Assumed

    def devices(self, part: Phase | None = None) -> Sequence[Any]:
        """Those to compile for: the whole mesh's, or those of a phase that lies within a host."""
        return compile_devices(self.mesh.topology, part and part.devices)

    @property
    def rows(self) -> int:
        """Responses of the synthesis, all attempts needed."""
        return self.prompts * max(1, self.recipe.synthesis.attempts)

    def settings(self, cfg: ModelConfig, dtype: str) -> Settings:
        """What the recipe and the assumed lengths say of the model `cfg`, sampled or trained."""
        recipe = self.recipe
        longest = recipe.engine.max_length or cfg.max_position_embeddings  # as the engine has it
        mean = self.assumed.mean_context(recipe.synthesis.sampling.max_new_tokens)
        kv_dtype = recipe.engine.kv_dtype
        return Settings(dtype, recipe.training, longest, mean, kv_dtype).capped(cfg)

    def generator(self) -> tuple[str, ModelConfig, str]:
        """Who writes the responses, the teacher or the student: name, facts, dtype."""
        recipe = self.recipe
        source = recipe.synthesis.teacher if recipe.synthesis.teacher.model else recipe.student
        return (*find_model(source.model), source.dtype)


def plan_load(request: PlanRequest) -> StagePlan:
    """The student as the sampler has it; each process reads only its own slices."""
    model, cfg, dtype = request.generator()
    settings = request.settings(cfg, dtype)
    plan, budget = start_plan("load", model, cfg, request.mesh.generate, request, settings)
    return replace(plan, bytes=dict(budget.bytes), nearest=[])


def start_plan(
    name: str, model: str, cfg: ModelConfig, phase: Phase, request: PlanRequest, settings: Settings
) -> tuple[StagePlan, Budget]:
    """A stage with what follows from the rules alone, and its budget.

    Args:
        name: load, sample, guard or train.
        model: what to call the model `cfg`.
        phase: of the mesh, or of the guard's own.
    """
    divided, topology = phase.for_model(cfg), request.mesh.topology
    kind = "train" if name == "train" else "generate"
    budget = phase_budget(kind, phase, cfg, topology, settings)
    warnings = [] if budget.problems else sharding_warnings(cfg, divided, settings.itemsize)
    nearest = []
    if name != "guard" and not budget.fits:
        axes = nearest_axes(kind, phase, cfg, topology, settings)
        sizes = ", ".join(f"{axis} {size}" for axis, size in (axes or {}).items())
        nearest = [f"{kind}.axes: {sizes}"] if axes else []
    plan = StagePlan(
        name,
        model,
        divided.axes,
        divided.hash,
        problems=budget.problems,
        warnings=warnings,
        nearest=nearest,
    )
    return plan, budget
