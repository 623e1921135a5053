"""Every reader of files that come from outside, each with sound files to begin from.

Used by test_readers.py (bounded) and scripts/fuzz.py (for hours).
"""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from tests.hostile.mutations import mutate
from thinksafe_jax.config import PromptSource, load_recipe
from thinksafe_jax.data import load_prompts, load_questions, read_rows

REPOSITORY = Path(__file__).resolve().parents[2]
MOST_CHARACTERS = 3_000  # of a message: a few values may be quoted, each of them cut
MINI = REPOSITORY / "thinksafe_jax/mini/assets"
CONFIGS = REPOSITORY / "configs"
RECIPE = """\
student: {model: mini:student}
guard: {kind: llama-guard, model: mini:guard}
seed: 3
synthesis:
  prompts:
    - path: prompts.jsonl
      label_column: label
      labels: {harmful: harmful, benign: benign}
  sampling: {temperature: 0.6, top_p: 0.95, max_new_tokens: 64}
training:
  epochs: 1
  learning_rate: 0.001
  max_length: 128
evaluation:
  harmful: [{path: 'mini:heldout-harmful'}]
  judge: mini
"""
ROWS = [
    {"id": f"r{n}", "prompt": f"What is {n} + 1?", "label": label, "answer": str(n + 1)}
    for n, label in enumerate(("harmful", "benign", "benign"))
]


@dataclass(frozen=True)
class Reader:
    """One way in.

    Attributes:
        name: of the reader.
        make: writes sound files into an empty folder.
        read: reads them, as a command does.
        files: patterns of the names that are damaged.
        slow: takes over a tenth of a second.
    """

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]
    files: tuple[str, ...]
    slow: bool = False

    def targets(self, folder: Path) -> list[Path]:
        """The files that are damaged, in one order."""
        return sorted(file for pattern in self.files for file in folder.rglob(pattern))


def _write(name: str, content: str | bytes) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def _jsonl(rows: Iterable[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _csv() -> str:
    return "id,prompt,label,answer\n" + "".join(",".join(row.values()) + "\n" for row in ROWS)


def _parquet() -> bytes:
    import io

    import pyarrow
    import pyarrow.parquet

    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), sink)
    return sink.getvalue()


def _prompts(name: str, content: Callable[[], str | bytes]) -> Reader:
    def read(folder: Path) -> object:
        labels = {"harmful": "harmful", "benign": "benign"}
        file = str(folder / name)
        source = PromptSource(file, id_column="id", label_column="label", labels=labels)
        return load_prompts([source], require_label=True)

    return Reader(f"prompts {name}", lambda f: _write(name, content())(f), read, (name,))


def _suite(folder: Path) -> object:
    from thinksafe_jax.config import EvaluationConfig, SuiteConfig

    suites = [SuiteConfig("gsm8k", path=str(folder / "rows.jsonl"))]
    return load_questions(EvaluationConfig(suites=suites))


def _responses(folder: Path) -> object:
    """The reading half of `thinksafe score`: scoring itself starts a process."""
    return [row.values for row in read_rows(folder / "rows.jsonl")]


def _mesh(folder: Path) -> object:
    from thinksafe_jax.sharding import load_mesh

    return load_mesh(folder / "mesh.yaml")


def _rules(folder: Path) -> object:
    from thinksafe_jax.sharding import load_mesh, load_rules

    return load_rules(folder / "rules.yaml")(load_mesh("v5e-8"))


def _model_config(folder: Path) -> object:
    from thinksafe_jax.models import load_config

    return load_config(folder)


def _copy_of(source: Path) -> Callable[[Path], object]:
    return lambda folder: shutil.copytree(source, folder, dirs_exist_ok=True)


def _copy_tokenizer(folder: Path) -> None:
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "config.json",
    ):
        shutil.copy(MINI / "student" / name, folder / name)
    _write("special_tokens_map.json", '{"eos_token": "<|im_end|>"}')(folder)
    template = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    _write("chat_template.jinja", template)(folder)


