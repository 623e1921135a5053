"""Where a model comes from: the packaged mini world, a directory, the Hub, or a bucket."""

import json
import re
from importlib import resources
from pathlib import Path

from thinksafe_jax.errors import InputError, type_and_line
from thinksafe_jax.storage import atomic_write
from thinksafe_jax.weights.bucket import fetch
from thinksafe_jax.weights.hugging_face import download

_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve_model(name: str, revision: str | None = None, pins: Path | None = None) -> Path:
    """The local folder of a checkpoint.

    Args:
        name: `mini:student` or `mini:guard`, an existing directory, a Hub id `owner/name`, or a
            bucket path such as `gs://bucket/model` or `s3://bucket/model`.
        revision: branch, tag or commit on the Hub.
        pins: a JSON file of a run. The commit found at first is written there and used from then
            on, so that a branch which moves cannot change the model under the run.

    Raises:
        InputError: nothing of that name, or another revision than the run began with.
        EnvironmentFault: the Hub or bucket cannot be reached or refuses access.
    """
    if name.startswith("mini:"):
        folder = Path(str(resources.files("thinksafe_jax.mini"))) / "assets" / name[5:]
        if not folder.is_dir():
            raise InputError(f"{name}: the packaged models are mini:student and mini:guard")
        return folder
    if Path(name).is_dir():
        return Path(name)
    remote = "://" in name
    if not remote and not is_hub_id(name):
        raise InputError(f"{name}: no such directory, and not a Hub id (owner/name)")
    pinned = _pinned(pins, name, revision)
    folder = fetch(name) if remote else download(name, pinned or revision)
    commit = folder.name if remote else model_revision(folder)
    if pinned is not None and commit != pinned:
        raise InputError(
            f"{name}: its files changed since this run began ({pinned[:12]}, now "
            f"{str(commit)[:12]}). Put them back, or begin a new run: --new-run, or another "
            "directory"
        )
    if pins is not None and pinned is None and commit is not None:
        content = {**_read_pins(pins), name: {"revision": revision, "commit": commit}}
        atomic_write(pins, json.dumps(content, indent=2) + "\n")
    return folder


def is_hub_id(name: str) -> bool:
    """Whether a model's name is one on the Hub, and not a folder, a bucket or the mini world's."""
    other = Path(name).is_dir() or name.startswith((".", "/", "~", "mini:")) or "://" in name
    return name.count("/") == 1 and not other


def model_revision(folder: str | Path) -> str | None:
    """The Hub commit of a downloaded checkpoint; None for a directory that is no Hub snapshot."""
    path = Path(folder)
    found = path.parent.name == "snapshots" and _COMMIT.fullmatch(path.name)
    return path.name if found else None


def _pinned(pins: Path | None, name: str, revision: str | None) -> str | None:
    entry = _read_pins(pins).get(name) if pins is not None else None
    if entry is None:
        return None
    if (revision or "main") not in (entry["revision"] or "main", entry["commit"]):
        raise InputError(
            f"{name}: this run began with revision {entry['revision'] or 'main'} (commit "
            f"{entry['commit']}), not {revision or 'main'}. For another revision begin a new run: "
            "--new-run, or another directory"
        )
    return entry["commit"]


def _read_pins(pins: Path) -> dict[str, dict[str, str]]:
    if not pins.exists():
        return {}
    try:
        content = json.loads(pins.read_text(encoding="utf-8"))
        if not all({"revision", "commit"} <= set(entry) for entry in content.values()):
            raise KeyError("revision, commit")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{pins}: damaged ({type_and_line(error)}); the run's models cannot be known"
        ) from None
    return content
