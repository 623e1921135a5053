"""Where a model comes from: the packaged mini world, a directory, the Hub, or a bucket."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from thinksafe_jax.errors import EnvironmentFault, InputError, type_and_line
from thinksafe_jax.json_files import load_unique
from thinksafe_jax.storage import atomic_write
from thinksafe_jax.weights.adapter_config import read_adapter_config
from thinksafe_jax.weights.bucket import cached_copy, fetch, fetch_headers
from thinksafe_jax.weights.hugging_face import download, download_headers, downloaded, weight_files
from thinksafe_jax.weights.links import refuse_links_out
from thinksafe_jax.weights.validate import has_weights

_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve_model(name: str, revision: str | None = None, revisions: Path | None = None) -> Path:
    """The local folder of a checkpoint.

    Args:
        name: `mini:student` or another packaged model, an existing directory, a Hub id
            `owner/name`, or a bucket path such as `gs://bucket/model` or `s3://bucket/model`.
        revision: branch, tag or commit on the Hub.
        revisions: a JSON file of a run. The commit that is resolved at first is written there and
            used from then on: a branch which moves cannot change the model under the run.

    Raises:
        InputError: nothing of that name, or another revision than the run began with.
        EnvironmentFault: the Hub or bucket cannot be reached or refuses access.
    """
    if name.startswith("mini:"):
        assets = Path(str(resources.files("thinksafe_jax.mini"))) / "assets"
        packaged = sorted(f"mini:{folder.name}" for folder in assets.iterdir() if folder.is_dir())
        if name not in packaged:
            raise InputError(f"{name}: the packaged models are {', '.join(packaged)}")
        return assets / name.removeprefix("mini:")
    if Path(name).is_dir():
        return _model_folder(Path(name))
    remote = "://" in name
    if not remote and not is_hub_id(name):
        raise InputError(f"{name}: no such directory, and not a Hub id (owner/name)")
    begun_with = _commit_of(revisions, name, revision)
    with _folder_meant(name):
        folder = fetch(name) if remote else download(name, begun_with or revision)
    commit = folder.name if remote else model_revision(folder)
    if begun_with is not None and commit != begun_with:
        raise InputError(
            f"{name}: its files changed since this run began ({begun_with[:12]}, now "
            f"{str(commit)[:12]}). Put them back, or begin a new run: --new-run, or another "
            "directory"
        )
    if revisions is not None and begun_with is None and commit is not None:
        content = {**read_revisions(revisions), name: {"revision": revision, "commit": commit}}
        atomic_write(revisions, json.dumps(content, indent=2) + "\n")
    return _model_folder(folder)


@dataclass(frozen=True)
class ModelHeaders:
    """What can be known of a checkpoint without its weights.

    Attributes:
        folder: has config.json and the tokenizer's files; the weights, too, where they are here.
        to_fetch: bytes of weights that `resolve_model` will fetch.
    """

    folder: Path
    to_fetch: int = 0


def model_headers(
    name: str, revision: str | None = None, revisions: Path | None = None
) -> ModelHeaders:
    """As `resolve_model`, but fetches only small files, and pins nothing.

    Raises:
        InputError: nothing of that name, or a repository without safetensors.
        EnvironmentFault: the Hub or bucket cannot be reached or refuses access.
    """
    remote = "://" in name
    if not remote and (Path(name).is_dir() or not is_hub_id(name)):
        return ModelHeaders(resolve_model(name))
    if remote:
        return ModelHeaders(*fetch_headers(name))
    revision = _commit_of(revisions, name, revision) or revision
    with _folder_meant(name):
        folder = _model_folder(download_headers(name, revision))
    if has_weights(folder):
        return ModelHeaders(folder)
    weights = weight_files(name, revision)
    if not weights:
        raise InputError(
            f"{name}: has no weights in safetensors; pickled ones (pytorch_model.bin) are never "
            "opened. Convert them with transformers' save_pretrained"
        )
    return ModelHeaders(folder, sum(weights.values()))


@contextmanager
def _folder_meant(name: str) -> Iterator[None]:
    """Says of a name that the Hub does not give whether it looks like a folder that is not here."""
    try:
        yield
    except (InputError, EnvironmentFault) as error:
        parent = Path(name).parent
        if "://" in name or not parent.is_dir():
            raise
        raise type(error)(
            f"{error.args[0]}. Or is a folder meant? {parent} is here, {name} is not"
        ) from None


def _model_folder(folder: Path) -> Path:
    """The folder itself.

    Raises:
        InputError: it holds an adapter and no model; names the base and what to do. Or a file in it
            is a link to another place.
    """
    refuse_links_out(folder)
    config = folder / "adapter_config.json"
    if config.exists() and not (folder / "config.json").exists():
        base = read_adapter_config(config).get("base_model_name_or_path") or "its base model"
        raise InputError(
            f"{folder}: a PEFT adapter, where a model is expected. Give {base} as the model; "
            f"`thinksafe evaluate` and `verify` take the folder as --adapter"
        )
    return folder


def local_folder(name: str, revisions: Path | None = None) -> Path | None:
    """The folder of a checkpoint as far as it is on this disk; asks no network, fetches nothing.

    Args:
        revisions: of models on the Hub or in a bucket, the copy at the run's commit counts.
    """
    if name.startswith("mini:") or Path(name).is_dir():
        return resolve_model(name)
    known = {} if revisions is None else read_revisions(revisions)
    commit = known.get(name, {}).get("commit")
    if commit is None:
        return None
    return cached_copy(commit) if "://" in name else downloaded(name, commit)


def is_hub_id(name: str) -> bool:
    """Whether a model's name is one on the Hub, and not a folder, a bucket or the mini world's."""
    other = Path(name).is_dir() or name.startswith((".", "/", "~", "mini:")) or "://" in name
    return name.count("/") == 1 and not other


def model_revision(folder: str | Path) -> str | None:
    """The Hub commit of a downloaded checkpoint; None for a directory that is no Hub snapshot."""
    path = Path(folder)
    is_snapshot = path.parent.name == "snapshots" and _COMMIT.fullmatch(path.name)
    return path.name if is_snapshot else None


def _commit_of(revisions: Path | None, name: str, revision: str | None) -> str | None:
    """The commit of a model that a run began with; None where it begins now."""
    entry = read_revisions(revisions).get(name) if revisions is not None else None
    if entry is None:
        return None
    if (revision or "main") not in (entry["revision"] or "main", entry["commit"]):
        raise InputError(
            f"{name}: this run began with revision {entry['revision'] or 'main'} (commit "
            f"{entry['commit']}), not {revision or 'main'}. For another revision begin a new run: "
            "--new-run, or another directory"
        )
    return entry["commit"]


def read_revisions(revisions: Path) -> dict[str, dict[str, str]]:
    """{model: {"revision": as asked for, "commit": as found}} of a run.

    Raises:
        InputError: the file is damaged.
    """
    if not revisions.exists():
        return {}
    try:
        content = load_unique(revisions.read_text(encoding="utf-8"))
        for name, entry in content.items():
            if not (isinstance(entry["commit"], str) and isinstance(entry["revision"], str | None)):
                raise TypeError(f"commit and revision of {name} are no texts")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{revisions}: damaged ({type_and_line(error)}); the run's models cannot be known"
        ) from None
    return content
