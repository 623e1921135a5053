"""Two slices of two hosts each, as Cloud TPU describes them: one mesh, names that say the slice."""

import json
import os
import signal
import sys

import numpy as np
import pytest

from tests.support import finish_processes, start_processes

pytestmark = [pytest.mark.hosts, pytest.mark.slow]


def start(folder, *tasks):
    """Four processes: (exit codes, [what each printed, by task], stderr of each)."""
    address = f"127.{os.getpid() // 250 % 250}.{os.getpid() % 250}.7"  # the port is always 8470
    command = [sys.executable, "-W", "error", "-m", "tests.training.together"]
    command += [address, "2x2", "{index}", str(folder), *tasks]
    done = finish_processes(start_processes(command, 4, 1))
    printed = [[json.loads(x) for x in out.splitlines() if x.startswith("{")] for _, out, _ in done]
    codes, errors = [code for code, _, _ in done], [text for _, _, text in done]
    return codes, [{line["task"]: line for line in lines} for lines in printed], errors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("slices")


@pytest.fixture(scope="module")
def killed(folder):
    """Trained without a fault; trained again, and the last host lost behind the third step."""
    return start(folder, "layout", "slices", "slices killed")


def test_two_slices_of_two_hosts_are_one_mesh(killed):
    _, seen, errors = killed
    for tasks in seen:
        assert tasks["layout"]["name"].endswith(", slice 1"), errors
        # along fsdp hosts of one slice, along data those of both
        assert tasks["layout"]["processes"] == [[0, 1], [2, 3]]


def test_a_lost_host_is_named_with_its_slice(killed):
    codes, _, errors = killed
    assert codes == [75, 75, 75, -signal.SIGKILL], errors
    for text in errors[:3]:
        lost = " ".join(text.split())
        assert "process 3 (" in lost and ", slice 1, pid" in lost
        assert "is gone; it was last seen at: train, step" in lost


def test_training_over_both_slices_is_resumed_to_the_same_bits(folder, killed):
    codes, seen, errors = start(folder, "slices resumed")
    assert codes == [0] * 4, errors
    for undisturbed, again in zip(killed[1], seen, strict=True):
        undisturbed, again = undisturbed["slices"], again["slices resumed"]
        assert again["from"] == 2
        assert again["losses"] == undisturbed["losses"][2:]
        with np.load(undisturbed["adapter"]) as first, np.load(again["adapter"]) as second:
            assert first.files == second.files
            for name in first.files:
                np.testing.assert_array_equal(first[name], second[name], err_msg=name)
