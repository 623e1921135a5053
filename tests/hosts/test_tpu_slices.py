"""Two slices of two hosts each, as Cloud TPU describes them: one mesh, and names with the slice."""

import os
import signal
import sys

import pytest

from tests.support import finish_processes, start_processes

pytestmark = pytest.mark.hosts

SCRIPT = """
import os, signal, sys, time
index, address = int(sys.argv[1]), sys.argv[2]
os.environ |= {
    "TPU_WORKER_HOSTNAMES": f"{address},{address}", "TPU_WORKER_ID": str(index % 2),
    "MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": str(index // 2),
    "MEGASCALE_COORDINATOR_ADDRESS": f"{address}:8080",
}
from thinksafe_jax import hosts
group = hosts.join()
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from thinksafe_jax.sharding import Phase
from thinksafe_jax.sharding.shardings import build_mesh
mesh = build_mesh(Phase({"fsdp": 2, "data": 2}, dcn={"data": 2}))
rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
ones = jax.make_array_from_callback((4,), rows, lambda at: jnp.ones((1,), jnp.float32))
lies = [[device.process_index for device in line] for line in mesh.devices]
print(group.index, group.names[-1].partition(", ")[2], lies, float(jax.jit(jnp.sum)(ones)))
sys.stdout.flush()
group.barrier("all have printed")
if index == 3:
    os.kill(os.getpid(), signal.SIGKILL)
group.gather("never")
"""


def test_two_slices_of_two_hosts_are_one_mesh_and_a_lost_host_is_named_with_its_slice():
    address = f"127.{os.getpid() // 250 % 250}.{os.getpid() % 250}.7"  # the port is always 8470
    command = [sys.executable, "-c", SCRIPT.replace("{", "{{").replace("}", "}}"), "{index}"]
    done = finish_processes(start_processes([*command, address], 4, 1))
    assert [code for code, _, _ in done] == [75, 75, 75, -signal.SIGKILL]
    # along fsdp hosts of one slice, along data those of both
    said = [f"{index} slice 1 [[0, 2], [1, 3]] 4.0\n" for index in range(4)]
    assert [printed for _, printed, _ in done] == said
    for _, _, errors in done[:3]:
        lost = " ".join(errors.split())
        assert "process 3 (" in lost and ", slice 1, pid" in lost and "is gone" in lost
