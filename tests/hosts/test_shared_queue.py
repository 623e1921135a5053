"""One queue over processes, which are threads here: each item goes to one of them."""

import time

import pytest

from tests.hosts.test_group import together
from thinksafe_jax.errors import RetryLater
from thinksafe_jax.hosts import Group, shared_queue


def test_each_item_goes_to_one_process_and_all_begin_with_their_share():
    def work(group):
        return list(shared_queue(group, "rows", range(100), at_once=4))

    taken = together(work)
    assert sorted(n for of_process in taken for n in of_process) == list(range(100))
    assert [of_process[:4] for of_process in taken] == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]


def test_who_is_slow_takes_fewer():
    def work(group):
        taken = []
        for item in shared_queue(group, "rows", range(60), at_once=2):
            time.sleep(0.05 if group.first else 0.0)
            taken.append(item)
        return taken

    slow, *others = together(work)
    assert 2 <= len(slow) < 10 and all(len(of_process) > 15 for of_process in others)


def test_what_all_can_begin_at_once_is_dealt_evenly():
    """Process 0 has more free slots than there are rows, and still leaves the others theirs."""
    taken = together(lambda group: list(shared_queue(group, "rows", range(8), at_once=64)))
    assert sorted(map(len, taken)) in ([2, 2, 4], [2, 3, 3])
    assert sorted(n for of_process in taken for n in of_process) == list(range(8))


def test_a_name_that_is_used_again_is_another_queue():
    def work(group):
        return [list(shared_queue(group, "step", range(9), at_once=1)) for _ in range(3)]

    for queues in zip(*together(work), strict=True):
        assert sorted(n for of_process in queues for n in of_process) == list(range(9))


def test_a_process_alone_takes_all_in_order():
    assert list(shared_queue(Group(), "rows", "abcdefg", at_once=2)) == list("abcdefg")
    assert list(shared_queue(Group(), "rows", "", at_once=2)) == []


def test_a_lost_process_is_heard_of_at_the_next_item():
    def work(group):
        queue = shared_queue(group, "rows", range(1000), at_once=1)
        next(queue)
        group.barrier("begun")
        if group.index == 2:
            return group.close()
        with pytest.raises(RetryLater, match=r"process 2 \(.*\) is gone"):
            for _ in queue:
                time.sleep(0.01)
        group.close()  # before it winds up
        return None

    assert together(work) == [None] * 3
