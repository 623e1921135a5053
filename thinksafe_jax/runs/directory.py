"""The run directory as one object: opened, locked, checked against its config, and closed."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from thinksafe_jax.config import RESUMABLE_KEYS, Recipe
from thinksafe_jax.errors import EnvironmentFault
from thinksafe_jax.hosts import Group, current
from thinksafe_jax.runs.contents import keep_config, make_ready, refuse_inside
from thinksafe_jax.runs.manifest import Manifest
from thinksafe_jax.runs.row_store import WHOLE, Part, RowStore
from thinksafe_jax.runs.signals import StopSignals
from thinksafe_jax.runs.training_folders import DATA_STAGES, data_folder
from thinksafe_jax.storage import (
    RunLock,
    content_hash,
    drop_torn_tail,
    mirror_of,
    now,
    persist,
    prepare_directory,
    refresh,
    run_folder,
    shown,
    storage_errors,
    to_line,
)

METRICS_SECONDS = 60.0  # between copies of metrics.jsonl to a bucket: a log goes there whole


class Run:
    """An open run directory; made by `Run.open`.

    Attributes:
        path: the directory.
        data: where its samples, verdicts and dataset lie: of a training, in the run around it.
        recipe: what runs in it, as resolved.
        manifest: its manifest.json.
        skip_bad_rows: whether rows that cannot be read are left out and counted.
        part: the rows that this process works on; others may work on the rest at the same time.
        group: the processes that work on it together. The first alone writes manifest and metrics.
    """

    def __init__(
        self,
        recipe: Recipe,
        path: Path,
        manifest: Manifest,
        stop: StopSignals,
        skip_bad_rows: bool,
        part: Part,
    ):
        self.recipe, self.path, self.manifest, self.part = recipe, path, manifest, part
        self.data = data_folder(path)
        self._stop, self.skip_bad_rows = stop, skip_bad_rows
        self._logged = time.monotonic()
        self.group = current()
        if self.group.first:
            with storage_errors(self._metrics):
                drop_torn_tail(self._metrics)

    @staticmethod
    @contextmanager
    def open(
        recipe: Recipe,
        path: Path | str,
        *,
        new_run: bool = False,
        new_verdicts: bool = False,
        new_training: bool = False,
        skip_bad_rows: bool = False,
        part: Part = WHOLE,
    ) -> Iterator["Run"]:
        """Take hold of a run directory, new or begun before.

        Starts no JAX and loads no model, so every refusal comes within a second. Of several
        processes that have joined (`hosts.join`) the first does so for all, and each gets its part.

        Args:
            path: a folder, or a URL as gs://bucket/run (see `mirror`).
            new_run: delete what an earlier run left in the directory (only names a run writes).
            new_verdicts: delete the verdicts and what was made of them; `guard` and `judge` may
                then differ from those that the directory was begun with.
            new_training: set the training aside where `training.*` differs from that with which
                the directory was begun; keep samples, verdicts and dataset.
            skip_bad_rows: for the stores made by `store`.
            part: of several processes in the same directory; the whole shuts out all parts.

        Raises:
            EnvironmentFault: the directory cannot be made or written.
            ConfigError: in use by another process; begun with another configuration; or full of
                files that are no run.
        """
        path, group, recipe_hash = run_folder(path), current(), _recipe_hash(recipe)
        part = Part(group.index, group.count) if group.count > 1 else part
        if not group.first:
            with StopSignals() as stop:
                manifest = _shared_manifest(group, path, recipe_hash)
                _send_rows(path)
                yield Run(recipe, path, manifest, stop, skip_bad_rows, part)
            return
        refuse_inside(path)
        prepare_directory(path)
        with ExitStack() as stack:
            _lock(stack, path, WHOLE if group.count > 1 else part)
            anew = {"new_verdicts": new_verdicts, "new_training": new_training}
            make_ready(recipe, path, new_run=new_run, **anew)
            stop = stack.enter_context(StopSignals())  # from the first sign of a run on
            keep_config(recipe, path)
            manifest = Manifest(path / "manifest.json", recipe_hash, new_verdicts=new_verdicts)
            group.decide("run directory", content_hash(manifest.path))
            yield Run(recipe, path, manifest, stop, skip_bad_rows, part)

    def store(
        self, name: str, key: tuple[str, ...] = ("id",), fields: Mapping[str, type] | None = None
    ) -> RowStore:
        """The rows beneath a folder of the run, as `store("samples", ("id", "attempt"))`."""
        writer, skip = self.part.name, self.skip_bad_rows
        folder = self.path / name
        return RowStore(folder, key, fields=fields, skip_bad_rows=skip, writer=writer)

    def log(self, stage: str, **values: Any) -> None:
        """Append a line to metrics.jsonl; NaN becomes null, arrays of one number become it.

        After a resume the steps since the last checkpoint appear twice; the later line counts. Of
        several processes the first writes; what the others log is dropped.
        """
        if not self.group.first:
            return
        line = to_line({"time": now(), "stage": stage, **values})
        with storage_errors(self._metrics), self._metrics.open("ab") as file:
            file.write(line)
        if time.monotonic() - self._logged > METRICS_SECONDS:
            persist(self._metrics, wait=False)  # training goes on while a checkpoint is sent
            self._logged = time.monotonic()

    def is_done(self, stage: str, inputs_hash: str) -> bool:
        """Whether a stage was finished with exactly these inputs; see `content_hash`."""
        manifest = self.manifest
        if stage in DATA_STAGES and self.data != self.path:
            manifest = Manifest(self.data / "manifest.json", "", read_only=True)
        return manifest.is_done(stage, inputs_hash)

    def mark_done(self, stage: str, inputs_hash: str, **facts: Any) -> None:
        """Record a finished stage; its outputs must be on the disk by now."""
        persist(self.path)  # before the manifest says so
        if self.group.first:
            self.manifest.mark_done(stage, inputs_hash, facts)

    def facts(self, stage: str) -> dict[str, Any]:
        """What `mark_done` recorded for a stage; empty before."""
        return self.manifest.facts(stage)

    def check_stop(self) -> None:
        """Call between units of work, when they are saved.

        Raises:
            Terminated: after SIGTERM or Ctrl-C.
            RetryLater: another process was lost.
        """
        self._stop.check()
        self.group.check()
        self.group.beat()

    @property
    def _metrics(self) -> Path:
        apart = self.part.name and self.group.count == 1
        return self.path / (f"metrics-{self.part.name}.jsonl" if apart else "metrics.jsonl")


def _lock(stack: ExitStack, path: Path, part: Part) -> None:
    """Locks a run directory, and the bucket behind it, until the stack is closed.

    Args:
        part: a part locks itself and shares the directory; the whole shares it with nobody. A
            training shares the run around it, with other trainings and with parts.
    """
    run = data_folder(path)
    shares = bool(part.name) or run != path
    stack.callback(RunLock(run / "lock", shared=shares).release)
    if run != path:
        stack.callback(RunLock(path / "lock").release)
    elif part.name:
        stack.callback(RunLock(path / f"lock-{part.name}").release)
    if mirror := mirror_of(run):
        name = part.name if run == path else f"training-{content_hash(path.name)[:12]}"
        stack.enter_context(mirror.held(*_lease(name)))


def _lease(name: str) -> tuple[str, Callable[[str], bool]]:
    """(name of the lease, which other leases it excludes): the whole shuts out all others.

    Args:
        name: of a part or a training; "" is the whole.
    """
    if name:
        return f"lock-{name}", lambda other: other == "lock"
    return "lock", lambda other: re.fullmatch(r"lock-(\d+of\d+|training-\w+)", other) is not None


def _shared_manifest(group: Group, path: Path, recipe_hash: str) -> Manifest:
    """The manifest that the first process has just opened, as this one sees it."""
    opened = group.decide("run directory")
    refresh(path)
    file = path / "manifest.json"
    deadline = time.monotonic() + group.limits.lag
    while content_hash(file) != opened:
        if time.monotonic() > deadline:
            raise EnvironmentFault(
                f"{shown(path)} of {group.describe(group.index)} is not the directory that "
                f"{group.describe(0)} has opened; a run of several hosts needs one that all of "
                "them see: NFS, or a bucket"
            )
        time.sleep(1.0)
        refresh(path)
    return Manifest(file, recipe_hash, read_only=True)


def _send_rows(path: Path) -> None:
    """Sends the rows that were complete here when a kill came before the bucket had them.

    They count as done on this host, so the others must see them too.
    """
    for folder in {shard.parent for shard in path.rglob("part-*.jsonl")}:
        persist(folder)


def _recipe_hash(recipe: Recipe) -> str:
    """Hash of a recipe but for its name and place, and for what may change in its training.

    Another mesh or draft, which may change last bits, has another hash.
    """
    default = Recipe()
    names = [key.removeprefix("training.") for key in RESUMABLE_KEYS if key.startswith("training.")]
    training = replace(recipe.training, **{n: getattr(default.training, n) for n in names})
    guard = replace(recipe.guard, max_unparsed=default.guard.max_unparsed)
    recipe = replace(recipe, training=training, guard=guard, on_policy=recipe.on_policy.comparable)
    return content_hash(replace(recipe, name="", run_dir=""))
