"""What loading and exporting a checkpoint cost, beside safetensors' own numpy reader and writer.

    python scripts/bench/load.py --json scripts/bench/results/load.json

A synthetic checkpoint (Qwen3-0.6B's layers, 84 of them: 2.95 GB in 4 shards) is written to a
scratch folder and read from the page cache; every measurement runs in a fresh process, ours and
the baseline by turns, as often as it takes for the median to mean something: in a virtual machine
whose host takes free memory back, the same reading takes 1 to 4 seconds.

    read_ratio                  our load time / safetensors.numpy.load_file of the same files
    peak_rss_over_params        peak RssAnon of the loading process, interpreter and JAX included,
                                / bytes of the parameters
    slice_bytes_ratio           bytes read (rchar of /proc/self/io) by one of 4 processes that hold
                                2 of 8 devices each / a quarter of the files; tensor parallelism
    slice_bytes_ratio_fsdp      the same with every matrix cut along its hidden size
    export_ratio                our export time / safetensors.numpy.save_file + fsync of the same
    export_peak_rss_over_params peak RssAnon while exporting / bytes of the parameters
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

from machine import machine

SHARDS = 4
CONFIG = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "attention_bias": False,
}
BOUNDS = {
    "read_ratio": 1.3,
    "peak_rss_over_params": 1.2,
    "slice_bytes_ratio": 1.1,
    "slice_bytes_ratio_fsdp": 1.1,
    "export_ratio": 1.3,
    "export_peak_rss_over_params": 1.2,
}


class PeakRss:
    """Peak anonymous resident memory within a `with` block, sampled every 2 ms."""

    def __enter__(self):
        self.peak, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self.peak = max(self.peak, self._now())

    def _watch(self):
        while not self._stop.wait(0.002):
            self.peak = max(self.peak, self._now())

    @staticmethod
    def _now() -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024
        return 0


def make(folder: Path, layers: int) -> None:
    """Writes the checkpoint: random values, as bfloat16."""
    import ml_dtypes
    import numpy as np

    from thinksafe_jax.models import parse_config
    from thinksafe_jax.weights.export import write_shards
    from thinksafe_jax.weights.names import entries
    from thinksafe_jax.weights.safetensors import TensorSource

    config = {**CONFIG, "num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(config))
    noise = np.random.default_rng(0).standard_normal(1 << 22, np.float32) * 0.02
    noise = noise.astype(ml_dtypes.bfloat16)
    sources = [
        TensorSource(
            e.hf_name,
            e.param.hf_shape,
            noise.dtype,
            lambda s=e.param.hf_shape: np.resize(noise, s),
        )
        for e in entries(parse_config(config))
    ]
    total = sum(source.nbytes for source in sources)
    write_shards(folder, sources, -(-total // SHARDS) + (1 << 24))


def measure_load(folder: Path) -> dict:
    import jax

    from thinksafe_jax.models import load_config
    from thinksafe_jax.weights import load_params

    jax.devices()
    cfg = load_config(folder)
    with PeakRss() as rss:
        began = time.perf_counter()
        params = jax.block_until_ready(load_params(folder, cfg))
        seconds = time.perf_counter() - began
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    return {"seconds": seconds, "peak": rss.peak, "params": size}


def measure_read(folder: Path) -> dict:
    import ml_dtypes  # noqa: F401  (lets numpy know bfloat16)
    from safetensors.numpy import load_file

    began = time.perf_counter()
    content = [load_file(file) for file in sorted(folder.glob("*.safetensors"))]
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "tensors": sum(map(len, content))}


def measure_export(folder: Path) -> dict:
    import jax

    from thinksafe_jax.models import load_config
    from thinksafe_jax.weights import load_params, read_config_json, save_checkpoint

    cfg = load_config(folder)
    params = jax.block_until_ready(load_params(folder, cfg))
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    out = folder.parent / "export"
    with PeakRss() as rss:
        began = time.perf_counter()
        save_checkpoint(
            out, params, cfg, read_config_json(folder), max_shard=-(-size // SHARDS) + (1 << 24)
        )
        seconds = time.perf_counter() - began
    shutil.rmtree(out)
    return {"seconds": seconds, "peak": rss.peak, "params": size}


def measure_write(folder: Path) -> dict:
    import ml_dtypes  # noqa: F401
    from safetensors.numpy import load_file, save_file

    content = {file.name: load_file(file) for file in sorted(folder.glob("*.safetensors"))}
    out = folder.parent / "baseline"
    out.mkdir()
    began = time.perf_counter()
    for name, tensors in content.items():
        save_file(tensors, out / name)
        with (out / name).open("rb") as stream:
            os.fsync(stream.fileno())
    seconds = time.perf_counter() - began
    shutil.rmtree(out)
    return {"seconds": seconds}


def measure_slices(folder: Path, process: int, port: int, cut: str) -> dict:
    """One of 4 processes of 2 devices each: what it reads for its slices."""
    import jax

    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=4, process_id=process)
    from jax.sharding import NamedSharding, PartitionSpec

    from thinksafe_jax.models import load_config, map_params
    from thinksafe_jax.weights import load_params

    cfg = load_config(folder)
    mesh = jax.make_mesh((8,), ("all",))
    wanted = ("heads", "kv_heads", "mlp", "vocab") if cut == "tensor" else ("embed", "norm")

    def sharding(path, param):
        axes = ["all" if axis in wanted else None for axis in param.axes]
        return NamedSharding(mesh, PartitionSpec(*[None] * (path[0] == "layers"), *axes))

    before = bytes_read()
    params = jax.block_until_ready(load_params(folder, cfg, shardings=map_params(sharding, cfg)))
    after = bytes_read()
    local = sum(s.data.nbytes for x in jax.tree.leaves(params) for s in x.addressable_shards)
    jax.distributed.shutdown()
    return {"read": after - before, "held": local}


def bytes_read() -> int:
    """What this process has asked the kernel for so far."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def child(*arguments: object, devices: int = 1) -> subprocess.Popen:
    settings = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **settings})


