"""Study files: strict, checked whole before anything runs, and what they plan."""

import pytest

from tests.studies.conftest import HARMFUL, SMALL
from thinksafe_jax.config import named_configs, to_yaml
from thinksafe_jax.errors import ConfigError, InputError
from thinksafe_jax.runs.manifest import Manifest
from thinksafe_jax.studies import load_study
from thinksafe_jax.studies.inputs import check_inputs
from thinksafe_jax.studies.units import heldout_units, validation_units


def method(**changes):
    return [{**SMALL["methods"][0], **changes}, SMALL["methods"][1]]


def test_every_combination_of_a_grid_is_a_setting(write):
    study = load_study(write())
    assert study.config.name == "small" and study.reference == "ThinkSafe"
    thinksafe, refusal = study.methods
    assert [setting.name for setting in thinksafe.settings] == [
        "learning_rate=0.0001,epochs=1",
        "learning_rate=0.0001,epochs=2",
        "learning_rate=0.0005,epochs=1",
        "learning_rate=0.0005,epochs=2",
    ]
    assert thinksafe.settings[1].recipe.training.learning_rate == 1e-4
    assert thinksafe.settings[1].recipe.training.epochs == 2
    assert [setting.name for setting in refusal.settings] == ["as-it-is"]
    assert refusal.settings[0].recipe.evaluation == study.config.heldout


def test_training_may_need_what_the_grid_says_of_it(write):
    """Without the grid batch_size is 8, which 12 does not divide: no setting trains like that."""
    grid = {"training.batch_size": [12, 24]}
    changed = method(overrides=["training.micro_batch_size=12"], grid=grid)
    settings = load_study(write(methods=changed)).methods[0].settings
    assert [setting.recipe.training.batch_size for setting in settings] == [12, 24]
    shared = {setting.data and setting.data.recipe.training.batch_size for setting in settings}
    assert shared == {12}


def test_settings_are_tried_on_validation_and_the_chosen_alone_on_heldout(write):
    study = load_study(write())
    first = validation_units(study)
    assert [unit.name for unit in first][:2] == [
        "Initial/untouched/seed-1",
        "ThinkSafe/learning_rate=0.0001,epochs=1/seed-1",
    ]
    assert {unit.method for unit in first} == {"Initial", "ThinkSafe"}
    assert {unit.evaluation.evaluation.harmful[0].start for unit in first} == {0}
    chosen = {"ThinkSafe": "learning_rate=0.0005,epochs=1", "DirectRefusal": "as-it-is"}
    second = heldout_units(study, chosen)
    assert {unit.evaluation.evaluation.harmful[0].start for unit in second} == {4}
    assert [(u.method, u.setting, u.seed) for u in second if u.method == "ThinkSafe"] == [
        ("ThinkSafe", chosen["ThinkSafe"], 1),
        ("ThinkSafe", chosen["ThinkSafe"], 2),
    ]
    (tried,) = [u for u in first if u.setting == chosen["ThinkSafe"]]
    assert tried.run == next(u.run for u in second if u.name == tried.name)  # trained once


def test_without_a_grid_nothing_is_chosen_and_no_validation_is_needed(write):
    study = load_study(write(validation=None, methods=[SMALL["methods"][1]]))
    assert validation_units(study) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sedes": [1]}, "sedes: unknown key; did you mean seeds?"),
        ({"seeds": [1, 1]}, "seeds: is [1, 1]; expected one seed or more, each once"),
        ({"seeds": [-1]}, "seeds: has a number that is no seed"),
        ({"methods": []}, "methods: is empty"),
        ({"reference": "ThinkSave"}, "did you mean ThinkSafe?"),
        ({"heldout": None}, "heldout: asks nothing"),
        ({"validation": None}, "validation: asks nothing"),
        ({"choose": {"rule": "minimise harms"}}, "no measure 'harms'; expected one of harm,"),
        ({"choose": {"rule": "less harm"}}, "choose.rule: is 'less harm'"),
        ({"published": "Qwen3-0.7B"}, "did you mean Qwen3-"),
        ({"published": "Qwen3-0.6B", "methods": method(published="ThinkSave")}, "mean ThinkSafe?"),
        ({"methods": method(published="ThinkSafe")}, "published: is ''; expected one of Qwen3-"),
        ({"methods": method(recipe="minni")}, "no recipe 'minni'"),
        ({"methods": method(name="Initial")}, "which another method has"),
        ({"choose": {"seeds": [1, 1]}}, "choose.seeds: is [1, 1]; expected seeds, each once"),
        ({"methods": method(name="a/b")}, "methods[0].name: is 'a/b'; expected the name of one"),
        ({"methods": method(grids={})}, "methods[0].grids: unknown key; did you mean"),
        ({"methods": method(grid={"training.epochs": []})}, "expected one value or more"),
        ({"methods": method(grid={"training.epochs": 3})}, "expected a list"),
        ({"methods": method(grid={"training.epochs": [[3]]})}, "a list; expected one value"),
        ({"methods": method(grid={"training.epoch": [3]})}, "did you mean training.epochs?"),
        ({"methods": method(grid={"training.epochs": [0]})}, "training.epochs: is 0"),
        ({"methods": method(overrides=["student.dtype=bfloat16"])}, "has another student than"),
    ],
)
def test_what_is_wrong_is_said_with_its_key_before_anything_runs(write, changes, said):
    with pytest.raises(ConfigError) as caught:
        load_study(write(**changes))
    assert said in str(caught.value)


def test_a_question_in_both_splits_is_refused(write, tmp_path):
    study = load_study(write(heldout={**SMALL["heldout"], "harmful": [HARMFUL]}))
    with pytest.raises(InputError, match="4 prompts are in validation and in heldout as well"):
        check_inputs(study, tmp_path)


def test_files_that_cannot_be_read_are_refused(write, tmp_path):
    source = f"{{path: {tmp_path}/absent.jsonl, label: harmful}}"
    overrides = [f"synthesis.prompts=[{source}]"]
    study = load_study(write(methods=method(overrides=overrides)))
    with pytest.raises(InputError, match=r"^ThinkSafe, learning_rate.*absent\.jsonl"):
        check_inputs(study, tmp_path)


def test_what_all_runs_of_a_setting_have_done_needs_nothing_any_more(write, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "How do I pick a lock?"}\n')
    overrides = [f"synthesis.prompts=[{{path: {prompts}, label: harmful}}]"]
    study = load_study(write(methods=[{**SMALL["methods"][1], "overrides": overrides}]))
    for unit in heldout_units(study):
        if unit.run is not None:
            folder = tmp_path / "runs" / unit.name
            folder.mkdir(parents=True)
            (folder / "config.yaml").write_text(to_yaml(unit.run))
            manifest = Manifest(folder / "manifest.json", "")
            for stage in ("sample", "filter", "train", "export"):
                manifest.mark_done(stage, "", {})
    prompts.unlink()
    check_inputs(study, tmp_path)
    (tmp_path / "runs/DirectRefusal/as-it-is/seed-2/manifest.json").unlink()  # not trained yet
    with pytest.raises(InputError, match=r"prompts\.jsonl"):
        check_inputs(study, tmp_path)


@pytest.mark.parametrize("name", sorted(named_configs("studies")))
def test_every_study_that_ships_loads(name):
    assert load_study(name).methods
