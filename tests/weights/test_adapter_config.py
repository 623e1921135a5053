"""adapter_config.json: plain LoRA of any PEFT is read; what changes the mathematics is named."""

import json
import logging
import sys

import jax
import pytest

from tests.weights.kit import small_checkpoint
from thinksafe_jax.errors import InputError
from thinksafe_jax.models import LoraConfig, init_adapter
from thinksafe_jax.weights import export_adapter, import_adapter, resolve_model

LORA = LoraConfig(4, 8.0, 0.0, ("q_proj", "v_proj"))


@pytest.fixture
def adapter(tmp_path):
    """(its folder, the model's config)."""
    cfg, _ = small_checkpoint(tmp_path / "model")
    weights = init_adapter(cfg, LORA, jax.random.key(0))
    export_adapter(tmp_path / "adapter", weights, LORA, cfg, "owner/base")
    return tmp_path / "adapter", cfg


def edit(folder, **values) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_what_peft_writes_for_plain_lora_is_read(adapter):
    """All keys of the installed version, and one of a later one that is off."""
    peft = pytest.importorskip("peft")
    folder, cfg = adapter
    plain = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]).to_dict()
    plain = {k: sorted(v) if isinstance(v, set) else v for k, v in plain.items()}
    edit(folder, **{**plain, "peft_type": "LORA"}, invented_later=None)
    assert import_adapter(folder, cfg)[1] == LORA


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "IA3"), ("bias", "all"), ("bias", "lora_only"), ("lora_bias", True),
        ("use_dora", True), ("use_dora", "false"), ("fan_in_fan_out", True),
        ("modules_to_save", ["lm_head"]), ("trainable_token_indices", [5, 6]),
        ("rank_pattern", {"q_proj": 2}), ("alpha_pattern", {"q_proj": 32}),
        ("layers_to_transform", [0]), ("layer_replication", [[0, 1]]),
        ("alora_invocation_tokens", [1, 2]), ("target_parameters", ["experts.down_proj"]),
        ("use_qalora", True), ("use_bdlora", {"nblocks": 2}), ("kasa_config", {"beta": 1}),
        ("monteclora_config", {"n": 2}), ("velora_config", {"n": 2}), ("arrow_config", {"k": 1}),
        ("megatron_config", {"x": 1}), ("ensure_weight_tying", True), ("invented_later", 3),
        ("init_lora_weights", "pissa_niter_4"), ("init_lora_weights", "olora"),
        ("init_lora_weights", "corda"), ("init_lora_weights", "loftq"),
        ("init_lora_weights", "lora_ga"), ("init_lora_weights", "invented_later"),
    ],
)  # fmt: skip
def test_every_variant_is_refused_by_name(adapter, key, value):
    folder, cfg = adapter
    edit(folder, **{key: value})
    with pytest.raises(InputError, match=f"not a plain LoRA adapter: .*{key}"):
        import_adapter(folder, cfg)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("r", None, "r is null; expected a whole number"),
        ("r", 0, "r is 0"),
        ("r", 2.5, r"r is 2\.5"),
        ("r", True, "r is true"),
        ("r", 10**400, "r is 1000"),
        ("lora_alpha", None, "lora_alpha is null; expected a number"),
        ("lora_alpha", float("nan"), "not valid JSON .lora_alpha is NaN"),
        ("lora_alpha", float("inf"), "not valid JSON .lora_alpha is Infinity"),
        ("lora_alpha", "eight", 'lora_alpha is "eight"'),
        ("lora_dropout", "0.1", 'lora_dropout is "0.1"'),
        ("lora_dropout", 2, "lora_dropout is 2; expected 0 to below 1"),
        ("use_rslora", "false", 'use_rslora is "false"; expected true or false'),
    ],
)
def test_values_that_cannot_be_are_refused(adapter, key, value, said):
    folder, cfg = adapter
    edit(folder, **{key: value})
    with pytest.raises(InputError, match=f"adapter_config.json: {said}"):
        import_adapter(folder, cfg)


@pytest.mark.parametrize(
    ("key", "value"), [("lora_dropout", None), ("init_lora_weights", "gaussian"), ("r", 4.0)]
)
def test_values_that_mean_the_plain_one_are_read(adapter, key, value):
    folder, cfg = adapter
    edit(folder, **{key: value})
    assert import_adapter(folder, cfg)[1] == LORA


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"<html>", "an HTML page"),
        (b"", "is empty"),
        (b'{"r": 4,}', "not valid JSON"),
        (b'{"r": 4, "r": 8}', "not valid JSON .the key 'r' stands there twice"),
        (b"\xff\xfe", "not UTF-8 text"),
        (b"[]", "a JSON object was expected, not list"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_files_that_are_no_config(adapter, content, said):
    folder, cfg = adapter
    (folder / "adapter_config.json").write_bytes(content)
    column = 8 if sys.version_info >= (3, 13) else 9  # of the comma; before, of what follows it
    place = f"(, line 1, column {column})?"
    with pytest.raises(InputError, match=f"adapter_config.json{place}: {said}"):
        import_adapter(folder, cfg)


def test_an_adapter_of_another_base_is_said(adapter, caplog):
    folder, cfg = adapter
    with caplog.at_level(logging.WARNING):
        import_adapter(folder, cfg, "/elsewhere/base")
        assert caplog.text == ""
        import_adapter(folder, cfg, "owner/another")
    assert "was trained on owner/base and is put on owner/another" in caplog.text


def test_an_adapter_where_a_model_is_expected(adapter):
    folder, _ = adapter
    with pytest.raises(InputError, match=r"where a model is expected\. Give owner/base"):
        resolve_model(str(folder))
