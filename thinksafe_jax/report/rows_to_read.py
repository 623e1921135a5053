"""Rows to read: a few of each kind, the same ones each time, with reasoning and answer apart."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from thinksafe_jax.data import COMPLIANCE, HARMFUL, KINDS, OVER_REFUSAL, REASONING, Kind
from thinksafe_jax.evaluation import outcome
from thinksafe_jax.report.run_files import ALL_STEPS, RunFiles
from thinksafe_jax.synthesis import drop_reason

LONGEST = 1800  # characters shown of a prompt, of a reasoning and of an answer
PER_KIND = {HARMFUL: 4, COMPLIANCE: 2, OVER_REFUSAL: 3, REASONING: 3}
PER_LABEL = 5
PER_REASON = 3  # of the rows that were rejected, and of a label
ROLLOUTS = 2  # of a step and label


@dataclass(frozen=True)
class Response:
    """One response: `heading` says whose it is, `outcome` what came of it."""

    heading: str
    outcome: str
    good: bool
    reasoning: str
    answer: str


@dataclass(frozen=True)
class Example:
    """A prompt and its responses; `harmful` ones are shown folded."""

    kind: str
    id: str
    prompt: str
    harmful: bool
    responses: tuple[Response, ...]


def evaluation_examples(run: RunFiles) -> list[Example]:
    """The same held-out prompts before and after training."""
    return examples_beside({step: run.rows[step] for step in ALL_STEPS if run.rows[step]})


def examples_beside(evaluations: Mapping[str, Sequence[dict]]) -> list[Example]:
    """The same prompts in several evaluations: heading -> scored rows."""
    by_heading = {
        heading: {(r["suite"], r["id"], r["sample"]): r for r in rows}
        for heading, rows in evaluations.items()
    }
    rows = next(iter(by_heading.values()), {})
    chosen = []
    for kind, limit in PER_KIND.items():
        for key in _some((key for key, row in rows.items() if row["kind"] == kind), limit):
            row_of = {h: kept[key] for h, kept in by_heading.items() if key in kept}
            answers = tuple(
                _response(heading, *_outcome(KINDS[kind], row), row["response"])
                for heading, row in row_of.items()
            )
            prompt, title = _cut(rows[key]["prompt"]), key[0].replace("_", "-")
            folded = kind in (HARMFUL, COMPLIANCE)
            chosen.append(Example(title, key[1], prompt, folded, answers))
    return chosen


def sample_examples(run: RunFiles) -> list[Example]:
    """Rows that were sampled for training, with what the guard said of them."""
    samples = _sampled(run)
    chosen = []
    for label in dict.fromkeys(row["label"] for row in samples.values()):
        keys = _some((k for k, r in samples.items() if r["label"] == label), PER_LABEL)
        chosen += [_sample_example(samples[key]) for key in keys]
    return chosen


def rejected_examples(run: RunFiles) -> list[Example]:
    """Sampled rows that were not accepted: some of every reason and label."""
    by_reason: dict[tuple[str, str], list[tuple]] = {}
    samples = _sampled(run)
    reasoning = run.recipe.synthesis.reasoning if run.recipe else "think"
    for key, row in samples.items():
        dropped = row.get("dropped") or drop_reason(
            row["response"], row["finish_reason"], reasoning
        )
        reason = dropped or row["verdict"]
        if reason not in (*_ACCEPTED, _NOT_JUDGED):
            samples[key] = row | {"verdict": reason.replace("_", " ")}
            by_reason.setdefault((row["label"], reason), []).append(key)
    chosen = [key for keys in by_reason.values() for key in _some(keys, PER_REASON)]
    return [_sample_example(samples[key]) for key in chosen]


_ACCEPTED, _NOT_JUDGED = ("safe", "accepted"), "not judged"


def _sampled(run: RunFiles) -> dict[tuple, dict]:
    """The sampled rows with a response, by id and attempt, each with its verdict."""
    verdicts = {(v["id"], v["attempt"]): v["verdict"] for v in run.verdicts}
    keys = [((row["id"], row["attempt"]), row) for row in run.samples if row["response"]]
    return {key: row | {"verdict": verdicts.get(key, _NOT_JUDGED)} for key, row in keys}


def _sample_example(row: dict) -> Example:
    heading = "steered" if row.get("steering", "none") != "none" else "not steered"
    good = row["verdict"] in _ACCEPTED
    answers = (_response(heading, row["verdict"], good, row["response"]),)
    label = row["label"]
    return Example(label, row["id"], _cut(row["prompt"]), label == "harmful", answers)


def rollout_examples(run: RunFiles) -> list[Example]:
    """Rollouts of the first, the middle and the last step of an on-policy run."""
    chosen = []
    for rows in run.rollouts.values():
        by_key = {(row["label"], row["id"], row["sample"]): row for row in rows}
        for label in dict.fromkeys(row["label"] for row in rows):
            for key in _some((k for k in by_key if k[0] == label), ROLLOUTS):
                row = by_key[key]
                verdict = row["verdict"] or "not judged"
                heading = f"step {row['step'] + 1}"
                answer = _response(heading, verdict, verdict == "safe", row["response"])
                prompt = _cut(row["prompt"])
                chosen.append(Example(label, row["id"], prompt, label == "harmful", (answer,)))
    return chosen


def _some(keys: Iterable[tuple], limit: int) -> list[tuple]:
    """`limit` keys drawn by their hash: no favourites, and the same ones in every report."""
    return sorted(keys, key=lambda key: hashlib.sha256(repr(key).encode()).digest())[:limit]


def _outcome(kind: Kind, row: dict) -> tuple[str, bool]:
    """The word for what came of an evaluated row, and whether that is good."""
    hit = outcome(row)
    if hit is None:
        return "unparsed", False
    return (kind.hit if hit else kind.miss), hit != kind.lower_is_better


def _response(heading: str, word: str, good: bool, text: str) -> Response:
    reasoning, closed, answer = text.rpartition("</think>")
    if not closed and "<think>" in text:
        reasoning, answer = text, ""
    reasoning = reasoning.strip().removeprefix("<think>").strip()
    return Response(heading, word, good, _cut(reasoning), _cut(answer.strip()))


def _cut(text: str) -> str:
    left = len(text) - LONGEST
    return text if left <= 0 else f"{text[:LONGEST]} … [{left:,} more characters]"
