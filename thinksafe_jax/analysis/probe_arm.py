"""One template on the sample of a probe: its rows, how long they took, and what follows of them."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from thinksafe_jax.config import Recipe
from thinksafe_jax.data import Prompt
from thinksafe_jax.errors import InputError
from thinksafe_jax.guards import Guard
from thinksafe_jax.intervals import OddsRatio, Outcomes, Rate, acceptance, clustered, odds_ratio
from thinksafe_jax.json_files import read_json_object
from thinksafe_jax.runs import RowStore
from thinksafe_jax.storage import atomic_write, prepare_directory
from thinksafe_jax.synthesis import ACCEPTED, Ledger, Rounds, Sampler

if TYPE_CHECKING:
    from thinksafe_jax.tokenizer import ChatTokenizer


@dataclass(frozen=True)
class Arm:
    """One template on the sample.

    Attributes:
        acceptance: α without steering, α_I with it; as all rates here with intervals clustered by
            prompt.
        odds_ratio: ω̂ against no steering; None for the arm without, and for benign prompts.
        tokens_per_response, tokens_per_accepted: means; None where nothing was accepted.
        expected_accepted: prompts of the whole run that one attempt at each would accept.
        expected_tokens: generated tokens of the whole run, one attempt a prompt.
        expected_tokens_to_one: tokens until every prompt has an accepted row, on average 1/α
            attempts each, were all prompts alike.
        expected_hours: of sampling `expected_tokens` at the speed of the probe, compiling left
            out; None where no start of it lived to note its speed.
        flip_rate: P(safe with the template | unsafe without); as the two below None of benign
            prompts and of the arm without steering.
        rescue_rates: by horizon in tokens, see `guided_rates`; empty where none was asked for.
        repeats: responses that repeat the template word for word.
        refusals: refusals among safe answers to benign prompts; None of harmful ones.
    """

    template: str
    label: str
    responses: int
    acceptance: Rate
    odds_ratio: OddsRatio | None
    tokens_per_response: float
    tokens_per_accepted: float | None
    reasons: dict[str, int]
    expected_accepted: float
    expected_tokens: float
    expected_tokens_to_one: float | None
    expected_hours: float | None
    flip_rate: Rate | None = None
    rescue_rates: dict[str, Rate] = field(default_factory=dict)
    repeats: Rate | None = None
    refusals: Rate | None = None


def answers(
    recipe: Recipe,
    engine: Sampler,
    tokenizer: "ChatTokenizer",
    guard: Guard,
    prompts: list[Prompt],
    folder: Path,
) -> tuple[RowStore, Ledger]:
    """All samples of one arm, judged; rows that an earlier, equal probe left are taken up.

    Args:
        recipe: with the arm's steering and attempts.

    Raises:
        InputError: the guard cannot be read, see `guard.max_unparsed`.
    """
    cfg = recipe.synthesis
    samples, verdicts = (RowStore(folder / n, ("id", "attempt")) for n in ("samples", "verdicts"))
    ledger = Ledger(cfg.reasoning, benign_refusals=cfg.benign_refusals).read(samples, verdicts)
    rounds = Rounds(cfg, prompts, tokenizer, samples, verdicts, ledger, lambda: None)
    with _timed(engine, folder):
        rounds.sample(engine)
    rounds.judge(guard, recipe.guard.max_unparsed)
    return samples, ledger


@contextmanager
def _timed(engine: Sampler, folder: Path) -> Iterator[None]:
    """Adds what the engine did inside to FOLDER/speed.json.

    Rows outlive the process that knows how long they took.
    """
    before = engine.stats
    try:
        yield
    finally:
        stats = engine.stats
        if stats is not before and stats.tokens:
            tokens, seconds = _speed(folder)
            seconds += max(0.0, stats.seconds - stats.compile_seconds)
            total = {"tokens": tokens + stats.tokens, "seconds": seconds}
            atomic_write(prepare_directory(folder) / "speed.json", json.dumps(total) + "\n")


def _speed(folder: Path) -> tuple[int, float]:
    """(tokens, seconds) of all starts that sampled an arm."""
    file = folder / "speed.json"
    speed = read_json_object(file) if file.exists() else {}
    tokens, seconds = speed.get("tokens", 0), speed.get("seconds", 0.0)
    if type(tokens) is not int or type(seconds) not in (int, float):
        raise InputError(f"{file}: tokens and seconds are no numbers; delete the file")
    return tokens, seconds


def outcomes(ledger: Ledger) -> Outcomes:
    """Whether each response to each prompt was accepted."""
    return {
        id: [reason == ACCEPTED for reason in reasons.values()]
        for id, reasons in ledger.by_prompt().items()
    }


def measure(
    name: str,
    label: str,
    rows: RowStore,
    ledger: Ledger,
    plain: Outcomes | None,
    run_prompts: int,
) -> Arm:
    """The figures of an arm.

    Args:
        plain: outcomes without steering, of harmful prompts that were steered.
        run_prompts: prompts of this label in the whole run.
    """
    accepted_of = outcomes(ledger)
    alpha = acceptance(accepted_of)
    tokens = sum(row["tokens"] for row in rows.rows())
    accepted = sum(map(sum, accepted_of.values()))
    mean = tokens / max(1, alpha.n)
    reasons = Counter(reason for reason in ledger.reasons.values() if reason)
    measured, seconds = _speed(rows.folder.parent)
    return Arm(
        template=name,
        label=label,
        responses=alpha.n,
        acceptance=alpha,
        odds_ratio=None if plain is None else odds_ratio(accepted_of, plain),
        tokens_per_response=mean,
        tokens_per_accepted=tokens / accepted if accepted else None,
        reasons=dict(reasons.most_common()),
        expected_accepted=run_prompts * (alpha.value or 0.0),
        expected_tokens=run_prompts * mean,
        expected_tokens_to_one=run_prompts * mean / alpha.value if alpha.value else None,
        expected_hours=run_prompts * mean * seconds / measured / 3600 if measured else None,
        refusals=clustered(ledger.refusals_among_safe()) if label == "benign" else None,
    )
