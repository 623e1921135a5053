"""Two evaluations of the same questions, problem by problem: what differs, and how surely."""

from dataclasses import asdict, dataclass
from pathlib import Path

from thinksafe_jax.errors import InputError, listed, quoted
from thinksafe_jax.evaluation.scored_rows import read_scored_rows
from thinksafe_jax.evaluation.scoring import problem_means, suite_facts
from thinksafe_jax.intervals import Rate, paired_difference


@dataclass(frozen=True)
class Evaluated:
    """Scored rows of one evaluation by suite.

    Attributes:
        label: what the user called it.
        run, step: the run directory, and which of its evaluations.
    """

    label: str
    suites: dict[str, list[dict]]
    run: Path
    step: str


@dataclass(frozen=True)
class Comparison:
    """One suite in two evaluations: both rates, and the difference over the common problems."""

    suite: str
    metric: str
    left: Rate
    right: Rate
    difference: Rate
    common: int
    only_left: int
    only_right: int

    def as_dict(self) -> dict:
        return asdict(self)


def read_evaluation(text: str) -> Evaluated:
    """The rows of RUN, or of RUN:STEP (before, after, model); RUN alone is its last step.

    Raises:
        InputError: no such evaluation.
    """
    path, _, step = text.rpartition(":") if not Path(text).exists() else (text, "", "")
    run = Path(path or text)
    steps = [step] if step else ["after", "model", "before"]
    files = {s: run / "evaluation" / s / "rows.jsonl" for s in steps}
    step = next((s for s, file in files.items() if file.is_file()), "")
    if not step:
        raise InputError(
            f"{text}: no finished evaluation there ({run}/evaluation/<step>/rows.jsonl)"
        )
    suites: dict[str, list[dict]] = {}
    for row in read_scored_rows(files[step]):
        suites.setdefault(row["suite"], []).append(row)
    return Evaluated(text, suites, run, step)


def compare_evaluations(left: Evaluated, right: Evaluated) -> list[Comparison]:
    """Every suite that both have: `right - left`, paired by problem (bootstrap over problems).

    Raises:
        InputError: no suite in common, or one whose questions of equal ids differ.
    """
    names = [name for name in left.suites if name in right.suites]
    if not names:
        raise InputError(
            f"{left.label} and {right.label} have no suite in common "
            f"({listed(left.suites)} / {listed(right.suites)})"
        )
    return [_compare_suite(name, left, right) for name in names]


def _compare_suite(name: str, left: Evaluated, right: Evaluated) -> Comparison:
    rows = left.suites[name], right.suites[name]
    asked = [{row["id"]: row["prompt"] for row in side} for side in rows]
    other = [key for key in asked[0].keys() & asked[1].keys() if asked[0][key] != asked[1][key]]
    if other:
        raise InputError(f"suite {name}: question {quoted(other[0])} is not the same in both")
    means = [problem_means(side) for side in rows]
    facts = [suite_facts(side, side[0]["kind"]) for side in rows]
    return Comparison(
        name,
        facts[0].metric,
        facts[0].rate,
        facts[1].rate,
        paired_difference(means[0], means[1]),
        len(means[0].keys() & means[1].keys()),
        len(means[0].keys() - means[1].keys()),
        len(means[1].keys() - means[0].keys()),
    )
