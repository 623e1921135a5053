# bash scripts/launch/rehearse.sh reads scripts/launch/launcher_variables.py
"""What GKE, Cloud TPU and Slurm tell each process of who it is, for processes of one machine."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Host = dict[str, str]  # environment of a process


def gke(address: str, metadata: list[str]) -> list[Host]:
    """As GKE's JobSet and XPK set them in two slices of two hosts."""
    return [
        {"TPU_WORKER_HOSTNAMES": f"{address},{address}", "TPU_WORKER_ID": str(worker),
         "MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": str(part),
         "MEGASCALE_COORDINATOR_ADDRESS": f"{address}:8080"}
        for part in range(2) for worker in range(2)
    ]  # fmt: skip


def cloud_tpu(address: str, metadata: list[str]) -> list[Host]:
    """A TPU VM asks its metadata server, here each its own."""
    return [{"GCE_METADATA_IP": server} for server in metadata]


def slurm(address: str, metadata: list[str]) -> list[Host]:
    """Two tasks on two nodes, as srun sets them."""
    return [
        {"SLURM_JOB_ID": "4100", "SLURM_STEP_NODELIST": address, "SLURM_NTASKS": "2",
         "SLURM_PROCID": str(task), "SLURM_LOCALID": "0", "SLURM_STEP_NUM_NODES": "2"}
        for task in range(2)
    ]  # fmt: skip


def tpu_facts(address: str, number: int) -> dict[str, str]:
    """What the metadata server of host `number` of four says: two slices of two."""
    return {
        "worker-network-endpoints": f"unknown:unknown:{address},unknown:unknown:{address}",
        "agent-worker-number": str(number % 2),
        "tpu-env": "MEGASCALE_NUM_SLICES: '2'\n"
        f"MEGASCALE_SLICE_ID: '{number // 2}'\nMEGASCALE_COORDINATOR_ADDRESS: '{address}'",
    }


@contextmanager
def metadata_server(facts: dict[str, str]) -> Iterator[str]:
    """Serves the attributes of a TPU VM on loopback; yields HOST:PORT."""

    class Attributes(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            value = facts.get(self.path.rpartition("/")[2])
            self.send_response(404 if value is None else 200)
            self.end_headers()
            self.wfile.write((value or "").encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Attributes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
