"""results.json: the study in numbers. The page is made from it and from nothing else.

schema_version   1; it changes when a name changes its meaning
name, question, rule, reference, seeds, choosing_seeds, student, judge, study_sha256, paper_model
                 paper_model: whose published figures stand beside the study's; "" for none
suites           {suite: {kind, questions}} of the held-out split
methods          [{name, recipe, setting, settings, evaluated_seeds, measures, suites, columns,
                 against_reference, against_initial, against_safest, cost, curves, paper_columns,
                 published}]; the untouched student comes first.
                 settings: [{name, overrides, status, broken}]; status is chosen, passed over,
                 breaks the rule or failed. No figure of the validation split is in here
                 evaluated_seeds: seeds behind the figures, without those that failed
                 measures, suites: {name: {value, low, high, sd, seeds, n}}, shares
                 against_*: {measure: the same} of this method less the reference, the untouched
                 student, or the trained method with the least harm; on the same questions
                 cost: means over the runs of evaluated_seeds, see costs.py; null of the student
                 curves: {seed: [[step, loss]]}, at most CURVE points
                 columns, paper_columns: {column of the paper's tables: per cent}, the study's own
                 and the paper's; published: the paper's measures, as shares
dropped          [{method, setting, seed, split, why}]: runs that failed
totals           {runs, evaluations, cost}: all of the study, those of passed-over settings included
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thinksafe_jax.errors import InputError
from thinksafe_jax.evaluation import paper_rows, paper_table
from thinksafe_jax.storage import atomic_write, file_sha256
from thinksafe_jax.studies.choosing_rule import MEASURES, Choice, choose
from thinksafe_jax.studies.costs import RunCost, loss_curve, mean_cost, run_cost, total_cost
from thinksafe_jax.studies.measures import MethodAnswers, difference, read_answers
from thinksafe_jax.studies.published_points import published_measures
from thinksafe_jax.studies.study_file import INITIAL, Method, Study
from thinksafe_jax.studies.units import UNTOUCHED, Unit, heldout_units, validation_units
from thinksafe_jax.studies.work_off import failure

SCHEMA_VERSION = 1
CURVE = 120
_UNREAD = "it was asked nothing of that kind, or no answer could be read"


def choices(study: Study, root: Path) -> dict[str, Choice]:
    """What the rule chooses for each method, from the finished first round.

    A method with one setting has no choice. A setting counts with all its seeds or not at all.

    Raises:
        InputError: the untouched student has no value of a measure to which the rule compares.
    """
    units = validation_units(study)
    initial = _initial_values(study, units, root) if units else {}
    chosen = {}
    for method in study.methods:
        if len(method.settings) == 1:
            chosen[method.name] = Choice(method.settings[0].name, {method.settings[0].name: ()})
            continue
        settings = [
            (s.name, _values(study, _of(units, method.name, s.name), root)) for s in method.settings
        ]
        chosen[method.name] = choose(study.rule, settings, initial)
    return chosen


def _initial_values(study: Study, units: Sequence[Unit], root: Path) -> dict[str, float]:
    """The rule's measures of the untouched student, as far as they could be measured."""
    of_initial = [unit for unit in units if unit.method == INITIAL]
    values = _values(study, of_initial, root) or {}
    for condition in study.rule.conditions:
        if condition.from_initial and condition.measure not in values:
            raise InputError(
                f"{root}: the untouched student could not be evaluated, and the rule needs its "
                f"{condition.measure} ({condition.text}): {_why(of_initial, root)}"
            )
    return values


def _of(units: Sequence[Unit], method: str, setting: str) -> list[Unit]:
    return [unit for unit in units if (unit.method, unit.setting) == (method, setting)]


def _values(study: Study, units: Sequence[Unit], root: Path) -> dict[str, float] | None:
    """The rule's measures, each the mean over the seeds; None where a seed failed."""
    if any(failure(unit, root) is not None for unit in units):
        return None
    answers = read_answers({unit.seed: unit.evaluation_folder(root) for unit in units})
    return answers.values(study.rule.measures)


