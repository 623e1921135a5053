"""How an export is used: the part of a model card with code for PEFT, transformers and vLLM."""

import re

_PLAIN = re.compile(r"[\w./:~-]+", re.ASCII)  # a name that is the same in Python and in a shell
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM takes as --max-lora-rank
_PEFT = """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{base}"{revision}, dtype="auto")
model = PeftModel.from_pretrained(model, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("{base}"{revision})
```"""
_TRANSFORMERS = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```"""
_VLLM_ADAPTER = """```bash
vllm serve {base}{revision} --enable-lora --max-lora-rank {rank} \\
  --lora-modules safe=path/to/this/folder
```"""
_VLLM_MERGED = """```bash
vllm serve path/to/this/folder
```"""


def usage(kind: str, base: str, revision: str | None, rank: int, reasoning: str) -> str:
    """Markdown with the commands; what they cannot name is said in words.

    Args:
        kind: adapter | merged.
        base, revision: the student and its commit on the Hub, where it is from there.
        rank: of the adapter.
        reasoning: think | none, the mode in which the model was trained.
    """
    mode = "with its reasoning" if reasoning == "think" else "without reasoning"
    template = f"Ask it through the base model's chat template, {mode}: so it was trained."
    if kind == "merged":
        return (
            f"With transformers:\n\n{_TRANSFORMERS}\n\nWith vLLM:\n\n{_VLLM_MERGED}\n\n{template}"
        )
    if base.startswith("mini:") or "://" in base or not _PLAIN.fullmatch(base):
        return f"An adapter in PEFT's format. The base model has no public name. {template}"
    in_python = f', revision="{revision}"' if revision else ""
    in_shell = f" --revision {revision}" if revision else ""
    allowed = next((size for size in _RANKS if size >= rank), rank)
    peft = _PEFT.format(base=base, revision=in_python)
    vllm = _VLLM_ADAPTER.format(base=base, revision=in_shell, rank=allowed)
    return f"With transformers and PEFT:\n\n{peft}\n\nWith vLLM:\n\n{vllm}\n\n{template}"
