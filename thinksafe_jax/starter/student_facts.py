"""What a first recipe must know of its student, from what ships, a folder, or the Hub."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinksafe_jax.config import SamplingConfig
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.json_files import read_json_object
from thinksafe_jax.models import ModelConfig, load_config
from thinksafe_jax.planning import find_model, shipped_facts
from thinksafe_jax.sharding import parameter_tensors
from thinksafe_jax.storage import is_url
from thinksafe_jax.tokenizer import THINK_CLOSE, ChatTokenizer
from thinksafe_jax.weights import model_headers


@dataclass(frozen=True)
class StudentFacts:
    """A model that is to be made safer.

    Attributes:
        model: what a recipe calls it: a folder or a Hub id.
        label: its short name.
        reasons: whether it answers with a chain of thought between <think> tags.
        reasons_because: where that is from.
        template_thinks: whether its chat template says the same.
        sampling: temperature, top_p and top_k.
        sampling_from: who says so.
    """

    model: str
    label: str
    cfg: ModelConfig
    reasons: bool
    reasons_because: str
    sampling: dict[str, float]
    sampling_from: str
    template_thinks: bool = True

    @property
    def parameters(self) -> int:
        """Their number; tied embeddings count once."""
        return sum(math.prod(tensor.shape) for tensor in parameter_tensors(self.cfg).values())


def student_facts(name: str) -> StudentFacts:
    """The facts of a student.

    Args:
        name: a name in configs/models or its Hub id, which need no network; a checkpoint's folder;
            another Hub id or a bucket's URL, of which small files are fetched.

    Raises:
        ConfigError: no such model; or it is a guard, or part of the mini world.
        InputError: a model of a family that is not known, or broken files.
        EnvironmentFault: the Hub or bucket cannot be reached or refuses access.
    """
    if name.startswith("mini:"):
        raise ConfigError(
            f"{name}: the mini world has recipes of its own, with its own prompts and guard: "
            "thinksafe configs copy mini"
        )
    facts = None if Path(name).is_dir() or is_url(name) else shipped_facts(name)
    return _from_files(name) if facts is None else _from_facts(facts)


def _from_facts(facts: dict[str, Any]) -> StudentFacts:
    """Those of a file in configs/models."""
    repository = facts["repository"]
    label, cfg = find_model(repository)
    if facts.get("role") == "guard":
        raise ConfigError(f"{repository}: is a guard; a recipe's student is a model that answers")
    think = facts.get("think")
    if think is None or "sampling" not in facts:
        return _from_files(repository)
    return StudentFacts(
        repository,
        label,
        cfg,
        reasons=bool(think["pair_required"]),
        reasons_because="configs/models says that it does",
        sampling=dict(facts["sampling"]),
        sampling_from="the paper's, for this family",
    )


def _from_files(name: str) -> StudentFacts:
    """Those of a checkpoint's small files."""
    folder = model_headers(name).folder
    cfg, tokenizer = load_config(folder), ChatTokenizer(folder)
    reasons = THINK_CLOSE in tokenizer.control.values()
    because = f"its tokenizer has {'a' if reasons else 'no'} token {THINK_CLOSE}"
    sampling, source = _sampling_of(folder)
    label = Path(name.rstrip("/")).resolve().name if Path(name).is_dir() else Path(name).name
    thinks = tokenizer.template_thinks
    return StudentFacts(name, label, cfg, reasons, because, sampling, source, thinks)


def _sampling_of(folder: Path) -> tuple[dict[str, float], str]:
    """The options that the model's makers recommend; the paper's where they say none."""
    default = SamplingConfig()
    options = {name: getattr(default, name) for name in ("temperature", "top_p", "top_k")}
    file = folder / "generation_config.json"
    said = read_json_object(file) if file.exists() else {}
    stated = {n: said[n] for n in options if isinstance(said.get(n), int | float)}
    if "temperature" not in stated:
        return options, "the paper's, for Qwen3"
    # what the file leaves out is off
    return {"top_p": 1.0, "top_k": 0, **stated}, "its generation_config.json"
