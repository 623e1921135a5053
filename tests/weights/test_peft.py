"""Adapters: PEFT loads ours, we load PEFT's, and both say the same as the merged weights."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.support import save_tiny
from tests.weights.kit import same_bits, small_checkpoint
from thinksafe_jax.errors import InputError
from thinksafe_jax.models import (
    LoraConfig,
    forward,
    init_adapter,
    load_config,
    logits,
    merge_adapter,
)
from thinksafe_jax.weights import export_adapter, import_adapter, load_params

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

# peft reads a name that transformers 5 has deprecated
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated"),
]

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FAMILIES = ["qwen3", "llama-bias"]  # with and without biases and q, k norms
TOKENS = np.random.default_rng(0).integers(0, 97, (2, 19), dtype=np.int32)


def random_adapter(cfg, lora):
    """An adapter whose B is not zero."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda key: init_adapter(cfg, lora, key), jax.random.key(0))
    return jax.tree.map(
        lambda x: jnp.asarray(0.2 * rng.standard_normal(x.shape, np.float32)), shapes
    )


@partial(jax.jit, static_argnames=("cfg", "lora"))
def our_logits(params, cfg, adapter=None, lora=None):
    positions = jnp.broadcast_to(jnp.arange(TOKENS.shape[1], dtype=jnp.int32), TOKENS.shape)
    segments = jnp.ones(TOKENS.shape, jnp.int32)
    tokens = jnp.asarray(TOKENS)
    hidden = forward(params, cfg, tokens, positions, segments, adapter=adapter, lora=lora)
    return logits(params, cfg, hidden)


merge = jax.jit(merge_adapter, static_argnums=2)


def their_logits(model):
    with torch.no_grad():
        return model(torch.tensor(TOKENS, dtype=torch.long)).logits.numpy()


@pytest.fixture(scope="module", params=FAMILIES)
def base(request, tmp_path_factory):
    """(folder, torch model, cfg, params)."""
    folder = tmp_path_factory.mktemp(request.param)
    model = save_tiny(request.param, folder)
    cfg = load_config(folder)
    return folder, model, cfg, load_params(folder, cfg, jnp.float32)


def test_step_zero_is_the_base_model(base):
    _, _, cfg, params = base
    lora = LoraConfig(4, 8.0, 0.1, ALL)
    adapter = jax.jit(init_adapter, static_argnums=(0, 1))(cfg, lora, jax.random.key(0))
    np.testing.assert_array_equal(our_logits(params, cfg, adapter, lora), our_logits(params, cfg))


def test_merged_equals_adapter(base):
    _, _, cfg, params = base
    lora = LoraConfig(4, 8.0, 0.1, ALL)
    adapter = random_adapter(cfg, lora)
    merged = our_logits(merge(params, adapter, lora), cfg)
    np.testing.assert_allclose(merged, our_logits(params, cfg, adapter, lora), atol=1e-4)


# --- 33: r, alpha, targets that get lost ------------------------------------------------------


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ALL], ids=["paper", "all"])
def test_peft_loads_ours(targets, base, tmp_path):
    """Every key is matched (PEFT ignores what it does not know) and the logits are the same."""
    folder, _, cfg, params = base
    lora = LoraConfig(5, 7.0, 0.25, targets)
    adapter = random_adapter(cfg, lora)
    export_adapter(tmp_path / "adapter", adapter, lora, cfg, str(folder))
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    model = peft.get_peft_model(model, peft.LoraConfig.from_pretrained(tmp_path / "adapter"))
    stored = peft.load_peft_weights(str(tmp_path / "adapter"), device="cpu")
    result = peft.set_peft_model_state_dict(model, stored)
    assert result.unexpected_keys == []
    own = peft.get_peft_model_state_dict(model)
    matched = [key for key in stored if key in own and torch.equal(stored[key], own[key])]
    assert len(matched) == len(own) == 2 * len(targets) * cfg.num_layers
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (5, 7.0, 0.25)
    assert config.target_modules == set(targets)
    assert config.base_model_name_or_path == str(folder)
    expected = our_logits(params, cfg, adapter, lora)
    np.testing.assert_allclose(their_logits(model.eval()), expected, atol=1e-4)
    assert np.abs(expected - our_logits(params, cfg)).max() > 0.01  # the adapter does something


