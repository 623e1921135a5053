"""What a figure was measured on, without which it means nothing; and the memory in use."""

import os
import platform
import resource
import sys
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = (  # and what counts to it, in version 2 and in version 1
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
# change no program: where a process writes what it compiled, how many devices it simulates
_OF_ONE_PROCESS = ("--xla_dump_", "--xla_force_host_platform_device_count")


def machine() -> dict:
    """Processor, cores, memory, load and versions, as kept beside every result."""
    cpu = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
    return {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpu": cpu[0].partition(": ")[2] if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(host_memory() / 1e9, 1),
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "python": platform.python_version(),
        **{name: _version(name) for name in ("jax", "numpy", "safetensors")},
    }


def compiler_flags() -> dict[str, str]:
    """The flags that XLA compiles with, by variable: with others it makes other programs.

    They are sorted, and of a flag that is given twice the last counts. Flags that change no program
    are left out, as is a variable without any.
    """
    flags = {}
    for name in ("LIBTPU_INIT_ARGS", "XLA_FLAGS"):
        given = [f for f in os.environ.get(name, "").split() if not f.startswith(_OF_ONE_PROCESS)]
        last = {flag.partition("=")[0]: flag for flag in given}
        if last:
            flags[name] = " ".join(last[key] for key in sorted(last))
    return flags


def tpu_compiler_flags() -> list[str]:
    """Those that the TPU's compiler alone reads."""
    return compiler_flags().get("LIBTPU_INIT_ARGS", "").split()


def host_memory() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak_memory() -> int:
    """Most bytes in use so far: of the first device, or of the process where it does not count."""
    import jax

    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def free_memory() -> int | None:
    """Bytes of host memory that can be had, what only caches files among them; None if unknown.

    In a container at most what its limit leaves: beyond it the kernel kills the process.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(x.split()[1]) for x in lines if x.startswith("MemAvailable")) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    return min([free, *_left_in_container()])


def _left_in_container() -> list[int]:
    """What the container's limit leaves, by version 2 or 1 of the kernel's cgroups, if any."""
    left = []
    for limit, used in _LIMITS:
        try:
            most, now = (int((_CGROUP / x).read_text(encoding="ascii")) for x in (limit, used))
            stat = (_CGROUP / used).with_name("memory.stat").read_text(encoding="ascii").split()
            facts = dict(zip(stat[::2], stat[1::2], strict=True))
            cached = facts.get("total_inactive_file", facts.get("inactive_file", 0))
        except (OSError, ValueError):  # no container, or "max": no limit
            continue
        left.append(max(0, most - now + int(cached)))
    return left


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


VARIABLE = "JAX_COMPILATION_CACHE_DIR"


def cache_folder() -> Path:
    """Where all that can be made or fetched again is kept: THINKSAFE_CACHE, or ~/.cache/thinksafe.

    Copies of models and runs in buckets, JAX's compiled programs, what a sweep compiled.
    """
    chosen = os.environ.get("THINKSAFE_CACHE")
    general = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(at_home(chosen)) if chosen else Path(general) / "thinksafe"


def at_home(path: str) -> str:
    """The path, with the home folder in place of a `~/` that it begins with, as of a shell."""
    return os.path.expanduser(path) if path.startswith("~/") else path


def compile_cache_folder() -> Path:
    """The folder JAX's own variable names, else one in the cache folder."""
    return Path(os.environ.get(VARIABLE) or cache_folder() / "jax")


def enable_compile_cache() -> None:
    """Lets JAX keep what took it over half a second to compile. Starts no back end.

    JAX's own variables come first.
    """
    import jax

    jax.config.update("jax_compilation_cache_dir", str(compile_cache_folder()))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
