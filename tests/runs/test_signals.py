"""The first stop signal saves and stops, the second ends at once (faults 6, 7)."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.runs.test_directory import RECIPE
from thinksafe_jax.config import to_yaml
from thinksafe_jax.errors import Terminated
from thinksafe_jax.runs import RowStore, Run

pytestmark = pytest.mark.slow

# Units of work, saved one by one. `wait` blocks inside C, as a compilation does.
WORKER = """
import ctypes, sys
from pathlib import Path
from thinksafe_jax.config import load_recipe
from thinksafe_jax.errors import Terminated
from thinksafe_jax.runs import Run
wait = ctypes.CDLL(None).usleep
try:
    with Run.open(load_recipe(Path(sys.argv[1])), sys.argv[2]) as run:
        store = run.store("samples")
        for i in range(100):
            print("unit", flush=True)
            for _ in range(int(sys.argv[3])):
                wait(100_000)
            store.append([{"id": str(i)}])
            run.check_stop()
except Terminated as stop:
    print(stop, file=sys.stderr)
    sys.exit(stop.exit_code)
"""


@pytest.fixture
def start(tmp_path):
    """Start the worker and wait until it is inside its first unit."""
    (tmp_path / "recipe.yaml").write_text(to_yaml(RECIPE))
    started = []

    def start_worker(tenths_of_a_second: int) -> subprocess.Popen:
        arguments = [tmp_path / "recipe.yaml", tmp_path / "run", str(tenths_of_a_second)]
        command = [sys.executable, "-c", WORKER, *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, **pipes))
        assert started[-1].stdout.readline() == "unit\n"
        return started[-1]

    yield start_worker
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_finishes_and_saves_the_unit(start, tmp_path, signum):
    worker = start(20)  # the signal comes within the unit on a busy machine, too
    worker.send_signal(signum)
    _, errors = worker.communicate(timeout=30)
    assert worker.returncode == 128 + signum
    assert "finishing the unit of work" in errors
    assert "run the same command again to resume" in errors
    assert RowStore(tmp_path / "run" / "samples").read() == [{"id": "0"}]
    assert (tmp_path / "run" / "lock").read_bytes() == b"", "it closed properly"


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once_as_a_kill_would(start, tmp_path, second):
    worker = start(600)
    worker.send_signal(signal.SIGINT)
    assert "finishing the unit of work" in worker.stderr.readline()
    time.sleep(0.6)
    assert worker.poll() is None
    sent = time.monotonic()
    worker.send_signal(second)
    worker.communicate(timeout=30)
    assert time.monotonic() - sent < 10, "the unit takes a minute"
    assert worker.returncode == 128 + second
    with Run.open(RECIPE, tmp_path / "run") as run:
        assert run.store("samples").read() == []


def test_a_signal_delivered_twice_at_once_is_one_request(start, tmp_path):
    """timeout(1) signals both its child and the child's process group."""
    worker = start(20)
    worker.send_signal(signal.SIGTERM)
    time.sleep(0.02)
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=30)
    assert worker.returncode == 143
    assert RowStore(tmp_path / "run" / "samples").read() == [{"id": "0"}]


def test_nothing_happens_without_a_signal_and_handlers_are_given_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Run.open(RECIPE, tmp_path) as run:
        run.check_stop()
        assert signal.getsignal(signal.SIGTERM) != before[0]
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Terminated):
            run.check_stop()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_run_can_be_opened_outside_the_main_thread(tmp_path):
    failures = []

    def work():
        try:
            with Run.open(RECIPE, tmp_path) as run:
                run.check_stop()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []


FORKING = """
import os, signal, sys, time
from thinksafe_jax.runs.signals import StopSignals
with StopSignals() as stop:
    for signum in (signal.SIGTERM, signal.SIGINT):
        born, told = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(told, b".")
            time.sleep(60)
            os._exit(0)
        os.read(born, 1)
        os.kill(child, signum)
        print(os.waitpid(child, 0)[1], stop.signum, flush=True)
"""


def test_a_forked_workers_signals_end_the_worker_and_not_the_run():
    done = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{signal.SIGTERM:d} None\n{signal.SIGINT:d} None\n"
