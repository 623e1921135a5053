"""configs/models and the paper's recipes: they load, and agree with the real config.json files."""

import json

import jax
import jax.numpy as jnp
import pytest
import yaml

from tests.support import PUBLISHED, REPOSITORY, shared_asset
from thinksafe_jax.config import load_recipe
from thinksafe_jax.models import abstract_params, parameter_count, parse_config

MODELS = sorted((REPOSITORY / "configs" / "models").glob("*.yaml"))
STUDENTS = [
    *("qwen3-0.6b", "qwen3-1.7b", "qwen3-4b", "qwen3-8b", "qwen3-14b", "qwen3-32b"),
    *("r1-distill-qwen-1.5b", "r1-distill-qwen-7b", "r1-distill-llama-8b"),
]


def real_config(name):
    file = shared_asset("configs", f"{name}.json")
    return parse_config(json.loads(file.read_text()), source=str(file))


@pytest.mark.parametrize("name", PUBLISHED)
def test_real_shapes_without_allocating(name):
    cfg = real_config(name)
    tree = abstract_params(cfg, jnp.bfloat16)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree))
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == PUBLISHED[name]
    assert parameter_count(cfg) == PUBLISHED[name]


def test_every_model_has_a_file():
    named = {yaml.safe_load(file.read_text())["repository"].rpartition("/")[2] for file in MODELS}
    assert named == set(PUBLISHED)


@pytest.mark.parametrize("file", MODELS, ids=lambda file: file.stem)
def test_model_file_agrees_with_the_config(file):
    text = file.read_text(encoding="utf-8")
    facts = yaml.safe_load(text)
    assert text.startswith(f"# thinksafe verify {facts['repository']}")
    assert file.stem == facts["repository"].rpartition("/")[2].lower().removeprefix("deepseek-")
    assert "revision" in facts
    name = facts["repository"].rpartition("/")[2]
    cfg = real_config(name)
    raw = json.loads(shared_asset("configs", f"{name}.json").read_text())
    assert (facts["family"], facts["parameters"], facts["context"]) == (
        cfg.family,
        parameter_count(cfg),
        cfg.max_position_embeddings,
    )
    eos = raw["eos_token_id"]
    assert set(eos if isinstance(eos, list) else [eos]) <= set(facts["eos_token_ids"])


@pytest.mark.parametrize("name", STUDENTS)
def test_recipe_of_each_student(name):
    """The paper's numbers (sections 1.2 to 1.4 of the method), as the model's file states them."""
    file = REPOSITORY / "configs" / "recipes" / f"{name}.yaml"
    assert file.read_text().startswith(f"# thinksafe run --config configs/recipes/{name}.yaml\n")
    recipe = load_recipe(file)
    facts = yaml.safe_load((REPOSITORY / "configs" / "models" / f"{name}.yaml").read_text())
    assert recipe.name == name
    assert recipe.student.model == facts["repository"]
    sampling = recipe.synthesis.sampling
    preset = facts["sampling"]
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == tuple(preset.values())
    assert sampling == recipe.evaluation.sampling
    assert sampling.max_new_tokens == 16_384
    assert (preset["top_k"] == 0) == name.startswith("r1-distill")
    training = recipe.training
    assert (training.epochs, training.batch_size, training.learning_rate) == (3, 8, 1e-5)
    assert (training.lora_r, training.lora_alpha, training.lora_dropout) == (32, 16, 0.05)
    assert training.lora_targets == ["q_proj", "v_proj"]
    assert training.max_length == 16_384
    assert recipe.guard.model == "meta-llama/Llama-Guard-3-8B"
    labels = recipe.synthesis.prompts[0].labels
    assert {key.rpartition("_")[2]: value for key, value in labels.items()} == {
        "harmful": "harmful",
        "benign": "benign",
    }
