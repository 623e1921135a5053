"""Reading recipes: strict, and every message names the key and the way out (fault 48)."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from thinksafe_jax.config import Recipe, load_recipe, to_yaml, validate
from thinksafe_jax.data import KINDS
from thinksafe_jax.errors import ConfigError

MINIMAL = """
student: {model: "mini:student"}
guard: {model: "mini:guard"}
synthesis:
  prompts:
    - {path: "mini:train-harmful", limit: 4}
    - {path: "mini:train-benign"}
"""


@pytest.fixture
def recipe_file(tmp_path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(MINIMAL)
    return file


def problem(file: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_recipe(file, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_what_the_file_does_not_say_is_the_papers(recipe_file):
    recipe = load_recipe(recipe_file)
    assert recipe.training == Recipe().training
    assert recipe.student.model == "mini:student"
    assert [p.limit for p in recipe.synthesis.prompts] == [4, None]


def test_a_recipe_without_a_name_is_called_after_its_file(recipe_file):
    assert load_recipe(recipe_file).name == "small"
    assert load_recipe(recipe_file, ["name=other"]).name == "other"


def test_a_path_may_begin_at_home(tmp_path, recipe_file, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe_file.write_text(f"run_dir: ~/runs/x\n{MINIMAL}")
    recipe = load_recipe(recipe_file, ["student.model=~/m", "synthesis.prompts[0].path=~/p.csv",
                                       "synthesis.prompts[0].label=harmful",
                                       "training.trackers=[]", "guard.model=a/~/b"])  # fmt: skip
    assert recipe.run_dir == f"{tmp_path}/runs/x"
    assert recipe.student.model == f"{tmp_path}/m"
    assert recipe.synthesis.prompts[0].path == f"{tmp_path}/p.csv"
    assert recipe.guard.model == "a/~/b"
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(recipe))
    assert load_recipe(again) == recipe
    assert "run_dir: empty (null); expected text" in problem(recipe_file, "run_dir=~")


def test_overrides_reach_every_depth(recipe_file):
    recipe = load_recipe(
        recipe_file,
        [
            "training.learning_rate=1e-4",
            "training.lora_targets=[q_proj, k_proj]",
            "synthesis.prompts[1].limit=7",
            "synthesis.prompts.0.label=harmful",
            "synthesis.prompts[0].where={kind: a=b}",
            "student.revision='0123'",
            "training.lora_alpha=8",
        ],
    )
    assert recipe.training.learning_rate == 1e-4
    assert recipe.training.lora_targets == ["q_proj", "k_proj"]
    assert recipe.synthesis.prompts[1].limit == 7
    assert recipe.synthesis.prompts[0].label == "harmful"
    assert recipe.synthesis.prompts[0].where == {"kind": "a=b"}
    assert recipe.student.revision == "0123"
    assert type(recipe.training.lora_alpha) is float


def test_a_mapping_with_keys_of_the_users_own_replaces_the_one_of_the_recipe(recipe_file):
    first = "synthesis.prompts[0].labels={attack: harmful, chat: benign}"
    other = "synthesis.prompts[0].labels={bad: harmful}"
    recipe = load_recipe(recipe_file, [first, other])
    assert recipe.synthesis.prompts[0].labels == {"bad": "harmful"}
    one_more = "synthesis.prompts[0].labels.chat=benign"
    labels = load_recipe(recipe_file, [first, other, one_more]).synthesis.prompts[0].labels
    assert labels == {"bad": "harmful", "chat": "benign"}
    kept = load_recipe(recipe_file, ["training={epochs: 2}", "training={batch_size: 16}"]).training
    assert (kept.epochs, kept.batch_size) == (2, 16)


@pytest.mark.parametrize(
    ("wrong", "key", "nearest"),
    [
        ("training.learning_rte=1", "training.learning_rte", "training.learning_rate"),
        ("temperature=1", "temperature", "sampling.temperature"),
        ("synthesis.temperature=1", "synthesis.temperature", "synthesis.sampling.temperature"),
        ("synthesis.prompts[1].limt=1", "synthesis.prompts[1].limt", "synthesis.prompts[1].limit"),
        ("trainin.epochs=1", "trainin", "training"),
        ("training.epochs.x=1", "training.epochs", "a whole number"),
    ],
)
def test_unknown_key_names_the_nearest(recipe_file, wrong, key, nearest):
    message = problem(recipe_file, wrong)
    assert f"{key}: " in message
    assert nearest in message.split(key, 1)[1]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ("training.epochs=three", "training.epochs: 'three' is text; expected a whole number"),
        ("training.epochs=1.5", "training.epochs: 1.5 is a number; expected a whole number"),
        ("training.epochs=true", "training.epochs: True is true or false; expected a whole number"),
        ("training.epochs=", "training.epochs: empty (null); expected a whole number"),
        (
            "training.learning_rate=fast",
            "training.learning_rate: 'fast' is text; expected a number",
        ),
        ("student.revision=123", "put it in quotes: '123'"),
        ("training=5", "training: 5 is a whole number; expected a section"),
        ("synthesis.prompts=x", "synthesis.prompts: 'x' is text; expected a list"),
        ("synthesis.prompts=[x]", "synthesis.prompts[0]: 'x' is text; expected a section"),
        ("synthesis.prompts[0].labels=x", "synthesis.prompts[0].labels: 'x' is text"),
        ("synthesis.prompts[0].labels={no: harmful}", "YAML reads yes, no, on and off so: put"),
        ("student.model=off", "YAML reads yes, no, on and off so: put the word in quotes"),
        ("name=../../elsewhere", "name: is '../../elsewhere'; expected the name of one folder"),
        ("name=..", "name: is '..'; expected the name of one folder"),
        ("name='a\\b'", "expected the name of one folder"),
        ('name="a\\0b"', "expected the name of one folder"),
        ("student.model='???'", "student.model: no value given"),
    ],
)
def test_wrong_type_names_key_value_and_expected_type(recipe_file, wrong, expected):
    assert expected in problem(recipe_file, wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        "synthesis.sampling.temperature=.nan",
        "synthesis.sampling.temperature=-0.1",
        "evaluation.sampling.temperature=.inf",
        "synthesis.sampling.top_p=0",
        "synthesis.sampling.top_p=1.01",
        "synthesis.sampling.top_k=-1",
        "synthesis.sampling.min_p=2",
        "synthesis.sampling.max_new_tokens=0",
        "engine.slots=0",
        "engine.page_size=0",
        "engine.window=-3",
        "engine.pool_tokens=1",
        "guard.max_unparsed=1.5",
        "guard.kind=llamaguard",
        "synthesis.method=think-safe",
        "synthesis.reasoning=maybe",
        "synthesis.prompts[0].label=bad",
        "evaluation.judge=jury",
        "evaluation.reasoning_prompt=hello",
        "student.dtype=float16",
        "training.remat=all",
        "training.learning_rate=0",
        "training.learning_rate=.nan",
        "training.epochs=0",
        "training.epochs=99999999999",
        "training.lora_dropout=1",
        "training.lora_targets=[]",
        "training.lora_targets=[q_proj, q_proj]",
        "training.lora_targets=[attention]",
        "training.batch_size=12",
        "seed=-1",
    ],
)
def test_values_out_of_range_are_refused_by_their_key(recipe_file, wrong):
    key = wrong.partition("=")[0]
    assert f"{key}" in problem(recipe_file, wrong)
    assert "expected" in problem(recipe_file, wrong) or "{prompt}" in problem(recipe_file, wrong)


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("guard.kind=llamaguard", "llama-guard"),
        ("guard.kind=refusal_match", "refusal-match"),
        ("judge.kind=majorty", "majority"),
        ("guard={kind: majority, members: [{kind: wildgard}]}", "wildguard"),
        ("synthesis.steering=authros", "authors"),
        ("synthesis.ladder=[{steering: rsk}]", "risk"),
        ("engine.attention=palas", "pallas-"),
        ("engine.replicas=togther", "together"),
        ("training.trackers=[wandbb]", "wandb"),
        ("training.remat=layers", "layer"),
        ("training.objective=ce_kl", "ce+kl"),
        ("training.kl=revers", "reverse"),
        ("evaluation.suites=[{name: gsm8kk}]", "gsm8k"),
        ("mesh=v5e-61", "v5e-16"),
        ("guard={kind: llama-guard, mesh: v5e61}", "v5e-"),
    ],
)
def test_a_misspelt_variant_names_the_nearest_within_a_second(recipe_file, misspelt, meant):
    """Before a model is looked for: this recipe's would be missing."""
    began = time.process_time()
    message = problem(recipe_file, misspelt, "student.model=no/such/model")
    assert f"did you mean {meant}" in message
    assert "model" not in message
    assert time.process_time() - began < 1


