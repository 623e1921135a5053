"""Real processes that join with JAX, before a run catches signals."""

import signal
import sys

import pytest

from tests.support import finish_processes, start_processes

pytestmark = pytest.mark.hosts

JOINED = """
import importlib, sys, time
import pytest
from thinksafe_jax import hosts
def wait():
    hosts.join(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    print("joined", flush=True)
    time.sleep(60)
script = importlib.import_module("thinksafe_jax.cli.entry_point")
script.app = wait
script.main()
"""


def test_sigterm_ends_a_process_that_has_joined_at_once():
    places = ["{address}", "{count}", "{index}"]
    processes = start_processes([sys.executable, "-c", JOINED, *places], 2, 1)
    assert processes[1].stdout.readline() == "joined\n"
    processes[1].send_signal(signal.SIGTERM)
    (first, _, errors), (second, _, _) = finish_processes(processes, timeout=20)
    assert second == -signal.SIGTERM and first == 75
    assert "process 1 (" in errors and "is gone" in errors
