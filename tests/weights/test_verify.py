"""`thinksafe verify`: equal models pass, a damaged one fails, and the figures are what they say."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from tests.support import save_tiny
from thinksafe_jax.cli.app import app
from thinksafe_jax.errors import EnvironmentFault, InputError
from thinksafe_jax.weights import verify

pytestmark = pytest.mark.slow

pytest.importorskip("torch")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny("llama-bias", folder)
    return folder


def run(*arguments):
    result = CliRunner().invoke(app, ["verify", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_it_passes_and_writes_its_figures(model, tmp_path):
    result = run(model, "--json", tmp_path / "out.json")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "PASS"
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["tokens"] == 256
    assert figures["top1_agreement"] == 1.0
    assert 0 <= figures["mean_kl"] < 1e-9
    assert figures["max_abs_logit_diff"] < 1e-4
    assert figures["pass"] is True


def test_bfloat16_has_bounds_of_its_own(model, tmp_path):
    result = run(model, "--dtype", "bfloat16", "--json", tmp_path / "out.json")
    assert result.exit_code == 0
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["max_abs_logit_diff"] > 1e-4
    assert figures["bounds"]["mean_kl"] == verify.BOUNDS["bfloat16"].mean_kl


def test_figures_of_known_logits():
    """Two classes, p = (3/4, 1/4) against q = (1/2, 1/2): KL = log 2 - H(p)."""
    theirs = np.log(np.array([[0.75, 0.25], [0.75, 0.25]], np.float32))
    ours = np.log(np.array([[0.75, 0.25], [0.5, 0.5]], np.float32))
    figures = verify.compare([(ours + 3.0, theirs)])
    expected = (np.log(2) - -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))) / 2
    assert figures["mean_kl"] == pytest.approx(expected, abs=1e-6)
    assert figures["max_abs_logit_diff"] == pytest.approx(3 + np.log(2), abs=1e-6)
    assert (figures["top1_agreement"], figures["tokens"]) == (1.0, 2)


def test_nan_never_passes():
    figures = verify.compare([(np.full((1, 2), np.nan, np.float32), np.zeros((1, 2), np.float32))])
    result = verify.Comparison("m", "float32", None, **figures)
    assert any("max_abs_logit_diff nan" in problem for problem in result.problems)


def test_difference_fails(model, tmp_path, monkeypatch):
    """Our side gets one norm weight changed: exit code 3, with the figures and their bounds."""
    from thinksafe_jax.weights import load_params

    def damaged(*arguments, **settings):
        params = load_params(*arguments, **settings)
        return {**params, "final_norm": params["final_norm"] * 1.1}

    monkeypatch.setattr(verify, "load_params", damaged)
    result = run(model)
    assert result.exit_code == 3
    assert "FAIL: max_abs_logit_diff" in result.stdout


def test_adapter_is_applied_by_both(model, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model)
    tuned = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    tuned.save_pretrained(tmp_path / "adapter")
    assert run(model, "--adapter", tmp_path / "adapter").exit_code == 0


def test_texts(tmp_path):
    (tmp_path / "a.txt").write_text("two words")
    (tmp_path / "b.jsonl").write_text('{"prompt": "one"}\n\n{"question": "two", "text": "three"}\n')
    assert verify._read_texts(tmp_path / "a.txt") == "two words"
    assert verify._read_texts(tmp_path / "b.jsonl") == "one\n\nthree\n\ntwo"
    (tmp_path / "bad.jsonl").write_text('{"prompt": "one"}\n[1, \n')
    with pytest.raises(InputError, match=r"bad\.jsonl:2: not a JSON object"):
        verify._read_texts(tmp_path / "bad.jsonl")
    with pytest.raises(InputError, match="not found"):
        verify._read_texts(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": 12}', "texts.jsonl:2: text is 12, not text"),
        ('{"prompt": ["a"]}', r"texts.jsonl:2: prompt is \['a'\], not text"),
        ('{"question": null}', "texts.jsonl:2: question is None, not text"),
        ('{"text": "a", "text": "b"}', "the key 'text' stands there twice"),
        ("[1]", "texts.jsonl:2: not a JSON object"),
    ],
)
def test_what_is_no_text_is_refused_by_its_line(line, said, tmp_path):
    """A number became the digits that spell it, a list its spelling in Python."""
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "one"}\n' + line + "\n")
    with pytest.raises(InputError, match=said):
        verify._read_texts(file)


def test_torch_missing(model, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)  # how Python marks what cannot be imported
    with pytest.raises(EnvironmentFault, match=r"pip install 'thinksafe-jax\[test\]'"):
        verify.verify_model(str(model))


def test_pickled_weights_are_never_opened(model, tmp_path):
    content = load_file(model / "model.safetensors")
    for file in model.iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file(content, tmp_path / "renamed.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises((InputError, OSError)):
        verify.verify_model(str(tmp_path))


def test_a_row_with_line_separators_in_its_text_is_one_row(tmp_path):
    from thinksafe_jax.weights.verify import _read_texts

    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "a line\u2028and\u0085another"}\n', encoding="utf-8")
    assert _read_texts(file) == "a line\u2028and\u0085another"
