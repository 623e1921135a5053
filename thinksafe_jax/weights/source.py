"""Where a model comes from: the packaged mini world, a local directory, or the Hugging Face Hub."""

from importlib import resources
from pathlib import Path

from thinksafe_jax.errors import EnvironmentFault, InputError

# weights and tokenizers only: never pickles, never code
_PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "merges.txt"]


def resolve_model(name: str, revision: str | None = None) -> Path:
    """The local folder of a checkpoint.

    Args:
        name: `mini:student` or `mini:guard`, an existing directory, or a Hub id `owner/name`.
        revision: branch, tag or commit on the Hub.

    Raises:
        InputError: nothing of that name.
        EnvironmentFault: the Hub cannot be reached or refuses access.
    """
    if name.startswith("mini:"):
        folder = Path(str(resources.files("thinksafe_jax.mini"))) / "assets" / name[5:]
        if not folder.is_dir():
            raise InputError(f"{name}: the packaged models are mini:student and mini:guard")
        return folder
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise InputError(f"{name}: no such directory, and not a Hub id (owner/name)")
    return _download(name, revision)


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_PATTERNS))
    except GatedRepoError:
        raise EnvironmentFault(
            f"{name} is gated: accept its licence at https://huggingface.co/{name} and log in "
            "with `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise InputError(f"{name}: no such repository on the Hub, or it is private") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise EnvironmentFault(
            f"{name}: not in the local cache, and the Hub cannot be reached ({error})"
        ) from None
