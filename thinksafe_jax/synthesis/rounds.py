"""Sampling and judging: each prompt is asked until the guard accepts, all of them in one queue.

    prompts ─► AttemptQueue ─► engine ─► samples/ ─► guard ─► verdicts/
                    ▲                                  │
                    └─────────── not accepted ◄────────┘

Both stores are the only state. After a kill the ledger is read back from them and every attempt
goes on where it was: the same rows come out, because a completion depends on its prompt's id and
its attempt alone.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from thinksafe_jax.config import SynthesisConfig
from thinksafe_jax.data import Prompt
from thinksafe_jax.guards import Exchange, Guard, check_unparsed
from thinksafe_jax.hosts import Group, shared_queue
from thinksafe_jax.machine import peak_memory
from thinksafe_jax.runs import WHOLE, Part, RowBuffer, RowStore
from thinksafe_jax.sampling import Completion, Request
from thinksafe_jax.synthesis.attempt_queue import FEW, AttemptQueue
from thinksafe_jax.synthesis.ladder import ACCEPTED, WAITING, Key, Ledger, attempts
from thinksafe_jax.synthesis.sampled_rows import fixed_rows, plan_attempt, sample_rows
from thinksafe_jax.terminal import Progress

if TYPE_CHECKING:
    from thinksafe_jax.tokenizer import ChatTokenizer

_log = logging.getLogger(__name__)
_CHECKED = 1024  # verdicts after which a guard that cannot be read is known


class Sampler(Protocol):
    """What is needed of `sampling.Engine`."""

    stats: Any

    def refuses(self, request: Request) -> str | None: ...

    @property
    def slots(self) -> int: ...

    def generate(self, requests: Iterator[Request | None], /) -> Iterator[Completion]: ...


@dataclass
class Rounds:
    """The stores of a run and who fills them.

    Args:
        prompts: all of them; read once, looked up by id.
        ledger: read back from the stores, of all processes.
        check_stop: raises when the run was asked to stop; called when rows are safe.
        part: of the rows, as this process writes them.
        group: the processes that sample together, each a part.

    Attributes:
        judged: verdicts of this object so far.
        judging_seconds: what those took that `sample` asked for.
    """

    cfg: SynthesisConfig
    prompts: Sequence[Prompt]
    tokenizer: "ChatTokenizer"
    samples: RowStore
    verdicts: RowStore
    ledger: Ledger
    check_stop: Callable[[], None]
    part: Part = WHOLE
    group: Group = field(default_factory=Group)
    judged: int = field(default=0, init=False)
    judging_seconds: float = field(default=0.0, init=False)

    def fixed(self) -> None:
        """Rows of the methods that sample nothing."""
        known = self.ledger.labels.keys()
        with RowBuffer(self.samples, self.ledger.placed) as buffer:
            for row in fixed_rows(self.prompts, self.cfg, self.tokenizer):
                if row["id"] not in known:
                    self._keep(row, buffer)

    def sample(self, engine: Sampler, guard: Guard | None = None, max_unparsed: float = 1.0) -> int:
        """Samples the attempts that are still to come; returns how many rows it made.

        Args:
            guard: says after each attempt but the last whether there is another; None where every
                prompt has all attempts.
            max_unparsed: as of `judge`.

        Raises:
            InputError: as `judge`, and nothing is asked again.
        """
        prompts, expected = self._unfinished(engine, retry=guard is not None)
        if not expected:
            return 0
        self.check_stop()  # the first row may be long in coming
        by_id = {prompt.id: prompt for prompt in self.prompts}
        ladder, made, sound = attempts(self.cfg), 0, 0
        with (
            Progress("sample", expected) as bar,
            RowBuffer(self.samples, self.ledger.placed) as buffer,
        ):

            def judge(rows: list[Key]) -> None:
                assert guard is not None
                buffer.flush()  # the texts are read from there
                began = time.monotonic()
                for _ in self._verdicts(guard, rows, max_unparsed):
                    pass
                # a handful says nothing of the guard; and a resume may have few rows left
                if self.ledger.words.total() >= min(FEW, len(self.prompts)):
                    self._check_guard(guard, max_unparsed)
                self.judging_seconds += time.monotonic() - began

            queue = AttemptQueue(prompts, ladder, self.ledger, judge if guard else None)
            requests = self._requests(queue, engine, buffer)
            for row in sample_rows(engine.generate(requests), by_id, ladder, self.tokenizer):
                self._keep(row, buffer, queue)
                stats, made = engine.stats, made + 1
                rate = stats.tokens / max(stats.seconds, 1e-9)
                sound += self.ledger.reasons[row["id"], row["attempt"]] in (WAITING, ACCEPTED)
                share = sound / made
                bar.advance(active=stats.active, tokens_per_s=rate, well_formed=share)
                self.check_stop()
        judged = f" ({self.judging_seconds:.0f} s of them judging)" if self.judged else ""
        memory = peak_memory() / 1e9
        _log.info("sample: %s%s, peak memory %.1f GB", engine.stats, judged, memory)
        return made

    def _unfinished(self, engine: Sampler, *, retry: bool) -> tuple[Iterator[Prompt], int]:
        """What this process samples, and how many prompts that is; likely the longest first.

        The first process says what is to be sampled, for its rows are the ones that count; each
        takes the next prompt when a slot is free. A prompt that only waits for the guard would take
        no slot, so it is of the process that its hash names.
        """
        most, ledger = self.cfg.attempts, self.ledger

        def is_due(prompt: Prompt) -> bool:
            return ledger.next_attempt(prompt.id, most, retry=retry) is not None

        numbers = {prompt.id: n for n, prompt in enumerate(self.prompts)}
        ordered = ledger.longest_first(self.prompts)
        due = [numbers[prompt.id] for prompt in ordered if is_due(prompt)]
        shared = [self.prompts[n] for n in self.group.decide("prompts to sample", due)]
        others = numbers.keys() - {prompt.id for prompt in shared}
        waiting = {id for id, number in ledger.waiting() if retry and number < most}
        rest = [p for p in ordered if p.id in others and p.id in self.part]
        rest = [prompt for prompt in rest if prompt.id in waiting or is_due(prompt)]
        queue = shared_queue(self.group, "prompts", shared, engine.slots)
        return chain(rest, queue), len(rest) + -(-len(shared) // self.group.count)

    def _requests(
        self, queue: AttemptQueue, engine: Sampler, buffer: RowBuffer
    ) -> Iterator[Request | None]:
        """What the engine is asked; an attempt that cannot be sampled is a row at once."""
        for turn in queue:
            if turn is None:
                yield None
                continue
            prompt, attempt = turn
            for item in plan_attempt([prompt], attempt, self.tokenizer, engine.refuses):
                if isinstance(item, Request):
                    yield item
                else:
                    self._keep(item, buffer, queue)

    def judge(self, guard: Guard, max_unparsed: float = 1.0) -> int:
        """Asks the guard about every well-formed row without a verdict; returns how many.

        Of several processes each asks about the rows that it wrote.

        Args:
            max_unparsed: share of unparsed verdicts above which the run stops.

        Raises:
            InputError: too many of its verdicts are unparsed, see `check_unparsed`; those are kept.
        """
        shards = {key: self.ledger.places[key][0] for key in self.ledger.waiting()}
        waiting = [key for key, shard in shards.items() if self.part.follows_up(key[0], shard)]
        if not waiting:
            return 0
        said: Counter[str] = Counter()
        with Progress("filter", len(waiting)) as bar:
            for reason in self._verdicts(guard, waiting, max_unparsed):
                said[reason] += 1
                bar.advance(accepted=said[ACCEPTED], unparsed=said["unparsed"])
        self._check_guard(guard, max_unparsed)
        return len(waiting)

    def _check_guard(self, guard: Guard, max_unparsed: float) -> None:
        """Over all verdicts that are known, those of earlier starts among them."""
        words = self.ledger.words
        check_unparsed(words["unparsed"], words.total(), max_unparsed, guard.name)

    def _verdicts(
        self, guard: Guard, waiting: Collection[Key], max_unparsed: float
    ) -> Iterator[str]:
        """Asks the guard; gives what became of each row, when its verdict is kept and noted."""
        with RowBuffer(self.verdicts) as buffer:
            for verdict in guard.judge(self._exchanges(waiting)):
                id, _, number = verdict.id.rpartition("#")
                row = {**verdict.row(int(number)), "id": id}
                buffer.add(row)
                self.ledger.judged(row)
                self.judged += 1
                yield self.ledger.reasons[id, int(number)]
                self.check_stop()
                if self.judged % _CHECKED == 0:
                    self._check_guard(guard, max_unparsed)

    def _exchanges(self, waiting: Collection[Key]) -> Iterator[Exchange]:
        """The guard sees the ORIGINAL prompt and the whole response, in the order of the rows."""
        for row in self.samples.rows_at(sorted(self.ledger.places[key] for key in waiting)):
            name = f"{row['id']}#{row['attempt']}"
            yield Exchange(name, row["prompt"], row["response"], row["label"])

    def _keep(
        self, row: dict[str, Any], buffer: RowBuffer, queue: AttemptQueue | None = None
    ) -> None:
        buffer.add(row)
        self.ledger.sampled(row)
        if queue is not None:
            queue.note((row["id"], row["attempt"]))