def test_a_suite_of_the_users_own_needs_a_kind(recipe_file):
    assert "a suite of your own needs a kind" in problem(
        recipe_file, "evaluation.suites=[{name: x}]"
    )
    suites = "evaluation.suites=[{name: x, kind: reasoning, path: x.jsonl}]"
    assert load_recipe(recipe_file, [suites]).evaluation.suites[0].kind in KINDS
    for kind in KINDS:
        load_recipe(recipe_file, [suites.replace("reasoning", kind)])


def test_a_guard_of_a_majority_is_no_majority(recipe_file):
    message = problem(recipe_file, "guard={kind: majority, members: [{kind: majority}]}")
    assert "guard.members[0].kind: is 'majority'; expected one of" in message


def test_all_problems_come_at_once(recipe_file):
    message = problem(
        recipe_file, "training.epochs=x", "training.batch_size=6", "trainig.x=1", "engine.slots=0",
        "synthesis.sampling.top_p=2",
    )  # fmt: skip
    assert "5 problems" in message
    keys = ("training.epochs", "training.batch_size", "trainig", "engine.slots")
    for key in (*keys, "synthesis.sampling.top_p"):
        assert f"\n  {key}: " in message


def test_a_response_must_fit_beside_its_prompt(recipe_file):
    wrong = ["engine.max_length=128", "synthesis.sampling.max_new_tokens=128"]
    assert "less than engine.max_length (128)" in problem(recipe_file, *wrong)


