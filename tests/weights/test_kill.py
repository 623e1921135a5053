"""Killed in the middle of an export, the destination is absent or complete, never half."""

import json
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

EXPORT = """
import json, os, sys
import jax, jax.numpy as jnp
import numpy as np
from pathlib import Path
import pytest
from thinksafe_jax.models import LoraConfig, init_adapter, load_config
from thinksafe_jax.weights import export_adapter, load_params, resolve_model, save_checkpoint

folder, place = resolve_model("mini:guard"), Path(sys.argv[1])
cfg, lora = load_config(folder), LoraConfig(r=2)

def export(what, out):
    if what == "adapter":
        shapes = jax.eval_shape(lambda: init_adapter(cfg, lora, jax.random.key(0)))
        adapter = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)
        export_adapter(out, adapter, lora, cfg, "mini:guard")
    else:
        params = load_params(folder, cfg, jnp.float32)
        config = json.loads((folder / "config.json").read_text())
        save_checkpoint(out, params, cfg, config, tokenizer_from=folder)

def status(what, out, kill):  # of a process of its own; no backend has been started before
    child = os.fork()
    if child == 0:
        if kill:  # dies where the bytes are written and nothing has its place yet
            os.fsync = lambda fd: os.kill(os.getpid(), 9)
        export(what, out)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

content = lambda out: {f.name: f.read_bytes() for f in out.iterdir()} if out.exists() else None
report = {}
for what in ("adapter", "checkpoint"):
    out = place / what
    codes, seen = [], []
    for kill in (True, False, True):  # at first nothing is there, at last an export is
        codes.append(status(what, out, kill))
        seen.append(content(out))
    report[what] = [codes, seen[0] is None, bool(seen[1]), seen[1] == seen[2]]
print(json.dumps(report))
"""


def test_a_killed_export_leaves_nothing_half_and_can_be_run_again(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", EXPORT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for what, (codes, absent, complete, untouched) in json.loads(done.stdout).items():
        assert codes == [-signal.SIGKILL, 0, -signal.SIGKILL], what
        assert absent and complete and untouched, what
