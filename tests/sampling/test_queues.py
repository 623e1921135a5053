"""Where requests come from: an iterator that has none yet, and one queue over replicas."""

from dataclasses import dataclass
from unittest.mock import Mock

import pytest

from tests.sampling.kit import GREEDY, engine, requests, run
from thinksafe_jax.config import EngineConfig
from thinksafe_jax.sampling import Request
from thinksafe_jax.sampling.pages import PageAllocator
from thinksafe_jax.sampling.replica_queue import deal_to_replicas
from thinksafe_jax.sampling.scheduler import Scheduler
from thinksafe_jax.sampling.stats import EngineStats


@dataclass
class Replica:
    """Takes as many requests as it has slots, and finishes none."""

    slots: int = 4
    unfinished: int = 0
    pages: int = 1000  # a request takes one

    def can_begin(self, requests):
        return len(requests) <= min(self.slots - self.unfinished, self.pages)

    def fill(self, queue):
        taken = []
        while self.unfinished < self.slots and (request := next(queue, None)) is not None:
            taken.append(request)
            self.unfinished += 1
        return taken


def test_replicas_begin_with_as_many_requests_each():
    """Six requests over three replicas of four slots: the first takes two, and not four."""
    replicas = [Replica(), Replica(), Replica()]
    queues = deal_to_replicas(iter("abcdef"), replicas, 3)
    taken = [replica.fill(queue) for replica, queue in zip(replicas, queues, strict=True)]
    assert sorted(map(len, taken)) == [2, 2, 2]
    assert sorted(name for names in taken for name in names) == list("abcdef")


def test_a_long_queue_is_taken_in_order_as_slots_become_free():
    replicas = [Replica(), Replica()]
    letters = iter("abcdefghijkl")
    queues = deal_to_replicas(letters, replicas, 2)
    first = [replica.fill(queue) for replica, queue in zip(replicas, queues, strict=True)]
    assert sorted(first[0] + first[1]) == list("abcdefgh")
    replicas[1].unfinished -= 1
    assert replicas[1].fill(queues[1]) == ["i"]
    assert next(letters) == "j"  # nothing is taken before it can begin


def test_a_replica_without_pages_is_dealt_nothing_while_another_has_room():
    """It has the fewer rows, and slots; what it got would wait for pages."""
    full, roomy = Replica(unfinished=1, pages=0), Replica(unfinished=2)
    queues = deal_to_replicas(iter("ab"), [full, roomy], 2)
    assert roomy.fill(queues[1]) == ["a", "b"]


def test_pages_that_dealt_requests_will_take_are_not_dealt_again():
    scarce, roomy = Replica(pages=1), Replica(slots=8)
    queues = deal_to_replicas(iter("abcde"), [scarce, roomy], 2)
    assert len(roomy.fill(queues[1])) == 4
    assert len(scarce.fill(queues[0])) == 1


def test_the_replica_that_asks_is_dealt_to_where_none_has_room():
    replicas = [Replica(pages=0), Replica(pages=0)]
    queues = deal_to_replicas(iter("a"), replicas, 2)
    assert next(queues[1]) == "a"


def test_one_replica_has_the_queue_itself():
    letters = iter("ab")
    assert deal_to_replicas(letters, [], 1) == [letters]


@pytest.mark.parametrize("shards", [1, 2])
def test_a_scheduler_begins_just_what_it_says_that_it_can(shards):
    """Pages are scarce: some of eight requests can begin, and the next one has to wait."""
    some = [Request(f"row-{n}", [1] * 9, GREEDY) for n in range(8)]
    config = EngineConfig(slots=8, window=2, page_size=4)

    def scheduler(queue):
        pages = PageAllocator(9, 8, 8, config.page_size, shards)
        return Scheduler(Mock(), config, pages, shards, [], iter(queue), EngineStats())

    begun = scheduler(some)
    begun._admit()
    count = begun.active
    assert 1 < count < 8
    assert scheduler([]).can_begin(some[:count])
    assert not scheduler([]).can_begin(some[: count + 1])
    assert not begun.can_begin(some[:1])  # the one that waits goes first


def test_none_yet_is_handed_on_and_asked_again():
    replica = Replica()
    (queue,) = deal_to_replicas(iter([None, "a", None, "b"]), [replica], 1)
    assert [next(queue) for _ in range(4)] == [None, "a", None, "b"]


def test_a_request_may_depend_on_a_completion_that_is_still_to_come(model):
    """The queue says that it has none yet; it ends when it has said all, not before."""
    first, *others = requests(5, GREEDY)
    done = {}

    def queue():
        yield first
        while not done:
            yield None
        yield from others

    sampler = engine(model)
    for completion in sampler.generate(queue()):
        done[completion.id] = completion.token_ids
    assert next(iter(done)) == first.id
    again = run(sampler, [first, *others])
    assert done == {name: completion.token_ids for name, completion in again.items()}
