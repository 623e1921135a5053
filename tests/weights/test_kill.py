"""Killed in the middle of an export, the destination is absent or complete, never half."""

import signal
import subprocess
import sys

import pytest

EXPORT = """
import os, sys
import jax, jax.numpy as jnp
from pathlib import Path
from thinksafe_jax.models import LoraConfig, init_adapter, init_params, load_config
from thinksafe_jax.weights import export_adapter, resolve_model, save_checkpoint

what, out, kill = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "kill"
if kill:  # dies where the bytes are written and nothing has its place yet
    os.fsync = lambda fd: os.kill(os.getpid(), 9)
folder = resolve_model("mini:guard")
cfg = load_config(folder)
if what == "adapter":
    lora = LoraConfig(r=2)
    export_adapter(out, init_adapter(cfg, lora, jax.random.key(0)), lora, cfg, "mini:guard")
else:
    import json
    params = init_params(cfg, jax.random.key(0), jnp.float32)
    config = json.loads((folder / "config.json").read_text())
    save_checkpoint(out, params, cfg, config, tokenizer_from=folder)
"""


@pytest.mark.parametrize("what", ["adapter", "checkpoint"])
def test_a_killed_export_leaves_nothing_half_and_can_be_run_again(tmp_path, what):
    def export(mode):
        script = [sys.executable, "-c", EXPORT, what, str(tmp_path / "out"), mode]
        return subprocess.run(script, capture_output=True, text=True)

    assert export("kill").returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    done = export("whole")
    assert done.returncode == 0, done.stderr
    before = {f.name: f.read_bytes() for f in (tmp_path / "out").iterdir()}
    assert export("kill").returncode == -signal.SIGKILL  # now over an export that is there
    assert {f.name: f.read_bytes() for f in (tmp_path / "out").iterdir()} == before
