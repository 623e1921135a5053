"""results.json: the study in numbers. The page is made from it and from nothing else.

schema_version   1; it changes when a name changes its meaning
name, question, rule, reference, seeds, choosing_seeds, student, judge, study_sha256, paper_model
                 paper_model: whose published figures stand beside the study's; "" for none
suites           {suite: {kind, questions}} of the held-out split
methods          [{name, recipe, setting, settings, evaluated_seeds, measures, suites, columns,
                 against_reference, against_initial, against_safest, cost, runs, shared_by, curves,
                 paper_columns, published}]; the untouched student comes first.
                 settings: [{name, overrides, status, broken, unsure}]; status is chosen, passed
                 over, breaks the rule or failed; unsure: those of the broken conditions whose bound
                 lies in the 95 % interval. No figure of the validation split is in here
                 evaluated_seeds: seeds behind the figures, without those that failed
                 measures, suites: {name: {value, low, high, sd, seeds, n}}, shares
                 against_*: {measure: the same} of this method less the reference, the untouched
                 student, or the trained method with the least harm; on the same questions
                 cost: means over the runs of evaluated_seeds, see costs.py; null of the student
                 runs: {seed: directory below STUDY_DIR} of the chosen setting; shared_by: how many
                 settings train on the samples of such a run, at most. Costs are as if it were alone
                 curves: {seed: [[step, loss]]}, at most CURVE points
                 columns, paper_columns: {column of the paper's tables: per cent}, the study's own
                 and the paper's; published: the paper's measures, as shares
dropped          [{method, setting, seed, split, why}]: runs that failed
totals           {runs, evaluations, cost, spent}: all of the study, those of passed-over settings
                 included. cost: every run as if alone; spent: samples that runs share counted once
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from thinksafe_jax.errors import InputError
from thinksafe_jax.evaluation import paper_rows, paper_table
from thinksafe_jax.intervals import Estimate
from thinksafe_jax.storage import atomic_write, file_sha256
from thinksafe_jax.studies.choosing_rule import MEASURES, Choice, Condition, choose
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
    units, rule = validation_units(study), study.rule
    of_initial = [unit for unit in units if unit.method == INITIAL]
    initial = _tried(of_initial, root)
    values = initial.values(rule.measures) if initial else {}
    for condition in rule.conditions if units else ():
        if condition.from_initial and condition.measure not in values:
            raise InputError(
                f"{root}: the untouched student could not be evaluated, and the rule needs its "
                f"{condition.measure} ({condition.text}): {_why(of_initial, root)}"
            )
    chosen = {}
    for method in study.methods:
        if len(method.settings) == 1:
            chosen[method.name] = Choice(method.settings[0].name, {method.settings[0].name: ()})
            continue
        tried = {s.name: _tried(_of(units, method.name, s.name), root) for s in method.settings}
        measured = [(name, a and a.values(rule.measures)) for name, a in tried.items()]
        choice = choose(rule, measured, values)
        unsure = {
            name: tuple(
                c.text for c in rule.conditions
                if c.text in texts and not c.surely_broken(_compared(c, tried[name], initial))
            )
            for name, texts in choice.broken.items()
        }  # fmt: skip
        chosen[method.name] = replace(choice, unsure=unsure)
    return chosen


def _of(units: Sequence[Unit], method: str, setting: str) -> list[Unit]:
    return [unit for unit in units if (unit.method, unit.setting) == (method, setting)]


def _tried(units: Sequence[Unit], root: Path) -> MethodAnswers | None:
    """What all seeds of a setting said; None where one failed, or none was asked."""
    if not units or any(failure(unit, root) is not None for unit in units):
        return None
    return read_answers({unit.seed: unit.evaluation_folder(root) for unit in units})


def _compared(
    condition: Condition, answers: MethodAnswers | None, initial: MethodAnswers | None
) -> Estimate:
    """What a condition bounds: the measure, or its difference from the untouched student."""
    assert answers is not None  # of a setting that breaks a condition
    if not condition.from_initial:
        return answers.estimate(condition.measure)
    assert initial is not None
    return difference(initial, answers, condition.measure)


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
    runs = _runs([*validation, *heldout], root)
    methods = [_initial(study, answers)]
    methods += [
        _method(study, method, chosen[method.name], answers, runs) for method in study.methods
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
        "totals": _totals(root, validation, heldout, runs),
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


@dataclass(frozen=True)
class _Run:
    """What a run has cost, and where it lies.

    Attributes:
        place: below STUDY_DIR.
        data: directory of its samples, where other settings may train on them as well.
    """

    folder: Path
    place: str
    data: Path
    cost: RunCost


def _runs(units: Sequence[Unit], root: Path) -> dict[str, _Run]:
    """Name of a unit -> its run, if it was begun; both rounds share runs."""
    runs = {}
    for unit in units:
        folder, shared = unit.run_folder(root), unit.data_run(root)
        if unit.name in runs or unit.run is None or folder is None:
            continue
        data = shared[0] if shared else folder
        if data.is_dir():
            place = folder.relative_to(root).as_posix()
            runs[unit.name] = _Run(folder, place, data, run_cost(folder, unit.run))
    return runs


def _initial(study: Study, answers: Mapping[str, MethodAnswers]) -> dict[str, Any]:
    entry = {"name": INITIAL, "recipe": "", "setting": UNTOUCHED, "settings": []}
    entry |= _figures(study, INITIAL, answers)
    entry |= {"cost": None, "runs": {}, "shared_by": 0, "curves": {}}
    return {**entry, **_published(study, INITIAL)}


def _method(
    study: Study,
    method: Method,
    choice: Choice,
    answers: Mapping[str, MethodAnswers],
    runs: Mapping[str, _Run],
) -> dict[str, Any]:
    names = {seed: f"{method.name}/{choice.chosen}/seed-{seed}" for seed in study.config.seeds}
    mine = {seed: runs[name] for seed, name in names.items() if name in runs}
    sharing = Counter(run.data for run in runs.values())
    figures = _figures(study, method.name, answers)
    cost = mean_cost([run.cost for seed, run in mine.items() if seed in figures["evaluated_seeds"]])
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
                "unsure": list(choice.unsure.get(setting.name, ())),
            }
            for setting in method.settings
        ],
        **figures,
        "cost": cost and cost.as_dict(),
        "runs": {str(seed): run.place for seed, run in mine.items()},
        "shared_by": max((sharing[run.data] for run in mine.values()), default=0),
        "curves": {str(seed): _thinned(loss_curve(run.folder)) for seed, run in mine.items()},
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

    suites = {suite: mine.suite(suite).as_dict() for suite in mine.answers}

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
    root: Path, validation: Sequence[Unit], heldout: Sequence[Unit], runs: Mapping[str, _Run]
) -> dict[str, Any]:
    """Totals of what was done: a run that failed has cost something and is evaluated nowhere."""
    sampled, spent = set[Path](), []
    for run in runs.values():
        spent.append(run.cost.of_training() if run.data in sampled else run.cost)
        sampled.add(run.data)
    total, paid = total_cost([run.cost for run in runs.values()]), total_cost(spent)
    return {
        "runs": len(runs),
        "evaluations": {
            split: sum(failure(unit, root) is None for unit in units)
            for split, units in (("validation", validation), ("heldout", heldout))
        },
        "cost": total and total.as_dict(),
        "spent": paid and paid.as_dict(),
    }