def write_results(study: Study, root: Path) -> dict[str, Any]:
    """Writes STUDY_DIR/results.json of a finished study, and returns its content.

    Raises:
        InputError: nothing of the held-out split could be measured, or a row cannot be read.
    """
    chosen = choices(study, root)
    validation = validation_units(study)
    heldout = heldout_units(study, {name: choice.chosen for name, choice in chosen.items()})
    answers = _answers(heldout, root)
    if INITIAL not in answers:
        why = _why([unit for unit in heldout if unit.method == INITIAL], root)
        raise InputError(f"{root}: the untouched student could not be evaluated: {why}")
    costs = _costs([*validation, *heldout], root)
    methods = [_initial(study, answers)]
    methods += [
        _method(study, method, chosen[method.name], answers, costs, root)
        for method in study.methods
    ]
    config, recipe = study.config, study.methods[0].settings[0].recipe
    result = {
        "schema_version": SCHEMA_VERSION,
        "name": config.name,
        "question": config.question,
        "study_sha256": file_sha256(study.path),
        "rule": study.rule.text if study.config.chooses else "",
        "reference": study.reference,
        "seeds": config.seeds,
        "choosing_seeds": study.choosing_seeds if study.config.chooses else [],
        "student": recipe.student.model,
        "judge": "mini" if config.heldout.judge == "mini" else recipe.judging.kind,
        "paper_model": config.published,
        "suites": {
            suite: {"kind": kind, "questions": len(answers[INITIAL].answers[suite].questions)}
            for suite, kind in answers[INITIAL].kinds.items()
        },
        "methods": methods,
        "dropped": _dropped([*validation, *heldout], root),
        "totals": _totals(validation, heldout, costs),
    }
    atomic_write(root / "results.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return result


def _answers(units: Sequence[Unit], root: Path) -> dict[str, MethodAnswers]:
    """Method -> what its seeds said; without those that failed."""
    folders: dict[str, dict[int, Path]] = {}
    for unit in units:
        if failure(unit, root) is None:
            folders.setdefault(unit.method, {})[unit.seed] = unit.evaluation_folder(root)
    return {method: read_answers(by_seed) for method, by_seed in folders.items()}


def _why(units: Sequence[Unit], root: Path) -> str:
    return next(filter(None, (failure(unit, root) for unit in units)), _UNREAD)


def _costs(units: Sequence[Unit], root: Path) -> dict[str, RunCost]:
    """Name of a unit -> the cost of its run; both rounds share runs."""
    return {
        unit.name: run_cost(folder, unit.run)
        for unit in {unit.name: unit for unit in units}.values()
        if unit.run is not None and (folder := unit.run_folder(root)) and folder.is_dir()
    }


def _initial(study: Study, answers: Mapping[str, MethodAnswers]) -> dict[str, Any]:
    entry = {"name": INITIAL, "recipe": "", "setting": UNTOUCHED, "settings": []}
    entry |= _figures(study, INITIAL, answers)
    return {**entry, "cost": None, "curves": {}, **_published(study, INITIAL)}


def _method(
    study: Study,
    method: Method,
    choice: Choice,
    answers: Mapping[str, MethodAnswers],
    costs: Mapping[str, RunCost],
    root: Path,
) -> dict[str, Any]:
    names = [f"{method.name}/{choice.chosen}/seed-{seed}" for seed in study.config.seeds]
    runs = [name for name in names if name in costs]
    figures = _figures(study, method.name, answers)
    evaluated = {
        f"{method.name}/{choice.chosen}/seed-{seed}" for seed in figures["evaluated_seeds"]
    }
    cost = mean_cost([costs[name] for name in runs if name in evaluated])
    return {
        "name": method.name,
        "recipe": method.config.recipe,
        "setting": choice.chosen,
        "settings": [
            {
                "name": setting.name,
                "overrides": list(setting.overrides),
                "status": _status(setting.name, choice),
                "broken": list(choice.broken.get(setting.name, ())),
            }
            for setting in method.settings
        ],
        **figures,
        "cost": cost and cost.as_dict(),
        "curves": {
            name.rpartition("seed-")[2]: _thinned(loss_curve(root / "runs" / name)) for name in runs
        },
        **_published(study, method.config.published, method.config.published_values),
    }


def _status(setting: str, choice: Choice) -> str:
    if setting == choice.chosen:
        return "chosen"
    if setting not in choice.broken:
        return "failed"
    return "breaks the rule" if choice.broken[setting] else "passed over"


def _figures(study: Study, name: str, answers: Mapping[str, MethodAnswers]) -> dict[str, Any]:
    """A method's measures and suites, and its differences from reference and student."""
    if name not in answers:
        others = ("against_reference", "against_initial", "against_safest")
        empty = ("measures", "suites", "columns", *others)
        return {"evaluated_seeds": [], **{key: {} for key in empty}}
    mine = answers[name]
    measures = [measure for measure in MEASURES if mine.of(measure)]

    suites = {suite: mine.estimate(suite).as_dict() for suite in mine.answers}

    def against(other: str) -> dict[str, Any]:
        if other == name or other not in answers:
            return {}
        return {m: difference(answers[other], mine, m).as_dict() for m in measures}

    return {
        "evaluated_seeds": list(mine.seeds),
        "measures": {measure: mine.estimate(measure).as_dict() for measure in measures},
        "suites": suites,
        "columns": paper_table({name: {"rate": e} for name, e in suites.items()}) or {},
        "against_reference": against(study.reference),
        "against_initial": against(INITIAL),
        "against_safest": against(_safest(answers)),
    }


def _safest(answers: Mapping[str, MethodAnswers]) -> str:
    """The trained method with the least harm; "" where none could be read."""
    harm = {
        name: value
        for name, method in answers.items()
        if name != INITIAL and (value := method.estimate("harm").value) is not None
    }
    return min(harm, key=lambda name: harm[name]) if harm else ""


def _published(study: Study, row: str, values: Mapping[str, float] | None = None) -> dict[str, Any]:
    """The paper's columns of this row in per cent, and its measures as shares."""
    rows = paper_rows(study.config.published) if study.config.published else {}
    columns = {**rows.get(row, {}), **(values or {})}
    return {"paper_columns": columns, "published": published_measures(columns)}


def _thinned(curve: Sequence[tuple[int, float]]) -> list[list[float]]:
    """At most CURVE points, the last among them: each the mean of a stretch."""
    width = -(-len(curve) // CURVE) if curve else 1
    stretches = [curve[i : i + width] for i in range(0, len(curve), width)]
    return [[s[-1][0], round(sum(loss for _, loss in s) / len(s), 6)] for s in stretches]


def _dropped(units: Sequence[Unit], root: Path) -> list[dict[str, Any]]:
    return [
        {"method": u.method, "setting": u.setting, "seed": u.seed, "split": u.split, "why": why}
        for u in units
        if (why := failure(u, root)) is not None
    ]


def _totals(
    validation: Sequence[Unit], heldout: Sequence[Unit], costs: Mapping[str, RunCost]
) -> dict[str, Any]:
    total = total_cost(list(costs.values()))
    return {
        "runs": len(costs),
        "evaluations": {"validation": len(validation), "heldout": len(heldout)},
        "cost": total and total.as_dict(),
    }
