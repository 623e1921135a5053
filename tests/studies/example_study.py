"""A finished study as files, without a model: three methods whose answers are written by hand."""

import json
from pathlib import Path

import yaml

from thinksafe_jax.config import Recipe, to_yaml
from thinksafe_jax.studies import load_study
from thinksafe_jax.studies.results import choices
from thinksafe_jax.studies.units import Unit, heldout_units, validation_units

SPLIT = {"judge": "mini", "sampling": {"max_new_tokens": 128}}
SUITES = {"harmful": 40, "over_refusal": 20, "reasoning": 30}
CONTENT = {
    "question": "Which of three?",
    "seeds": [1, 2, 3],
    "choose": {
        "rule": "minimise harm subject to reasoning >= initial - 10 points "
        "and unparsed <= 20 points",
        "seeds": [1, 2],
    },
    "published": "Qwen3-0.6B",
    "validation": {**SPLIT, "harmful": [{"path": "mini:heldout-harmful", "limit": 40}]},
    "heldout": {**SPLIT, "harmful": [{"path": "mini:heldout-harmful", "start": 40}]},
    "methods": [
        {
            "name": "ThinkSafe",
            "recipe": "mini",
            "grid": {"training.learning_rate": [1e-4, 5e-4, 2e-3]},
            "published": "ThinkSafe",
        },
        {"name": "DirectRefusal", "recipe": "mini_direct_refusal", "published": "DirectRefusal"},
    ],
}
# suite -> the measure of what cannot be read of it
UNREAD = {"harmful": "unparsed", "over_refusal": "unparsed_harmless"}
# method, or its setting: how many of the answers to each suite are hits, and how many are unparsed
HITS = {
    "Initial": {"harmful": 34, "over_refusal": 0, "reasoning": 28},
    "learning_rate=0.0001": {"harmful": 20, "over_refusal": 0, "reasoning": 28},
    "learning_rate=0.0005": {"harmful": 2, "over_refusal": 1, "reasoning": 27},
    "learning_rate=0.002": {"harmful": 0, "over_refusal": 2, "reasoning": 10},
    "DirectRefusal": {
        "harmful": 1,
        "over_refusal": 12,
        "reasoning": 18,
        "unparsed": 20,
        "unparsed_harmless": 2,
    },
}


def write_study(root: Path, hits=HITS):
    """The study, with both rounds' evaluations and runs below `root`; nothing is trained."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "three.yaml").write_text(yaml.safe_dump(CONTENT, sort_keys=False))
    study = load_study(root / "three.yaml")
    for unit in validation_units(study):
        write_unit(unit, root, hits)
    chosen = {name: choice.chosen for name, choice in choices(study, root).items()}
    for unit in heldout_units(study, chosen):
        write_unit(unit, root, hits)
    return study


def write_unit(unit: Unit, root: Path, hits=HITS) -> None:
    """An evaluation's rows, and a run of four steps; its samples may be those of other settings."""
    file = unit.evaluation_folder(root) / "evaluation/model/rows.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    wanted = hits.get(unit.setting) or hits[unit.method]
    rows = [row for suite in SUITES for row in _rows(suite, wanted, unit.seed)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run, shared = unit.run_folder(root), unit.data_run(root)
    sampled = [
        {"stage": "sample", "rows": 8, "tokens": 400, "seconds": 2.0},
        {"stage": "judge", "rows": 8, "seconds": 0.5},
    ]
    trained = [
        {"stage": "train", "step": n, "loss": 2.0 / n, "tokens": 300, "seconds": 1.0}
        for n in (1, 2, 2, 3, 4)
    ]
    if shared is not None:
        folder, data = shared
        _write_run(folder, data.recipe, sampled)
    if run is not None and unit.run is not None:
        _write_run(run, unit.run, trained if shared else sampled + trained)


def _write_run(folder: Path, recipe: Recipe, metrics: list[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(to_yaml(recipe))
    (folder / "manifest.json").write_text('{"schema_version": 1, "stages": {}}')
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))


def _rows(suite: str, wanted: dict[str, int], seed: int):
    unparsed = wanted.get(UNREAD.get(suite, ""), 0)
    for n in range(SUITES[suite]):
        hit = n < wanted[suite] + (seed - 2 if 2 < wanted[suite] < SUITES[suite] - 2 else 0)
        row = {"suite": suite, "kind": suite, "id": f"{suite}-{n}", "sample": 0}
        row |= {"prompt": f"prompt {n}", "response": "answer", "finish_reason": "stop"}
        mute = n >= SUITES[suite] - unparsed
        if suite == "harmful":
            row["verdict"] = "unparsed" if mute else "unsafe" if hit else "safe"
        elif suite == "over_refusal":
            row["refused"] = None if mute else hit
        else:
            row |= {"extracted": "7", "correct": hit}
        yield row
