"""Checkpoints that are either whole or not there: Orbax for the arrays, our own sha256 manifest.

    checkpoints/step_00000100/state/         Orbax: one array per name
                              meta.json      step, position, seed, configuration, shapes and dtypes
                              manifest.json  sha256 and size of every other file, written last

Orbax alone restores a flipped byte silently, takes an empty folder for the latest step, and casts a
dtype that differs. So a checkpoint counts only when every file matches its manifest, and its shapes
and dtypes are compared before anything is read.
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import jax
import orbax.checkpoint as ocp

from thinksafe_jax.errors import EnvironmentFault, InputError
from thinksafe_jax.hosts import current
from thinksafe_jax.json_files import read_json_object
from thinksafe_jax.storage import is_mounted, persist, refresh, sync_folder
from thinksafe_jax.weights import check_files, on_host, read_manifest, write_json, write_manifest

_log = logging.getLogger(__name__)
_PREFIX, _PARTIAL = "step_", ".partial-"
_ALL = ocp.options.MultiprocessingOptions()
_FIRST = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})


class CheckpointStore:
    """The checkpoints of one training run.

    Several processes (`hosts.join`) call its methods together: each writes and reads the slices
    that its devices hold, the first does the rest. In a bucket, where each host writes to a disk of
    its own, the first gathers the arrays (an adapter and its moments are small) and writes all.

    Args:
        directory: made on the first save.
        keep: newest checkpoints kept; at least 2 leaves one to fall back on.
    """

    def __init__(self, directory: str | Path, keep: int = 2):
        self.directory = Path(directory).absolute()
        self.keep = max(1, keep)
        self._group = current()
        self._writer: Thread | None = None
        self._error: EnvironmentFault | None = None

    def steps(self) -> list[int]:
        """Steps that have a folder, verified or not, oldest first."""
        names = (path.name for path in self.directory.glob(f"{_PREFIX}*"))
        digits = (name.removeprefix(_PREFIX) for name in names)
        return sorted(int(text) for text in digits if text.isdecimal())

    def path(self, step: int) -> Path:
        return self.directory / f"{_PREFIX}{step:08d}"

    def save(self, step: int, state: Any, meta: dict[str, Any], *, wait: bool = True) -> None:
        """Writes one checkpoint and removes those beyond `keep`, and any of a later step.

        Args:
            step: optimiser steps taken.
            state: tree of arrays; may be donated as soon as this returns.
            meta: JSON facts; given back by `newest`.
            wait: until it is on the disk and counts; else only until the arrays are copied, and
                what goes wrong later is raised by `check`, `wait` or the next `save`.

        Raises:
            EnvironmentFault: the disk is full or not writable. Older checkpoints are untouched.
        """
        self.wait()
        arrays = _named(state)
        by_first = self._group.count > 1 and is_mounted(self.directory)
        if by_first:
            arrays = {name: on_host(array) for name, array in arrays.items()}
        writes = self._group.first or not by_first
        partial = self.directory / f"{_PARTIAL}{self.path(step).name}"
        tree = {name: _describe(array) for name, array in arrays.items()}
        meta = {**meta, "step": step, "tree": tree}

        def in_background(writing: ocp.StandardCheckpointer) -> None:
            with self._reported(step, partial):
                with writing:
                    writing.wait_until_finished()
                if self._group.first:
                    self._seal(step, partial, meta)

        with self._reported(step, partial):
            if self._group.first:
                self._make_room(sum(array.nbytes for array in arrays.values()))
                partial.mkdir()
        self.check()
        self._group.barrier("checkpoint begins")
        if writes:
            who = _FIRST if by_first else _ALL
            writing = ocp.StandardCheckpointer(multiprocessing_options=who)
            with self._reported(step, partial):
                writing.save(partial / "state", arrays)  # returns when the arrays are copied
            if self._error is None:
                self._writer = Thread(target=in_background, args=(writing,), name=f"save {step}")
                self._writer.start()
        if wait:
            self.wait()
            self._group.barrier("checkpoint counts")
        self.check()

    def _seal(self, step: int, partial: Path, meta: dict[str, Any]) -> None:
        """Makes what is written in `partial` count, and gives up older checkpoints."""
        write_json(partial / "meta.json", meta)
        write_manifest(partial, {})
        shutil.rmtree(self.path(step), ignore_errors=True)
        partial.replace(self.path(step))
        sync_folder(self.directory)
        persist(self.path(step))  # an older one is given up only afterwards
        self._prune(step)
        persist(self.directory)

    def check(self) -> None:
        """Raises what went wrong in the background; call it at every step."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Waits until the checkpoint in flight is on the disk; raises as `check`."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        self.check()

    @contextmanager
    def _reported(self, step: int, partial: Path) -> Iterator[None]:
        """Keeps a failure for `check`, said in plain words, and cleans up after it."""
        try:
            yield
        except (OSError, ValueError, RuntimeError, EnvironmentFault) as error:
            shutil.rmtree(partial, ignore_errors=True)
            fault = EnvironmentFault(
                f"{self.path(step)}: the checkpoint could not be written: {error}. "
                f"{_free(self.directory)} Kept: steps {self.steps() or 'none'}"
            )
            fault.__cause__ = error
            self._error = fault

    def _prune(self, step: int) -> None:
        taken = [known for known in self.steps() if known <= step]
        for other in set(self.steps()) - set(taken[-self.keep :]):  # later ones did not verify
            shutil.rmtree(self.path(other), ignore_errors=True)

    def newest(self) -> dict[str, Any] | None:
        """The facts saved with the newest checkpoint that verifies, `step` among them, or None."""
        facts = self._group.decide("newest", self._newest() if self._group.first else None)
        refresh(self.directory)
        return facts

    def _newest(self) -> dict[str, Any] | None:
        for step in reversed(self.steps()):
            problem = verify(self.path(step))
            if not problem:
                return self._meta(step)
            _log.warning("checkpoint of step %d: %s; falling back to an older one", step, problem)
        if self.steps():
            _log.warning("%s: no checkpoint verifies; training starts anew", self.directory)
        return None

    def restore(self, step: int, template: Any) -> Any:
        """The arrays of a checkpoint that `newest` named.

        Args:
            step: which.
            template: tree of arrays with the shapes, dtypes and devices to restore to.

        Raises:
            InputError: names, shapes or dtypes differ from the template's; nothing is ever cast.
        """
        arrays = _named(template)
        wanted = {name: _describe(array) for name, array in arrays.items()}
        if differences := describe_differences(self._meta(step)["tree"], wanted):
            raise InputError(
                f"{self.path(step)} does not fit this configuration: {differences}. Use the "
                "settings it was made with, or a new run directory"
            )
        abstract = {
            name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
            for name, array in arrays.items()
        }
        with ocp.StandardCheckpointer() as checkpointer:
            restored = checkpointer.restore(self.path(step) / "state", abstract)
        return jax.tree.unflatten(jax.tree.structure(template), [restored[n] for n in arrays])

    def _meta(self, step: int) -> dict[str, Any]:
        return read_json_object(self.path(step) / "meta.json")

    def _make_room(self, needed: int) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        for leftover in self.directory.glob(f"{_PARTIAL}*"):
            shutil.rmtree(leftover)
        if shutil.disk_usage(self.directory).free < needed:
            raise OSError(f"it needs {needed:,} bytes")


def verify(path: Path) -> str:
    """What is wrong with the checkpoint at `path`; empty when every file matches its manifest."""
    try:
        files = read_manifest(path)["files"]
        check_files(path, files, files)
    except InputError as error:
        return str(error)
    return "" if {"meta.json"} < set(files) else f"{path}: its manifest lists no arrays"


def describe_differences(saved: dict[str, Any], wanted: dict[str, Any], limit: int = 5) -> str:
    """The first differences of two flat mappings, as text; empty when they are equal."""
    names = [n for n in sorted({*saved, *wanted}) if saved.get(n) != wanted.get(n)]
    lines = [f"{n}: saved {saved.get(n, '-')}, now {wanted.get(n, '-')}" for n in names[:limit]]
    if len(names) > limit:
        lines.append(f"and {len(names) - limit} more")
    return "; ".join(lines)


def _named(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _describe(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free:,} bytes are free there."
    except OSError:
        return "Its folder cannot be read."
