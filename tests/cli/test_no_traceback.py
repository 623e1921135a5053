"""Whatever is typed, a command ends with success or one plain message: never in a traceback.

What damaged files do to the readers is in tests/hostile. ODD_COMMANDS=2000 in the environment tries
all odd arguments, which takes some minutes.
"""

import os
import random
import shutil
from pathlib import Path

import pytest

from tests.cli.test_cli import exit_code
from tests.support import REPOSITORY

LONG = "x" * 5000
ODD_TEXTS = (
    *("", " ", ".", "..", "/", "~", "/dev/null", "/nowhere/at/all", "a\nb", "\udcff", "é", LONG),
    *("-1", "nan", "1e999", "99999999999999999999", "{", "[", "${a.b}", "a=b", "=", "--"),
    *(
        "gs://",
        "s3://",
        "hf:",
        "hf:x",
        "mini:",
        "mini:nothing",
        "owner/name",
        "http://x/y",
        "a:b:c",
    ),
)
ODD_FILES = {
    "empty": b"",
    "binary": bytes(range(256)),
    "list.json": b"[1, null]",
    "deep.json": b"[" * 50_000,
    "text.jsonl": b"not json\n",
    "rows.jsonl": b'{"id": null, "question": [], "answer": {}, "response": 1}\n',
    "torn.yaml": b"name: [a\n",
    "latin.yaml": "name: é\n".encode("latin-1"),
    "scalar.yaml": b"5\n",
    "keys.yaml": b"1: 2\nnull: {[]: 3}\n",
    "config.json": b'{"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}',
}
# where an odd thing is put in; what comes before a place is as a user would have it
COMMANDS = [
    ["run", "-c", "?"],
    ["run", "-c", "mini", "?"],
    ["run", "-c", "mini", "student.model=?"],
    ["run", "-c", "mini", "guard.model=?"],
    ["run", "-c", "mini", "synthesis.prompts=[{path: '?', label: harmful}]"],
    ["run", "-c", "mini", "mesh=?"],
    ["run", "-c", "mini", "--run-dir", "?"],
    ["run", "-c", "mini", "--limit", "?"],
    ["sample", "?"],
    ["sample", "begun", "--part", "?"],
    ["filter", "?"],
    ["train", "?"],
    ["export", "begun", "--format", "?"],
    ["report", "?"],
    ["evaluate", "?"],
    ["evaluate", "?", "--suite", "gsm8k"],
    ["evaluate", "mini:student", "--suite", "?"],
    ["evaluate", "mini:student", "--suite", "reasoning:a=?", "--max-new-tokens", "8"],
    ["evaluate", "mini:student", "--suite", "gsm8k", "--max-new-tokens", "?"],
    ["evaluate", "mini:student", "--suite", "gsm8k", "--judge", "?", "--max-new-tokens", "8"],
    ["score", "?", "--suite", "gsm8k"],
    ["score", "rows.jsonl", "--suite", "?"],
    ["compare", "?", "begun"],
    ["probe", "-c", "?"],
    ["probe", "-c", "mini", "--template", "?"],
    ["dataset", "show", "?"],
    ["dataset", "export", "?", "--authors", "out.json"],
    ["analyze", "?", "begun"],
    ["analyze", "perplexity", "?"],
    ["analyze", "perplexity", "mini:student", "--data", "?"],
    ["plan", "--model", "?", "--mesh", "v5e-8"],
    ["plan", "--model", "mini:student", "--mesh", "?"],
    ["plan", "--model", "mini:student", "--mesh", "cpu-8", "--json", "?"],
    ["sweep-sharding", "--models", "?", "--meshes", "cpu-8"],
    ["sweep-sharding", "--models", "mini:student", "--meshes", "?"],
    ["sweep-sharding", "--models", "mini:student", "--meshes", "cpu-8", "--rules", "?"],
    ["configs", "copy", "?"],
    ["configs", "copy", "mini", "--out", "?"],
    ["doctor", "?"],
    ["convert", "?", "out"],
    ["verify", "?"],
    ["verify", "mini:student", "--texts", "?"],
]
# values that a hand or a damaged file may leave in a recipe
ODD_VALUES = (
    *("", "null", "[]", "{}", "yes", ".nan", "1e999", "-1", "0x10", "2026-01-01", "'", "&a [*a]"),
    *(
        "!!python/object/apply:os.system [x]",
        "${name}",
        "${oc.env:HOME}",
        "- 1",
        "\t",
        "{a: {b: [",
        LONG,
    ),
)
ENDS = {0, 2, 3, 4}  # success, or one of the errors that a user meets


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Path:
    """A folder with the odd files."""
    folder = tmp_path_factory.mktemp("odd")
    for name, content in ODD_FILES.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def only_read(places, tmp_path, monkeypatch) -> Path:
    """A run directory `begun` among the odd files; a pipeline reads all its inputs, and ends."""
    import thinksafe_jax.pipeline as pipeline
    from thinksafe_jax.runs import Run
    from thinksafe_jax.synthesis import require_labels, synthesis_prompts

    def read_inputs(recipe, run_dir, *, stages=None, **options):
        with Run.open(recipe, run_dir, **options) as run:
            session = pipeline.Session(recipe, run.path / "models.json")
            require_labels(recipe, synthesis_prompts(recipe).prompts)
            assert session.cfg and session.tokenizer and session.guard
            _ = session.mesh

    monkeypatch.setattr(pipeline, "run_pipeline", read_inputs)
    shutil.copytree(places, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    assert exit_code(monkeypatch, "run", "-c", "mini", "--run-dir", "begun") == 0
    return tmp_path


def ends_well(monkeypatch, capsys, arguments: list[str]) -> None:
    code = exit_code(monkeypatch, *arguments)  # any other exception than SystemExit fails here
    said = capsys.readouterr()
    assert code in ENDS, (arguments, said.err)
    assert "Traceback" not in said.err + said.out, arguments


def odd_commands() -> list[list[str]]:
    odd = [*ODD_TEXTS, *ODD_FILES, "begun"]
    return [[a.replace("?", o) for a in command] for o in odd for command in COMMANDS]


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "-c", LONG],
        ["run", "-c", "mini", f"mesh={LONG}"],
        ["run", "-c", "mini", "--run-dir", LONG],
        ["sample", LONG],
        ["compare", LONG, "begun"],
        ["dataset", "show", LONG],
        ["evaluate", LONG, "--suite", "gsm8k"],
        ["convert", LONG, "out"],
        ["plan", "--model", LONG, "--mesh", "v5e-8"],
        ["plan", "--model", "deep.json", "--mesh", "v5e-8"],
        ["plan", "--model", "mini:student", "--mesh", "cpu-8", "--json", ""],
    ],
    ids=lambda arguments: " ".join(arguments)[:40],
)
def test_what_once_ended_in_a_traceback(only_read, monkeypatch, capsys, arguments):
    ends_well(monkeypatch, capsys, arguments)
    assert exit_code(monkeypatch, *arguments) != 0


