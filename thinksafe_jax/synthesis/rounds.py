"""Sampling and judging in turn: attempt by attempt, each prompt until the guard accepts.

    attempt 1: all prompts ─► samples/ ─► guard ─► verdicts/
    attempt 2: those not accepted ─► …

Both stores are the only state. After a kill the ledger is read back from them and every attempt
goes on where it was: the same rows come out, because a completion depends on its prompt's id and
its attempt alone.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from thinksafe_jax.config import SynthesisConfig
from thinksafe_jax.data import Prompt
from thinksafe_jax.guards import Exchange, Guard, check_unparsed
from thinksafe_jax.machine import peak_memory
from thinksafe_jax.runs import WHOLE, Part, RowBuffer, RowStore
from thinksafe_jax.sampling import Completion, Request
from thinksafe_jax.synthesis.ladder import ACCEPTED, WAITING, Attempt, Key, Ledger, attempts
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

    def generate(self, requests: Iterator[Request], /) -> Iterator[Completion]: ...


@dataclass
class Rounds:
    """The stores of a run and who fills them.

    Args:
        prompts: all of them; read once, looked up by id.
        ledger: read back from the stores, of all processes.
        check_stop: raises when the run was asked to stop; called when rows are safe.
        part: whose rows this process judges.
    """

    cfg: SynthesisConfig
    prompts: Sequence[Prompt]
    tokenizer: "ChatTokenizer"
    samples: RowStore
    verdicts: RowStore
    ledger: Ledger
    check_stop: Callable[[], None]
    part: Part = WHOLE

    def fixed(self) -> None:
        """Rows of the methods that sample nothing."""
        known = self.ledger.labels.keys()
        with RowBuffer(self.samples, self.ledger.placed) as buffer:
            for row in fixed_rows(self.prompts, self.cfg, self.tokenizer):
                if row["id"] not in known:
                    self._keep(row, buffer)

    def sample(self, engine: Sampler, attempt: Attempt) -> int:
        """One attempt of every prompt whose turn it is; returns how many prompts that was."""
        by_id = {prompt.id: prompt for prompt in self.prompts}
        retry = self.cfg.method != "rejection"  # there, all attempts of every prompt count
        turn = self.ledger.to_sample(by_id, attempt.number, retry=retry)
        waiting = self.ledger.longest_first([by_id[id] for id in turn])
        if not waiting:
            return 0
        self.check_stop()  # the first row may be long in coming
        name = f"sample, attempt {attempt.number}" if self.cfg.attempts > 1 else "sample"
        ladder, sound = attempts(self.cfg), 0
        with (
            Progress(name, len(waiting)) as bar,
            RowBuffer(self.samples, self.ledger.placed) as buffer,
        ):

            def requests() -> Iterator[Request]:
                for item in plan_attempt(waiting, attempt, self.tokenizer, engine.refuses):
                    if isinstance(item, Request):
                        yield item
                    else:  # cannot be sampled: a row at once
                        self._keep(item, buffer)
                        bar.advance()

            completions = engine.generate(requests())
            for row in sample_rows(completions, by_id, ladder, self.tokenizer):
                self._keep(row, buffer)
                stats = engine.stats
                rate = stats.tokens / max(stats.seconds, 1e-9)
                sound += self.ledger.reasons[row["id"], row["attempt"]] in (WAITING, ACCEPTED)
                share = sound / max(1, stats.completions)
                bar.advance(active=stats.active, tokens_per_s=rate, well_formed=share)
                self.check_stop()
        _log.info("%s: %s, peak memory %.1f GB", name, engine.stats, peak_memory() / 1e9)
        return len(waiting)

    def judge(self, guard: Guard, max_unparsed: float = 1.0) -> int:
        """Asks the guard about every well-formed row without a verdict; returns how many.

        Args:
            max_unparsed: share of unparsed verdicts above which the run stops.

        Raises:
            InputError: too many of its verdicts are unparsed, see `check_unparsed`; those are kept.
        """
        waiting = {key for key in self.ledger.waiting() if key[0] in self.part}
        if not waiting:
            return 0
        accepted, unparsed = 0, 0
        with Progress("filter", len(waiting)) as bar, RowBuffer(self.verdicts) as buffer:
            for count, verdict in enumerate(guard.judge(self._exchanges(waiting)), start=1):
                id, _, number = verdict.id.rpartition("#")
                row = {**verdict.row(int(number)), "id": id}
                buffer.add(row)
                self.ledger.judged(row)
                accepted += self.ledger.reasons[id, int(number)] == ACCEPTED
                unparsed += verdict.verdict == "unparsed"
                bar.advance(accepted=accepted, unparsed=unparsed)
                self.check_stop()
                if count % _CHECKED == 0 or count == len(waiting):
                    check_unparsed(unparsed, count, max_unparsed, guard.name)
        return len(waiting)

    def _exchanges(self, waiting: set[Key]) -> Iterator[Exchange]:
        """The guard sees the ORIGINAL prompt and the whole response, in the order of the rows."""
        for row in self.samples.rows_at(sorted(self.ledger.places[key] for key in waiting)):
            name = f"{row['id']}#{row['attempt']}"
            yield Exchange(name, row["prompt"], row["response"], row["label"])

    def _keep(self, row: dict[str, Any], buffer: RowBuffer) -> None:
        buffer.add(row)
        self.ledger.sampled(row)
