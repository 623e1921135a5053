"""Where requests come from: an iterator that has none yet, and one queue over replicas."""

from dataclasses import dataclass

from tests.sampling.kit import GREEDY, engine, requests, run
from thinksafe_jax.sampling.replica_queue import deal_to_replicas


@dataclass
class Replica:
    """Takes as many requests as it has slots, and finishes none."""

    slots: int = 4
    unfinished: int = 0

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
