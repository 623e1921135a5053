"""Benchmark rows from the Hub: the commit is found once and kept, the content is hashed."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from thinksafe_jax.data.readers import Row, no_file
from thinksafe_jax.errors import EnvironmentFault, InputError, MissingRequirement, first_line
from thinksafe_jax.json_files import read_json_object
from thinksafe_jax.storage import atomic_write, file_sha256


@dataclass(frozen=True)
class Source:
    """Where a suite's rows came from: name of file or dataset, its commit, sha256 of the rows."""

    name: str
    revision: str | None
    sha256: str

    @staticmethod
    def of_file(file: Path) -> "Source":
        if not file.is_file():
            raise no_file(file, "file")
        return Source(file.name, None, file_sha256(file))


def hub_rows(
    suite: str, hub: tuple[str, str | None, str], revision: str | None, revisions: Path | None
) -> tuple[Iterator[Row], Source]:
    """The rows of a Hub dataset at a commit that stays the same for a run.

    Args:
        hub: (dataset id, configuration, split).
        revision: branch, tag or commit; None is the main branch at first use.
        revisions: JSON file of the run; a commit found there is used, a new one is written there.

    Raises:
        EnvironmentFault: it cannot be had, with the way to a local file.
        InputError: its content is not what the run began with.
    """
    name, config, split = hub
    pinned = _pinned(revisions)
    known = pinned.get(suite, {})
    try:
        from datasets import load_dataset
        from huggingface_hub import HfApi

        commit = known.get("revision") or HfApi().dataset_info(name, revision=revision).sha
        rows = load_dataset(name, config, split=split, revision=commit).to_list()
    except Exception as error:  # datasets and the Hub's client raise dozens of kinds
        reason = first_line(error)
        # the two libraries have an error each for a licence that must be accepted
        gated = "gated" in f"{type(error).__name__} {error}".lower()
        licence = f"accept its licence at https://huggingface.co/datasets/{name} and log in"
        raise (MissingRequirement if gated else EnvironmentFault)(
            f"suite {suite}: the dataset {name} cannot be had from the Hub ({reason}); "
            f"{licence if gated else 'try again where there is a connection'}, or give a local "
            f"file: `path` of the suite in a recipe, --suite {suite}=FILE on the command line"
        ) from None
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest()
    source = Source(name, commit, digest)
    if known and known["sha256"] != digest:
        raise InputError(
            f"suite {suite}: {name} at {commit} is not what this run began with (sha256 "
            f"{digest[:12]}, then {known['sha256'][:12]}); begin a new run"
        )
    if revisions and not known:
        atomic_write(revisions, json.dumps({**pinned, suite: asdict(source)}, indent=2) + "\n")
    return (Row(n, f"{name}: row {n}", row) for n, row in enumerate(rows, start=1)), source


def _pinned(revisions: Path | None) -> dict[str, dict]:
    """The commit and hash of each suite that the run has read before."""
    if revisions is None or not revisions.exists():
        return {}
    content = read_json_object(revisions)
    for name, source in content.items():
        texts = isinstance(source, dict) and [source.get(key) for key in ("revision", "sha256")]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{revisions}: revision and sha256 of suite {name} are no texts")
    return content
