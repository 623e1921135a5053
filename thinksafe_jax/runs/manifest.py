"""manifest.json: what made this run, and which stages are done with which inputs."""

import json
import logging
from pathlib import Path
from typing import Any

from thinksafe_jax.errors import InputError, type_and_line
from thinksafe_jax.hosts import software_versions
from thinksafe_jax.json_files import load_unique
from thinksafe_jax.machine import compiler_flags
from thinksafe_jax.storage import atomic_write, now, plain

log = logging.getLogger(__name__)
SCHEMA_VERSION = 1


def finished_stages(run_dir: Path) -> set[str]:
    """Stages that a run directory records as done, with whatever inputs; empty before a run."""
    return set(Manifest(run_dir / "manifest.json", "", read_only=True).content["stages"])


def recorded_models(run_dir: Path) -> dict[str, dict[str, Any]]:
    """{role: model and files} that a run directory was made with; empty before a run."""
    return Manifest(run_dir / "manifest.json", "", read_only=True).models


class Manifest:
    """RUN/manifest.json, rewritten whole and atomically at every change.

    Args:
        recipe_hash: of the recipe that goes on in this directory.
        new_verdicts: its verdicts begin anew; copies of the old ones elsewhere hold no more.
        read_only: as it is, for a process beside the one that writes it.

    Raises:
        InputError: the file is not what this class writes.
    """

    def __init__(
        self,
        path: Path,
        recipe_hash: str,
        *,
        new_verdicts: bool = False,
        read_only: bool = False,
    ):
        self.path = path
        self.content = self._load() or {
            "schema_version": SCHEMA_VERSION,
            "created": now(),
            "stages": {},
        }
        if read_only:
            return
        self._renew("versions", "versions", software_versions())
        self._renew("compiler_flags", "flags of the compiler", compiler_flags())
        self.content["recipe_hash"] = recipe_hash
        if new_verdicts:
            self.content["verdicts_since"] = now()
        self._save()

    def _renew(self, key: str, what: str, current: dict[str, str]) -> None:
        """Records what computes from now on, and says what of it was another before."""
        before = self.content.get(key, current)
        changed = [
            f"{name} {before.get(name, 'absent')} -> {current.get(name, 'absent')}"
            for name in dict.fromkeys([*current, *before])
            if before.get(name) != current.get(name)
        ]
        if changed:
            log.warning("resuming with other %s: %s", what, ", ".join(changed))
        self.content[key] = current

    def is_done(self, stage: str, inputs_hash: str) -> bool:
        """Whether a stage was finished with exactly these inputs."""
        record = self.content["stages"].get(stage)
        return record is not None and record["inputs_hash"] == inputs_hash

    def mark_done(self, stage: str, inputs_hash: str, facts: dict[str, Any]) -> None:
        record = {"inputs_hash": inputs_hash, "time": now(), "facts": plain(facts)}
        self.content["stages"][stage] = record
        self._save()

    def facts(self, stage: str) -> dict[str, Any]:
        """What a finished stage noted about itself; empty before."""
        return self.content["stages"].get(stage, {}).get("facts", {})

    @property
    def models(self) -> dict[str, dict[str, Any]]:
        """{role: {"model": its name, "files": {file: digest}}} of what the run was made with."""
        return self.content.get("models", {})

    def keep_models(self, models: dict[str, dict[str, Any]]) -> None:
        """Record the models' files, see `weights.fingerprint`."""
        self.content["models"] = models
        self._save()

    @property
    def draw_versions(self) -> list[int]:
        """The versions of the draw that made the rows; empty where none was kept."""
        return self.content.get("draw_versions", [])

    def keep_draw_versions(self, versions: list[int]) -> None:
        """Record which versions of the draw make the rows, see `sampling.DRAW_VERSION`."""
        self.content["draw_versions"] = versions
        self._save()

    def _load(self) -> dict[str, Any] | None:
        if not self.path.exists():
            return None
        try:
            content = load_unique(self.path.read_text(encoding="utf-8"), nan=True)
            version, stages = content["schema_version"], content["stages"]
            facts = [stage.get("facts", {}) for stage in stages.values()]
            keys = ("versions", "compiler_flags", "models")
            parts = [*(content.get(key, {}) for key in keys), *facts]
            if not all(isinstance(part, dict) for part in parts):
                raise TypeError("a part that must be a mapping is none")
            if not all(type(n) is int for n in content.get("draw_versions", [])):
                raise TypeError("draw_versions must be whole numbers")
            if not all("inputs_hash" in stage for stage in stages.values()):
                raise KeyError("inputs_hash")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.path}: not a run's manifest ({type_and_line(error)}); delete the file to "
                "have every stage checked again (rows that exist are kept), or start over with "
                "--new-run"
            ) from None
        if version != SCHEMA_VERSION or not isinstance(stages, dict):
            raise InputError(
                f"{self.path}: schema version {version}, this program writes {SCHEMA_VERSION}; "
                "use another --run-dir, or start over with --new-run"
            )
        return content

    def _save(self) -> None:
        atomic_write(self.path, json.dumps(self.content, indent=2) + "\n")
