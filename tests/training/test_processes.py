"""Several real processes over loopback train as one, and one that is lost ends them all."""

import json
import sys

import numpy as np
import pytest

from tests.support import finish_processes, start_processes
from tests.training import together

pytestmark = pytest.mark.hosts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def alone():
    """(adapter, losses) of one process with all devices of the mesh."""
    return together.run()[:2]


def start(folder, count, *tasks, **environment):
    command = [sys.executable, "-W", "error", "-m", "tests.training.together"]
    command += ["{address}", "{count}", "{index}", str(folder), *tasks]
    done = finish_processes(start_processes(command, count, 4 // count, **environment))
    said = [
        [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        for _, out, _ in done
    ]
    return [code for code, _, _ in done], said, [errors for _, _, errors in done]


@pytest.fixture(scope="module")
def two(folder):
    """Two processes: trained, stopped by a signal to one, then one of them frozen."""
    return start(folder, 2, "whole", "stopped", "frozen", THINKSAFE_SILENCE_LIMIT="10")


@pytest.fixture(scope="module")
def killed(folder):
    return start(folder, 2, "killed")


@pytest.fixture(scope="module")
def four(folder, killed):
    """Four processes: on with what the two had left when one was killed."""
    codes, said, errors = start(folder, 4, "resumed")
    assert codes == [0] * 4, errors
    return said


def assert_same_training(alone, seen, steps=slice(None)):
    """Sums are added in another order; Adam enlarges the rounding where a gradient is nearly 0."""
    np.testing.assert_allclose(seen["losses"], alone[1][steps], rtol=1e-5)
    with np.load(seen["adapter"]) as adapter:
        for name, value in alone[0].items():
            scale = np.abs(value).max()
            np.testing.assert_allclose(adapter[name], value, rtol=5e-3, atol=5e-3 * scale)


def test_two_processes_train_as_one(alone, two):
    _, said, errors = two
    assert all(len(own) == 2 for own in said), errors
    for own in said:
        assert_same_training(alone, own[0])
    assert said[0][0]["losses"] == said[1][0]["losses"]


def test_a_signal_to_one_and_the_clock_of_the_first_decide_for_all(two):
    """Checkpoints after every step since the first process says so; both end at the same step."""
    for own in two[1]:
        assert own[1] == {"task": "stopped", "stopped": 15, "steps": [1, 2, 3]}


def test_a_frozen_peer_trips_the_watchdog(two):
    codes, _, (errors, _) = two
    assert codes[0] == 75
    assert "process 1 (" in errors and "has been silent for" in errors
    assert "train, step 4" in errors  # where it was last seen
    assert "most recent call first" in errors  # the stacks


def test_a_killed_peer_ends_the_others(killed):
    codes, _, (errors, _) = killed
    assert codes == [75, -9]
    assert "process 1 (" in errors and "is gone; it was last seen at: train, step" in errors
    assert "run the same command again on all hosts to resume" in errors
    assert "Traceback" not in errors


def test_four_processes_go_on_where_two_were_and_train_as_one(alone, four):
    for (own,) in four:
        assert own["from"] == 2
        assert_same_training(alone, own, slice(2, None))
