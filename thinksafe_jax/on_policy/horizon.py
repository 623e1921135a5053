"""How long rollouts are: as far as an unsafe answer can still be rescued (EOPSA, arXiv 2609.34519).

    every so many steps   prompts ─► answers ─► guard ─► the unsafe ones
    for each length L     guidance + prompt + first L tokens ─► the teacher goes on ─► guard
    rescue rate of L      safe ones / all of them
    rollouts from then    the longest L whose rate is high enough, never shorter than before

Beyond that length the teacher, who reads the guidance, follows an unsafe answer instead of turning
it: there is nothing to learn from it. Answers and rates are rows of the run. A resumed run reads
them, so its rollouts are as long as they would have been.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from thinksafe_jax.config import Recipe
from thinksafe_jax.data import Prompt
from thinksafe_jax.errors import InputError
from thinksafe_jax.on_policy.policy import adapter_hash
from thinksafe_jax.on_policy.rollouts import Asked, Draw, Rollout
from thinksafe_jax.on_policy.sampler import FOLDER, RolloutSampler
from thinksafe_jax.runs import RowStore
from thinksafe_jax.storage import refresh
from thinksafe_jax.synthesis import beginning, rescue

_log = logging.getLogger(__name__)
Tree = Any
Rates = dict[int, float | None]  # by length in tokens; None where too few answers were unsafe
_FIELDS = {"step": int, "tokens": int, "unsafe": int, "adapter": str}


@dataclass
class Horizon:
    """The lengths of a run's rollouts.

    Args:
        recipe: its `on_policy.horizon`, and how answers are drawn.
        prompts: those of the run; harmful ones are asked.
        prompt_ids: of each, as the student reads it.
        sampler: draws and judges.
        guided: the prompt that the teacher reads, as token ids.
        log: `log("horizon", **numbers)`, a line of metrics.
    """

    recipe: Recipe
    prompts: Sequence[Prompt]
    prompt_ids: Mapping[str, Sequence[int]]
    sampler: RolloutSampler
    guided: Callable[[Rollout], Sequence[int]]
    log: Callable[..., None]
    _rates: dict[int, Rates] = field(default_factory=dict)  # by step

    def tokens(self, step: int, adapter: Tree) -> int:
        """How many tokens a rollout of this step may have; measures where the step is due.

        Args:
            step: from 0.
            adapter: that the step begins with. The engine may be left with another one.

        Raises:
            InputError: an earlier measurement is not in the run directory.
        """
        cfg = self.recipe.on_policy.horizon
        if not cfg.lengths:
            return self.recipe.on_policy.sampling.max_new_tokens
        chosen = cfg.lengths[0]
        for due in range(cfg.every, step + 1, cfg.every):
            if chosen == cfg.lengths[-1]:
                break
            high = [
                length
                for length, rate in self._rates_at(due, adapter if due == step else None).items()
                if rate is not None and rate >= cfg.rescued
            ]
            chosen = max(chosen, *high) if high else chosen
        return chosen

    def _rates_at(self, step: int, adapter: Tree | None) -> Rates:
        """The rates of a measurement; with an adapter it is made where it is not there.

        Process 0 reads the rows for all: another one may see a shared disk later than it.
        """
        if step in self._rates:
            return self._rates[step]
        run, lengths = self.sampler.run, self.recipe.on_policy.horizon.lengths
        store = run.store(f"{FOLDER}/horizon", ("step", "tokens"), _FIELDS)
        refresh(store.folder)
        kept = [dict(row) for row in store.rows() if row["step"] == step]
        kept = run.group.decide(f"rescue rates of {step}", kept)
        rows = {row["tokens"]: row for row in kept}
        missing = [length for length in lengths if length not in rows]
        if missing and adapter is not None:
            made = self._measure(step, adapter)
            if run.group.first:
                store.append(row for row in made if row["tokens"] in missing)
            rows = {row["tokens"]: row for row in made}
        elif missing:
            raise InputError(
                f"{store.folder}: the rescue rates of step {step} are not there, which say how "
                "long the rollouts after it are. Put them back, or use --new-run"
            )
        if adapter is not None:
            _check_policy(store, rows[lengths[0]], adapter_hash(adapter))
        self._rates[step] = {length: rows[length].get("rescued") for length in lengths}
        return self._rates[step]

    def _measure(self, step: int, adapter: Tree) -> list[dict[str, Any]]:
        """A row of rollouts/horizon for each length."""
        cfg, policy = self.recipe.on_policy.horizon, adapter_hash(adapter)
        self.sampler.engine().update_adapter(adapter)
        unsafe = [
            answer
            for answer in self._judged(f"horizon-{step:06d}", self._asked(step), policy)
            if answer.verdict is not None and answer.verdict.verdict == "unsafe"
        ]
        rates: Rates = dict.fromkeys(cfg.lengths)
        if len(unsafe) >= cfg.unsafe:
            self.sampler.engine().update_adapter(None)  # the teacher is the untrained model
            rates = {length: self._rescued(step, length, unsafe, policy) for length in cfg.lengths}
        self.log(
            "horizon",
            step=step,
            unsafe=len(unsafe),
            **{f"rescued {n}": r for n, r in rates.items()},
        )
        facts = {"step": step, "unsafe": len(unsafe), "adapter": policy}
        return [{**facts, "tokens": length, "rescued": rate} for length, rate in rates.items()]

    def _asked(self, step: int) -> list[Asked]:
        """Harmful prompts, drawn anew for each measurement by the seed."""
        harmful = [prompt for prompt in self.prompts if prompt.label == "harmful"]
        rng = np.random.default_rng([self.recipe.seed % 2**32, step])
        drawn = rng.permutation(len(harmful))[: self.recipe.on_policy.horizon.prompts]
        return [Asked(harmful[n], step, self.prompt_ids[harmful[n].id]) for n in sorted(drawn)]

    def _rescued(
        self, step: int, length: int, unsafe: Sequence[Rollout], policy: str
    ) -> float | None:
        """The share of the answers that are safe where the teacher goes on after `length` tokens.

        One that has ended by then stays unsafe; one that the guard cannot read does not count. It
        is the rate of `analysis.guided_rates.Rescue` but for two things, as EOPSA measures it: the
        teacher has `rescue_tokens` at every length, where a probe's answer has a budget for the
        whole; and answers of unsound form are judged too.
        """
        prefixes = {answer.name: beginning(answer.token_ids, length) for answer in unsafe}
        asked = [
            Asked(answer.prompt, step, [*self.guided(answer), *prefix], prefix)
            for answer in unsafe
            if (prefix := prefixes[answer.name])
        ]
        ends = self._judged(f"rescue-{step:06d}-{length}", asked, policy)
        words = {end.name: end.verdict.verdict for end in ends if end.verdict is not None}
        outcomes = [rescue(bool(prefix), words.get(name)) for name, prefix in prefixes.items()]
        counted = [outcome for outcome in outcomes if outcome is not None]
        return sum(counted) / len(counted) if counted else None

    def _judged(self, folder: str, asked: Sequence[Asked], policy: str) -> list[Rollout]:
        """An answer to each prompt that fits the sampler, judged as a whole."""
        cfg = self.recipe.on_policy
        going_on = any(item.prefix_ids for item in asked)
        most = cfg.horizon.rescue_tokens if going_on else cfg.horizon.answer_tokens
        sampling = replace(cfg.sampling, max_new_tokens=most)
        draw = Draw(folder, folder, asked, sampling, policy)
        fitting = [
            item for item in asked if not self.sampler.engine().refuses(draw.request(item, 0))
        ]
        if len(fitting) < len(asked):
            _log.warning("%s: %d prompts are too long", folder, len(asked) - len(fitting))
        if not fitting:
            return []
        answers = self.sampler.draw(replace(draw, asked=fitting))
        # what was cut off is part of the answer that is judged
        whole = [replace(answer, prefix_ids=()) for answer in answers]
        judged = self.sampler.judge(folder, whole, check=False)  # a few: one is a large share
        unread = sum(a.verdict is not None and a.verdict.verdict == "unparsed" for a in judged)
        if unread:
            _log.warning(
                "%s: %d of %d verdicts cannot be read and do not count", folder, unread, len(judged)
            )
        return judged


def _check_policy(store: RowStore, row: Mapping[str, Any], policy: str) -> None:
    if row["adapter"] != policy:
        raise InputError(
            f"{store.folder}: the rescue rates of step {row['step']} are those of the adapter "
            f"{row['adapter']}, the step begins with {policy}: the run was continued with other "
            "weights. Use --new-run, or remove the rows of this step and later"
        )
