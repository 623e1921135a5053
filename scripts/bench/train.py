"""What a training step costs, beside transformers + peft on the same rows and the same machine.

    python scripts/bench/train.py --json scripts/bench/results/train.json

A random Qwen3 of 33 M parameters, LoRA r 32 on q_proj and v_proj with dropout 0.05, float32, rows
with lognormal lengths (mean about 250 tokens, at most 1,024), a quarter of each the prompt. Two
shapes have that many parameters: with the real vocabulary three quarters of them are the
embedding, and most of a step is the loss, which both sides compute; with a small vocabulary most
of them are in the layers, as in a large model. "Qwen3-0.6B" is for an accelerator: its real shape
in bfloat16, rows of 2,000 tokens on average and 4,096 at most. The baseline trains as the authors
do: rows padded in micro-batches of 2, accumulation 4, gradient checkpointing. All sides make
optimiser steps of the same number of rows; each in a process of its own, the first step, which
compiles, outside the time.
TRL's SFTTrainer with the same settings is measured beside them where it is installed; --trl names
the Python of another environment that has it.

    useful_tokens_ratio   our tokens of rows per second / the baseline's
    trl_tokens_ratio      our tokens of rows per second / TRL's
    peak_memory_ratio     our peak memory / the baseline's: the accelerator's, or resident memory,
                          interpreters included
    packing_efficiency    tokens of rows / tokens computed
    compiles              shapes that the step was compiled for
    checkpoint_share      of our wall time spent waiting for checkpoints, one every 5 steps
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from machine import machine

SHAPES = {
    "real vocabulary": {
        "vocab_size": 151936,
        "hidden_size": 160,
        "intermediate_size": 640,
        "num_hidden_layers": 24,
        "num_attention_heads": 5,
        "num_key_value_heads": 1,
        "head_dim": 32,
    },
    "small vocabulary": {
        "vocab_size": 32768,
        "hidden_size": 384,
        "intermediate_size": 1152,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 64,
    },
}
SHAPES["Qwen3-0.6B"] = {
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}


class Rows(NamedTuple):
    """Lengths of rows, lognormal, and the dtype of the weights."""

    mean: int = 250
    longest: int = 1024
    dtype: str = "float32"


ROWS = {"Qwen3-0.6B": Rows(2000, 4096, "bfloat16")}  # chains of thought, for an accelerator
BOUNDS = {
    "useful_tokens_ratio": (">=", 2.0),
    "peak_memory_ratio": ("<=", 0.6),
    "packing_efficiency": (">=", 0.97),
    "compiles": ("<=", 1),
    "checkpoint_share": ("<=", 0.03),
}
BATCH, MICRO = 8, 2


def make_rows(steps: int, shape: str) -> list[np.ndarray]:
    """Token ids of `steps` x 8 rows for the model of a shape."""
    vocabulary, rows = SHAPES[shape]["vocab_size"], ROWS.get(shape, Rows())
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(np.log(rows.mean) - 0.9**2 / 2, 0.9, steps * BATCH)
    lengths = np.clip(lengths, 16, rows.longest).astype(int)
    return [rng.integers(0, vocabulary, n) for n in lengths]


def prompt_length(row: np.ndarray) -> int:
    return len(row) // 4


def measure_ours(folder: Path, steps: int, shape: str, remat: str) -> dict:
    from thinksafe_jax.config import TrainingConfig
    from thinksafe_jax.machine import peak_memory
    from thinksafe_jax.models import load_config
    from thinksafe_jax.training import Example, TrainingSetup, train
    from thinksafe_jax.weights import load_params

    cfg, lengths = load_config(folder), ROWS.get(shape, Rows())
    rows = make_rows(steps, shape)
    examples = [
        Example(str(i), row, np.arange(len(row)) >= prompt_length(row))
        for i, row in enumerate(rows)
    ]
    config = TrainingConfig(
        epochs=1,
        micro_batch_size=BATCH // 2,
        max_length=lengths.longest,
        remat=remat,
        checkpoint_every=5,
    )
    with tempfile.TemporaryDirectory() as checkpoints:
        params = load_params(folder, cfg, lengths.dtype)
        setup = TrainingSetup(cfg, config)
        batches = setup.batches(examples, seed=0)
        done = train(params, setup, batches, seed=0, checkpoint_dir=checkpoints).summary
    wall = done["seconds"] + done["checkpoint_seconds"]
    return {
        "tokens_per_second": done["tokens_per_second"],
        "packing_efficiency": 1 - done["padding"],
        "compiles": done["compiles"],
        "compile_seconds": done["compile_seconds"],
        "checkpoint_share": round(done["checkpoint_seconds"] / wall, 4),
        "peak_memory_mib": round(peak_memory() / 2**20),
        "remat": remat,
    }


def measure_peft(folder: Path, steps: int, shape: str) -> dict:
    """A plain loop, without the Trainer's own costs."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, ROWS.get(shape, Rows()).dtype)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    lora = LoraConfig(r=32, lora_alpha=16, lora_dropout=0.05, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(model, lora)
    model.train()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-5, weight_decay=0.0)
    rows, start, tokens = make_rows(steps, shape), 0.0, 0
    for step in range(steps):
        if step == 1:
            start = time.perf_counter()
        batch = rows[step * BATCH : (step + 1) * BATCH]
        targets = sum(len(row) - prompt_length(row) for row in batch)
        loss = 0.0
        for i in range(0, BATCH, MICRO):
            ids, mask, labels = padded(batch[i : i + MICRO])
            out = model(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                labels=torch.tensor(labels, device=device),
                num_items_in_batch=targets,
            )
            out.loss.backward()
            loss = out.loss.detach()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += sum(map(len, batch)) if step else 0
        float(loss)  # waits for the device
    figures = {"tokens_per_second": round(tokens / (time.perf_counter() - start), 1)}
    if device == "cuda":
        figures["peak_memory_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return figures


def padded(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids, attention mask and labels `[rows, longest]`."""
    shape = (len(rows), max(map(len, rows)))
    ids, mask, labels = np.zeros(shape, int), np.zeros(shape, int), np.full(shape, -100)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
        labels[i, prompt_length(row) : len(row)] = row[prompt_length(row) :]
    return ids, mask, labels


def measure_trl(folder: Path, steps: int, shape: str) -> dict | None:
    """The authors' trainer on the same rows; None where it is not installed."""
    try:
        import trl
    except ImportError:
        return None
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback

    class Clock(TrainerCallback):
        seen = (0, 0.0, 0.0)  # steps, when the first ended, when the last did

        def on_step_end(self, args, state, control, **kwargs):
            now = time.perf_counter()
            self.seen = (self.seen[0] + 1, self.seen[1] or now, now)

    rows = make_rows(steps, shape)
    data = [
        {"input_ids": row.tolist(), "completion_mask": [0] * p + [1] * (len(row) - p)}
        for row in rows
        for p in [prompt_length(row)]
    ]
    # the rows are ids already; the tokenizer only names what pads them
    words = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>"
    )
    clock = Clock()
    with tempfile.TemporaryDirectory() as out:
        config = trl.SFTConfig(
            out,
            num_train_epochs=1,
            per_device_train_batch_size=MICRO,
            gradient_accumulation_steps=BATCH // MICRO,
            gradient_checkpointing=True,
            max_length=None,
            completion_only_loss=True,
            use_cpu=not torch.cuda.is_available(),
            bf16=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )
        lora = LoraConfig(
            r=32, lora_alpha=16, lora_dropout=0.05, target_modules=["q_proj", "v_proj"]
        )
        trainer = trl.SFTTrainer(
            AutoModelForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, ROWS.get(shape, Rows()).dtype)
            ),
            config,
            train_dataset=Dataset.from_list(data),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=[clock],
        )
        trainer.train()
    done, began, ended = clock.seen
    tokens = sum(map(len, rows)) * (done - 1) / done  # its order is random: steps alike on average
    return {"tokens_per_second": round(tokens / (ended - began), 1), "trl": trl.__version__}