def _tokenizer(folder: Path) -> object:
    from thinksafe_jax.tokenizer import ChatTokenizer

    tokenizer = ChatTokenizer(folder)
    ids = tokenizer.prompt_ids("What is 17 + 25? <|im_end|>")
    return tokenizer.eos_ids, tokenizer.opens_think, tokenizer.decode(ids)


def _make_weights(folder: Path, shards: bool = False) -> None:
    from tests.weights.kit import small_checkpoint

    small_checkpoint(folder, max_shard=20_000 if shards else 10**9)


def _weights(folder: Path) -> object:
    from thinksafe_jax.models import load_config
    from thinksafe_jax.weights import load_params

    return load_params(folder, load_config(folder))


def _make_adapter(folder: Path) -> None:
    import jax

    from tests.weights.kit import CONFIG
    from thinksafe_jax.models import LoraConfig, init_adapter
    from thinksafe_jax.models.config import parse_config
    from thinksafe_jax.weights import export_adapter

    lora, cfg = LoraConfig(r=2), parse_config(CONFIG)
    adapter = init_adapter(cfg, lora, jax.random.key(0))
    export_adapter(folder / "adapter", adapter, lora, cfg, "base")


def _adapter(folder: Path) -> object:
    from tests.weights.kit import CONFIG
    from thinksafe_jax.models.config import parse_config
    from thinksafe_jax.weights import import_adapter

    return import_adapter(folder / "adapter", parse_config(CONFIG))


def _make_orbax(folder: Path) -> None:
    from tests.weights.kit import small_checkpoint
    from thinksafe_jax.weights import convert_checkpoint

    small_checkpoint(folder / "hf")
    _write("hf/tokenizer.json", "{}")(folder)
    convert_checkpoint(str(folder / "hf"), folder / "orbax")
    shutil.rmtree(folder / "hf")


def _orbax(folder: Path) -> object:
    return _weights(folder / "orbax")


def _make_run(folder: Path) -> None:
    from thinksafe_jax.runs import Run

    _write("recipe.yaml", RECIPE)(folder)
    with Run.open(load_recipe(folder / "recipe.yaml"), folder / "run") as run:
        run.store("samples").append([{"id": "a", "response": "b"}])
        run.log("sample", rows=1)
        run.mark_done("sample", "0" * 16, rows=1)


def _run(folder: Path) -> object:
    from thinksafe_jax.runs import Run

    with Run.open(load_recipe(folder / "recipe.yaml"), folder / "run") as run:
        return run.facts("sample"), run.is_done("sample", ""), run.store("samples").read()


def _make_report(folder: Path) -> None:
    from tests.report.example_run import write_run

    write_run(folder / "run", rows=4)


def _report(folder: Path) -> object:
    from thinksafe_jax.report import write_report

    return write_report(folder / "run")


def _compare(folder: Path) -> object:
    from thinksafe_jax.evaluation import compare_evaluations, read_evaluation

    left, right = (read_evaluation(f"{folder}/run:{step}") for step in ("before", "after"))
    return compare_evaluations(left, right)


def _make_dataset(folder: Path) -> None:
    rows = [
        {"id": r["id"], "instruction": r["prompt"], "response": "<think>\na\n</think>\n\nb",
         "prompt_label": r["label"], "response_label": "safe", "finish_reason": "stop"}
        for r in ROWS
    ]  # fmt: skip
    _write("dataset/train.jsonl", _jsonl(rows))(folder)


@cache
def _mini_tokenizer() -> object:
    from thinksafe_jax.tokenizer import ChatTokenizer

    return ChatTokenizer(MINI / "student")


def _dataset(folder: Path) -> object:
    from thinksafe_jax.config import TrainingConfig
    from thinksafe_jax.synthesis import read_dataset
    from thinksafe_jax.training import build_examples

    config = TrainingConfig(objective="ce+kl", max_length=64)
    return build_examples(_mini_tokenizer(), read_dataset(folder), config)


def _checkpoint(folder: Path) -> object:
    from thinksafe_jax.training.checkpoints import CheckpointStore

    store = CheckpointStore(folder / "checkpoints", keep=2)
    facts = store.newest()
    return facts and store.restore(facts["step"], _state())


