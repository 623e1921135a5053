"""What several tests share: reference assets, tiny random models made by transformers."""

import re
import threading
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"


class Oracle:
    """A package whose numbers ours are compared with, imported when it is first asked.

    Where it is absent, the test that asks it is skipped and says so; other tests of the file run.
    """

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str):
        if attribute.startswith("__"):  # pytest asks every name of a file whether it is a test
            raise AttributeError(attribute)
        reason = f"{self._name}, the oracle, is not installed"
        return getattr(pytest.importorskip(self._name, reason=reason), attribute)


class AbsentModel:
    """Stands for a torch model where there is no torch: who asks it is skipped."""

    def __getattr__(self, attribute: str):
        pytest.skip("torch, the oracle, is not installed")

    def __call__(self, *arguments, **named):
        pytest.skip("torch, the oracle, is not installed")


def shared_asset(*parts: str) -> Path:
    """A file or folder of the reference assets; skips the test, saying so, where it is absent."""
    path = SHARED.joinpath("assets", *parts)
    if not path.exists():
        pytest.skip(f"reference asset {'/'.join(parts)} is not beside the repository")
    return path


def two_device_mesh(folder: Path) -> Path:
    """Writes the mesh file of two devices: replicas to generate, rows of a pass to train."""
    mesh = folder / "two.yaml"
    text = (REPOSITORY / "configs/mesh/cpu-8.yaml").read_text()
    for of_eight, of_two in (
        ("chips: 8", "chips: 2"),
        ("replica: 2, tensor: 4", "replica: 2, tensor: 1"),
        ("{data: 2, fsdp: 2, tensor: 2}", "{data: 2, fsdp: 1, tensor: 1}"),
    ):
        assert of_eight in text
        text = text.replace(of_eight, of_two)
    mesh.write_text(text)
    return mesh


@contextmanager
def loopback_server(handler: type[BaseHTTPRequestHandler]):
    """Serves on a free port of this machine; yields the address, as http://127.0.0.1:8000."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@cache
def _transformers_tokenizer(directory: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(directory), trust_remote_code=False)


def transformers_tokenizer(tokenizer):
    """transformers' own tokenizer of the same folder as a `ChatTokenizer`: the oracle."""
    return _transformers_tokenizer(tokenizer.directory)


# parameter counts of the real models, tied embeddings counted once
PUBLISHED = {
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-1.7B": 1_720_574_976,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-14B": 14_768_307_200,
    "Qwen3-32B": 32_762_123_264,
    "DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000,
    "DeepSeek-R1-Distill-Qwen-7B": 7_615_616_512,
    "DeepSeek-R1-Distill-Llama-8B": 8_030_261_248,
    "Llama-Guard-3-1B": 1_498_482_688,
    "Llama-Guard-3-8B": 8_030_261_248,
    "wildguard": 7_248_023_552,
    "Qwen3Guard-Gen-0.6B": 596_049_920,
    "Qwen3Guard-Gen-4B": 4_022_468_096,
    "Qwen3Guard-Gen-8B": 8_190_735_360,
}

