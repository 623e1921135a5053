"""It works without a checkout: a wheel made from the sdist, in a fresh venv, in an empty folder."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from tests.support import REPOSITORY
from thinksafe_jax import __version__

pytestmark = pytest.mark.slow

# the first way to the Hub refuses the connection, as on a machine without a network
OFFLINE = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
_BUILD = "import sys; from setuptools import build_meta as b; print(getattr(b, sys.argv[1])('out'))"


def _build(what: str, folder: Path) -> Path:
    """Runs `build_sdist` or `build_wheel` in a folder; the file that it made."""
    command = [sys.executable, "-c", _BUILD, what]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return folder / "out" / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(sdist, the wheel that is made from it)."""
    base = tmp_path_factory.mktemp("wheel")
    tree = base / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tree)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("thinksafe_jax", "configs"):
        shutil.copytree(REPOSITORY / name, tree / name, symlinks=True, ignore=ignored)
    packed = _build("build_sdist", tree)
    with tarfile.open(packed) as sdist:
        sdist.extractall(base, filter="data")
    (unpacked,) = base.glob("thinksafe_jax-*")
    return packed, _build("build_wheel", unpacked)


@pytest.fixture(scope="module")
def thinksafe(built, tmp_path_factory):
    """The installed command, run in a folder: (arguments, folder) -> the finished process."""
    base, (_, wheel) = tmp_path_factory.mktemp("installed"), built
    venv = base / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    pip = [sys.executable, "-m", "pip", "--python", venv / "bin/python", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True)
    # its dependencies are this environment's; a .pth lends them without the package itself
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "COLUMNS": "200", **OFFLINE, **environment}
        env.pop("PYTHONPATH", None)
        command = [venv / "bin/thinksafe", *arguments]
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)

    return run


@pytest.fixture(scope="module")
def metadata(built):
    with zipfile.ZipFile(built[1]) as wheel:
        (name,) = [n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")]
        return message_from_bytes(wheel.read(name))


def test_twine_accepts_both_files(built):
    pytest.importorskip("twine", reason="twine is not installed: pip install -e '.[test]'")
    command = [sys.executable, "-m", "twine", "check", "--strict", *built]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_the_metadata_says_who_where_and_for_what(metadata):
    assert metadata["Version"] == __version__
    assert metadata["Author"] == "thinksafe_jax developers"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Paper, https://arxiv.org/abs/2601.23143" in metadata.get_all("Project-URL")
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert "Programming Language :: Python :: 3.11" in metadata.get_all("Classifier")
    assert metadata["Requires-Python"] == ">=3.11"


def test_the_page_on_pypi_has_no_link_that_leads_nowhere(metadata):
    page = metadata.get_payload(decode=True).decode()
    assert page.startswith("# thinksafe_jax")
    assert re.findall(r"\]\((?!https?:|#)[^)]*\)", page) == []
    assert "[arXiv 2601.23143](https://arxiv.org/abs/2601.23143)" in page
    assert "Guards and judges" in page  # the text of a link stays


def test_where_the_repository_is_named_links_lead_to_this_version():
    spec = importlib.util.spec_from_file_location("setup_script", REPOSITORY / "setup.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = "[a](docs/a.md#b) ![p](docs/p.svg) [w](https://x.org) [h](#here)"
    web = script.page_on_pypi(text, "https://host/owner/name/", "1.2")
    assert web == (
        "[a](https://host/owner/name/blob/v1.2/docs/a.md#b) "
        "![p](https://host/owner/name/raw/v1.2/docs/p.svg) [w](https://x.org) [h](#here)"
    )
    assert script.page_on_pypi(text, None, "1.2") == "a  [w](https://x.org) [h](#here)"


def test_configs_are_listed_and_copied(thinksafe, tmp_path):
    listed = thinksafe("configs", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    for name in ("qwen3-8b", "v5e-16", "llama-guard-3-8b", "whole"):
        assert f"  {name} " in listed.stdout
    assert thinksafe("configs", "copy", "qwen3-8b", cwd=tmp_path).stdout == "qwen3-8b.yaml\n"
    again = thinksafe("configs", "copy", "qwen3-8b", cwd=tmp_path)
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["qwen3-8b.yaml"]


def test_plan_of_a_known_model_needs_no_network(thinksafe, tmp_path):
    done = thinksafe("plan", "--model", "Qwen3-8B", "--mesh", "v5e-16", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Qwen3-8B: 8,190,735,360 parameters" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "--config", "minni"], 2, "did you mean mini?"),
        (["plan", "--model", "Qwen3-9B", "--mesh", "v5e-16"], 2, "did you mean qwen3-8b?"),
        (["plan", "--model", "Qwen3-8B", "--mesh", "v5e-61"], 2, "did you mean v5e-16?"),
        (["plan", "--model", "owner/name", "--mesh", "v5e-8"], 4, "the Hub cannot be reached"),
    ],
)
def test_one_line_says_what_is_wrong(thinksafe, tmp_path, arguments, code, said):
    done = thinksafe(*arguments, cwd=tmp_path, XLA_FLAGS="")
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["--config", "qwen3-8b"],
            3,
            "Qwen/Qwen3-8B: not in the local cache, and the Hub cannot be",
        ),
        (["--config", "mini", "mesh=v5e-16"], 2, "= 16 needs more than the 1 devices"),
    ],
)
def test_a_run_that_cannot_begin_lists_what_is_missing(thinksafe, tmp_path, arguments, code, said):
    done = thinksafe("run", *arguments, cwd=tmp_path, XLA_FLAGS="")
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "problems; nothing was started" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_the_mini_recipe_runs(thinksafe, tmp_path):
    short = ["synthesis.limit=2", "synthesis.attempts=1", "synthesis.ladder=[]"]
    short += ["synthesis.sampling.max_new_tokens=4", "engine.slots=2"]
    done = thinksafe("sample", "run", "--config", "mini", *short, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "run/samples/part-00000.jsonl").read_text().splitlines()) == 2