def in_own_process(side: str, folder: Path, args: argparse.Namespace) -> dict | None:
    python = args.trl if side == "trl" and args.trl else sys.executable
    command = [python, __file__, "--side", side, "--folder", str(folder)]
    command += ["--steps", str(args.steps), "--remat", args.remat, "--shape", args.shape]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def make_model(folder: Path, shape: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    torch.manual_seed(0)
    config = Qwen3Config(**SHAPES[shape], max_position_embeddings=2048, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def measure(side: str, folder: Path, args: argparse.Namespace) -> dict | None:
    if side == "model":
        make_model(folder, args.shape)
        return None
    if side == "ours":
        result = measure_ours(folder, args.steps, args.shape, args.remat)
    else:
        result = {"peft": measure_peft, "trl": measure_trl}[side](folder, args.steps, args.shape)
    if result is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"peak_memory_mib": round(peak)} | result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures here, beside other shapes'")
    parser.add_argument("--steps", type=int, default=16, help="optimiser steps of 8 rows")
    parser.add_argument("--shape", default="real vocabulary", choices=SHAPES)
    parser.add_argument(
        "--remat", default="attention", help="of our side: none, dots, attention, layer"
    )
    parser.add_argument("--trl", help="a Python with TRL and this package; default: this one")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args.side, args.folder, args)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        in_own_process("model", folder, args)
        sides = {side: in_own_process(side, folder, args) for side in ("ours", "peft", "trl")}
    ours, peft, trl = sides["ours"], sides["peft"], sides["trl"]
    assert ours and peft
    rate, peak = ours["tokens_per_second"], ours["peak_memory_mib"]
    figures = {
        "useful_tokens_ratio": round(rate / peft["tokens_per_second"], 3),
        "trl_tokens_ratio": trl and round(rate / trl["tokens_per_second"], 3),
        "peak_memory_ratio": round(peak / peft["peak_memory_mib"], 3),
        **{name: ours[name] for name in ("packing_efficiency", "compiles", "checkpoint_share")},
    }
    print_table(figures, sides)
    if args.json:
        kept = json.loads(args.json.read_text()) if args.json.exists() else {}
        kept[args.shape] = {
            "machine": machine(), "steps": args.steps, "figures": figures, "sides": sides
        }  # fmt: skip
        args.json.write_text(json.dumps(kept, indent=1) + "\n")


def print_table(figures: dict, sides: dict) -> None:
    for name, side in sides.items():
        print(f"{name:<6}", "not installed" if side is None else side)
    for name, (sign, bound) in BOUNDS.items():
        met = figures[name] >= bound if sign == ">=" else figures[name] <= bound
        print(f"{name:<22}{figures[name]:>8}   {sign} {bound}   {'met' if met else 'NOT met'}")


if __name__ == "__main__":
    main()
