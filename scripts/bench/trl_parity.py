"""Losses and gradients of grpo and opd beside TRL's own trainers, on the same tokens.

    python scripts/bench/trl_parity.py --trl OLD/bin/python NEW/bin/python \\
        --json scripts/bench/results/trl_parity.json

Each rival is an environment of its own, outside the repository:

    python3.11 -m venv OLD
    OLD/bin/pip install torch==2.13.0 trl==0.21.0 'transformers==4.55.*' peft
    python3.11 -m venv NEW
    NEW/bin/pip install torch==2.13.0 trl==1.16.0 peft

A random Qwen3 of two layers with a random adapter, float32. Groups of answers of uneven length,
some cut, with two rewards each. TRL's trainer gets the texts and rewards (rival_trl.py), ours is
the loop as it runs: OnPolicySteps, the method's `teach`, packed passes, and the training step's
gradient. Ours reports -log p where TRL reports -ratio, whose value is 1 on policy and whose
gradient is that of -log p; so the policy gradient's value is taken as -(sum of weights).

    loss_difference        |ours - TRL's|; aim at most 1e-6
    cosine                 of the two gradients; aim at least 0.99999
    gradient_difference    |g - g_TRL| / |g_TRL|
    advantage_difference   largest |ours - TRL's|

`k3 against corrected` is the gradient of k3 beside that of TRL's corrected KL: what the comparison
shows where two losses do differ. The exit code is 1 where an aim is missed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from machine import machine

from thinksafe_jax.config import ModelSource, Recipe, RewardTerm, find_config, load_recipe
from thinksafe_jax.data import Prompt
from thinksafe_jax.guards import Verdict
from thinksafe_jax.models import init_adapter, load_config
from thinksafe_jax.on_policy import OnPolicySteps, References, Rollout, StepParts, make_method
from thinksafe_jax.on_policy.rollouts import Draw
from thinksafe_jax.training import RowStates, TrainingSetup
from thinksafe_jax.training.step import make_gradient
from thinksafe_jax.weights import export_adapter, import_adapter, load_params

V, EOS, SAMPLES, PROMPTS, LONGEST = 97, 1, 4, 3, 12
AUTHORS = "qwen3-0.6b-grpo-authors"
WELL_FORMED, LOOSE = "<think>\nfine\n</think>\n\nHere you are.", "Here you are."
# name: what TRL is told; what our recipe says beside the preset of the authors
K3, CORRECTED = {"use_bias_correction_kl": False}, {"use_bias_correction_kl": True}
LOSSES = {
    "0.21 authors": ({"release": "0.21", "loss_type": "grpo", "scale_rewards": True}, {}),
    **{
        f"{loss} {kl}": (
            {"loss_type": loss.replace("-", "_"), "scale_rewards": "group", **correction},
            {"loss": loss, "kl": kl},
        )
        for loss in ("grpo", "dapo", "dr-grpo")
        for kl, correction in (("k3", K3), ("k3-corrected", CORRECTED))
    },
    "dr-grpo unscaled k3": (
        {"loss_type": "dr_grpo", "scale_rewards": "none", **K3},
        {"loss": "dr-grpo", "advantage": "dr-grpo", "kl": "k3"},
    ),
    "opd reverse": ({"divergence": 1.0}, {"method": "opd", "loss": "dapo", "kl": "reverse"}),
    "opd forward": ({"divergence": 0.0}, {"method": "opd", "loss": "dapo", "kl": "forward"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trl", type=Path, nargs="+", required=True, help="Pythons that have TRL")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = compare(Path(scratch), options.trl)
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    if result["largest_loss_difference"] > 1e-6 or result["lowest_cosine"] < 0.99999:
        sys.exit("an aim is missed")


def compare(folder: Path, pythons: list[Path]) -> dict:
    """Figures of every loss that a release of TRL has, by release."""
    rollouts = make_rollouts()
    save_models(folder)
    save_case(folder, rollouts)
    ours = {name: our_step(folder, changes, rollouts) for name, (_, changes) in LOSSES.items()}
    releases, compared = {}, []
    for number, python in enumerate(pythons):
        out = folder / f"trl-{number}"
        theirs = run_trl(python, folder, out)
        cfg = load_config(folder / "student")
        figures = {}
        for name, facts in theirs["losses"].items():
            gradient, _ = import_adapter(out / name, cfg)
            figures[name] = difference(ours[name], facts, gradient)
        compared += figures.values()
        if "grpo k3-corrected" in figures:
            gradient, _ = import_adapter(out / "grpo k3-corrected", cfg)
            figures["k3 against corrected"] = of_gradients(ours["grpo k3"]["gradient"], gradient)
        versions = theirs["versions"]
        releases[f"trl {versions.pop('trl')}"] = {"versions": versions, **figures}
    return {
        "losses": len(compared),
        "largest_loss_difference": max(x["loss_difference"] for x in compared),
        "lowest_cosine": min(x["cosine"] for x in compared),
        "largest_gradient_difference": max(x["gradient_difference"] for x in compared),
        **releases, "tokens": sum(len(r.token_ids) for r in rollouts), "rows": len(rollouts),
        "machine": machine(),
    }  # fmt: skip


def run_trl(python: Path, folder: Path, out: Path) -> dict:
    script = Path(__file__).with_name("rival_trl.py")
    command = [python, "-W", "ignore", script, folder, out]
    done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def difference(ours: dict, theirs: dict, gradient: dict) -> dict:
    figures = {
        "loss_ours": ours["loss"], "loss_trl": theirs["loss"],
        "loss_difference": abs(ours["loss"] - theirs["loss"]),
        **of_gradients(ours["gradient"], gradient),
    }  # fmt: skip
    if theirs["advantages"] is not None:
        gaps = np.abs(np.array(ours["advantages"]) - theirs["advantages"])
        figures["advantage_difference"] = float(gaps.max())
    return figures


def of_gradients(ours: dict, theirs: dict) -> dict:
    """Cosine, and the length of the difference beside that of TRL's."""
    a, b = (
        np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(tree)])
        for tree in (ours, theirs)
    )
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    relative = float(np.linalg.norm(a - b) / np.linalg.norm(b))
    return {"cosine": float(a @ b / lengths), "gradient_difference": relative}