@pytest.mark.slow
def test_odd_arguments(only_read, monkeypatch, capsys):
    """Some of all pairs of a command and an odd thing, drawn by a fixed seed."""
    commands = odd_commands()
    tried = min(len(commands), int(os.environ.get("ODD_COMMANDS", "100")))
    for arguments in random.Random(0).sample(commands, tried):
        ends_well(monkeypatch, capsys, arguments)


def changed(lines: list[str], rng: random.Random) -> str:
    """A recipe with one or two lines damaged."""
    lines = list(lines)
    for _ in range(rng.choice([1, 1, 2])):
        i = rng.randrange(len(lines))
        key, colon, _ = lines[i].partition(":")
        value = rng.choice(ODD_VALUES)
        lines[i : i + 1] = rng.choice(
            [
                [f"{key}{colon} {value}"],
                [],
                [lines[i], lines[i]],
                [" " + lines[i]],
                [lines[i][: rng.randrange(len(lines[i]) + 1)]],
                [lines[i], f"{value}: {value}"],
            ]
        )
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("begun", [False, True], ids=["a recipe", "a run's config.yaml"])
def test_damaged_recipes(only_read, monkeypatch, capsys, begun):
    """`run` reads whatever is in the file up to what it would sample, or refuses it."""
    source = only_read / "begun/config.yaml" if begun else REPOSITORY / "configs/recipes/mini.yaml"
    lines = source.read_text().splitlines()
    rng = random.Random(1)
    for number in range(40):
        text = changed(lines, rng)
        if begun:
            source.write_text(text)
            arguments = ["sample", "begun"]
        else:
            Path("r.yaml").write_text(text)
            arguments = ["run", "-c", "r.yaml", "--run-dir", f"run-{number}"]
        ends_well(monkeypatch, capsys, arguments)