# shapes chosen to catch shortcuts: heads x head_dim != hidden, one KV head, heads no power of two
TINY = {
    "qwen3": {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2,
              "head_dim": 16},
    "qwen3-untied": {"hidden_size": 40, "num_attention_heads": 3, "num_key_value_heads": 1,
                     "head_dim": 32, "tie_word_embeddings": False},
    "qwen2": {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3},
    "qwen2-tied": {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 1,
                   "tie_word_embeddings": True},
    "llama": {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2},
    "llama-bias": {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
                   "attention_bias": True, "mlp_bias": True},
    "llama3-scaled": {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
                      "head_dim": 24, "rope_theta": 500000.0, "rope_scaling": {
                          "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                          "high_freq_factor": 4.0, "original_max_position_embeddings": 32}},
    "mistral": {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2,
                "head_dim": 16, "sliding_window": None},
}  # fmt: skip


def tiny_config(**changes):
    """Facts of a tiny Qwen3, changed where a test needs it."""
    from thinksafe_jax.models import ModelConfig

    facts = {
        "family": "qwen3",
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_layers": 2,
        "num_heads": 8,
        "num_kv_heads": 2,
        "head_dim": 16,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "qkv_bias": False,
        "o_bias": False,
        "mlp_bias": False,
        "qk_norm": True,
    }
    return ModelConfig(**{**facts, **changes})


def save_tiny(name: str, directory: Path, dtype: str = "float32", **overrides):
    """Saves a random transformers checkpoint of TINY[name]; returns the torch model (eval mode).

    Without torch the checkpoint has weights of our own making, and the model is an `AbsentModel`.
    """
    from transformers import AutoConfig

    family = name.split("-")[0].replace("llama3", "llama")
    settings = {
        "vocab_size": 97,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "max_position_embeddings": 256,
        "tie_word_embeddings": name.startswith("qwen3"),
        **TINY[name],
        **overrides,
    }
    config = AutoConfig.for_model(family, **settings)
    if find_spec("torch") is None:
        return _save_without_torch(config, directory, dtype)
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
    with torch.no_grad():  # biases and norms start at constants; random values show mix-ups
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    return model


def _save_without_torch(config, directory: Path, dtype: str) -> AbsentModel:
    import shutil
    import tempfile

    import jax
    import jax.numpy as jnp

    from thinksafe_jax.models import init_params, parse_config
    from thinksafe_jax.weights import save_checkpoint

    facts = config.to_dict()
    facts["architectures"] = [f"{config.model_type.capitalize()}ForCausalLM"]
    cfg = parse_config(facts)
    params = init_params(cfg, jax.random.key(0), dtype=jnp.dtype(dtype))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    pairs = zip(keys, leaves, strict=True)
    noisy = [leaf + 0.02 * jax.random.normal(key, leaf.shape, leaf.dtype) for key, leaf in pairs]
    with tempfile.TemporaryDirectory() as aside:  # the folder may hold a tokenizer
        saved = Path(aside, "model")
        save_checkpoint(saved, jax.tree.unflatten(tree, noisy), cfg, facts)
        shutil.copytree(saved, directory, dirs_exist_ok=True)
    return AbsentModel()


def live_arrays() -> list:
    """`jax.live_arrays()` without what earlier tests left in cycles, which may go at any moment."""
    import gc

    import jax

    gc.collect()
    return jax.live_arrays()


_JOIN = """
import sys
from thinksafe_jax import hosts
ARGUMENTS = sys.argv[4:]
hosts.join(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
"""


def free_port() -> int:
    """Two free ports in a row, the first of them, below those that the kernel hands out itself.

    Each worker of a parallel test run has a range of its own.
    """
    import os
    import socket

    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 10
    first = 20_000 + 1000 * worker
    begin = os.getpid() % 100 * 10
    for offset in (n % 1000 for n in range(begin, begin + 1000, 2)):
        with socket.socket() as one, socket.socket() as two:
            try:
                one.bind(("", first + offset))
                two.bind(("", first + offset + 1))
            except OSError:
                continue
            return first + offset
    raise RuntimeError(f"no free port from {first} to {first + 999}")


def xla_flags(devices: int) -> str:
    """XLA_FLAGS of a test's process: its devices, and what makes tiny programs cheap.

    Of JAX 0.10's two code generators the older compiles in half the time of the newer; later
    versions have the newer alone, and end at the name of the flag. Matrices are too small to be
    shared by threads. Optimisations are few, or none where JAX_DISABLE_MOST_OPTIMIZATIONS is 1.
    """
    flags = [
        f"--xla_force_host_platform_device_count={devices}",
        "--xla_cpu_parallel_codegen_split_count=1",
        "--xla_cpu_multi_thread_eigen=false",
        "--xla_backend_optimization_level=1",
        "--xla_llvm_disable_expensive_passes=true",
    ]
    if version("jaxlib").startswith("0.10."):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)


def start_processes(command: list[str], count: int, devices: int, **environment) -> list:
    """Starts a command in several processes; they run in sessions of their own.

    Args:
        command: each {address}, {count} and {index} in it is replaced.
        devices: of each process.
        environment: variables beside those of this process.
    """
    import os
    import subprocess

    address = f"127.0.0.1:{free_port()}"
    more = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags(devices), **environment}
    return [
        subprocess.Popen(
            [part.format(address=address, count=count, index=n) for part in command],
            env={**os.environ, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for n in range(count)
    ]


def finish_processes(
    processes: list, timeout: float = 600, patience: float = 10
) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of each.

    Args:
        timeout: seconds after which all are killed: a guard against hangs, not a measure.
        patience: seconds that the others have after one ended with an error.
    """
    import time
    from concurrent.futures import ThreadPoolExecutor

    # all are read at once, or one that fills its pipe would keep the others waiting
    with ThreadPoolExecutor(len(processes)) as threads:
        texts = [threads.submit(process.communicate) for process in processes]
        deadline = time.monotonic() + timeout
        while not all(text.done() for text in texts):
            if any(process.poll() for process in processes):
                deadline = min(deadline, time.monotonic() + patience)
            if time.monotonic() > deadline:
                for process in processes:
                    process.kill()
            time.sleep(0.05)
    found = [text.result() for text in texts]
    # the CPU's collectives announce themselves on stdout
    said = [re.sub(r"^\[Gloo\].*\n", "", output, flags=re.M) for output, _ in found]
    codes = [process.returncode for process in processes]
    return [(codes[n], said[n], errors) for n, (_, errors) in enumerate(found)]


def try_processes(script: str, count: int, *arguments, devices: int) -> list[tuple[int, str, str]]:
    """Runs a script in `count` processes that have found each other; see `finish_processes`.

    Args:
        script: finds `arguments` as the strings ARGUMENTS.
        devices: of each process.
    """
    import sys

    places = ["{address}", "{count}", "{index}"]
    whole = (_JOIN + script + "\nhosts.leave()\n").replace("{", "{{").replace("}", "}}")
    command = [sys.executable, "-c", whole, *places, *map(str, arguments)]
    return finish_processes(start_processes(command, count, devices))


def run_processes(script: str, count: int, *arguments, devices: int) -> list[str]:
    """As `try_processes`, all of which must succeed; what each of them printed."""
    results = try_processes(script, count, *arguments, devices=devices)
    failed = [errors for code, _, errors in results if code != 0]
    assert not failed, "\n\n".join(failed)
    return [output for _, output, _ in results]
