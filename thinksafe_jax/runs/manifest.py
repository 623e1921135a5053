"""manifest.json: what made this run, and which stages are done with which inputs."""

import contextlib
import hashlib
import json
import logging
import platform
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from thinksafe_jax.errors import InputError
from thinksafe_jax.runs.jsonl import plain
from thinksafe_jax.runs.storage import atomic_write

log = logging.getLogger(__name__)
SCHEMA_VERSION = 1
COMPUTE = (
    "thinksafe-jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "transformers",
    "numpy",
)
_CUDA = ("jax-cuda12-plugin", "jax-cuda12-pjrt", "jax-cuda13-plugin", "jax-cuda13-pjrt")
_OPTIONAL = ("libtpu", *_CUDA)


def content_hash(*parts: Any) -> str:
    """sha256 over values and files, for "has anything that went in changed?".

    Args:
        parts: numbers, text, lists, mappings, dataclasses; a Path stands for the content of its
            file, or of every file beneath its folder (names included, hidden ones left out).
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            _add_files(digest, part)
        else:
            digest.update(json.dumps(plain(part), sort_keys=True).encode())
        digest.update(b"\x00")
    return digest.hexdigest()


def _add_files(digest: Any, path: Path) -> None:
    if not path.exists():
        digest.update(b"absent")
        return
    files = (
        {"": path}
        if path.is_file()
        else {p.relative_to(path).as_posix(): p for p in path.rglob("*")}
    )
    for name, file in sorted(files.items()):
        if file.is_file() and not any(part.startswith(".") for part in name.split("/")):
            digest.update(name.encode("utf-8", "surrogateescape") + b"\x00")
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())


def versions() -> dict[str, str]:
    """Versions of what computes, read without importing it; of the optional what is there."""
    found = {"python": platform.python_version()} | dict.fromkeys(COMPUTE, "absent")
    for name in (*COMPUTE, *_OPTIONAL):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def source_hash() -> str:
    """sha256 over the package's own source."""
    return content_hash(*sorted(Path(__file__).parents[1].rglob("*.py")))


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
        before, current = self.content.get("versions"), versions()
        if before and before != current:
            changed = [
                f"{k} {before.get(k, 'absent')} -> {v}"
                for k, v in current.items()
                if before.get(k) != v
            ]
            log.warning("resuming with other versions: %s", ", ".join(changed))
        self.content |= {"versions": current, "recipe_hash": recipe_hash}
        if new_verdicts:
            self.content["verdicts_since"] = now()
        self._save()

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

    def _load(self) -> dict[str, Any] | None:
        if not self.path.exists():
            return None
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            version, stages = content["schema_version"], content["stages"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.path}: not a run's manifest ({error!r}); delete the file to have every "
                "stage checked again (rows that exist are kept), or start over with --new-run"
            ) from None
        if version != SCHEMA_VERSION or not isinstance(stages, dict):
            raise InputError(
                f"{self.path}: schema version {version}, this program writes {SCHEMA_VERSION}; "
                "use another --run-dir, or start over with --new-run"
            )
        return content

    def _save(self) -> None:
        atomic_write(self.path, json.dumps(self.content, indent=2) + "\n")


def now() -> str:
    """Local time with its offset, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