def answer(process: subprocess.Popen) -> dict:
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a measurement failed with {process.returncode}")
    return json.loads(output.splitlines()[-1])


def slices(folder: Path, cut: str, quarter: float) -> float:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = [child("slices", folder, n, port, cut, devices=2) for n in range(4)]
    return max(answer(process)["read"] for process in running) / quarter


def benchmark(layers: int, repeats: int, scratch: Path | None) -> dict:
    before = machine()
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        folder = Path(place) / "model"
        folder.mkdir()
        make(folder, layers)
        files = sorted(folder.glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files)
        answer(child("read", folder))  # the page cache is warm from here on
        pairs = [
            {"load": answer(child("load", folder)), "read": answer(child("read", folder))}
            for _ in range(repeats)
        ]
        quarter = size / 4
        tensor, fsdp = (slices(folder, cut, quarter) for cut in ("tensor", "fsdp"))
        writes = [
            {"export": answer(child("export", folder)), "write": answer(child("write", folder))}
            for _ in range(repeats)
        ]
    load, read = ([pair[name]["seconds"] for pair in pairs] for name in ("load", "read"))
    export, write = ([pair[name]["seconds"] for pair in writes] for name in ("export", "write"))
    params = pairs[0]["load"]["params"]
    return {
        "read_ratio": median(load) / median(read),
        "peak_rss_over_params": max(pair["load"]["peak"] for pair in pairs) / params,
        "slice_bytes_ratio": tensor,
        "slice_bytes_ratio_fsdp": fsdp,
        "export_ratio": median(export) / median(write),
        "export_peak_rss_over_params": max(pair["export"]["peak"] for pair in writes) / params,
        "bounds": BOUNDS,
        "checkpoint": {"bytes": size, "shards": len(files), "layers": layers},
        "seconds": {"load": load, "read": read, "export": export, "write": write},
        "load_gb_per_s": size / median(load) / 1e9,
        "machine": before,
    }


def main() -> None:
    roles = {"load": measure_load, "read": measure_read}
    roles |= {"export": measure_export, "write": measure_write}
    if sys.argv[1:2] and sys.argv[1] in roles:
        print(json.dumps(roles[sys.argv[1]](Path(sys.argv[2]))))
        return
    if sys.argv[1:2] == ["slices"]:
        folder, process, port, cut = sys.argv[2:]
        print(json.dumps(measure_slices(Path(folder), int(process), int(port), cut)))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=84)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scratch", type=Path, help="folder for 6 GB; default: the system's")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    result = benchmark(options.layers, options.repeats, options.scratch)
    text = json.dumps(result, indent=2) + "\n"
    if options.json:
        options.json.write_text(text)
    print(text, end="")
    failed = [name for name, most in BOUNDS.items() if result[name] > most]
    print(f"FAIL: {', '.join(failed)}" if failed else "PASS")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