@pytest.mark.parametrize(
    "value", ["${oc.env:HOME}", "${env:HOME}", "${.name}", "${a:b}", "x ${oc.env:HOME} y", "${"]
)
def test_only_plain_references_are_followed(recipe_file, value, monkeypatch):
    monkeypatch.setenv("HOME", "/home/secret")
    message = problem(recipe_file, f"name='{value}'")
    assert "secret" not in message
    assert "name" in message


def test_a_plain_reference_takes_another_keys_value(recipe_file):
    wanted = ["evaluation.sampling.max_new_tokens=${synthesis.sampling.max_new_tokens}"]
    wanted.append("synthesis.sampling.max_new_tokens=77")
    assert load_recipe(recipe_file, wanted).evaluation.sampling.max_new_tokens == 77


def test_a_reference_to_a_default_works_and_to_nothing_is_named(recipe_file):
    assert (
        load_recipe(
            recipe_file, ["training.batch_size=${training.epochs}", "training.micro_batch_size=1"]
        ).training.batch_size
        == 3
    )
    assert "no.such" in problem(recipe_file, "name=${no.such}")
    assert "name" in problem(recipe_file, "name=${run_dir}", "run_dir=${name}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1\nb: 2\n", "line 2"),
        ("seed: 1\nseed: 2\n", "duplicate key"),
        ("- 1\n- 2\n", "is a list"),
        ("'1e-06'\n", "is one value; expected sections"),
        ("mini\n", "is one value; expected sections"),
        ("5\n", "is one value"),
        ("seed: !!python/object/apply:os.system [ls]\n", "line 1"),
        ("name: ${x\n", "${x"),
    ],
)
def test_broken_yaml_is_one_plain_sentence_with_its_line(tmp_path, text, expected):
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    message = problem(file)
    assert str(file) in message
    assert expected in message
    assert len(message.splitlines()) == 1


