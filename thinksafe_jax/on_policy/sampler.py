"""Rollouts: read back where they were drawn before, drawn where not, and judged."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from thinksafe_jax.errors import EnvironmentFault, InputError, quoted
from thinksafe_jax.guards import Exchange, Guard, Verdict, answer_part, check_unparsed
from thinksafe_jax.hosts import shared_queue
from thinksafe_jax.on_policy.rollouts import (
    KEY,
    ROLLOUT_FIELDS,
    Draw,
    Name,
    Rollout,
    rollout_of,
    rollout_of_row,
)
from thinksafe_jax.runs import RowBuffer, RowStore, Run, wait_for_rows
from thinksafe_jax.sampling import Completion, Request
from thinksafe_jax.storage import refresh
from thinksafe_jax.tokenizer import ChatTokenizer

# of the rows of rollouts/*/verdicts
_VERDICT_FIELDS = {"verdict": str, "word": str, "guard": str, "template": str}
FOLDER = "rollouts"


class SamplingStats(Protocol):
    """What one call of `generate` took."""

    @property
    def seconds(self) -> float: ...

    @property
    def occupancy(self) -> float:
        """Share of the places for requests that were at work."""
        ...


class RolloutEngine(Protocol):
    """Who draws: the sampler here (`sampling.Engine`), or a server (`ServedEngine`)."""

    @property
    def slots(self) -> int:
        """Requests that it works on at a time."""
        ...

    @property
    def stats(self) -> SamplingStats:
        """Of the last `generate`; another object after each."""
        ...

    def update_adapter(self, adapter: Any) -> None:
        """Takes the adapter of the policy; None is the untrained model."""
        ...

    def release_pool(self) -> None:
        """Lets go of the memory that it needs for requests alone; `generate` takes it again."""
        ...

    def refuses(self, request: Request) -> str | None:
        """Why a request can never run, or None."""
        ...

    def generate(self, requests: Iterable[Request], /) -> Iterator[Completion]:
        """Completions with `Drawn`, as they finish."""
        ...


@dataclass(frozen=True)
class RolloutSampler:
    """Draws and judges rollouts; both are rows of the run before they are used.

    Attributes:
        run: whose directory holds them; several processes draw from one queue, and share the
            judging by lengths.
        engine: gives what samples; it is built when it is first asked for.
        tokenizer: turns tokens into the text that the guard sees.
        guard: gives the guard, for methods that need verdicts; it is loaded when it is first asked.
    """

    run: Run
    engine: Callable[[], RolloutEngine]
    tokenizer: ChatTokenizer
    guard: Callable[[], Guard]

    def draw(self, draw: Draw) -> list[Rollout]:
        """The rollouts, group by group in the order of the prompts.

        Raises:
            InputError: rows that are there were drawn by another policy, or otherwise.
        """
        store = self._store(draw.folder, "samples", ROLLOUT_FIELDS)
        drawn = self._read(store, draw)
        named = {
            (item.prompt.id, item.step, sample): item
            for item in draw.asked
            for sample in range(draw.samples)
        }
        names, group = list(named), self.run.group
        missing = [n for n, name in enumerate(names) if name not in drawn]
        missing = group.decide(f"rollouts of {draw.folder}", missing)
        wanted = [draw.request(named[names[n]], names[n][2]) for n in missing]
        if wanted:
            queue = shared_queue(group, draw.folder, wanted, self.engine().slots)
            self._sample(store, queue, draw)
        self._wait_for_all(store, names)
        drawn = self._read(store, draw)
        return [drawn[name] for name in named]

    def judge(
        self, folder: str, rollouts: Sequence[Rollout], *, check: bool = True
    ) -> list[Rollout]:
        """The rollouts with their verdicts.

        Args:
            folder: of `Draw`.
            rollouts: one or more.
            check: whether `guard.max_unparsed` holds for them. It is a share: of a few rollouts one
                that cannot be read exceeds it.

        Raises:
            InputError: more of the verdicts than `guard.max_unparsed` cannot be read.
            EnvironmentFault: a guard's server cannot be reached; rollouts and verdicts are kept.
        """
        store = self._store(folder, "verdicts", _VERDICT_FIELDS)
        verdicts = self._verdicts(store)
        group = self.run.group
        longest_first = sorted(range(len(rollouts)), key=lambda n: -len(rollouts[n].token_ids))
        dealt = sorted(longest_first[group.index :: group.count])
        waiting = [rollouts[n] for n in dealt if rollouts[n].name not in verdicts]
        if waiting:
            self._judge(store, waiting)
        self._wait_for_all(store, [rollout.name for rollout in rollouts])
        verdicts = self._verdicts(store)
        if check:
            unparsed = sum(v.verdict == "unparsed" for v in verdicts.values())
            name = next(iter(verdicts.values())).guard
            check_unparsed(unparsed, len(rollouts), self.run.recipe.guard.max_unparsed, name)
        return [rollout.judged(verdicts[rollout.name]) for rollout in rollouts]

    def _wait_for_all(self, store: RowStore, names: Sequence[Name]) -> None:
        """Until this process sees the rows of all processes.

        Raises:
            EnvironmentFault: it still misses some after the time that a shared disk may lag.
        """
        group = self.run.group
        wait_for_rows(group, store, self.run.check_stop)
        deadline = time.monotonic() + group.limits.lag
        while group.count > 1 and (missing := set(names) - store.keys()):
            if time.monotonic() > deadline:
                raise EnvironmentFault(
                    f"{store.folder}: {len(missing)} of {len(names)} rows of the other hosts "
                    "cannot be seen from here; the run directory must be one that all hosts share"
                )
            time.sleep(0.2)
            refresh(store.folder)

    def _store(self, folder: str, name: str, fields: Mapping[str, type]) -> RowStore:
        return self.run.store(f"{FOLDER}/{folder}/{name}", KEY, fields)

    def _read(self, store: RowStore, draw: Draw) -> dict[Name, Rollout]:
        asked = {item.prompt.id: item for item in draw.asked}
        drawn = {}
        for row in store.rows():
            item = asked.get(row["id"])
            if item is None or (row["prompt"], row["label"]) != (
                item.prompt.text,
                item.prompt.label,
            ):
                raise InputError(
                    f"{store.folder}: the step does not ask {row['id']} as its rollout has it: "
                    "prompts were edited, added or removed since the run began. Put them back, or "
                    "use --new-run"
                )
            if row["adapter"] != draw.adapter:
                raise InputError(
                    f"{store.folder}: a rollout of {row['id']} was drawn with the adapter "
                    f"{row['adapter']}, the step begins with {draw.adapter}: the run was continued "
                    "with other weights. Use --new-run, or remove the rollouts of this step and "
                    "later"
                )
            _check_facts(store, row, {"prefix_ids": list(item.prefix_ids), **draw.facts})
            rollout = rollout_of_row(row, item)
            drawn[rollout.name] = rollout
        return drawn

    def _sample(self, store: RowStore, wanted: Iterator[Request], draw: Draw) -> None:
        asked = {draw.request(item, 0).id: item for item in draw.asked}
        with RowBuffer(store) as buffer:
            for done in self.engine().generate(wanted):
                item = asked[done.id]
                text = self.tokenizer.decode([*item.prefix_ids, *done.token_ids])
                buffer.add({**rollout_of(done, item, text).row(draw.adapter), **draw.facts})
                self.run.check_stop()

    def _judge(self, store: RowStore, waiting: Sequence[Rollout]) -> None:
        exchanges: Iterator[Exchange] = (
            _exchange(str(n), rollout) for n, rollout in enumerate(waiting)
        )
        with RowBuffer(store) as buffer:
            for verdict in self.guard().judge(exchanges):
                id, step, sample = waiting[int(verdict.id)].name
                row = {**verdict.row(), "id": id, "step": step, "sample": sample}
                buffer.add(row)
                self.run.check_stop()

    def _verdicts(self, store: RowStore) -> dict[Name, Verdict]:
        return {
            (row["id"], row["step"], row["sample"]): Verdict(
                row["id"],
                row["verdict"],
                row.get("p_unsafe"),
                row.get("scope", "full"),
                bool(row.get("truncated")),
                row["guard"],
                refusal=row.get("refusal"),
                word=row["word"],
                template=row["template"],
            )
            for row in store.rows()
        }


def _exchange(id: str, rollout: Rollout) -> Exchange:
    """What the guard sees: the prompt as the user wrote it, and the whole answer.

    Of an answer whose beginning was given it sees what follows the reasoning: a flawed beginning is
    not the model's. Where nothing follows, the reasoning is all there is.
    """
    prompt, response = rollout.prompt, rollout.response
    answer = answer_part(response) if rollout.prefix_ids else ""
    if answer:
        return Exchange(id, prompt.text, answer, prompt.label, "answer")
    return Exchange(id, prompt.text, response, prompt.label)


def _check_facts(store: RowStore, row: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    for name, value in facts.items():
        if row.get(name, type(value)()) != value:
            raise InputError(
                f"{store.folder}: {name} of the rollout of {row['id']} is "
                f"{quoted(row.get(name))}, this step has {quoted(value)}: what decides it was "
                "changed since the run began. Put it back, or use --new-run"
            )
