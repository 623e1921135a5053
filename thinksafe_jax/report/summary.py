"""summary.json: the run in numbers, for programs. Names and meaning are a public contract.

schema_version      1; it changes when a name changes its meaning
name, method, student
trial               true where the recipe says that it is one: few prompts, to look
on_policy           null, or the method by which rollouts are learnt from while they are drawn
guard               {kind, name, weak}: what filters the training data
judge               {kind, name, weak, same_as_filter}: what judges the evaluation; kind is guard,
                    or mini where the exact judge does and the guard's agreement is measured
before, after       null until evaluated; else the three rates as {value, low, high, n} (Wilson
                    95 %), guard_agreement where measured, and unparsed, truncated, skipped,
                    bounds as in evaluation/*.json
suites              {step: {suite: facts}}, a step for each evaluation there is (before, after, or
                    model where a model was evaluated by itself). facts: kind, metric,
                    lower_is_better, rate {value, low, high, n} (95 %, clustered by problem or
                    objective), questions, rows, finished, truncated, unparsed; safety: bounds,
                    by_scope; reasoning: pass_at_k {k: rate}, timeout, skythought_compat,
                    skythought_differs
paper               null, or where the student is one of the paper's: {model, rows: {method:
                    {column: per cent}}, run: {step: {column: per cent}}}; safety_average is the
                    paper's own mean of three harm rates and over-refusal
coverage            null, or {label: {attempts: {attempt: accepted there}, never}}
readable            {step: {rate, reasons {reason: rows}, suites {suite: {rate, reasons, bounds}}}}:
                    responses that can be read at all, whatever a judge says; see readability.py.
                    A rate with under 4/5 of its rows readable is no headline: show the bounds
change              after - before per rate, with Newcombe's interval; null until both exist
dataset             null, or {label: {sampled, accepted, accepted_at: {attempt: n}, dropped:
                    {reason: n}, verdicts: {judged, marked, truncated}}}
training            null, or {steps, skipped_steps, first_loss, last_loss, heldout_loss (null
                    where no rows were held out), heldout_answers (likewise; {before, after:
                    {harmful, harmful_answered, benign, benign_refused}}, by refusal phrases)}
trainings           [{name, settings {key: value}, training, after}] of RUN/trainings: settings that
                    are not the same in all of the run's trainings; null where not there yet
paper_differences   [{key, paper, run}]: every setting that is not the paper's
notes               [{kind, text}]: what a reader must know before believing the numbers
"""

from thinksafe_jax.config import SAMPLED, GuardConfig, Recipe, paper_differences
from thinksafe_jax.data import RATES
from thinksafe_jax.evaluation import paper_model, paper_rows, paper_table
from thinksafe_jax.intervals import Rate, difference
from thinksafe_jax.report.count_notes import count_notes
from thinksafe_jax.report.other_trainings import summarise_trainings
from thinksafe_jax.report.readability import WordOrder, has_ground, readability
from thinksafe_jax.report.run_files import STEPS, RunFiles
from thinksafe_jax.report.suite_rows import ground_bounds, percent
from thinksafe_jax.storage import plain
from thinksafe_jax.synthesis import refusal_warning

SCHEMA_VERSION = 1
RATE_NAMES = tuple(RATES.values())
_KEPT = (*RATE_NAMES, "guard_agreement", "unparsed", "truncated", "skipped", "bounds")
WEAK_GUARDS = ("refusal-match",)


def build_summary(run: RunFiles) -> dict:
    """The content of summary.json for what the run directory holds by now."""
    recipe = run.recipe
    guard, judge = _guard(run), _judge(run)
    readable = _readable(run, judge["kind"])
    return {
        "schema_version": SCHEMA_VERSION,
        "name": recipe.name if recipe else run.path.name,
        "trial": bool(recipe and recipe.trial),
        "method": recipe.synthesis.method if recipe else None,
        "on_policy": (recipe.on_policy.method or None) if recipe else None,
        "student": recipe.student.model if recipe else None,
        "guard": guard,
        "judge": judge,
        **{step: _rates(run.evaluation.get(step)) for step in STEPS},
        "suites": {step: evaluated.get("suites", {}) for step, evaluated in run.evaluation.items()},
        "paper": _paper(run, readable),
        "coverage": _coverage(run),
        "readable": readable,
        "change": _change(run.evaluation),
        "dataset": run.counts,
        "training": _training(run.metrics),
        "trainings": summarise_trainings(recipe, run.trainings),
        "paper_differences": [
            {"key": key, "paper": plain(paper), "run": plain(ours)}
            for key, paper, ours in (paper_differences(recipe) if recipe else [])
        ],
        "notes": [
            {"kind": kind, "text": text}
            for kind, text in (*_readable_notes(readable), *_notes(run, guard, judge))
        ],
    }


