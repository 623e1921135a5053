"""`thinksafe doctor`: what this machine has, what is missing, and the command that adds it."""

import contextlib
import importlib.util
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from thinksafe_jax.doctor.leftovers import partial_files, unfinished_steps
from thinksafe_jax.errors import EnvironmentFault, first_line
from thinksafe_jax.hosts import COMPUTE
from thinksafe_jax.machine import cache_folder, compile_cache_folder, free_memory
from thinksafe_jax.storage import (
    describe,
    free_bytes,
    holder,
    is_held,
    writable_place,
)
from thinksafe_jax.terminal import clean

NEEDED = [
    *COMPUTE,
    "tokenizers",
    "datasets",
    "grain",
    "safetensors",
    "huggingface_hub",
    "omegaconf",
    "typer",
    "rich",
    "jinja2",
    "matplotlib",
    "jaxtyping",
    "fsspec",
    "math-verify",
]
# extra -> the module that shows it is there; tpu and cuda show themselves as devices
EXTRAS = {
    "tensorboard": "tensorboardX",
    "wandb": "wandb",
    "gcs": "gcsfs",
    "s3": "s3fs",
    "tpu": "libtpu",
    "cuda": "jax_cuda13_plugin",
    "test": "pytest",
}
LIBTPU_LOCK = Path("/tmp/libtpu_lockfile")
LITTLE_SPACE = 2 * 2**30  # of a run directory, or the cache: rows, weights, programs
LITTLE_MEMORY = 2 * 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the examination; `state` is ok, note (works without) or missing (does not)."""

    what: str
    value: str
    state: str = "ok"


def examine(run_dir: Path | None = None) -> list[Finding]:
    """Look at everything; never raises for what it finds."""
    findings = [*_versions(), *_devices(), *_extras(), *_memory(), *_caches()]
    findings += _writable("current directory", Path.cwd())
    if run_dir is not None:
        findings += _run_directory(run_dir)
    return findings


def print_findings(findings: list[Finding]) -> None:
    """A table on stdout, and one last line that says whether anything needed is missing."""
    console, table = Console(highlight=False), Table(box=None, show_header=False, padding=(0, 1))
    styles = {"ok": "green", "note": "yellow", "missing": "red"}
    for f in findings:
        table.add_row(Text(f.state, styles[f.state]), Text(f.what), Text(clean(f.value)))
    console.print(table)
    missing = [f.what for f in findings if f.state == "missing"]
    if missing:
        console.print(Text(f"missing: {', '.join(missing)}", "red"))
    else:
        console.print("nothing that thinksafe needs is missing")


def _versions() -> Iterator[Finding]:
    yield Finding("python", f"{platform.python_version()} on {platform.platform()}")
    for name in NEEDED:
        try:
            yield Finding(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(name, f"not installed; pip install {name}", "missing")


def _devices() -> Iterator[Finding]:
    if LIBTPU_LOCK.exists():
        users = _users(LIBTPU_LOCK, *Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("*"))
        whose = (
            f"held by {', '.join(users)}: wait, or stop it"
            if users
            else "but no process of yours has it or a TPU open: if no other user does, delete it"
        )
        yield Finding("libtpu lock", f"{LIBTPU_LOCK} exists, {whose}", "note")
    try:
        import jax

        devices = jax.devices()
    except Exception as error:  # JAX raises many kinds when a back end does not start
        yield Finding("devices", f"JAX finds none: {first_line(error)}", "missing")
        return
    kinds = sorted({d.device_kind for d in devices})
    text = f"{len(devices)} x {', '.join(kinds)} (backend {jax.default_backend()})"
    yield Finding("devices", text)
    yield from _compiler_flags(kinds)
    yield Finding("processes", f"{jax.process_count()}, this is {jax.process_index()}")


def _compiler_flags(kinds: list[str]) -> Iterator[Finding]:
    """Whether the TPU compiler runs with the flags that the chip's file has."""
    from thinksafe_jax.sharding import flags_of_device

    preset = [flag for kind in kinds for flag in flags_of_device(kind)]
    given = os.environ.get("LIBTPU_INIT_ARGS", "").split()  # as they are: all go into the advice
    if not preset:
        if given:
            yield Finding("XLA flags", f"{' '.join(given)} (LIBTPU_INIT_ARGS)")
    elif missing := [flag for flag in preset if flag not in given]:
        text = f"{len(missing)} of the chip's {len(preset)} are not set; for the preset of "
        whole = [*preset, *(flag for flag in given if flag not in preset)]
        text += f"configs/chips: export LIBTPU_INIT_ARGS='{' '.join(whole)}'"
        yield Finding("XLA flags", text, "note")
    else:
        more = f", and {len(given) - len(preset)} more" if len(given) > len(preset) else ""
        yield Finding("XLA flags", f"the preset of configs/chips for {', '.join(kinds)}{more}")


