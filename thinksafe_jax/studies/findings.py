"""What a study says, in sentences: safest, reasoning, over-refusal, cost, and how sure that is."""

from collections.abc import Mapping, Sequence
from typing import Any

from thinksafe_jax.report import interval, percent, signed
from thinksafe_jax.studies.measures import UNPARSED
from thinksafe_jax.studies.study_file import INITIAL

GARBLED = 0.05  # share of answers that cannot be read above which harm alone says little


def findings(results: Mapping) -> list[tuple[str, str]]:
    """(question, answer) for a reader who reads nothing else."""
    trained = [m for m in results["methods"] if m["name"] != INITIAL and m["measures"]]
    if not trained:
        return []
    answers = [
        ("Which method is safest?", _safest(results, trained)),
        ("Which keeps reasoning?", _kept(trained)),
        ("Which over-refuses?", _over_refusing(trained)),
        ("What did each cost?", _costs(trained)),
        ("How sure is this?", _sureness(results)),
    ]
    return [(question, answer) for question, answer in answers if answer]


def _measured(methods: Sequence[Mapping], measure: str) -> list[Mapping]:
    return [m for m in methods if m["measures"].get(measure, {}).get("value") is not None]


def _percent(estimate: Mapping) -> str:
    return f"{percent(estimate['value'])} ({interval(estimate)})"


def _points(estimate: Mapping) -> str:
    return f"{signed(estimate['value'])} points ({interval(estimate, '{:+.1f}')})"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _safest(results: Mapping, trained: Sequence[Mapping]) -> str:
    ranked = sorted(_measured(trained, "harm"), key=lambda m: m["measures"]["harm"]["value"])
    if not ranked:
        return ""
    best = ranked[0]
    text = f"{best['name']}: harm {_percent(best['measures']['harm'])}."
    near = [m["name"] for m in ranked[1:] if _may_be_none(m["against_safest"].get("harm"))]
    if near:
        text += f" On the same prompts it is not told apart from {_listed(near)}."
    against = best["against_reference"].get("harm")
    if against and against["value"] is not None:
        text += f" Beside {results['reference']}, on the same prompts: {_points(against)}."
    sound = [m for m in ranked if _harmless(m)]
    if sound and sound[0] is not best:
        text += (
            " Of those that lose no reasoning, refuse no more and can be read: "
            f"{sound[0]['name']}, {_percent(sound[0]['measures']['harm'])}."
        )
    garbled = [
        f"{m['name']} ({100 * _unparsed(m):.0f} %)" for m in ranked if _unparsed(m) > GARBLED
    ]
    if garbled:
        text += f" Answers that nobody can read: {_listed(garbled)}; their rates say little."
    return text


def _may_be_none(change: Mapping | None) -> bool:
    """Whether the interval of a difference holds 0."""
    if not change or change["value"] is None:
        return False
    return change["low"] <= 0 <= change["high"]


def _kept(trained: Sequence[Mapping]) -> str:
    """Those that lost or gained reasoning with their figures, the rest by name."""
    changed = [m for m in trained if _change(m, "reasoning")]
    lost = [m for m in changed if _change(m, "reasoning")["high"] < 0]
    gained = [m for m in changed if _change(m, "reasoning")["low"] > 0]
    kept = [m["name"] for m in changed if m not in lost and m not in gained]
    parts = []
    for what, group in (("Lost", lost), ("Better than the untouched student", gained)):
        ranked = sorted(group, key=lambda m: _change(m, "reasoning")["value"])
        texts = [f"{m['name']} {_points(_change(m, 'reasoning'))}" for m in ranked]
        parts += [f"{what}: {'; '.join(texts)}."] if texts else []
    parts += [f"No loss that shows: {_listed(kept)}."] if kept else []
    return " ".join(parts)


def _change(method: Mapping, measure: str) -> Mapping[str, Any]:
    """The difference from the untouched student; empty where there is none."""
    change = method["against_initial"].get(measure) or {}
    return change if change.get("value") is not None else {}


def _harmless(method: Mapping) -> bool:
    """Whether a method loses no reasoning and refuses no more, as far as it shows."""
    reasoning, refusal = _change(method, "reasoning"), _change(method, "over_refusal")
    sound = reasoning.get("high", 0.0) >= 0 and refusal.get("low", 0.0) <= 0
    return sound and _unparsed(method) <= GARBLED


def _unparsed(method: Mapping) -> float:
    """Share of the answers that nobody can read, to harmful prompts or to harmless ones."""
    shares = [method["measures"].get(name, {}).get("value") for name in UNPARSED]
    return max((share for share in shares if share is not None), default=0.0)


def _over_refusing(trained: Sequence[Mapping]) -> str:
    more = []
    for method in _measured(trained, "over_refusal"):
        if _change(method, "over_refusal").get("low", 0.0) > 0:
            rate = method["measures"]["over_refusal"]
            more.append((-rate["value"], f"{method['name']}: {_percent(rate)}"))
    if not _measured(trained, "over_refusal"):
        return ""
    if not more:
        return "None refuses harmless prompts more than the untouched student, as far as it shows."
    rest = len(_measured(trained, "over_refusal")) - len(more)
    return (
        f"More than the untouched student: {'; '.join(text for _, text in sorted(more))}. "
        f"The other {rest} do not, as far as it shows."
    )


def _costs(trained: Sequence[Mapping]) -> str:
    ranked = sorted(
        ((sum(m["cost"]["flops"].values()), m["name"]) for m in trained if m["cost"]),
    )
    if not ranked:
        return ""
    (least, cheap), (most, dear) = ranked[0], ranked[-1]
    return (
        f"Of a run of the chosen setting: {cheap} least ({least:.1e} FLOPs), {dear} most "
        f"({most:.1e}). Choosing settings and the evaluation are not in it."
    )


def _sureness(results: Mapping[str, Any]) -> str:
    seeds = len(results["seeds"])
    questions = sum(suite["questions"] for suite in results["suites"].values())
    text = (
        f"Intervals are 95 % and know {questions:,} questions and {seeds} seeds of each method. "
        "Differences are of the same questions. They are not corrected for the number of methods: "
        "of twenty comparisons without a difference one shows one."
    )
    if seeds == 1:
        text = (
            f"Intervals are 95 % and know {questions:,} questions, but one seed: how much another "
            "training run would differ is not in them."
        )
    if results["dropped"]:
        text += f" {len(results['dropped'])} runs failed and are left out; they are listed below."
    return text
