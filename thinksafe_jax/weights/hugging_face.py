"""Downloading a checkpoint from the Hugging Face Hub: weights and tokenizer, never code."""

import logging
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from thinksafe_jax.errors import (
    EnvironmentFault,
    InputError,
    MissingRequirement,
    RetryLater,
    first_line,
    quoted,
)
from thinksafe_jax.storage import full_disk_errors
from thinksafe_jax.weights.validate import SECOND_COPY, has_weights

T = TypeVar("T")
_log = logging.getLogger(__name__)
# never pickles, never code
PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model"]
WEIGHTS = "*.safetensors"
# repositories keep copies for other frameworks in folders, and some the weights a second time
_NOT_NEEDED = ["*/*", SECOND_COPY]
DATASET_PATTERNS = ["*.parquet", "*.json", "*.jsonl", "*.csv", "README.md"]
_TRIES, _FIRST_WAIT, _LONGEST_WAIT = 5, 1.0, 60.0  # seconds


def download(name: str, revision: str | None) -> Path:
    """The snapshot folder of a model `owner/name`; offline, the one in the local cache.

    Raises:
        InputError: no such repository or revision.
        EnvironmentFault: gated, or not to be reached.
        RetryLater: still rate-limited after several tries.
    """
    return _patiently(name, revision, allow_patterns=PATTERNS, ignore_patterns=_NOT_NEEDED)


def downloaded(name: str, commit: str) -> Path | None:
    """The snapshot folder of a model in the local cache; None where its weights are not there."""
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(name, "config.json", revision=commit)
    folder = Path(file).parent if isinstance(file, str) else None
    return folder if folder is not None and has_weights(folder) else None


def download_headers(name: str, revision: str | None) -> Path:
    """The snapshot folder with all that `download` fetches of a model but its weights.

    Raises:
        InputError, EnvironmentFault, RetryLater: as `download`.
    """
    patterns = [pattern for pattern in PATTERNS if pattern != WEIGHTS]
    return _patiently(name, revision, allow_patterns=patterns, ignore_patterns=_NOT_NEEDED)


def weight_files(name: str, revision: str | None) -> dict[str, int]:
    """{file: bytes} of the weights of a model `owner/name`; nothing is fetched.

    Raises:
        InputError, EnvironmentFault, RetryLater: as `download`.
    """
    from huggingface_hub import HfApi

    listed = _ask(name, revision, lambda: list(HfApi().list_repo_tree(name, revision=revision)))
    sizes = {entry.path: getattr(entry, "size", 0) for entry in listed}
    weights = {path: n for path, n in sizes.items() if fnmatch(path, WEIGHTS)}
    unread = {path for path in weights for pattern in _NOT_NEEDED if fnmatch(path, pattern)}
    return {path: n for path, n in weights.items() if path not in unread}


def download_config(name: str, revision: str | None) -> Path:
    """The config.json of a model `owner/name`, and nothing else of it.

    Raises:
        InputError, EnvironmentFault, RetryLater: as `download`.
    """
    return _patiently(name, revision, allow_patterns=["config.json"]) / "config.json"


def download_dataset(name: str, revision: str | None) -> Path:
    """The snapshot folder of a dataset `owner/name`; its rows and card, never code.

    Raises:
        InputError, EnvironmentFault, RetryLater: as `download`.
    """
    return _patiently(name, revision, repo_type="dataset", allow_patterns=DATASET_PATTERNS)


def _patiently(name: str, revision: str | None, **what: Any) -> Path:
    from huggingface_hub import snapshot_download

    of_dataset = what.get("repo_type") == "dataset"
    return _ask(
        name,
        revision,
        lambda: Path(snapshot_download(name, revision=revision, **what)),
        of_dataset=of_dataset,
    )


def _ask(
    name: str, revision: str | None, question: Callable[[], T], *, of_dataset: bool = False
) -> T:
    """What the Hub answers, asked again while it says that it has too much to do."""
    from huggingface_hub.constants import HF_HUB_CACHE

    wait = _FIRST_WAIT
    for attempt in range(1, _TRIES + 1):
        try:
            with full_disk_errors(Path(HF_HUB_CACHE)):
                return question()
        except hub_errors() as error:
            status, after = _answer(error)
            if status not in (429, 500, 502, 503, 504):
                raise _explained(name, revision, status, error, of_dataset) from None
            if attempt == _TRIES:
                raise RetryLater(
                    f"{name}: the Hub answered {status} {attempt} times; try again later"
                ) from None
            pause = min(_LONGEST_WAIT, wait if after is None else after)
            _log.warning("%s: the Hub answered %d; trying again in %.0f s", name, status, pause)
            time.sleep(pause)
            wait *= 2
    raise AssertionError("unreachable")


def _answer(error: BaseException | None) -> tuple[int | None, float | None]:
    """HTTP status and Retry-After seconds behind an error; None where there was no answer."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            after = response.headers.get("Retry-After", "")
            return response.status_code, float(after) if after.isdecimal() else None
        error = error.__cause__
    return None, None


def _of_hub(error: BaseException | None) -> bool:
    """Whether the Hub itself answered, and no proxy on the way: its answers have names."""
    while error is not None:
        headers = getattr(getattr(error, "response", None), "headers", {})
        if any(name.lower() in ("x-error-code", "x-request-id") for name in headers):
            return True
        error = error.__cause__
    return False


def hub_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises where the Hub refuses, or where there is no way to it.

    A broken connection is an error of its HTTP library, which is another one in each version, or a
    RuntimeError of hf_xet, which fetches large files.
    """
    from huggingface_hub import errors

    of_package = [kind for kind in vars(errors).values() if _is_error(kind)]
    bases = ("HTTPError", "RequestException")
    transport = [kind for kind in errors.HfHubHTTPError.__mro__ if kind.__name__ in bases]
    return OSError, ValueError, RuntimeError, *of_package, *transport


def _is_error(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Exception)


def _explained(
    name: str, revision: str | None, status: int | None, error: Exception, of_dataset: bool
) -> EnvironmentFault | InputError:
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page, kind = (f"datasets/{name}", " --repo-type dataset") if of_dataset else (name, "")
    if isinstance(error, GatedRepoError):
        return MissingRequirement(
            f"{name} is gated: accept its licence at https://huggingface.co/{page} and log in "
            "with `hf auth login` (or set HF_TOKEN)"
        )
    if status == 403 and _of_hub(error):
        return MissingRequirement(
            f"{name}: the Hub refuses ({first_line(error)}): see that your token may read "
            f"https://huggingface.co/{page}, and log in with `hf auth login` (or set HF_TOKEN)"
        )
    if isinstance(error, RevisionNotFoundError):
        return InputError(f"{name}: has no revision {quoted(revision)}")
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        return InputError(
            f"{name}: no such repository on the Hub, or it is private: log in with `hf auth login`"
        )
    reason = "HF_HUB_OFFLINE is set" if HF_HUB_OFFLINE else first_line(error)
    return EnvironmentFault(
        f"{name}: not in the local cache, and the Hub cannot be reached ({reason}). Download it "
        f"where there is a connection (`hf download {name}{kind}`) and set HF_HOME, or give a "
        f"directory: there is none called {name} here"
    )
