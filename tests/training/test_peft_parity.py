"""Loss, LoRA gradients and optimiser steps against transformers + peft + torch, in float32."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.support import save_tiny
from tests.training import kit
from thinksafe_jax.models import Adapter, load_config
from thinksafe_jax.training import make_step
from thinksafe_jax.training.optimizers.adamw import warmup_steps
from thinksafe_jax.training.packing import Layout
from thinksafe_jax.training.step import init_state, make_gradient
from thinksafe_jax.weights import load_params

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

# peft reads a name that transformers 5 has deprecated
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated"),
]

TARGETS = ["q_proj", "v_proj", "o_proj", "down_proj"]
SETTINGS = kit.settings(lora_dropout=0.0, lora_targets=TARGETS, lora_r=3, lora_alpha=5.0)


@pytest.fixture(scope="module", params=["qwen3", "llama-bias"])
def pair(request, tmp_path_factory):
    """(torch model with a random adapter, our config, params and the same adapter)."""
    folder = tmp_path_factory.mktemp(request.param)
    model = save_tiny(request.param, folder)
    lora = peft.LoraConfig(r=3, lora_alpha=5, lora_dropout=0.0, target_modules=TARGETS)
    model = peft.get_peft_model(model, lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    cfg = load_config(folder)
    params = load_params(folder, cfg, jax.numpy.float32)
    return model, cfg, params


def adapter_from(model, cfg, value) -> Adapter:
    """Our tree of `value(parameter)` over the torch model's adapter weights."""
    wide = {"q_proj": cfg.num_heads, "v_proj": cfg.num_kv_heads}
    layers = {}
    for target in TARGETS:
        a, b = (
            np.stack(
                [
                    value(parameter).detach().numpy()
                    for name, parameter in model.named_parameters()
                    if f".{target}.lora_{half}." in name
                ]
            )
            for half in "AB"
        )
        if target in wide:
            b = b.reshape(cfg.num_layers, wide[target], cfg.head_dim, -1)
        if target == "o_proj":
            a = a.reshape(cfg.num_layers, -1, cfg.num_heads, cfg.head_dim)
        layers[target] = {"a": jax.numpy.array(a), "b": jax.numpy.array(b)}
    return {"layers": layers}


def torch_loss(model, examples):
    """Token mean over the rows, each run alone and without padding; KL on those with `use_kl`."""
    total = count = 0
    for example in examples:
        ids = torch.tensor(example.token_ids.astype(np.int64))[None]
        labels = torch.where(torch.tensor(example.loss_mask), ids[0], -100)[1:]
        logits = model(input_ids=ids).logits[0, :-1]
        if example.use_kl:
            with torch.no_grad(), model.disable_adapter():
                reference = model(input_ids=ids).logits[0, :-1]
            both = (x[labels >= 0].log_softmax(-1) for x in (logits, reference))
            kl = torch.nn.functional.kl_div(*both, log_target=True, reduction="sum")
            total = total + kl
        else:
            total = total + torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        count += int((labels >= 0).sum())
    return total / count


def cosine(a, b) -> float:
    a, b = (np.concatenate([x.ravel() for x in kit.flat(tree).values()]) for tree in (a, b))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


OBJECTIVES = ["ce", "ce+kl"]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_and_lora_gradient(pair, objective):
    model, cfg, params = pair
    examples = kit.rows(5, objective=objective)
    settings = dataclasses.replace(SETTINGS, objective=objective)
    loss = torch_loss(model, examples)
    model.zero_grad()
    loss.backward()
    want = adapter_from(model, cfg, lambda parameter: parameter.grad)
    setup = kit.setup(settings, cfg)
    trainable = adapter_from(model, cfg, lambda parameter: parameter)
    batch = kit.packed(examples, Layout(2, 2, 48), setup)
    totals, grads = jax.jit(make_gradient(setup))(trainable, params, batch, jax.random.key(0))
    total, tokens = totals.loss, batch.denominator
    np.testing.assert_allclose(total / tokens, loss.item(), rtol=1e-5)
    assert cosine(jax.tree.map(lambda g: g / tokens, grads), want) >= 0.99999
    norms = [np.sqrt(sum((x**2).sum() for x in kit.flat(t).values())) for t in (grads, want)]
    np.testing.assert_allclose(norms[0] / tokens, norms[1], rtol=1e-4)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("pair", ["qwen3"], indirect=True)
def test_twenty_optimiser_steps(pair, objective):
    """Accumulation, packing, clipping, AdamW and schedule together, against a plain torch loop."""
    from transformers import get_cosine_schedule_with_warmup

    model, cfg, params = pair
    config = dataclasses.replace(SETTINGS, learning_rate=5e-3, clip_norm=0.5, objective=objective)
    steps = [kit.rows(4, seed=n, objective=objective) for n in range(20)]
    trainable = adapter_from(model, cfg, lambda parameter: parameter)
    weights = [p for name, p in model.named_parameters() if "lora_" in name]
    start = [w.detach().clone() for w in weights]
    optimizer = torch.optim.AdamW(weights, lr=5e-3, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup_steps(config, 20), 20)
    want = []
    for examples in steps:
        loss = torch_loss(model, examples)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 0.5)
        optimizer.step()
        schedule.step()
        want.append(loss.item())
    with torch.no_grad():
        for weight, old in zip(weights, start, strict=True):
            weight.copy_(old)
    setup = kit.setup(config, cfg)
    step = make_step(setup, total_steps=20)
    state, have = init_state(trainable, setup), []
    for examples in steps:
        batch = kit.packed(examples, Layout(4, 1, 64), setup)
        state, metrics = step(state, params, batch, jax.random.key(0))
        have.append(float(metrics.loss))
    np.testing.assert_allclose(have, want, rtol=1e-4)
    with torch.no_grad():  # the fixture is shared
        for weight, old in zip(weights, start, strict=True):
            weight.copy_(old)
