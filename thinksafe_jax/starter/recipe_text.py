"""The text of a first recipe: YAML in which every key has its reason behind it."""

import json
from pathlib import Path

import yaml

from thinksafe_jax.starter.first_choices import Choices, Chosen
from thinksafe_jax.starter.machine_at_hand import Machine
from thinksafe_jax.starter.student_facts import StudentFacts
from thinksafe_jax.terminal import clean


def recipe_text(
    name: str, file: Path, student: StudentFacts, machine: Machine, choices: Choices
) -> str:
    """The whole file."""
    lines = [
        *_head(file, student, machine),
        f"name: {name}  # of the report and the cards",
        f"run_dir: runs/{name}  # where everything goes",
        f"mesh: {_value(machine.mesh)}  # {machine.mesh_because}",
        *_models(student, choices),
        *_engine(machine, choices),
        *_synthesis(student, choices),
        *_training(choices),
        *_evaluation(),
    ]
    return "\n".join(lines) + "\n"


def _head(file: Path, student: StudentFacts, machine: Machine) -> list[str]:
    label = _comment(student.label)
    return [
        f"# thinksafe run --config {_comment(str(file))}",
        "#",
        f"# A first trial of ThinkSafe on {label}, written by `thinksafe init`.",
        "#",
        f"# For {machine.said}.",
        "# The prompts ship with the package: 64 harmful and 64 benign ones to train on, others to",
        "# measure before and after. They are too few for a claim about the model. For a real run",
        "# take more of both kinds, as the paper's 40,000 of hf:UWNSL/SafeChain (in the recipe",
        "# qwen3-0.6b), and its learning rate of 1e-5. The page Configuration has all keys.",
        "# All paths start from the current directory.",
    ]


def _models(student: StudentFacts, choices: Choices) -> list[str]:
    lines = [
        "student:  # the model that is made safer",
        f"  model: {_value(student.model)}  # {student.parameters / 1e9:.2f} billion parameters",
        _line("  dtype", choices.dtype),
        "guard:  # what it finds safe is trained on; it also judges before and after",
        f"  kind: {choices.guard_kind}  # {choices.guard_because}",
    ]
    if choices.guard_model:
        lines += [
            "  # the paper's guard is Llama-Guard-3-8B, whose licence must be accepted on the Hub:",
            "  # kind: llama-guard, model: meta-llama/Llama-Guard-3-8B",
            f"  model: {_value(choices.guard_model)}  # one that does not fit: kind refusal-match",
            f"  max_length: {choices.max_length.value}  # tokens that it reads",
            f"  batch_tokens: {max(4096, int(str(choices.max_length.value)))}  # of a pass",
        ]
    return lines


def _engine(machine: Machine, choices: Choices) -> list[str]:
    lines = ["engine:  # the sampler", _line("  slots", choices.slots)]
    if machine.on_cpu:
        lines += [
            "  window: 16  # decode steps between two looks at what is finished: short answers",
            "  page_size: 16  # tokens of a page of the cache: short answers",
        ]
    return [*lines, _line("  max_length", choices.max_length)]


def _synthesis(student: StudentFacts, choices: Choices) -> list[str]:
    steering, heeds = "authors", "the paper's instruction to refuse, before harmful prompts"
    if student.parameters < 1e9 and not student.reasons:
        steering, heeds = "suffix", "behind the prompt: a small model heeds what stands last"
    reasoning = "think" if student.reasons else "none"
    options = [
        f"    {key}: {value}  # {student.sampling_from}" for key, value in student.sampling.items()
    ]
    return [
        "synthesis:  # the student answers, and what the guard finds safe is kept",
        f"  steering: {steering}  # {heeds}",
        f"  reasoning: {reasoning}  # {student.reasons_because}",
        "  prompts:  # both kinds: to refuse the one, and to go on answering the other",
        "    # AdvBench: requests for harm",
        f"    - {_source('advbench.csv', 'harmful', 0, 64)}",
        "    # XSTest: harmless, but looks harmful",
        f"    - {_source('xstest.csv', 'benign', 0, 32)}",
        "    # GSM8K: keeps the arithmetic",
        f"    - {_source('gsm8k.jsonl', 'benign', 0, 32)}",
        "  sampling: &sampling  # of every answer, the evaluation's too",
        *options,
        _line("    max_new_tokens", choices.new_tokens),
    ]


def _training(choices: Choices) -> list[str]:
    return [
        "training:  # LoRA of rank 32 on q_proj and v_proj, 3 epochs, 8 rows a step: the paper's",
        _line("  learning_rate", choices.learning_rate),
        _line("  max_length", choices.max_length),
        _line("  micro_batch_size", choices.micro_batch),
        "  checkpoint_every: 8  # optimiser steps: a trial is short",
    ]


def _evaluation() -> list[str]:
    return [
        "evaluation:  # before and after; other rows of the same files, never trained on",
        "  harmful:  # how often harm is answered",
        "    # an interval some 15 points wide",
        f"    - {_source('advbench.csv', 'harmful', 64, 80)}",
        "  over_refusal:  # how often a harmless request is refused",
        "    # look at this as much as at harm",
        f"    - {_source('xstest.csv', 'benign', 32, 80)}",
        "  reasoning:  # what is still solved",
        "    # exact answers, read by Math-Verify",
        f"    - {_source('gsm8k.jsonl', 'benign', 32, 40)}",
        "  sampling: *sampling  # as the training data was drawn",
    ]


_COLUMNS = {
    "advbench.csv": "id_column: id",
    "xstest.csv": "id_column: id, where: {label: safe}",
    "gsm8k.jsonl": "id_column: id, prompt_column: question, answer_column: answer",
}


def _source(file: str, label: str, start: int, limit: int) -> str:
    """A part of a file of prompts that ships."""
    begin = f"start: {start}, " if start else ""
    path = f"configs/prompts/{file}"
    return f"{{path: {path}, {_COLUMNS[file]}, label: {label}, {begin}limit: {limit}}}"


def _line(key: str, chosen: Chosen) -> str:
    return f"{key}: {chosen.value}  # {chosen.because}"


def _value(text: str | None) -> str:
    """A text as YAML has it: plain where it can be, else quoted."""
    if text is None:
        return "null"
    plain = text.replace("/", "").replace("-", "").replace(".", "").replace("_", "").isalnum()
    plain = plain and text.isascii() and text[0].isalpha()
    return text if plain and yaml.safe_load(text) == text else json.dumps(text)  # no is a boolean


def _comment(text: str) -> str:
    """A text from outside on one line of a comment."""
    return " ".join(clean(text).split())