def save_models(folder: Path) -> None:
    """Student, a wider teacher, and an adapter whose B is not zero."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shapes = {"student": (32, 2), "teacher": (48, 3)}
    for seed, (name, (width, layers)) in enumerate(shapes.items()):
        torch.manual_seed(seed)
        config = Qwen3Config(
            vocab_size=V, hidden_size=width, intermediate_size=64, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=2, head_dim=16, initializer_range=0.15,
            max_position_embeddings=128, tie_word_embeddings=name == "student",
            bos_token_id=None, eos_token_id=EOS, pad_token_id=0,
        )  # fmt: skip
        Qwen3ForCausalLM._from_config(config, dtype=torch.float32).save_pretrained(folder / name)
    cfg = load_config(folder / "student")
    lora = setup_of(cfg, authors()).lora
    assert lora is not None
    adapter = init_adapter(cfg, lora, jax.random.key(0))
    adapter = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), adapter
    )
    export_adapter(folder / "adapter", adapter, lora, cfg, "student")


def make_rollouts() -> list[Rollout]:
    """Random answers: groups with a spread of rewards, uneven lengths, one in four is cut."""
    rng = np.random.default_rng(0)
    rollouts = []
    for number in range(PROMPTS):
        prompt_ids = rng.integers(2, V, rng.integers(3, 8)).tolist()
        prompt = Prompt(f"p{number}", " ".join(map(str, prompt_ids)), "harmful")
        for sample in range(SAMPLES):
            ended = sample != number
            length = int(rng.integers(2, LONGEST)) if ended else LONGEST
            ids = [*rng.integers(2, V, length - ended).tolist(), *[EOS] * ended]
            p_unsafe = float(rng.uniform())
            word = "unsafe" if p_unsafe > 0.5 else "safe"
            zeros = np.zeros(length, np.float32)
            rollouts.append(
                Rollout(
                    prompt, 0, sample, prompt_ids, ids, zeros, zeros,
                    WELL_FORMED if rng.uniform() < 0.6 else LOOSE, "stop" if ended else "length",
                    Verdict("", word, p_unsafe, "full", False, "guard", word=word),
                )
            )  # fmt: skip
    return rollouts


def save_case(folder: Path, rollouts: list[Rollout]) -> None:
    recipe = authors()
    rows = [
        {
            "prompt": r.prompt.text,
            "completion": list(r.token_ids),
            "safe": 1.0 - (r.verdict.p_unsafe or 0.0),
            "form": float(r.response == WELL_FORMED),
        }
        for r in rollouts
    ]
    case = {
        "rows": rows, "vocab_size": V, "eos": EOS, "samples": SAMPLES, "max_new_tokens": LONGEST,
        "beta": recipe.training.kl_weight, "temperature": recipe.on_policy.sampling.temperature,
        "losses": {name: settings for name, (settings, _) in LOSSES.items()},
    }  # fmt: skip
    (folder / "case.json").write_text(json.dumps(case))


def authors(**changes: str) -> Recipe:
    """The preset of the authors at this size; `changes` of its training or on_policy section."""
    recipe = load_recipe(find_config("recipes", AUTHORS))
    sampling = replace(recipe.on_policy.sampling, max_new_tokens=LONGEST)
    distils = changes.get("method") == "opd"
    kl = changes.pop("kl", recipe.training.kl)
    training = replace(
        recipe.training, batch_size=PROMPTS * SAMPLES, micro_batch_size=2, max_length=32,
        lora_r=4, lora_dropout=0.0, kl=kl, kl_weight=1.0 if distils else recipe.training.kl_weight,
        remat="none",
    )  # fmt: skip
    teacher = ModelSource("teacher") if distils else recipe.on_policy.teacher
    assert recipe.on_policy.rewards == [RewardTerm("guard-safe"), RewardTerm("format")]
    on_policy = replace(
        recipe.on_policy, samples=SAMPLES, sampling=sampling, teacher=teacher, **changes
    )
    return replace(recipe, training=training, on_policy=on_policy)


def setup_of(cfg: object, recipe: Recipe) -> TrainingSetup:
    return TrainingSetup(cfg, replace(recipe.training, objective="rollout-streams"))


class Given:
    """In place of sampler, guard and tokenizer: the rollouts as they are."""

    def __init__(self, rollouts: list[Rollout]):
        self._rollouts = rollouts

    def engine(self) -> SimpleNamespace:
        stats = SimpleNamespace(seconds=0.0, occupancy=1.0)
        return SimpleNamespace(update_adapter=lambda adapter: None, stats=stats)

    def prompt_ids(self, text: str) -> list[int]:
        return list(map(int, text.split()))

    def draw(self, draw: Draw) -> list[Rollout]:
        return [r for item in draw.asked for r in self._rollouts if r.prompt == item.prompt]

    def judge(self, folder: str, rollouts: list[Rollout]) -> list[Rollout]:
        return rollouts


def our_step(folder: Path, changes: dict, rollouts: list[Rollout]) -> dict:
    """Loss, gradient and advantages of the first step of the loop."""
    recipe, given = authors(**changes), Given(rollouts)
    cfg = load_config(folder / "student")
    params = load_params(folder / "student", cfg, jnp.float32)
    adapter, _ = import_adapter(folder / "adapter", cfg)
    setup = setup_of(cfg, recipe)
    method = make_method(recipe, given)

    def references() -> References:
        of_teacher = load_config(folder / "teacher")
        teacher = RowStates(of_teacher, load_params(folder / "teacher", of_teacher, jnp.float32))
        return References(teacher, RowStates(cfg, params, setup.lora), method)

    parts = StepParts(given, method, references, 64, None, lambda *_, **__: None)
    prompts = list({r.prompt.id: r.prompt for r in rollouts}.values())
    steps = OnPolicySteps(recipe, prompts, given, parts)
    batch = next(steps.steps(0, lambda: adapter)).batch
    assert int(batch.passes) > 1  # packed, and accumulated
    run = jax.jit(make_gradient(setup))
    totals, gradient = run(adapter, params, batch, jax.random.key(0))
    weights = float(np.sum(batch.rows.streams.get("pg", np.zeros(1)), dtype=np.float64))
    taught = method.teach(rollouts, [])
    return {
        "loss": (float(totals.objective["kl"]) - weights) / float(batch.denominator),
        "gradient": jax.tree.map(lambda g: g / batch.denominator, gradient),
        "advantages": [
            float(s["pg"].weights[0] / s["kl"].weights[0]) for s in taught.streams if "pg" in s
        ],
    }


if __name__ == "__main__":
    main()
