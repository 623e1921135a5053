"""What can be seen of a run's models without their weights: that they are there and fit together.

Of a model on the Hub or in a bucket its small files are fetched; of weights the headers are read
where they are on this disk.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from thinksafe_jax.config import GuardConfig, GuardModel, ModelSource
from thinksafe_jax.guards import check_guard, load_guard
from thinksafe_jax.models import ModelConfig, load_config, parameter_count
from thinksafe_jax.pipeline.disk_checks import download_folder
from thinksafe_jax.pipeline.fault_list import FaultList
from thinksafe_jax.planning import find_model
from thinksafe_jax.sharding import MeshConfig, ModelMesh, load_mesh
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.weights import check_weights, model_headers

Source = ModelSource | GuardConfig | GuardModel


@dataclass(frozen=True)
class ModelFacts:
    """A checkpoint as far as it is known before its weights are loaded.

    Attributes:
        to_fetch: bytes of weights that are not on this disk.
    """

    folder: Path
    cfg: ModelConfig
    to_fetch: int

    @cached_property
    def tokenizer(self) -> ChatTokenizer:
        """The model's own."""
        return ChatTokenizer(self.folder)


class ModelChecks:
    """Looks at each model once, whatever its roles.

    Args:
        revisions: file of the run that keeps the commits of its models; read, never written.
        mesh: the recipe's; None on one device.
        faults: takes what is wrong.
    """

    def __init__(self, revisions: Path | None, mesh: MeshConfig | None, faults: FaultList):
        self._revisions, self._mesh, self._faults = revisions, mesh, faults
        self._facts: dict[tuple[str, str | None], ModelFacts | None] = {}

    def to_fetch(self) -> dict[Path, int]:
        """{folder of downloads: bytes of weights} that are not on this disk, of all models seen."""
        sizes: dict[Path, int] = {}
        for (name, _), facts in self._facts.items():
            if facts is not None and facts.to_fetch:
                folder = download_folder(name)
                sizes[folder] = sizes.get(folder, 0) + facts.to_fetch
        return sizes

    def names(self) -> list[str]:
        """The models that are there, each with its size."""
        seen = {name: facts for (name, _), facts in self._facts.items() if facts is not None}
        return [f"{n} ({parameter_count(f.cfg) / 1e6:,.4g} M)" for n, f in seen.items()]

    def config_of(self, name: str) -> ModelConfig:
        """The facts of a model that was looked at; of another, as of a served guard, by its name.

        Raises:
            ThinkSafeError: it is not to be found, see `find_model`.
        """
        known = (facts.cfg for (seen, _), facts in self._facts.items() if facts and seen == name)
        return next(known, None) or find_model(name)[1]

    def look(self, key: str, source: Source, *, speaks: bool = True) -> ModelFacts | None:
        """The facts of a model; None, with its fault noted, where they cannot be had.

        Args:
            key: of its section in the recipe, as "student".
            speaks: whether its tokenizer is used, and not only its probabilities.
        """
        name = source.model, source.revision
        if name not in self._facts:
            self._facts[name] = None
            with self._faults.under(f"{key}.model"):
                self._facts[name] = self._read(source, speaks)
        return self._facts[name]

    def _read(self, source: Source, speaks: bool) -> ModelFacts:
        headers = model_headers(source.model, source.revision, self._revisions)
        facts = ModelFacts(headers.folder, load_config(headers.folder), headers.to_fetch)
        if isinstance(source, ModelSource) and speaks:  # guards have forms of their own
            facts.tokenizer.prompt_ids("ready?")
        if not facts.to_fetch:
            check_weights(facts.folder, facts.cfg)
        return facts

    def on_mesh(self, key: str, cfg: ModelConfig, mesh: MeshConfig | None = None) -> None:
        """Whether a model fits the generate phase of a mesh on the devices at hand.

        Args:
            mesh: default the recipe's.
        """
        mesh = mesh or self._mesh
        if mesh is not None:
            with self._faults.under(key):
                ModelMesh.for_generation(mesh, cfg)

    def guard(self, key: str, cfg: GuardConfig) -> None:
        """Looks at a guard, or at all members of a majority."""
        for member_key, member in _members(key, cfg):
            if member.is_matcher:
                continue
            if member.url:
                with self._faults.under(f"{member_key}.url"):
                    load_guard(member, self._revisions)  # asks the server one harmless question
                continue
            facts = self.look(member_key, member)
            if facts is None:
                continue
            with self._faults.under(f"{member_key}.kind"):
                check_guard(member, facts.folder)
            guard_mesh: MeshConfig | None = None
            if member.mesh:
                with self._faults.under(f"{member_key}.mesh"):
                    guard_mesh = load_mesh(member.mesh)
            self.on_mesh(f"{member_key}.mesh", facts.cfg, guard_mesh)


def _members(key: str, cfg: GuardConfig) -> Iterator[tuple[str, GuardModel]]:
    """(key, guard) of the guards that are really asked."""
    if cfg.kind != "majority":
        yield key, cfg
        return
    for number, member in enumerate(cfg.members):
        yield f"{key}.members[{number}]", member
