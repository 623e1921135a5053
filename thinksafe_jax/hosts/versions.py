"""Which code runs: versions of what computes, the compiler's flags, a hash of the package."""

import contextlib
import os
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
_FLAGS = ("LIBTPU_INIT_ARGS", "XLA_FLAGS")
# flags that change no program: where a host writes what it compiled, how many devices it simulates
_OF_ONE_HOST = ("--xla_dump_", "--xla_force_host_platform_device_count")


def software_versions() -> dict[str, str]:
    """Versions of the packages that compute, read without importing them, and of Python.

    A package that is not installed is "absent", an optional one is left out.
    """
    installed = {"python": platform.python_version()} | dict.fromkeys(COMPUTE, "absent")
    for name in (*COMPUTE, *_OPTIONAL):
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


def compiler_flags() -> dict[str, str]:
    """The flags that XLA compiles with, by variable; hosts with others compile other programs.

    They are sorted; flags that change no program are left out, as is a variable without any.
    """
    flags = {
        name: sorted(f for f in os.environ.get(name, "").split() if not f.startswith(_OF_ONE_HOST))
        for name in _FLAGS
    }
    return {name: " ".join(given) for name, given in flags.items() if given}


def source_hash() -> str:
    """sha256 over the package's own source."""
    return content_hash(*sorted(Path(__file__).parents[1].rglob("*.py")))
