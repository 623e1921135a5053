"""Which process of how many: as told, and as Slurm and Cloud TPU say."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from thinksafe_jax.errors import ConfigError
from thinksafe_jax.hosts.cluster import (
    PORT,
    Cluster,
    find_cluster,
    first_node,
    from_slurm,
    from_tpu,
    tpu_metadata,
)


def test_explicit_addresses():
    found = find_cluster("10.0.0.2:8470", 4, 3)
    assert found == Cluster("10.0.0.2", 8470, 4, 3, "--coordinator")
    assert find_cluster("[fd00::1]:8470", 2, 0).host == "fd00::1"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("host:1", 2, None), "--process missing"),
        ((None, 2, 0), "--coordinator missing"),
        (("host", 2, 0), "expected HOST:PORT"),
        (("host:99999", 2, 0), "the port is 1 to 65534"),
        (("host:1", 2, 2), "--processes 2, 0 to 1"),
    ],
)
def test_what_does_not_fit_together_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        find_cluster(*given)


def test_one_process_is_alone_whatever_the_environment_says(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)  # these tests may run in a job
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b")
    monkeypatch.setenv("TPU_WORKER_ID", "1")
    assert find_cluster().index == 1
    assert find_cluster(processes=1) is None
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    assert find_cluster() is None


SLURM = {
    "SLURM_JOB_ID": "4100",
    "SLURM_STEP_NODELIST": "gpu[07-10],login1",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_NODES": "4",
}


def test_slurm_tasks():
    assert from_slurm(SLURM) == Cluster("gpu07", PORT + 8, 4, 2, "Slurm")
    assert from_slurm(SLURM | {"SLURM_JOB_ID": "4101"}).port == PORT + 10  # JAX has PORT + 9
    assert from_slurm(SLURM | {"SLURM_NTASKS": "1"}) is None
    assert from_slurm({"SLURM_JOB_ID": "4100"}) is None  # a batch script, not srun


@pytest.mark.parametrize(("visible", "local"), [("0,1", (1,)), (None, (1,)), ("0", None)])
def test_slurm_tasks_that_share_a_node_share_its_gpus(visible, local):
    """Unless Slurm shows each task one alone, as with --gpus-per-task=1."""
    two_a_node = SLURM | {"SLURM_STEP_NUM_NODES": "2", "SLURM_LOCALID": "1"}
    shown = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert from_slurm(two_a_node | shown).local_devices == local


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node001", "node001"),
        ("node001,host2", "node001"),
        ("node[001-015],host2", "node001"),
        ("node[3,7-15]-ib", "node3-ib"),
        ("a1,b[2-3]", "a1"),
        ("rack[1-2]-node[03-04],x", "rack1-node03"),
    ],
)
def test_the_first_of_slurms_nodes(nodes, first):
    assert first_node(nodes) == first


def test_tpu_workers_of_one_slice_and_of_several():
    one = {"TPU_WORKER_HOSTNAMES": "t-0.svc,t-1.svc", "TPU_WORKER_ID": "1"}
    assert from_tpu(one) == Cluster("t-0.svc", PORT, 2, 1, "the TPU's environment")
    with pytest.raises(ConfigError, match="TPU_WORKER_ID does not say which this is"):
        from_tpu({"TPU_WORKER_HOSTNAMES": "t-0.svc,t-1.svc"})
    several = one | {
        "MEGASCALE_NUM_SLICES": "3",
        "MEGASCALE_SLICE_ID": "2",
        "MEGASCALE_COORDINATOR_ADDRESS": "s0-t-0.svc:8080",
    }
    third = Cluster("s0-t-0.svc", PORT, 6, 5, "the TPU's environment", slices=3)
    assert from_tpu(several) == third
    assert [third.slice_of(n) for n in (0, 1, 2, 5)] == [
        ", slice 0", ", slice 0", ", slice 1", ", slice 2"
    ]  # fmt: skip
    assert from_tpu(one).slice_of(1) == ""


METADATA = {
    "worker-network-endpoints": "unknown:unknown:10.0.0.4,unknown:unknown:10.0.0.5",
    "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'\nMEGASCALE_NUM_SLICES: '2'\n"
    "MEGASCALE_SLICE_ID: '1'\nMEGASCALE_COORDINATOR_ADDRESS: '10.0.0.2'",
    "agent-worker-number": "1",
}


class MetadataServer(BaseHTTPRequestHandler):
    def do_GET(self):
        folder, _, name = self.path.rpartition("/")
        told = folder == "/computeMetadata/v1/instance/attributes" and name in METADATA
        self.send_response(200 if told and self.headers["Metadata-Flavor"] == "Google" else 403)
        self.end_headers()
        self.wfile.write(METADATA.get(name, "").encode())

    def log_message(self, format, *args):
        pass


def test_a_cloud_tpu_vm_asks_its_metadata_server(monkeypatch):
    with HTTPServer(("127.0.0.1", 0), MetadataServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
        found = from_tpu(tpu_metadata())
        for name in ("SLURM_JOB_ID", "TPU_SKIP_MDS_QUERY"):
            monkeypatch.delenv(name, raising=False)
        assert find_cluster() == found  # who names a server means it, chips or not
        monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
        assert find_cluster() is None
        server.shutdown()
    assert found == Cluster("10.0.0.2", PORT, 4, 3, "the TPU's environment", slices=2)
    with pytest.raises(OSError, match="refused"):  # not on Google Cloud
        tpu_metadata()
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY")
    assert find_cluster() is None
