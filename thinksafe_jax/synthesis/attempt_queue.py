"""Whose turn it is: all attempts of all prompts in one queue, which never waits for a verdict.

    prompts ──► next attempt ──► under way ──► a row ──► unjudged ──► accepted
                     ▲                           │           │
                     └──── again, longest first ◄┴───────────┘ not accepted

An attempt that had to wait for the last row of the attempt before it would find most slots idle.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heappop, heappush

from thinksafe_jax.data import Prompt
from thinksafe_jax.synthesis.ladder import WAITING, Attempt, Key, Ledger

# Rows that are judged together. In the tail, where slots are idle, fewer: what is asked again
# should begin before the others end.
MANY, FEW = 256, 32


class AttemptQueue:
    """The attempts of some prompts, in the order in which they can begin.

    Args:
        prompts: taken one by one, as slots become free.
        ladder: attempts of a prompt.
        ledger: what is known of all rows; whoever samples notes them there.
        judge: has a guard judge these attempts, and notes the verdicts in the ledger; None where
            every prompt has all attempts, whatever becomes of them.
    """

    def __init__(
        self,
        prompts: Iterable[Prompt],
        ladder: Sequence[Attempt],
        ledger: Ledger,
        judge: Callable[[list[Key]], None] | None,
    ):
        self._prompts, self._ladder = prompts, ladder
        self._ledger, self._judge = ledger, judge
        self._by_id: dict[str, Prompt] = {}
        self._under_way: set[Key] = set()
        self._unjudged: list[Key] = []
        self._again: list[tuple[int, str]] = []  # (minus the length of the last response, id)

    def __iter__(self) -> Iterator[tuple[Prompt, Attempt] | None]:
        """Attempts; None where the next one depends on rows that are under way."""
        for prompt in self._prompts:
            self._by_id[prompt.id] = prompt
            for number in range(1, len(self._ladder)):  # what an earlier start left unjudged
                if self._ledger.reasons.get((prompt.id, number)) == WAITING:
                    self.note((prompt.id, number))
            yield from self._due(prompt.id)
            if len(self._unjudged) >= MANY:
                self._ask_guard()
                yield from self._due_again()
        while self._under_way or self._unjudged or self._again:
            if len(self._unjudged) >= max(1, min(FEW, len(self._under_way))):
                self._ask_guard()
            yield from self._due_again()
            if self._under_way:
                yield None

    def note(self, attempt: Key) -> None:
        """The ledger knows more of an attempt than before: its row, or its verdict."""
        self._under_way.discard(attempt)
        (id, number), reason = attempt, self._ledger.reasons[attempt]
        if self._judge is None or number == len(self._ladder) or reason in self._ledger.settled:
            return
        if reason == WAITING:
            self._unjudged.append(attempt)
        else:
            heappush(self._again, (-self._ledger.lengths.get(attempt, 0), id))

    def _due(self, id: str) -> Iterator[tuple[Prompt, Attempt]]:
        """The attempts of a prompt that can begin now."""
        most, retry = len(self._ladder), self._judge is not None
        next_attempt = self._ledger.next_attempt
        while number := next_attempt(id, most, self._under_way, retry=retry):
            self._under_way.add((id, number))
            yield self._by_id[id], self._ladder[number - 1]

    def _due_again(self) -> Iterator[tuple[Prompt, Attempt]]:
        while self._again:
            yield from self._due(heappop(self._again)[1])

    def _ask_guard(self) -> None:
        judged, self._unjudged = self._unjudged, []
        assert self._judge is not None, "rows are unjudged only where a guard decides"
        self._judge(judged)
        for attempt in judged:
            self.note(attempt)
