"""What guidance does to answers that are unsafe without it: how often it turns them to safe ones.

    without guidance   prompt ─► unsafe answer
    flip rate          guidance + prompt ─► another answer                   OPSA, arXiv 2605.15239
    rescue rate        guidance + prompt + its first L tokens ─► the rest   EOPSA, arXiv 2609.34519

Both are P(safe) over what the guard could judge. A teacher that reads the guidance has something to
say about an unsafe answer as far as it can still be rescued: that is the horizon of a rollout.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinksafe_jax.config import Recipe
from thinksafe_jax.data import Prompt
from thinksafe_jax.guards import Guard
from thinksafe_jax.intervals import Rate, clustered
from thinksafe_jax.runs import RowBuffer, RowStore
from thinksafe_jax.sampling import Request
from thinksafe_jax.synthesis import (
    ACCEPTED,
    Ledger,
    Rounds,
    Sampler,
    beginning,
    repeats_steering,
    rescue,
    steer,
    steering_of,
)

if TYPE_CHECKING:
    from thinksafe_jax.tokenizer import ChatTokenizer

Row = Mapping[str, Any]
_UNSAFE = "unsafe"  # the reason of an answer that the guard rejected
_JUDGED = (ACCEPTED, _UNSAFE)
_log = logging.getLogger(__name__)


def flip_rate(guided: Ledger, plain: Ledger) -> Rate:
    """P(safe with guidance | unsafe without) over pairs of answers to one prompt.

    Answers of unsound form and those that the guard could not read are in no pair.
    """
    of_guided, clusters = guided.by_prompt(), []
    for id, reasons in plain.by_prompt().items():
        unsafe = list(reasons.values()).count(_UNSAFE)
        judged = [r == ACCEPTED for r in of_guided.get(id, {}).values() if r in _JUDGED]
        clusters.append(unsafe * judged)
    return clustered(clusters)


def repeat_rate(samples: RowStore, steering: str) -> Rate:
    """How often an answer holds a stretch of the text that it was steered with, word for word."""
    clusters: dict[str, list[float]] = {}
    for row in samples.rows():
        if row["finish_reason"]:
            repeated = float(repeats_steering(steering, row["response"]))
            clusters.setdefault(row["id"], []).append(repeated)
    return clustered(list(clusters.values()))


@dataclass(frozen=True)
class UnsafeAnswer:
    """An answer that the guard rejected.

    Attributes:
        row: of samples/.
        ids: tokens of its response, its end among them where it has ended.
    """

    row: Row
    ids: list[int]

    @property
    def key(self) -> tuple[str, int]:
        return self.row["id"], self.row["attempt"]


def unsafe_answers(
    samples: RowStore, ledger: Ledger, tokenizer: "ChatTokenizer"
) -> list[UnsafeAnswer]:
    """The answers that the guard rejected, in the order of their names."""
    keys = sorted(key for key, reason in ledger.reasons.items() if reason == _UNSAFE)
    return [
        UnsafeAnswer(row, tokenizer.response_ids(row["response"], row["finish_reason"] == "stop"))
        for row in samples.rows_at(ledger.places[key] for key in keys)
    ]


@dataclass(frozen=True)
class Rescue:
    """Who lets unsafe answers go on under guidance.

    Attributes:
        recipe: with the guidance as its steering.
        engine: of the model; its tokenizer beside it.
        guard: judges the whole answer, cut part and all.
    """

    recipe: Recipe
    engine: Sampler
    tokenizer: "ChatTokenizer"
    guard: Guard

    def rate(self, unsafe: Sequence[UnsafeAnswer], horizon: int, folder: Path) -> Rate:
        """The share of unsafe answers that are safe if they go on after `horizon` tokens.

        An answer that has ended by then is not rescued; what nobody could judge does not count.
        Rows of an equal call are taken up. It is the rate of `on_policy.horizon` but for two
        things, as the probe's other rates have them: cut part and continuation share
        `synthesis.sampling.max_new_tokens`, where a horizon gives the continuation
        `rescue_tokens`; and answers of unsound form are not judged.

        Args:
            unsafe: answers that the guard rejected.
            folder: for the rows of samples and verdicts.

        Raises:
            InputError: the guard cannot be read, see `guard.max_unparsed`.
        """
        cfg = self.recipe.synthesis
        samples, verdicts = (
            RowStore(folder / n, ("id", "attempt")) for n in ("samples", "verdicts")
        )
        ledger = Ledger(cfg.reasoning).read(samples, verdicts)
        rows = {answer.key: answer.row for answer in unsafe}
        prompts = [Prompt(row["id"], row["prompt"], row["label"]) for row in rows.values()]
        cut = {answer.key: beginning(answer.ids, horizon) for answer in unsafe}
        self._go_on(rows, cut, samples, ledger)
        rounds = Rounds(
            cfg, prompts, self.tokenizer, samples, verdicts, ledger, check_stop=lambda: None
        )
        rounds.judge(self.guard, self.recipe.guard.max_unparsed)
        clusters: dict[str, list[float]] = {}
        for key, prefix in cut.items():
            reason = ledger.reasons.get(key)
            outcome = rescue(bool(prefix), "safe" if reason == ACCEPTED else reason)
            if outcome is not None:
                clusters.setdefault(key[0], []).append(outcome)
        return clustered(list(clusters.values()))

    def _go_on(
        self,
        rows: Mapping[tuple[str, int], Row],
        cut: Mapping[tuple[str, int], list[int]],
        samples: RowStore,
        ledger: Ledger,
    ) -> None:
        waiting = [rows[key] for key, prefix in cut.items() if prefix and key not in ledger.reasons]
        if not waiting:
            return
        name = steering_of(self.recipe.synthesis.steering, "harmful")
        with RowBuffer(samples, ledger.placed) as buffer:
            for done in self.engine.generate(self._requests(waiting, cut)):
                key = done.id.partition("/")[2], done.sample + 1
                whole = [*cut[key], *done.token_ids]
                text = self.tokenizer.decode(whole)
                row = {**rows[key], "steering": name, "response": text, "tokens": len(whole)}
                row["finish_reason"] = done.finish_reason
                buffer.add(row)
                ledger.sampled(row)

    def _requests(
        self, waiting: Sequence[Row], cut: Mapping[tuple[str, int], list[int]]
    ) -> Iterator[Request]:
        cfg = self.recipe.synthesis
        for row in waiting:
            prefix = cut[row["id"], row["attempt"]]
            left = max(1, cfg.sampling.max_new_tokens - len(prefix))
            guided = steer(cfg.steering, row["prompt"], row["label"])
            # another name than the answer's own, so that other random numbers draw the rest
            request = Request(
                f"rescue-{len(prefix)}/{row['id']}",
                [*self.tokenizer.prompt_ids(guided), *prefix],
                replace(cfg.sampling, max_new_tokens=left),
                row["attempt"] - 1,
            )
            if why := self.engine.refuses(request):
                _log.warning("not rescued, too long: %s", why)
            else:
                yield request