def test_we_load_pefts(base, tmp_path):
    """One of the families with rank-stabilised scaling, alpha / sqrt(r)."""
    folder, _, cfg, params = base
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    settings = peft.LoraConfig(
        r=3,
        lora_alpha=6,
        lora_dropout=0.1,
        target_modules=["down_proj", "v_proj", "o_proj"],
        init_lora_weights=False,
        use_rslora=cfg.o_bias,
    )
    model = peft.get_peft_model(model, settings).eval()
    model.save_pretrained(tmp_path)
    adapter, lora = import_adapter(tmp_path, cfg)
    assert (lora.r, lora.dropout) == (3, 0.1)
    assert lora.scale == pytest.approx(6 / 3**0.5 if cfg.o_bias else 6 / 3)
    assert sorted(lora.targets) == ["down_proj", "o_proj", "v_proj"]
    ours = our_logits(params, cfg, adapter, lora)
    np.testing.assert_allclose(ours, their_logits(model), atol=1e-4)
    merged = our_logits(merge(params, adapter, lora), cfg)
    np.testing.assert_allclose(merged, their_logits(model.merge_and_unload()), atol=1e-4)


@pytest.fixture
def exported(tmp_path):
    """(folder of an adapter, cfg, adapter, lora), without torch."""
    cfg, _ = small_checkpoint(tmp_path / "base")
    lora = LoraConfig(4, 8.0, 0.1)
    adapter = random_adapter(cfg, lora)
    export_adapter(tmp_path / "adapter", adapter, lora, cfg, "owner/base", revision="c" * 40)
    return tmp_path / "adapter", cfg, adapter, lora


def test_export_and_import_are_inverse(exported):
    folder, cfg, adapter, lora = exported
    again, settings = import_adapter(folder, cfg)
    assert same_bits(again, adapter)
    assert settings == lora
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/base", "c" * 40)


@pytest.mark.parametrize(
    "rename",
    [
        lambda key: key.removeprefix("base_model.model."),
        lambda key: key.replace(".weight", ".default.weight"),
        lambda key: "_orig_mod." + key,
    ],
    ids=["no-prefix", "adapter-name", "compiled"],
)
@pytest.mark.parametrize("targets", [["self_attn.v_proj", "q_proj"], ".*_proj", None])
def test_keys_and_targets_as_other_tools_write_them(rename, targets, exported):
    folder, cfg, adapter, lora = exported
    file = folder / "adapter_model.safetensors"
    save_file({rename(key): value for key, value in load_file(file).items()}, file)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "target_modules": targets}))
    again, settings = import_adapter(folder, cfg)
    assert same_bits(again, adapter)
    assert settings == lora


def test_one_weight_under_two_names(exported):
    folder, cfg, _, _ = exported
    file = folder / "adapter_model.safetensors"
    content = load_file(file)
    key = next(iter(content))
    save_file({**content, key.removeprefix("base_model.model."): content[key]}, file)
    with pytest.raises(InputError, match="are the same weight; keep one"):
        import_adapter(folder, cfg)


def test_targets_that_are_no_linear_layer(exported):
    folder, cfg, _, _ = exported
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "target_modules": ["q_proj", "lm_head"]}))
    with pytest.raises(InputError, match=r"targets \['lm_head'\]; an adapter can change q_proj"):
        import_adapter(folder, cfg)


def test_keys_that_do_not_fit_are_listed(exported):
    folder, cfg, _, _ = exported
    content = load_file(folder / "adapter_model.safetensors")
    stem = "base_model.model.model.layers.1.self_attn"
    del content[f"{stem}.q_proj.lora_A.weight"]
    content[f"{stem}.v_proj.lora_B.weight"] = np.zeros((3, 4), np.float32)
    content["base_model.model.model.embed_tokens.lora_A.weight"] = np.zeros((4, 32), np.float32)
    save_file(content, folder / "adapter_model.safetensors")
    with pytest.raises(InputError) as caught:
        import_adapter(folder, cfg)
    text = str(caught.value)
    assert "adapter_model.safetensors: 3 keys do not fit the model" in text
    assert f"{stem}.q_proj.lora_A.weight: missing" in text
    assert f"{stem}.v_proj.lora_B.weight: [3, 4] instead of [32, 4]" in text
    assert "base_model.model.model.embed_tokens.lora_A.weight: unknown" in text


def test_rank_lost_from_the_config(exported):
    """r in adapter_config.json that is not the weights' r is found before anything is used."""
    folder, cfg, _, _ = exported
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "r": 16}))
    with pytest.raises(InputError, match=r"lora_A\.weight: \[4, 32\] instead of \[16, 32\]"):
        import_adapter(folder, cfg)
    del config["lora_alpha"]
    file.write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"lora_alpha is null; expected a number"):
        import_adapter(folder, cfg)


def test_damaged_adapters(exported):
    folder, cfg, _, _ = exported
    file = folder / "adapter_model.safetensors"
    content = load_file(file)
    name = next(iter(content))
    content[name][0, 0] = np.nan
    save_file(content, file)
    with pytest.raises(InputError, match="NaN or infinity in base_model"):
        import_adapter(folder, cfg)
    file.unlink()
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: not found; is .* a PEFT"):
        import_adapter(folder, cfg)
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(InputError, match=r"only a pickled adapter .* never opened"):
        import_adapter(folder, cfg)