def test_missing_unreadable_and_foreign_files_are_named(tmp_path):
    assert "no recipe at" in problem(tmp_path / "absent.yaml")
    assert "directory" in problem(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    assert "not UTF-8 text (byte 9)" in problem(tmp_path / "latin.yaml")


def test_byte_order_mark_and_crlf_are_accepted(tmp_path):
    file = tmp_path / "windows.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert load_recipe(file).student.model == "mini:student"


@pytest.mark.parametrize("wrong", ["training.epochs", "=3", "a: b", "training.epochs=[1"])
def test_a_malformed_override_is_quoted(recipe_file, wrong):
    assert repr(wrong) in problem(recipe_file, wrong)


def test_an_override_of_an_absent_list_item_is_refused(recipe_file):
    assert "synthesis.prompts[5].limit=1" in problem(recipe_file, "synthesis.prompts[5].limit=1")


def test_what_a_run_needs_is_asked_for(tmp_path):
    (tmp_path / "empty.yaml").write_text("training:\n")
    message = problem(tmp_path / "empty.yaml")
    for key in ("student.model", "guard.model", "synthesis.prompts"):
        assert f"{key}: " in message


def test_files_of_prompts_need_labels_and_answers(recipe_file):
    message = problem(
        recipe_file,
        "synthesis.prompts=[{path: a.jsonl}]",
        "evaluation.reasoning=[{path: b.jsonl}, {path: ''}]",
    )
    assert "synthesis.prompts[0].label: no value given; expected label or label_column" in message
    assert "evaluation.reasoning[0].answer_column" in message
    assert "evaluation.reasoning[1].path" in message


def test_the_matcher_guard_needs_no_model(recipe_file):
    recipe = load_recipe(recipe_file, ["guard={kind: refusal-match, model: ''}"])
    assert recipe.guard.kind == "refusal-match"


def test_a_recipe_built_in_code_is_checked_alike(recipe_file):
    recipe = load_recipe(recipe_file)
    validate(recipe)
    with pytest.raises(ConfigError, match="seed: is -1"):
        validate(replace(recipe, seed=-1))


def test_yaml_of_a_recipe_reads_back_equal(recipe_file, tmp_path):
    wanted = [
        "training.learning_rate=3e-7",
        "name='yes'",
        "synthesis.prompts[0].labels={a: benign}",
    ]
    recipe = load_recipe(recipe_file, wanted)
    (tmp_path / "again.yaml").write_text(to_yaml(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe


def write(folder: Path, text: str) -> Path:
    file = folder / "grows.yaml"
    file.write_text(MINIMAL + text)
    return file


def doubling(line: str) -> str:
    """Thirty values, each made of the one before, twice."""
    return "\n".join(["  k0: xxxxxxxxxx", *(f"  k{n}: {line.format(n - 1)}" for n in range(1, 31))])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("where:\n" + doubling('"${{where.k{0}}}${{where.k{0}}}"'), "its references come to"),
        ("where:\n" + doubling('["${{where.k{0}}}", "${{where.k{0}}}"]'), "its references come to"),
        ("where:\n" + doubling("&k{0} [*k{0}]"), "alias"),
        (
            "a0: &a0 [x, x]\n"
            + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 31)),
            "values, with every alias written out",
        ),
        ("where: &a [*a]\n", "every alias written out"),
        ("where: " + "[" * 5000, "nested too deeply"),
        ("where: " + "x" * 2**21, "at most 1,048,576 are read"),
        ("seed: " + "9" * 5000, "digits"),
    ],
)
def test_a_small_file_that_grows_is_refused_with_the_number(tmp_path, text, message):
    """Issue 15 F37: within a second, and before anything is made of it."""
    began = time.process_time()
    assert message in problem(write(tmp_path, text))
    assert time.process_time() - began < 2


def test_what_is_no_regular_file_is_no_recipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", Path("/dev/zero")):
        assert "is no regular file" in problem(path)


def test_anchors_and_references_of_a_usual_size_are_read(tmp_path):
    text = "engine: &e {slots: 4}\ntraining: {epochs: 2, lora_r: '${training.epochs}'}\n"
    assert load_recipe(write(tmp_path, text)).training.lora_r == 2
    text = "engine: &e {slots: 4}\nseed: ${engine.slots}\n"
    assert load_recipe(write(tmp_path, text)).seed == 4
