"""The notebooks run from a fresh kernel to their end, and are stored without outputs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)


def cells(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def test_there_are_notebooks():
    assert [notebook.stem for notebook in NOTEBOOKS] == ["mini_world", "plan_a_mesh"]


@each_notebook
def test_a_notebook_is_stored_without_what_it_printed(notebook):
    """Figures of one machine, and a difference in every commit."""
    code = [cell for cell in cells(notebook) if cell["cell_type"] == "code"]
    assert [cell["id"] for cell in code if cell["outputs"] or cell["execution_count"]] == []


@pytest.mark.slow
@each_notebook
def test_a_notebook_runs_to_its_end(notebook, tmp_path):
    pytest.importorskip("nbclient", reason="nbclient is not installed: pip install -e '.[test]'")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install -e '.[test]'")
    copy = shutil.copy(notebook, tmp_path)
    run = [sys.executable, "-c", "from nbclient.cli import main; main()"]
    command = [*run, "--inplace", "--timeout=600", copy]
    env = {**os.environ, "JUPYTER_PLATFORM_DIRS": "1", "PYTHONPATH": str(REPOSITORY)}
    env["IPYTHONDIR"] = str(tmp_path / "ipython")
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    code = [cell for cell in cells(Path(copy)) if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
