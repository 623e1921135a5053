"""Which process of how many this one is: as told, as Slurm says, or as the TPU's host says.

Nothing here starts JAX; `join` hands what was found to `jax.distributed.initialize`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.request import Request, urlopen

from thinksafe_jax.errors import ConfigError

PORT = 8470  # where processes meet; JAX's own service takes the next free one
_SERVER = "GCE_METADATA_IP"  # the variable by which JAX is told of another metadata server, too
_LAST_PORT = 65534  # with one left for JAX's


@dataclass(frozen=True)
class Cluster:
    """One process among several.

    Attributes:
        host, port: where process 0 can be reached by all.
        count, index: processes, and which of them this is.
        found_by: what said so, for messages.
        local_devices: of a machine that several processes share, those of this one; None: all.
        slices: of a TPU that the processes lie in, slice after slice, as many in each.
    """

    host: str
    port: int
    count: int
    index: int
    found_by: str
    local_devices: tuple[int, ...] | None = None
    slices: int = 1

    def slice_of(self, index: int) -> str:
        """The slice of a process, as ", slice 1"; nothing where there is one slice."""
        return f", slice {index * self.slices // self.count}" if self.slices > 1 else ""


def find_cluster(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> Cluster | None:
    """The cluster of this process; None where it is alone.

    Args:
        coordinator: HOST:PORT of process 0, given together with the next two.
        processes: how many there are; 1 alone switches the search off.
        process: which this is, from 0.

    Raises:
        ConfigError: the three do not fit together.
    """
    if processes == 1:
        return None
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == 3:
        return from_slurm(os.environ) or _on_tpu()
    if coordinator is None or processes is None or process is None:
        raise ConfigError(
            f"{' and '.join(missing)} missing: several processes need --coordinator HOST:PORT "
            "(of process 0), --processes N and --process 0 to N-1; or none of them on Cloud TPU, "
            "GKE and Slurm"
        )
    if not 0 <= process < processes:
        raise ConfigError(
            f"--process {process}: with --processes {processes}, 0 to {processes - 1}"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= _LAST_PORT:
        raise ConfigError(
            f"--coordinator {coordinator}: expected HOST:PORT, as 10.0.0.2:{PORT}; the port is 1 "
            f"to {_LAST_PORT}, and the next one is used as well"
        )
    return Cluster(host.strip("[]"), int(port), processes, process, "--coordinator")


def from_slurm(env: Mapping[str, str]) -> Cluster | None:
    """The cluster that the variables of `srun` describe; None where they are not set."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID")
    if any(name not in env for name in names):
        return None
    job, nodes, count, index = (env[name] for name in names)
    if int(count) < 2:
        return None
    local = None
    if int(count) > int(env.get("SLURM_STEP_NUM_NODES", count)) and "SLURM_LOCALID" in env:
        shown = len(env.get("CUDA_VISIBLE_DEVICES", "0,1").split(","))
        local = None if shown == 1 else (int(env["SLURM_LOCALID"]),)  # 1: --gpus-per-task=1
    # the rendezvous and JAX's: jobs that share a node do not meet
    port = PORT + 2 * (int(job) % 2048)
    return Cluster(first_node(nodes), port, int(count), int(index), "Slurm", local)


def first_node(nodes: str) -> str:
    """`tpu01` of `tpu[01-04,07],gpu3`, as Slurm abbreviates lists; `n1-r3` of `n[1-2]-r[3-4]`."""
    prefix, bracket, rest = nodes.partition("[")
    if not bracket or "," in prefix:
        return nodes.split(",")[0]
    inside, _, after = rest.partition("]")
    return first_node(prefix + inside.replace("-", ",").split(",")[0] + after)


def _on_tpu() -> Cluster | None:
    if "TPU_WORKER_HOSTNAMES" in os.environ:
        return from_tpu(os.environ)
    chips = any(Path("/dev").glob("accel*")) or any(Path("/dev").glob("vfio/[0-9]*"))
    likely = chips and find_spec("libtpu") is not None
    if "TPU_SKIP_MDS_QUERY" in os.environ or not (likely or _SERVER in os.environ):
        return None
    try:
        return from_tpu(tpu_metadata())
    except OSError:  # not on Google Cloud
        return None


def tpu_metadata() -> dict[str, str]:
    """What a Cloud TPU VM is told, under the names of GKE's variables.

    Raises:
        OSError: there is no metadata server.
    """
    workers = [w.split(":")[-1] for w in _metadata("worker-network-endpoints").split(",")]
    lines = [line.partition(":") for line in _metadata("tpu-env").splitlines()]
    facts = {name.strip(): value.strip().strip("'") for name, _, value in lines}
    facts |= {"TPU_WORKER_HOSTNAMES": ",".join(workers)}
    return facts | {"TPU_WORKER_ID": _metadata("agent-worker-number")}


def from_tpu(env: Mapping[str, str]) -> Cluster | None:
    """The cluster that the variables of GKE describe; a Cloud TPU VM has them as metadata."""
    workers = env.get("TPU_WORKER_HOSTNAMES", "").split(",")
    slices = int(env.get("MEGASCALE_NUM_SLICES") or 1)
    count = len(workers) * slices
    if count < 2:
        return None
    if "TPU_WORKER_ID" not in env:
        raise ConfigError(
            f"TPU_WORKER_HOSTNAMES names {len(workers)} hosts but TPU_WORKER_ID does not say which "
            "this is; set it, or give --processes 1 to run this host alone"
        )
    index = int(env["TPU_WORKER_ID"]) + int(env.get("MEGASCALE_SLICE_ID") or 0) * len(workers)
    first = env.get("MEGASCALE_COORDINATOR_ADDRESS") or workers[0]
    host = first.split(":")[0]
    return Cluster(host, PORT, count, index, "the TPU's environment", slices=slices)


def _metadata(name: str) -> str:
    server = os.environ.get(_SERVER, "metadata.google.internal")
    url = f"http://{server}/computeMetadata/v1/instance/attributes/{name}"
    asked = Request(url, headers={"Metadata-Flavor": "Google"})
    with urlopen(asked, timeout=10) as answer:
        return answer.read().decode().strip()
