"""Which code runs: versions of what computes, and a hash of the package itself."""

import contextlib
import platform
from importlib import metadata
from pathlib import Path

from thinksafe_jax.storage import content_hash

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


def software_versions() -> dict[str, str]:
    """Versions of the packages that compute, read without importing them, and of Python.

    A package that is not installed is "absent", an optional one is left out.
    """
    installed = {"python": platform.python_version()} | dict.fromkeys(COMPUTE, "absent")
    for name in (*COMPUTE, *_OPTIONAL):
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


def source_hash() -> str:
    """sha256 over the package's own source."""
    return content_hash(*sorted(Path(__file__).parents[1].rglob("*.py")))
