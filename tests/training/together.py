"""Training in one of several processes, as the tests start it: `python -m tests.training.together`.

Each task prints one line of JSON with what this process saw. With `2x2` for the count, processes
are told who they are as GKE tells the hosts of two slices of a TPU.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np

from scripts.launch.launcher_variables import gke
from tests.training import kit
from thinksafe_jax import hosts
from thinksafe_jax.errors import Terminated, ThinkSafeError
from thinksafe_jax.models import init_params
from thinksafe_jax.sharding import load_mesh
from thinksafe_jax.training import TrainingMesh
from thinksafe_jax.training.checkpoints import CheckpointStore
from thinksafe_jax.weights import on_host

# without dropout: its draw follows the shape of the arrays, which a mesh may change
SETTINGS = {"epochs": 2, "lora_dropout": 0.0, "checkpoint_every": 2, "checkpoint_minutes": 1e9}
AXES = {"data": 2, "fsdp": 2, "tensor": 1}
MESH, SLICES = "cpu-8", "cpu-4x2"  # in the second, data lies across two slices


def run(folder=None, mesh_name=MESH, **more):
    """(adapter by name, losses, steps done before) on the mesh of all processes."""
    lines = []
    changes = {**SETTINGS, **more.pop("settings", {})}
    log = more.pop("log", lambda **values: lines.append(values))
    mesh = TrainingMesh.of_phase(load_mesh(mesh_name).train.with_axes(AXES), kit.CONFIG)
    setup = kit.setup(kit.settings(**changes), mesh=mesh)
    params = init_params(kit.CONFIG, jax.random.key(1), scale=kit.PARAMS_SCALE)
    result = kit.train(params, setup, kit.rows(12), log=log, checkpoint_dir=folder, **more)
    adapter = jax.tree.map(on_host, result.trainable)
    return kit.flat(adapter), [line["loss"] for line in lines], result


def layout(folder: Path) -> dict:
    """Name of this process, and which process is where on the mesh: (data, fsdp)."""
    devices = TrainingMesh.of_phase(
        load_mesh(SLICES).train.with_axes(AXES), kit.CONFIG
    ).mesh.devices
    lines = devices.reshape(AXES["data"], AXES["fsdp"])
    processes = [[device.process_index for device in line] for line in lines]
    return {"name": hosts.current().names[-1], "processes": processes}


def whole(folder: Path, mesh_name=MESH) -> dict:
    """From the first step to the last."""
    adapter, losses, _ = run(mesh_name=mesh_name)
    return {"losses": losses, "adapter": kept(folder, adapter)}


def kept(folder: Path, adapter: dict) -> str:
    """The name of a file with it."""
    file = folder / f"adapter-{jax.process_count()}-{jax.process_index()}.npz"
    np.savez(file, **adapter)
    return str(file)


def stopped(folder: Path) -> dict:
    """Only the last process is asked to stop, and only the first has the time for checkpoints."""
    left = 4

    def check_stop():
        nonlocal left
        left -= 1
        if left == 0 and hosts.current().index == hosts.current().count - 1:
            raise Terminated(signal.SIGTERM)

    minutes = 1e-9 if hosts.current().first else 1e9
    settings = {"checkpoint_minutes": minutes, "checkpoint_every": 100, "keep_checkpoints": 9}
    try:
        run(folder, settings=settings, check_stop=check_stop)
    except Terminated as error:
        return {"stopped": error.signum, "steps": CheckpointStore(folder).steps()}
    return {}


def resumed(folder: Path, mesh_name=MESH) -> dict:
    """Goes on where the checkpoints in `folder` end."""
    before = CheckpointStore(folder).newest()
    adapter, losses, _ = run(folder, mesh_name)
    found = {"from": before and before["step"], "losses": losses}
    return {**found, "adapter": kept(folder, adapter)}


def struck(folder: Path, blow: int, mesh_name=MESH) -> dict:
    """The last process strikes itself after the third step, with a checkpoint of the second."""
    group = hosts.current()

    def log(step, **_):
        if step == 3 and group.index == group.count - 1:
            deadline = time.monotonic() + 60
            while not (folder / "step_00000002").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            os.kill(os.getpid(), blow)

    run(folder, mesh_name, log=log)
    return {}


TASKS = {
    "whole": lambda folder: whole(folder),
    "stopped": lambda folder: stopped(folder / "stopped"),
    "resumed": lambda folder: resumed(folder / "killed"),
    "killed": lambda folder: struck(folder / "killed", signal.SIGKILL),
    "frozen": lambda folder: struck(folder / "frozen", signal.SIGSTOP),
    "layout": lambda folder: layout(folder),
    "slices": lambda folder: whole(folder, SLICES),
    "slices killed": lambda folder: struck(folder / "slices", signal.SIGKILL, SLICES),
    "slices resumed": lambda folder: resumed(folder / "slices", SLICES),
}


def main(address: str, count: str, index: str, folder: str, *tasks: str) -> None:
    if count == "2x2":
        os.environ |= gke(address, [])[int(index)]
        hosts.join()
    else:
        hosts.join(address, int(count), int(index))
    try:
        for task in tasks:
            found = {"task": task, **TASKS[task](Path(folder))}
            print(f"\n{json.dumps(found)}", flush=True)  # gloo may have left half a line
        hosts.leave()
    except ThinkSafeError as error:
        print(f"error: {error}", file=sys.stderr)
        hosts.fail(str(error), error.exit_code)
    except Exception:
        hosts.fail("failed", 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