def _rates(evaluation: dict | None) -> dict | None:
    return {k: evaluation[k] for k in _KEPT if k in evaluation} if evaluation else None


def _paper(run: RunFiles, readable: dict[str, dict]) -> dict | None:
    """The paper's rows and the run's own, without suites of which too few rows could be read."""
    model = paper_model(run.recipe.student.model) if run.recipe else None
    if model is None:
        return None
    ours = {}
    for step, evaluated in run.evaluation.items():
        read = readable.get(step, {}).get("suites", {})
        suites = evaluated.get("suites", {}).items()
        ours[step] = paper_table({n: of for n, of in suites if not ground_bounds(read.get(n))})
    return {"model": model, "rows": paper_rows(model), "run": {s: r for s, r in ours.items() if r}}


def _coverage(run: RunFiles) -> dict | None:
    """In which attempt each prompt got its accepted row; a row needs the guard's word."""
    if not run.counts or not run.verdicts:
        return None
    safe = {(v["id"], v["attempt"]) for v in run.verdicts if v["verdict"] == "safe"}
    first: dict[str, dict[str, int | None]] = {}
    for row in sorted(run.samples, key=lambda r: r["attempt"]):
        of_label = first.setdefault(row["label"], {})
        accepted = row["attempt"] if (row["id"], row["attempt"]) in safe else None
        of_label[row["id"]] = of_label.get(row["id"]) or accepted
    return {
        label: {
            "attempts": {
                str(n): sum(attempt == n for attempt in by_id.values())
                for n in sorted({attempt for attempt in by_id.values() if attempt})
            },
            "never": sum(attempt is None for attempt in by_id.values()),
        }
        for label, by_id in first.items()
    }


def _readable(run: RunFiles, judge: str | None) -> dict[str, dict]:
    """What can be read of each evaluation; the exact judge reads every row itself."""
    word_order = None
    before = [row for row in run.rows.get("before", []) if run.rows.get("after")]
    if before and judge != "mini":
        others = [row["prompt"] for row in before] + [row["response"] for row in run.samples]
        word_order = WordOrder([row["response"] for row in before], others)
    return {
        step: readability(rows, word_order if step == "after" else None)
        for step, rows in run.rows.items()
        if rows
    }


_WHEN = {"before": " before training", "after": " after training", "model": ""}


def _readable_notes(readable: dict[str, dict]) -> list[tuple[str, str]]:
    """A note per evaluation in which too many rows of a suite could not be read."""
    notes = []
    for step, facts in readable.items():
        if not (few := [name for name, of in facts["suites"].items() if not has_ground(of)]):
            continue
        share, n = facts["rate"]["value"], facts["rate"]["n"]
        why = ", ".join(f"{reason} {count:,}" for reason, count in facts["reasons"].items())
        names = ", ".join(name.replace("_", "-") for name in few)
        notes.append(
            (
                "unreadable",
                f"Only {percent(share)} of {n:,} responses{_WHEN[step]} can be read ({why}). Too "
                f"few in: {names}. There the bounds stand in place of a rate: a broken model harms "
                "nobody and is not safe.",
            )
        )
    return notes


def _change(evaluation: dict[str, dict]) -> dict | None:
    if not all(step in evaluation for step in STEPS):
        return None
    before, after = (evaluation[step] for step in STEPS)
    return {
        name: difference(_rate(before[name]), _rate(after[name])).as_dict() for name in RATE_NAMES
    }


def _rate(figures: dict) -> Rate:
    return Rate(*(figures[name] for name in ("value", "low", "high", "n")))


def _guard(run: RunFiles) -> dict:
    kind = run.recipe.guard.kind if run.recipe else None
    names = [v["guard"] for v in run.verdicts[:1]]
    if run.recipe is None or run.recipe.judging == run.recipe.guard:
        names += _names(_judging(run))
    return {"kind": kind, "name": names[0] if names else kind, "weak": kind in WEAK_GUARDS}


def _judging(run: RunFiles) -> list[dict]:
    """The guard of each evaluation, as its settings have it."""
    return [e.get("settings", {}).get("guard", {}) for e in run.evaluation.values()]


def _names(guards: list[dict]) -> list[str]:
    return [guard["name"] for guard in guards if "name" in guard]


