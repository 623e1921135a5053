"""One of several processes fails, stops or hangs: the others end soon, and say why.

They are real processes without JAX, which starts in a fraction of a second.
"""

import os
import subprocess
import sys
import threading

import pytest

from tests.support import finish_processes, start_processes

pytestmark = pytest.mark.hosts

MEMBER = """
import os, signal, socket, sys, time
from dataclasses import replace
from thinksafe_jax.errors import InputError, Terminated, ThinkSafeError
from thinksafe_jax.hosts import connected_group
from thinksafe_jax.hosts.cluster import find_cluster
from thinksafe_jax.hosts.connected_group import ConnectedGroup
from thinksafe_jax.hosts.time_limits import Limits
from thinksafe_jax.hosts.rendezvous import Rendezvous

cluster = find_cluster(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
limits = Limits.from_environment(alone=False)
rendezvous = None if cluster.index else Rendezvous(cluster, limits)
striker, blow = int(sys.argv[4]), sys.argv[5]
if blow == "stop":
    connected_group._GRACE, connected_group._PATIENCE = 0.1, 9.0  # half a minute is long for a test
if blow == "late":  # its own watchdog sleeps, so that the meeting's limit is what counts
    limits = replace(limits, step=0.0)
group = ConnectedGroup(cluster, limits, rendezvous)
group.beat("row 1")
group.barrier("begin")
group.beat("row 2")
try:
    if cluster.index == striker:
        if blow == "input":
            raise InputError("prompts.jsonl:7: not JSON")
        if blow == "bug":
            raise KeyError("a bug")
        if blow == "stop":
            raise Terminated(signal.SIGTERM)
        if blow == "astray":
            group.barrier("export")
        if blow in ("hang", "late"):
            time.sleep(60)
        os.kill(os.getpid(), getattr(signal, blow))
    group.barrier("rows of samples")
except ThinkSafeError as error:
    print(error, file=sys.stderr, flush=True)
    if blow == "stop" and cluster.index != striker:
        time.sleep(1.5)  # what it has in hand is saved
        socket.create_connection((cluster.host, cluster.port))
        print("process 0 was still there", file=sys.stderr, flush=True)
    group.fail(str(error), error.exit_code)
except KeyError:
    group.fail("failed; its own message says why", 1)
"""


def strike(index, blow, count=3, **environment):
    """(exit codes, what each said) after process `index` did something unforeseen."""
    places = ["{address}", "{count}", "{index}"]
    command = [sys.executable, "-c", MEMBER.replace("{", "{{").replace("}", "}}"), *places]
    processes = start_processes([*command, str(index), blow], count, 1, **environment)
    done = finish_processes(processes, patience=3)
    return [code for code, _, _ in done], [errors for _, _, errors in done]


@pytest.mark.parametrize("index", [0, 2])
def test_a_killed_process_ends_the_others(index):
    codes, errors = strike(index, "SIGKILL")
    assert codes.pop(index) == -9 and codes == [75, 75]
    for line in errors[:index] + errors[index + 1 :]:
        assert f"process {index} (" in line and "is gone" in line
        assert "run the same command again on all hosts to resume" in line


@pytest.mark.parametrize("index", [0, 1])
def test_a_stopped_process_is_noticed_by_its_silence(index):
    codes, errors = strike(index, "SIGSTOP", count=2, THINKSAFE_SILENCE_LIMIT="4")
    assert codes == [75, -9][:: 1 if index else -1]
    line = errors[1 - index]
    assert f"process {index} (" in line and "has been silent for" in line
    # what it did last; process 0 may stop before it has told that all are past the first meeting
    assert "row 2" in line or (index == 0 and "row 1" in line)
    assert "most recent call first" in line  # the stacks


def test_a_step_that_stops_trips_the_watchdog():
    codes, errors = strike(1, "hang", count=2, THINKSAFE_STEP_LIMIT="3")
    assert codes == [75, 75]
    assert "watchdog: this process made no progress for" in errors[1] and "row 2" in errors[1]
    assert "most recent call first" in errors[1]  # the stacks
    assert "process 1 (" in errors[0] and "made no progress" in errors[0]


def test_who_does_not_come_to_a_meeting_is_named_with_its_name():
    codes, errors = strike(1, "late", count=2, THINKSAFE_STEP_LIMIT="3")
    assert codes == [75, 75]
    assert "process 1 (" in errors[0]
    assert "did not come to 'rows of samples' and has made no progress for" in errors[0]


@pytest.mark.parametrize("index", [0, 1])
def test_an_error_of_one_has_its_exit_code_everywhere(index):
    codes, errors = strike(index, "input", count=2)
    assert codes == [3, 3]
    assert "prompts.jsonl:7: not JSON" in errors[1 - index]


def test_a_bug_in_one_shows_its_traceback_there_and_its_name_elsewhere():
    codes, errors = strike(1, "bug", count=2)
    assert codes == [1, 1]
    assert "KeyError: 'a bug'" in errors[1]
    assert "process 1 (" in errors[0] and "Traceback" not in errors[0]


@pytest.mark.parametrize("index", [0, 1])
def test_who_is_asked_to_stop_leaves_the_others_time_to_save(index):
    """Process 0 stays for them: JAX's service is in it, and a process without that aborts."""
    codes, errors = strike(index, "stop", count=2)
    assert codes[index] == 143 and codes[1 - index] == 75
    assert f"process {index} (" in errors[1 - index] and "stopped by signal 15" in errors[1 - index]
    assert "process 0 was still there" in errors[1 - index]


def test_who_waits_at_different_points_ends_and_both_are_named():
    codes, errors = strike(1, "astray", count=2)
    assert codes == [4, 4]
    for error in errors:
        assert "'rows of samples': process 0 (" in error and "'export': process 1 (" in error
        assert "most recent call first" in error  # the stacks


WATCHED = """
import time
from thinksafe_jax.hosts import current, join
join()
for step in range(3):
    current().beat(f"step {step}")
time.sleep(60)
"""


def test_the_watchdog_of_one_process_has_to_be_asked_for():
    environment = {**os.environ, "THINKSAFE_STEP_LIMIT": "3"}
    command = [sys.executable, "-c", WATCHED]
    watched = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert watched.returncode == 75
    assert "at: step 2" in watched.stderr and "THINKSAFE_STEP_LIMIT" in watched.stderr
    assert "watchdog" not in {thread.name for thread in threading.enumerate()}  # nobody asked