def _users(*files: Path) -> list[str]:
    """Processes that have one of the files open, as far as this user may see."""
    wanted, users = {str(file) for file in files}, []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # another user's, or just gone
            if wanted & set(_open_files(process)):
                name = (process / "comm").read_text().strip()
                users.append(f"pid {process.name} ({name})")
    return users


def _open_files(process: Path) -> Iterator[str]:
    for descriptor in (process / "fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            yield os.readlink(descriptor)


def _extras() -> Iterator[Finding]:
    for extra, module in EXTRAS.items():
        if importlib.util.find_spec(module) is not None:
            yield Finding(f"extra [{extra}]", "installed")
        else:
            hint = f"absent; pip install 'thinksafe-jax[{extra}]'"
            yield Finding(f"extra [{extra}]", hint, "note")


def _memory() -> Iterator[Finding]:
    yield Finding("cores", f"{len(os.sched_getaffinity(0))}")
    available = free_memory()
    if available is not None:
        state = "note" if available < LITTLE_MEMORY else "ok"
        yield Finding("memory free", f"{available / 2**30:.1f} GiB", state)


def _caches() -> Iterator[Finding]:
    folder = compile_cache_folder()
    yield Finding("compile cache", f"{folder}, {free_bytes(folder) / 2**30:.1f} GiB free", "ok")
    yield from _leftovers("partial downloads", cache_folder(), partial_files(cache_folder()))
    with contextlib.suppress(ImportError):  # which is missing, as its line above says
        from huggingface_hub import constants  # as its variables say: there are several

        hub, offline = Path(constants.HF_HUB_CACHE), constants.HF_HUB_OFFLINE
        text = f"{hub}, {free_bytes(hub) / 2**30:.1f} GiB free{' (offline)' if offline else ''}"
        yield Finding("Hugging Face cache", text)


def _writable(what: str, folder: Path) -> Iterator[Finding]:
    """Probes the folder, or where it would be made: an examination leaves nothing behind."""
    try:
        place = writable_place(folder)
    except EnvironmentFault as fault:
        yield Finding(what, str(fault), "missing")
        return
    free = free_bytes(place)
    verb = "is writable" if place == folder else "can be made"
    text = f"{folder} {verb}, {free / 2**30:.1f} GiB free"
    yield Finding(what, text, "note" if free < LITTLE_SPACE else "ok")


def _run_directory(run_dir: Path) -> Iterator[Finding]:
    yield from _writable("run directory", run_dir)
    lock = run_dir / "lock"
    if is_held(lock):
        yield Finding("lock", f"in use by {describe(holder(lock))}", "note")
    elif who := holder(lock):
        text = f"stale, left by {describe(who)}; the next run recovers it"
        yield Finding("lock", text, "note")
    yield from _leftovers("partial files", run_dir, partial_files(run_dir))
    yield from _leftovers("unfinished checkpoints", run_dir, unfinished_steps(run_dir))


def _leftovers(what: str, folder: Path, paths: list[Path]) -> Iterator[Finding]:
    """One line that counts them and names all: each may be deleted by hand."""
    if paths:
        names = ", ".join(str(path.relative_to(folder)) for path in paths)
        text = (
            f"{len(paths)} in {folder}, left by kills where nothing runs; may be deleted: {names}"
        )
        yield Finding(what, text, "note")