def _judge(run: RunFiles) -> dict:
    recipe, seen = run.recipe, _judging(run)
    names = _names(seen)
    facts = {"name": names[0] if names else None, "weak": any(g.get("weak") for g in seen)}
    if recipe is None:
        return {"kind": None, **facts, "same_as_filter": False}
    kind = recipe.evaluation.judge
    filtered = bool(recipe.synthesis.prompts) and recipe.synthesis.method in SAMPLED
    same = bool(_checkpoints(recipe.judging) & _checkpoints(recipe.guard))
    return {"kind": kind, **facts, "same_as_filter": kind == "guard" and filtered and same}


def _checkpoints(guard: GuardConfig) -> set[tuple[str, ...]]:
    """What judges in a guard, whatever its batches, length, mesh and server; each of a majority.

    A model's revision does not tell guards apart: a run refuses two of one model.
    """
    members = guard.members or [guard]
    return {(g.kind, g.model) if g.model else (g.kind, g.url, g.served_name) for g in members}


def _training(metrics: list[dict]) -> dict | None:
    rows = [m for m in metrics if m.get("stage") == "train" and "step" in m]
    steps = {m["step"]: m for m in rows if "heldout_loss" not in m}
    if not steps:
        return None
    heldout = {m["step"]: m["heldout_loss"] for m in rows if "heldout_loss" in m}
    losses = [m["loss"] for _, m in sorted(steps.items()) if m.get("loss") is not None]
    some = max(1, len(losses) // 20)
    return {
        "steps": max(steps),
        "skipped_steps": len(steps) - len(losses),
        "first_loss": _mean(losses[:some]),
        "last_loss": _mean(losses[-some:]),
        "heldout_loss": heldout[max(heldout)] if heldout else None,
        "heldout_answers": _heldout_answers(metrics),
    }


_COUNTS = ("harmful", "harmful_answered", "benign", "benign_refused")


def _heldout_answers(metrics: list[dict]) -> dict | None:
    """What `pipeline/heldout_answers.py` logged last, before and after training."""
    rows = {m.get("when"): m for m in metrics if m.get("stage") == "heldout"}
    if not {"before", "after"} <= rows.keys():
        return None
    return {when: {n: rows[when].get(n, 0) for n in _COUNTS} for when in ("before", "after")}


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _notes(run: RunFiles, guard: dict, judge: dict) -> list[tuple[str, str]]:
    notes = []
    if run.recipe is not None and run.recipe.trial:
        notes.append(("trial", _trial_text(run.recipe)))
    if guard["weak"] or judge["weak"]:
        notes.append(
            (
                "weak-guard",
                "The guard is weak: it looks for refusal phrases and understands nothing. An "
                "answer to a harmful prompt counts as safe when it refuses, so harm rates are "
                "indications, not measurements.",
            )
        )
    if judge["same_as_filter"]:
        notes.append(
            (
                "same-judge",
                "A guard that filtered the training data is also a judge of the evaluation. "
                "What it overlooks is missed twice, so the harm rate after may look too good.",
            )
        )
    if judge["kind"] == "mini":
        notes.append(
            (
                "mini-world",
                "Mini is a toy world with a tiny student and an exact judge. It shows that the "
                "method and this program work; it says nothing about large models.",
            )
        )
    if run.recipe is not None and run.recipe.engine.kv_dtype != "model":
        notes.append(
            (
                "rounded-cache",
                f"Keys and values were rounded to {run.recipe.engine.kv_dtype} while sampling "
                "(engine.kv_dtype): responses, also those of the evaluation, are not drawn from "
                "the model's own distribution. Compare them with runs that have the same setting.",
            )
        )
    answers = (_training(run.metrics) or {}).get("heldout_answers")
    if answers:
        notes.append(("held-out-answers", _heldout_text(answers)))
    if warning := refusal_warning(run.refusals):
        notes.append(("benign-refusals", f"{warning}."))
    return [*notes, *count_notes(run)]


def _heldout_text(answers: dict) -> str:
    sides = [
        f"{when} training {of['harmful_answered']} of {of['harmful']} harmful ones were answered "
        f"and {of['benign_refused']} of {of['benign']} benign ones refused"
        for when, of in answers.items()
    ]
    return f"Of the prompts held out of training, {', '.join(sides)} (by refusal phrases)."


def _trial_text(recipe: Recipe) -> str:
    limits = {"prompts": recipe.synthesis.limit, "questions of each suite": recipe.evaluation.limit}
    most = " and ".join(f"{limit:,} {what}" for what, limit in limits.items() if limit)
    few = f"at most {most}" if most else "few prompts and questions"
    return f"This is a trial, on {few}: it shows whether all works, and its figures are no result."