def _state() -> dict:
    import jax.numpy as jnp

    return {"a": jnp.arange(24, dtype=jnp.float32).reshape(4, 6), "step": jnp.int32(3)}


def _make_checkpoint(folder: Path) -> None:
    from thinksafe_jax.training.checkpoints import CheckpointStore

    CheckpointStore(folder / "checkpoints", keep=2).save(3, _state(), {"seed": 7})


READERS = (
    Reader(
        "recipe",
        _write("recipe.yaml", RECIPE),
        lambda f: load_recipe(f / "recipe.yaml"),
        ("recipe.yaml",),
    ),
    Reader(
        "mesh file",
        lambda f: shutil.copy(CONFIGS / "mesh/v5e-8.yaml", f / "mesh.yaml"),
        _mesh,
        ("mesh.yaml",),
    ),
    Reader(
        "rules file",
        lambda f: shutil.copy(CONFIGS / "rules/tensor-8.yaml", f / "rules.yaml"),
        _rules,
        ("rules.yaml",),
    ),
    _prompts("prompts.jsonl", lambda: _jsonl(ROWS)),
    _prompts("prompts.json", lambda: json.dumps(ROWS)),
    _prompts("prompts.csv", _csv),
    _prompts("prompts.parquet", _parquet),
    Reader(
        "suite",
        _write("rows.jsonl", _jsonl({"question": r["prompt"], "answer": "#### 1"} for r in ROWS)),
        _suite,
        ("rows.jsonl",),
    ),
    Reader("responses", _write("rows.jsonl", _jsonl(ROWS)), _responses, ("rows.jsonl",)),
    Reader("config.json", _copy_of(MINI / "student"), _model_config, ("config.json",)),
    Reader(
        "tokenizer",
        _copy_tokenizer,
        _tokenizer,
        ("tokenizer*.json", "generation_config.json", "special_tokens_map.json", "*.jinja"),
        slow=True,
    ),
    Reader("weights", _make_weights, _weights, ("*.safetensors", "config.json")),
    Reader("index", lambda f: _make_weights(f, shards=True), _weights, ("*.index.json",)),
    Reader("adapter", _make_adapter, _adapter, ("adapter_config.json", "*.safetensors")),
    Reader("Orbax copy", _make_orbax, _orbax, ("*",), slow=True),
    Reader("run directory", _make_run, _run, ("run/*.yaml", "run/*.json", "run/**/*.jsonl")),
    Reader("report", _make_report, _report, ("run/**/*.json", "run/**/*.jsonl"), slow=True),
    Reader("comparison", _make_report, _compare, ("run/**/rows.jsonl",)),
    Reader("dataset", _make_dataset, _dataset, ("train.jsonl",)),
    Reader("checkpoint", _make_checkpoint, _checkpoint, ("*",), slow=True),
)


class Workbench:
    """A reader's sound files, made once in a folder, and a copy of them to damage."""

    def __init__(self, reader: Reader, folder: Path):
        self.reader, self.sound, self._copy = reader, folder / "sound", folder / "copy"
        self.sound.mkdir()
        reader.make(self.sound)
        targets = [file.relative_to(self.sound) for file in reader.targets(self.sound)]
        self.targets = [file for file in targets if (self.sound / file).is_file()]
        assert self.targets, f"{reader.name}: no file {reader.files}"

    def mutant(self, seed: int) -> dict[Path, bytes | None]:
        """One file with other content; the same for the same seed."""
        rng = Random(seed)
        name = rng.choice(self.targets)
        return {name: mutate((self.sound / name).read_bytes(), rng)}

    def read(self, damage: dict[Path, bytes | None]) -> None:
        """Reads a copy in which some files have another content, or are gone (None).

        Raises:
            Whatever the reader raises.
        """
        shutil.rmtree(self._copy, ignore_errors=True)
        shutil.copytree(self.sound, self._copy)
        for name, content in damage.items():
            (self._copy / name).unlink()
            if content is not None:
                (self._copy / name).write_bytes(content)
        self.reader.read(self._copy)
