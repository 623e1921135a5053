"""What a sweep is asked: the phases there are, sizes that all rows share, and one cell of it."""

from dataclasses import dataclass, field
from typing import Any

from thinksafe_jax.errors import ConfigError, did_you_mean
from thinksafe_jax.models import ModelConfig
from thinksafe_jax.planning.memory import Settings
from thinksafe_jax.planning.stage_plans import Assumed
from thinksafe_jax.sharding import MeshConfig, Phase

ON_POLICY = "on-policy"  # a step of the loop, which has both layouts
PHASES = ("decode", "drafted", "prefill", "train", ON_POLICY)
USUAL_PHASES = ("decode", "prefill", "train")  # where none are named
Row = dict[str, Any]


def check_phases(names: list[str]) -> tuple[str, ...]:
    """The phases of these names, in the order of `PHASES`.

    Raises:
        ConfigError: none has that name.
    """
    for name in names:
        if name not in PHASES:
            raise ConfigError(f"--phases: no phase {name!r}{did_you_mean(name, PHASES)}")
    return tuple(phase for phase in PHASES if phase in names)


@dataclass(frozen=True)
class SweepSettings:
    """Sizes that all combinations share.

    Attributes:
        prompt: tokens of a prefill.
        slots: rows of a replica; default as many as its cache holds at the mean context.
        sizes: contexts and dtype; of the train step tokens of a sequence, sequences of a pass and
            the adapter.
        measure: time the programs on the devices at hand instead of only compiling them.
        drafts: tokens of a draft, of the phase drafted.
        rollouts: of an on-policy step.
    """

    prompt: int = 512
    slots: int | None = None
    sizes: Settings = field(default_factory=Settings)
    measure: bool = False
    drafts: int = 3
    rollouts: int = 64

    @property
    def rollout_tokens(self) -> tuple[int, int]:
        """Tokens of the prompt and of the response of a rollout: a plan's, where they have room."""
        room = min(self.sizes.context, self.sizes.training.max_length)
        prompt = min(Assumed.prompt_tokens, room // 2)
        return prompt, min(Assumed.response_tokens, room - prompt)

    @property
    def summary(self) -> dict[str, Any]:
        """What tells rows of different settings apart."""
        sizes, training = self.sizes, self.sizes.training
        return {
            "dtype": sizes.dtype,
            "prompt": self.prompt,
            "slots": self.slots,
            "context": sizes.context,
            "mean_context": sizes.mean_context,
            "train_length": training.max_length,
            "micro_batch_size": training.micro_batch_size,
            "remat": training.remat,
            "lora": f"r{training.lora_r} {','.join(training.lora_targets)}",
            **({} if sizes.kv_dtype == "model" else {"kv_dtype": sizes.kv_dtype}),
        }

    def summary_of(self, phase: str) -> dict[str, Any]:
        """The same with what only this phase looks at."""
        if phase == "drafted":
            return self.summary | {"drafts": self.drafts}
        if phase == ON_POLICY:
            return self.summary | {"rollouts": self.rollouts}
        return self.summary


@dataclass(frozen=True)
class Combination:
    """One cell of the sweep: a model, on a mesh, with a rule table, in a phase.

    Attributes:
        table: name of the rule table: "own" is the mesh file's.
        mesh: the topology, with that table.
        problem: why the table cannot be put on this mesh; `mesh` then has its own.
    """

    model: str
    cfg: ModelConfig
    table: str
    mesh: MeshConfig
    phase: str
    problem: str = ""

    @property
    def name(self) -> str:
        """Phase, model, mesh and table in one word."""
        return f"{self.phase}-{self._rest}"

    def name_of(self, program: str) -> str:
        """The same of one of its programs: decode, drafted, prefill or train."""
        return self.name if program == self.phase else f"{self.phase}-{program}-{self._rest}"

    @property
    def _rest(self) -> str:
        return f"{self.model}-{self.mesh.name}-{self.table}"

    @property
    def section(self) -> Phase:
        """The phase of the mesh, as the file has it."""
        return self.mesh.train if self.phase == "train" else self.mesh.generate

    @property
    def divided(self) -> Phase:
        """The phase of the mesh, divided for the model."""
        return self.section.for_model(self.cfg)

    @property
    def layouts(self) -> dict[str, Phase]:
        """The phases of the mesh that the programs are laid out by, divided; by name, "" alone."""
        if self.phase != ON_POLICY:
            return {"": self.divided}
        phases = {"train": self.mesh.train, "generate": self.mesh.generate}
        return {name: phase.for_model(self.cfg) for name, phase in phases.items()}

    @property
    def rules_hash(self) -> str:
        """Digest of its rules and axes."""
        return "+".join(phase.hash for phase in self.layouts.values())

    @property
    def axes(self) -> dict[str, int]:
        """Sizes of the axes; of an on-policy step those of both phases."""
        return {
            f"{name} {axis}".lstrip(): size
            for name, phase in self.layouts.items()
            for axis, size in phase.axes.items()
        }
