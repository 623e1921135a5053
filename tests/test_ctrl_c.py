"""Ctrl-C in the first seconds is one quiet line, in whatever the program is busy with."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

LINE = "stopped; the same command goes on from what is done\n"
# the main thread computes in C, as a compilation does; a wait there would end with the signal
IN_C = """
import hashlib
from thinksafe_jax.__main__ import listen
listen()
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)
"""
CHILD = """
import os, signal, time
from thinksafe_jax.__main__ import listen
listen()
child = os.fork()
if child == 0:
    print("ready", flush=True)
    time.sleep(30)
os.waitpid(child, 0)
print("the child is gone and the parent is not", flush=True)
"""


def started(code: str) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, **pipes)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_heard_in_the_middle_of_c_code(signum):
    process = started(IN_C)
    process.send_signal(signum)
    assert process.communicate(timeout=10)[1] == LINE
    assert process.returncode == 128 + signum


def test_a_forked_child_dies_of_a_signal_without_a_word_and_alone():
    process = started(CHILD)
    (child,) = children(process.pid)
    os.kill(child, signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (out, err, process.returncode) == ("the child is gone and the parent is not\n", "", 0)


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]


@pytest.mark.slow
def test_no_moment_of_the_first_seconds_ends_in_a_traceback_or_is_lost(tmp_path):
    """Of 16 tries 6 were lost, and 3 were tracebacks or segmentation faults."""
    rng = random.Random(os.getpid())  # other moments each time; the message names them
    for number in range(3):
        # the first tenths of a second are those of Python itself
        moment = rng.uniform(0.3, 3.0)
        folder = tmp_path / f"run-{number}"
        command = [sys.executable, "-m", "thinksafe_jax", "run", "-c", "mini", "--run-dir", folder]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, start_new_session=True, **pipes)
        time.sleep(moment)
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail(f"lost after {moment:.3f} s")
        assert process.returncode == 130, f"{moment:.3f} s: {err}"
        assert ("Traceback" not in err and "again" in err) or err.endswith(LINE), f"{moment}: {err}"
