"""A study from its file to its page; the same command goes on where it was stopped.

What computes is imported in the functions, so that a file is refused before JAX is imported.
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from thinksafe_jax.errors import InputError
from thinksafe_jax.storage import atomic_write, prepare_directory
from thinksafe_jax.studies.study_file import Study
from thinksafe_jax.studies.units import heldout_units, validation_units

_log = logging.getLogger(__name__)
HELPER = "THINKSAFE_STUDY_HELPER"  # set in the processes that `--jobs` starts
_PATIENCE = 60  # seconds that a helper has to end


def default_folder(study: Study) -> str:
    """Where a study goes if nobody says: what its file names, or studies/<name>."""
    return study.config.study_dir or f"studies/{study.config.name}"


def run_study(
    study: Study, root: Path, *, jobs: int = 1, retry: bool = False
) -> dict[str, Any] | None:
    """Runs what is missing of a study and writes STUDY_DIR/results.json and study.html.

    Args:
        root: STUDY_DIR; several processes, on several hosts too, may work in it at once.
        jobs: processes on this machine.
        retry: try what failed before once more.

    Returns:
        The content of results.json; None in a helper, which writes none.

    Raises:
        ConfigError, InputError: prompts or questions cannot be read, or splits share prompts.
        EnvironmentFault, RetryLater, Terminated: as `run_pipeline`; run the same command again.
    """
    from thinksafe_jax.studies.inputs import check_inputs
    from thinksafe_jax.studies.results import write_results
    from thinksafe_jax.studies.study_page import write_page
    from thinksafe_jax.studies.work_off import set_changed_aside, work_off

    prepare_directory(root)
    is_helper = bool(os.environ.get(HELPER))
    if is_helper:
        _end_with_parent()
    else:
        check_inputs(study, root)
        if retry:
            shutil.rmtree(root / "failures", ignore_errors=True)
        # of both rounds, and before a helper is there: it would meet a changed folder as it is
        set_changed_aside([*validation_units(study), *heldout_units(study)], root)
        atomic_write(root / "study.yaml", study.path.read_text(encoding="utf-8"))
    with ExitStack() as stack:
        for number in range(2, jobs + 1):
            stack.enter_context(_helper(study, root, number))
        work_off(validation_units(study), root)
        work_off(heldout_units(study, _chosen(study, root)), root)
    if is_helper:
        return None
    results = write_results(study, root)
    write_page(results, root / "study.html")
    return results


def _chosen(study: Study, root: Path) -> Mapping[str, str | None]:
    from thinksafe_jax.studies.results import choices

    chosen = {name: choice.chosen for name, choice in choices(study, root).items()}
    for name, setting in chosen.items():
        if setting is None:
            _log.warning("%s: no setting could be measured; it is left out", name)
    if not any(chosen.values()):
        raise InputError(
            f"{root}: no setting of any method could be measured: runs failed (see {root}/failures)"
            ", or no answer to the validation split could be read"
        )
    return chosen


@contextmanager
def _helper(study: Study, root: Path, number: int) -> Iterator[None]:
    """Another process that works the study off, until the block ends.

    It watches its standard input, which the kernel closes with this process, however that ends.
    """
    folder = root / "jobs"
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "thinksafe_jax", "study", str(study.path)]
    with (folder / f"job-{number}.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--study-dir", str(root)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, HELPER: str(number)},
        )
    try:
        yield
        code = process.wait()
        if code:
            _log.warning("job %d ended with code %d; see %s", number, code, log.name)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        assert process.stdin is not None
        process.stdin.close()


def _end_with_parent() -> None:
    """Asks this process to stop, as by SIGTERM, when the one that started it is no more."""

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)  # unbuffered: a reader that holds a lock mars the exit
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()
