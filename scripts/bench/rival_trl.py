# PYTHON scripts/bench/rival_trl.py FOLDER OUT, run by trl_parity.py
"""TRL's own trainers on given completions, in an environment of its own: loss and gradients.

Everything is TRL's but the tokens: `generate` gives back the completions of the case, and the
trainer makes masks, rewards, advantages, log-probabilities and the loss of them. FOLDER holds
student/, teacher/ and adapter/, and case.json, which names the losses to compute. Gradients of the
adapter are written under OUT as PEFT adapters; printed is a line of JSON: versions, losses,
advantages. What a release of TRL does not have is left out.
"""

import importlib.metadata
import inspect
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from peft import LoraConfig, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from trl import GRPOConfig, GRPOTrainer

PLAIN = {
    "report_to": "none", "bf16": False, "fp16": False, "use_cpu": True,
    "gradient_checkpointing": False, "gradient_accumulation_steps": 1, "save_strategy": "no",
}  # fmt: skip


def main() -> None:
    folder, out = map(Path, sys.argv[1:])
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    case = json.loads((folder / "case.json").read_text())
    results = {}
    for name, settings in case["losses"].items():
        if not trl.__version__.startswith(settings.pop("release", "")):
            continue
        make = distillation if "divergence" in settings else grpo
        trainer = make(folder, case, settings)
        if trainer is not None:
            results[name] = run(trainer, folder, case, out / name)
    versions = {name: importlib.metadata.version(name) for name in ("trl", "transformers", "torch")}
    print(json.dumps({"versions": versions, "losses": results}))


def tokenizer(case: dict) -> Any:
    """Words are token ids, so that texts are the ids of the case.

    Padding and end have names that no word begins with: they are found inside words as well.
    """
    special = {0: "<pad>", case["eos"]: "<end>"}
    words = {special.get(id, str(id)): id for id in range(case["vocab_size"])}
    made = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[attr-defined]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<end>"
    )


def known(config: type, settings: dict) -> bool:
    """Whether this release of TRL has every setting."""
    return set(settings) <= set(inspect.signature(config).parameters)


def grpo(folder: Path, case: dict, settings: dict) -> Any:
    """A GRPOTrainer; None where this release does not know the loss."""
    settings = {
        "beta": case["beta"], "temperature": case["temperature"],
        "num_generations": case["samples"], "max_completion_length": case["max_new_tokens"],
        "steps_per_generation": 1, **settings,
    }  # fmt: skip
    if not known(GRPOConfig, settings):
        return None

    def safe(completions: list, safe: list, **_: object) -> list:
        return safe

    def form(completions: list, form: list, **_: object) -> list:
        return form

    config = GRPOConfig(
        str(folder / "trl"), per_device_train_batch_size=len(case["rows"]), **PLAIN, **settings
    )
    return GRPOTrainer(model(folder / "student"), [safe, form], config, **common(folder, case))


def distillation(folder: Path, case: dict, settings: dict) -> Any:
    """A DistillationTrainer at temperature 1; None in a release without one."""
    try:
        from trl import DistillationConfig, DistillationTrainer
    except ImportError:
        return None
    config = DistillationConfig(
        str(folder / "trl"),
        per_device_train_batch_size=len(case["rows"]),
        max_completion_length=case["max_new_tokens"],
        beta=settings["divergence"],
        temperature=1.0,
        **PLAIN,
    )
    teacher = model(folder / "teacher")
    return DistillationTrainer(
        model(folder / "student"), teacher, args=config, **common(folder, case)
    )


def model(folder: Path) -> Any:
    # of both names of the argument, the one that every release has
    return transformers.AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)


def common(folder: Path, case: dict) -> dict:
    lora = LoraConfig.from_pretrained(str(folder / "adapter"))
    lora.inference_mode = False
    return {
        "train_dataset": Dataset.from_list([{"prompt": row["prompt"]} for row in case["rows"]]),
        "processing_class": tokenizer(case),
        "peft_config": lora,
    }


def run(trainer: Any, folder: Path, case: dict, out: Path) -> dict:
    """Loss and advantages of the trainer's own first step; its gradients as a PEFT adapter."""
    student = trainer.model
    set_peft_model_state_dict(student, load_file(folder / "adapter/adapter_model.safetensors"))
    completions = [torch.tensor(row["completion"]) for row in case["rows"]]
    padded = torch.nn.utils.rnn.pad_sequence(completions, batch_first=True, padding_value=0)

    def generate(input_ids: torch.Tensor, **_: object) -> torch.Tensor:
        return torch.cat([input_ids, padded], dim=1)

    student.generate = generate
    student.train()
    trainer.current_gradient_accumulation_steps = 1  # what Trainer.train sets
    rows = [{key: row[key] for key in ("prompt", "safe", "form")} for row in case["rows"]]
    inputs = trainer._generate_and_score_completions(rows)
    check(inputs, case)
    loss = trainer.compute_loss(student, inputs)
    loss.backward()
    gradients = {
        name: parameter.grad.contiguous()
        for name, parameter in student.named_parameters()
        if "lora_" in name
    }
    assert all(g.dtype == torch.float32 for g in gradients.values())
    out.mkdir(parents=True)
    save_file(gradients, out / "adapter_model.safetensors")
    shutil.copy(folder / "adapter/adapter_config.json", out)
    advantages = inputs.get("advantages")
    return {
        "loss": loss.item(),
        "advantages": None if advantages is None else advantages.tolist(),
    }


def check(inputs: dict, case: dict) -> None:
    """TRL is about to score the tokens of the case and no others."""
    for index, row in enumerate(case["rows"]):
        wanted = {**row, "prompt": [int(id) for id in row["prompt"].split()]}
        for part in ("prompt", "completion"):
            ids = inputs[f"{part}_ids"][index][inputs[f"{part}_mask"][index] == 1].tolist()
            assert ids == wanted[part], f"row {index}: TRL has {ids}, given were {wanted[part]}"


if __name__ == "__main__":
    main()
