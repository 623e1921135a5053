"""`thinksafe init`: a recipe that `thinksafe check` accepts, every key with its reason."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.test_cli import exit_code
from thinksafe_jax.cli.pipeline import recipe_faults
from thinksafe_jax.config import load_recipe, shipped_path
from thinksafe_jax.errors import ConfigError, InputError
from thinksafe_jax.sharding import Topology
from thinksafe_jax.starter import student_facts as facts_module
from thinksafe_jax.starter import write_first_recipe
from thinksafe_jax.starter.first_choices import choose
from thinksafe_jax.starter.machine_at_hand import _ALONE, Machine, machine_at_hand
from thinksafe_jax.starter.student_facts import student_facts
from thinksafe_jax.weights import ModelHeaders, resolve_model


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def folder(empty_folder) -> Path:
    """A checkpoint of a user's own: mini's student, which is a Qwen3."""
    return Path(shutil.copytree(resolve_model("mini:student"), empty_folder / "My model (v2)"))


def machine(gigabytes: float, on_cpu: bool = False) -> Machine:
    topology = Topology("test chip", 1, 1, gigabytes * 1e9)
    return Machine("a test", topology, None, "one device", _ALONE, _ALONE, on_cpu)


def keys_without_a_reason(text: str) -> list[str]:
    """Lines with a key that have no comment: behind it, or on the line above an item of a list."""
    lines = text.splitlines()
    return [
        line
        for above, line in zip(["", *lines], lines, strict=False)
        if re.match(r"\s*(- |\w)", line)
        and "# " not in line
        and not (line.lstrip().startswith("- ") and above.lstrip().startswith("# "))
    ]


@pytest.mark.parametrize("name", ["Qwen3-8B", "Qwen/Qwen3-8B", "r1-distill-llama-8b"])
def test_a_model_that_ships_needs_no_network_and_every_key_has_its_reason(name):
    first = write_first_recipe(name, Path("mine.yaml"), mesh="v5e-16")
    text = first.file.read_text()
    assert keys_without_a_reason(text) == []
    recipe = load_recipe(first.file)
    assert recipe.mesh == "v5e-16"
    assert recipe.synthesis.reasoning == "think"
    assert recipe.synthesis.sampling.top_k == (20 if "wen" in name else 0)  # the paper's
    assert recipe.guard.model == "Qwen/Qwen3Guard-Gen-8B"
    assert (recipe.student.dtype, recipe.engine.slots) == ("bfloat16", 32)
    assert "# thinksafe run --config mine.yaml\n#\n# A first trial" in text


def test_no_prompt_is_both_trained_on_and_measured():
    recipe = load_recipe(write_first_recipe("Qwen3-0.6B", mesh="h100-8").file)
    from thinksafe_jax.data import read_prompts

    trained = {p.text for p in read_prompts(recipe.synthesis.prompts, require_label=True).prompts}
    asked = {p.text for p in read_prompts(recipe.evaluation.sources, require_label=False).prompts}
    assert (len(trained), len(asked)) == (128, 200)
    assert trained & asked == set()


def test_what_it_writes_of_a_folder_passes_the_preflight(folder):
    first = write_first_recipe(str(folder), guard="refusal-match")
    assert first.file == Path("my-model-v2-first.yaml")
    assert keys_without_a_reason(first.file.read_text()) == []
    assert recipe_faults(first.file, [], None).errors() == []
    recipe = load_recipe(first.file)
    assert Path(recipe.student.model) == folder
    assert recipe.engine.max_length == 1024  # mini's context
    commands = [command for command, _ in first.commands]
    assert commands == [
        "thinksafe check --config my-model-v2-first.yaml",
        "thinksafe run --config my-model-v2-first.yaml --trial 16",
        "thinksafe run --config my-model-v2-first.yaml",
    ]
    assert "reasons (its tokenizer has a token </think>)" in first.assumed[0]


def test_a_template_that_knows_no_reasoning_block_is_said(folder):
    """Models that answer at once may have the tags among their tokens all the same."""
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    plain = config["chat_template"]
    for template, said in ((plain, True), (f"{{# <think></think> #}}{plain}", False)):
        file.write_text(json.dumps({**config, "chat_template": template}))
        first = write_first_recipe(str(folder), Path(f"{said}.yaml"), guard="refusal-match")
        assert load_recipe(first.file).synthesis.reasoning == "think"
        assert any("set synthesis.reasoning to none" in text for text in first.assumed) == said


def test_a_folder_whose_name_is_no_text_in_yaml_is_quoted(folder):
    first = write_first_recipe(str(folder.rename("off")), guard="refusal-match")
    assert load_recipe(first.file).student.model == "off"


def test_a_model_on_the_hub_is_known_by_its_small_files(folder, monkeypatch):
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [1533], "temperature": 0.7, "top_p": 0.8})
    )
    monkeypatch.setattr(facts_module, "model_headers", lambda name: ModelHeaders(folder))
    student = student_facts("owner/Some-Model")
    assert (student.model, student.label) == ("owner/Some-Model", "Some-Model")
    assert student.sampling == {"temperature": 0.7, "top_p": 0.8, "top_k": 0}
    assert student.sampling_from == "its generation_config.json"
    assert student.parameters == 1_033_600


@pytest.mark.parametrize(
    ("gigabytes", "on_cpu", "guard"),
    [
        (2.0, False, "refusal-match"),
        (8.0, False, "Qwen/Qwen3Guard-Gen-0.6B"),
        (16.0, False, "Qwen/Qwen3Guard-Gen-4B"),
        (80.0, False, "Qwen/Qwen3Guard-Gen-8B"),
        (80.0, True, "Qwen/Qwen3Guard-Gen-0.6B"),
    ],
)
def test_the_guard_is_the_largest_that_fits_beside_the_student(gigabytes, on_cpu, guard):
    student = replace(student_facts("Qwen3-0.6B"), reasons=False)
    choices = choose(student, machine(gigabytes, on_cpu))
    assert (choices.guard_model or choices.guard_kind) == guard


def test_a_student_that_does_not_fit_is_told_where_it_does():
    with pytest.raises(ConfigError, match=r"16\.4 GB in bfloat16\. It fits on h200-1, .*--mesh h2"):
        choose(student_facts("Qwen3-8B"), machine(12.0))


def test_responses_leave_room_for_the_prompt_in_a_short_context():
    student = student_facts("Qwen3-0.6B")
    short = replace(student, cfg=replace(student.cfg, max_position_embeddings=512))
    choices = choose(short, machine(80.0))
    assert (choices.new_tokens.value, choices.max_length.value) == (256, 512)


def test_the_processor_is_one_device_and_says_how_much_is_free():
    here = machine_at_hand()
    assert (here.mesh, here.on_cpu, here.topology.chips) == (None, True, 1)
    assert "GB of memory free" in here.said


def test_no_file_is_overwritten_and_none_is_left_that_cannot_run(folder):
    first = write_first_recipe(str(folder), guard="refusal-match")
    before = first.file.read_bytes()
    with pytest.raises(ConfigError, match=r"is there already; name another file with --out"):
        write_first_recipe(str(folder))
    assert first.file.read_bytes() == before
    with pytest.raises(ConfigError, match=r"guard\.model: no value given"):
        write_first_recipe(str(folder), Path("other.yaml"), guard="llama-guard")
    assert not Path("other.yaml").exists()


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("mini:student", {}, "thinksafe configs copy mini"),
        ("Qwen3Guard-Gen-4B", {}, "is a guard"),
        ("Qwen3-9B", {}, "did you mean qwen3-8b"),
        ("Qwen3-8B", {"mesh": "v5e-61"}, "did you mean v5e-16"),
        ("Qwen3-8B", {"guard": "lama-guard"}, "llama-guard"),
    ],
)
def test_what_cannot_be_is_refused_by_name(model, options, said, empty_folder):
    with pytest.raises(ConfigError, match=said):
        write_first_recipe(model, **options)
    assert list(empty_folder.iterdir()) == []


def test_an_unknown_family_is_refused_by_name(folder):
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"qwen3"', '"mamba2"'))
    with pytest.raises(InputError, match=r"model_type 'mamba2'"):
        write_first_recipe(str(folder))


def test_the_command_prints_file_assumptions_and_three_commands(folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["thinksafe"])
    assert exit_code(monkeypatch, "init", folder, "--guard", "refusal-match") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "my-model-v2-first.yaml"
    assert "machine: a CPU" in out
    assert out.count("\n  thinksafe ") == 3


def test_the_prompts_ship():
    for name in ("advbench.csv", "xstest.csv", "gsm8k.jsonl"):
        assert shipped_path(f"configs/prompts/{name}").is_file()
