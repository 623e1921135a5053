"""The guard is asked about the responses, in every scope."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from thinksafe_jax.config import EvaluationConfig
from thinksafe_jax.data import HARMFUL, OVER_REFUSAL, REASONING
from thinksafe_jax.errors import InputError
from thinksafe_jax.evaluation.asking import ROW_KEY
from thinksafe_jax.evaluation.journal import Journal
from thinksafe_jax.guards import Exchange, Guard, Verdict, answer_part, check_unparsed, verdict_of
from thinksafe_jax.runs import RowStore
from thinksafe_jax.tokenizer import THINK_CLOSE, THINK_OPEN

VERDICT_KEY = (*ROW_KEY, "asked_scope")
_CHECKED = 1024  # verdicts after which a guard that cannot be read is known


@dataclass(frozen=True)
class Judge:
    """Who judges the responses.

    Attributes:
        guard: judges the harmful suites; where `cfg.judge` is "mini" its agreement with the exact
            judge is measured instead.
        max_unparsed: share of unparsed verdicts above which the evaluation stops.
        fingerprint: names the guard's weights; verdicts of others are not taken up.
    """

    guard: Guard
    max_unparsed: float = 1.0
    fingerprint: str = ""


def judge(
    rows: Sequence[dict], cfg: EvaluationConfig, by: Judge, store: RowStore, journal: Journal
) -> None:
    """Ask the guard about what it has not judged yet, in every scope.

    It sees the original prompt and the part of the response that the scope names. The refusal
    suites are shown to every guard that understands text: some say whether a response refuses. A
    weak guard sees them only where it is itself measured (judge "mini"). Nothing is asked about an
    empty part, as the answer behind a thought that never ended: it is unparsed, not safe.

    Raises:
        InputError: too many verdicts are unparsed, see `check_unparsed`; those are kept.
    """
    judged = [row for row in rows if _is_judged(row, cfg, by.guard)]
    shown = [(row, _exchange(row, scope)) for row in judged for scope in cfg.scopes]
    exchanges = {exchange.id: (row, exchange) for row, exchange in shown}
    done, unparsed = set(), Unparsed(by)
    for verdict in store.read():
        key = "/".join(str(verdict[name]) for name in VERDICT_KEY)
        done.add(key)
        if key in exchanges and exchanges[key][1].response.strip():
            unparsed.count(verdict["verdict"])
    waiting = {key: item for key, item in exchanges.items() if key not in done}
    if waiting:
        with journal.keeping(store, "judge", len(waiting)) as keep:
            for verdict in _verdicts([exchange for _, exchange in waiting.values()], by, unparsed):
                row, exchange = waiting[verdict.id]
                names = {name: row[name] for name in ROW_KEY}
                keep({**verdict.row(), **names, "asked_scope": exchange.scope})
    unparsed.check()


@dataclass
class Unparsed:
    """How many of the guard's verdicts cannot be read, those of earlier starts included."""

    by: Judge
    unparsed: int = 0
    total: int = 0

    def count(self, verdict: str) -> None:
        self.total += 1
        self.unparsed += verdict == "unparsed"

    def check(self) -> None:
        """Raises InputError where there are more than the judge allows.

        Of a weak guard nothing is to be read: unparsed is then a response without an answer.
        """
        guard = self.by.guard
        if guard.weak:
            return
        try:
            check_unparsed(self.unparsed, self.total, self.by.max_unparsed, guard.name)
        except InputError as error:
            raise InputError(
                f"{error}. In an evaluation the share is --max-unparsed, or max_unparsed of the "
                "recipe's judge"
            ) from None


def _exchange(row: dict, scope: str) -> Exchange:
    """What the guard is shown: the original prompt, and the part that the scope names."""
    label = "benign" if row["kind"] == OVER_REFUSAL else "harmful"
    key = f"{row['suite']}/{row['id']}/{row['sample']}/{scope}"
    return Exchange(key, row["prompt"], scoped(row["response"], scope), label, scope)


def _is_judged(row: dict, cfg: EvaluationConfig, guard: Guard) -> bool:
    if row["kind"] in (HARMFUL, REASONING):
        return row["kind"] == HARMFUL
    return cfg.judge == "mini" or not guard.weak


def _verdicts(exchanges: Sequence[Exchange], by: Judge, unparsed: Unparsed) -> Iterator[Verdict]:
    """One verdict an exchange; the caller has kept each before the next is asked for."""
    guard = by.guard
    for exchange in exchanges:
        if not exchange.response.strip():
            yield verdict_of(guard, exchange, None)
    for verdict in guard.judge(e for e in exchanges if e.response.strip()):
        yield verdict
        unparsed.count(verdict.verdict)
        if unparsed.total % _CHECKED == 0:
            unparsed.check()


def scoped(response: str, scope: str) -> str:
    """The part of a response that a scope names: full, answer, or think (without its tags)."""
    if scope == "full":
        return response
    if scope == "answer":
        return answer_part(response)
    before, closed, _ = response.rpartition(THINK_CLOSE)
    reasoning = before if closed else response if THINK_OPEN in response else ""
    return reasoning.partition(THINK_OPEN)[2].strip() or reasoning.strip()
