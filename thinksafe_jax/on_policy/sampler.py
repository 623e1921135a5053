"""The rollouts of a step: read back where they were drawn before, drawn where not, and judged."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from thinksafe_jax.config import SamplingConfig
from thinksafe_jax.errors import EnvironmentFault, InputError
from thinksafe_jax.guards import Exchange, Guard, Verdict, check_unparsed
from thinksafe_jax.on_policy.rollouts import (
    KEY,
    ROLLOUT_FIELDS,
    Asked,
    Name,
    Rollout,
    request_of,
    rollout_of,
    rollout_of_row,
)
from thinksafe_jax.runs import RowBuffer, RowStore, Run, wait_for_rows
from thinksafe_jax.sampling import Engine, Request
from thinksafe_jax.storage import refresh
from thinksafe_jax.tokenizer import ChatTokenizer

# of the rows of rollouts/*/verdicts
_VERDICT_FIELDS = {"verdict": str, "word": str, "guard": str, "template": str}
FOLDER = "rollouts"


@dataclass(frozen=True)
class RolloutSampler:
    """Draws and judges the rollouts of a step; both are rows of the run before they are used.

    Attributes:
        run: whose directory holds them; each of several processes draws and judges its part.
        engine: gives what samples; it is built when it is first asked for.
        tokenizer: turns tokens into the text that the guard sees.
        samples: rollouts of a prompt.
        guard: gives the guard, for methods that need verdicts; it is loaded when it is first asked.
    """

    run: Run
    engine: Callable[[], Engine]
    tokenizer: ChatTokenizer
    samples: int
    guard: Callable[[], Guard]

    def draw(
        self, step: int, asked: Sequence[Asked], sampling: SamplingConfig, adapter: str
    ) -> list[Rollout]:
        """The rollouts of a step, group by group in the order of the prompts.

        Args:
            adapter: hash of the policy that the engine holds.

        Raises:
            InputError: rows of this step were drawn by another policy.
        """
        store = self._store(step, "samples", ROLLOUT_FIELDS)
        by_id = {item.prompt.id: item for item in asked}
        drawn = self._read(store, by_id, adapter)
        wanted = [
            request_of(item, sample, sampling)
            for item in asked
            for sample in range(self.samples)
            if self._is_mine(name := (item.prompt.id, step, sample)) and name not in drawn
        ]
        if wanted:
            self._sample(
                store, wanted, {f"{step}/{id}": item for id, item in by_id.items()}, adapter
            )
        names = [(item.prompt.id, step, n) for item in asked for n in range(self.samples)]
        self._wait_for_all(store, names)
        drawn = self._read(store, by_id, adapter)
        return [drawn[name] for name in names]

    def judge(self, step: int, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """The rollouts with their verdicts.

        Raises:
            InputError: more of the verdicts than `guard.max_unparsed` cannot be read.
            EnvironmentFault: a guard's server cannot be reached; rollouts and verdicts are kept.
        """
        store = self._store(step, "verdicts", _VERDICT_FIELDS)
        verdicts = self._verdicts(store)
        waiting = [r for r in rollouts if r.name not in verdicts and self._is_mine(r.name)]
        if waiting:
            self._judge(store, waiting)
        self._wait_for_all(store, [rollout.name for rollout in rollouts])
        verdicts = self._verdicts(store)
        judged = [rollout.judged(verdicts[rollout.name]) for rollout in rollouts]
        unparsed = sum(v.verdict == "unparsed" for v in verdicts.values())
        config = self.run.recipe.guard
        name = next(iter(verdicts.values())).guard
        check_unparsed(unparsed, len(judged), config.max_unparsed, name)
        return judged

    def _wait_for_all(self, store: RowStore, names: Sequence[Name]) -> None:
        """Until this process sees the rows of all processes.

        Raises:
            EnvironmentFault: it still misses some after the time that a shared disk may lag.
        """
        group = self.run.group
        wait_for_rows(group, store, self._is_mine, self.run.check_stop)
        deadline = time.monotonic() + group.limits.lag
        while group.count > 1 and (missing := set(names) - store.keys()):
            if time.monotonic() > deadline:
                raise EnvironmentFault(
                    f"{store.folder}: {len(missing)} of {len(names)} rows of the other hosts "
                    "cannot be seen from here; the run directory must be one that all hosts share"
                )
            time.sleep(0.2)
            refresh(store.folder)

    def _is_mine(self, name: Name) -> bool:
        return name[0] in self.run.part

    def _store(self, step: int, name: str, fields: Mapping[str, type]) -> RowStore:
        return self.run.store(f"{FOLDER}/step-{step:06d}/{name}", KEY, fields)

    def _read(
        self, store: RowStore, asked: Mapping[str, Asked], adapter: str
    ) -> dict[Name, Rollout]:
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
            if row["adapter"] != adapter:
                raise InputError(
                    f"{store.folder}: a rollout of {row['id']} was drawn with the adapter "
                    f"{row['adapter']}, the step begins with {adapter}: the run was continued with "
                    "other weights. Use --new-run, or remove the rollouts of this step and later"
                )
            rollout = rollout_of_row(row, item)
            drawn[rollout.name] = rollout
        return drawn

    def _sample(
        self, store: RowStore, wanted: list[Request], asked: Mapping[str, Asked], adapter: str
    ) -> None:
        with RowBuffer(store) as buffer:
            for done in self.engine().generate(wanted):
                text = self.tokenizer.decode(done.token_ids)
                buffer.add(rollout_of(done, asked[done.id], text).row(adapter))
                self.run.check_stop()

    def _judge(self, store: RowStore, waiting: Sequence[Rollout]) -> None:
        def exchanges() -> Iterator[Exchange]:
            for n, rollout in enumerate(waiting):
                prompt = rollout.prompt
                yield Exchange(str(n), prompt.text, rollout.response, prompt.label)

        with RowBuffer(store) as buffer:
            for verdict in self.guard().judge(exchanges()):
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
