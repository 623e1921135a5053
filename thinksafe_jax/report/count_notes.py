"""Notes on the counts behind a run's rates: few prompts, and rows that are in none or half seen."""

from collections.abc import Iterator, Sequence

from thinksafe_jax.data import LISTS, RATES
from thinksafe_jax.report.run_files import RunFiles

FEW = 200  # evaluated prompts below which an interval says little


def count_notes(run: RunFiles) -> list[tuple[str, str]]:
    """(kind, text) of each note that there is."""
    texts = {
        "prompts-differ": _differing(run),
        "few-prompts": _few(run),
        "unparsed": _unparsed(run),
        "skipped": _skipped(run),
        "guard-cut": _cut(run),
    }
    return [(kind, text) for kind, text in texts.items() if text]


def _differing(run: RunFiles) -> str:
    hashes = {e.get("settings", {}).get("prompts_sha256") for e in run.evaluation.values()}
    return "Before and after were asked different prompts." if len(hashes) > 1 else ""


def _few(run: RunFiles) -> str:
    few = {s for e in run.evaluation.values() for s in LISTS if 0 < _prompts(e, s) < FEW}
    names = ", ".join(RATES[suite].replace("_", " ") for suite in LISTS if suite in few)
    return f"Fewer than {FEW} prompts stand behind: {names}." if names else ""


def _prompts(evaluation: dict, suite: str) -> int:
    """How many prompts stand behind the rate of a list; samples of one are one."""
    n = evaluation[RATES[suite]]["n"]
    return min(n, evaluation.get("suites", {}).get(suite, {}).get("questions", n))


def _unparsed(run: RunFiles) -> str:
    listed = _by_step(
        (step, ", ".join(f"{n:,} {s.replace('_', '-')}" for s, n in of["unparsed"].items() if n))
        for step, of in run.evaluation.items()
    )
    return listed and (
        f"Unparsed rows {listed}. In harm and over-refusal they are left out (the bounds count "
        "them either way), in reasoning they count as wrong."
    )


def _skipped(run: RunFiles) -> str:
    listed = _by_step(
        (step, ", ".join(f"{n:,} {suite} ({why})".replace("_", " ") for suite, why, n in of))
        for step, of in ((step, _not_asked(e)) for step, e in run.evaluation.items())
    )
    return listed and f"Questions that were not asked, and are in no rate, {listed}."


def _not_asked(evaluation: dict) -> list[tuple[str, str, int]]:
    """(suite, why, how many) of the questions that could not be asked."""
    skipped = evaluation.get("skipped", {})
    return [(suite, why, n) for suite, of in skipped.items() for why, n in of.items() if n]


def _cut(run: RunFiles) -> str:
    counts = {step: _half_seen(rows) for step, rows in run.rows.items()}
    listed = _by_step((step, f"{n:,}" if n else "") for step, n in counts.items())
    return listed and (
        f"Responses that exceed the judge's max_length, so that it saw their end alone, {listed}."
    )


def _half_seen(rows: Sequence[dict]) -> int:
    """Responses that were cut for the guard that decides; the exact judge of mini sees all."""
    return sum(row.get("guard_truncated", False) for row in rows if "guard_verdict" not in row)


def _by_step(texts: Iterator[tuple[str, str]]) -> str:
    return "; ".join(f"{step}: {text}" for step, text in texts if text)
