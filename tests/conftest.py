"""Strict by default: 8 host devices, no silent dtype or rank promotion, warnings are errors."""

import gc
import os
import re
from pathlib import Path

from tests.support import xla_flags

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags(devices=8)}"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["HF_HOME"] = str(Path(__file__).parents[1] / ".pytest_cache/huggingface")
os.environ["NO_PROXY"] = "127.0.0.1,localhost"
# What is compiled is kept, for the other workers, for processes that tests start, and for the next
# time: the key is all that decides the machine code. Most of the suite's time is compiling.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parents[1] / ".pytest_cache/compiled")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Models are so small that compiling is all: programs are compiled without optimisations, and torch
# and OpenBLAS have one thread, or their threads would do little but wait for each other.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import jax
import pytest
from jaxtyping import install_import_hook

from tests import shapes

# like the Hub's folder above: what a user has set or downloaded is no part of a test
for name in [n for n in os.environ if n.startswith("THINKSAFE_")] + ["COLUMNS", "FORCE_COLOR"]:
    os.environ.pop(name, None)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


# Each compiled program takes some memory maps; at 65,530 of a process (Linux) compiling ends in a
# segmentation fault.
_MOST_MAPS = 25_000


@pytest.fixture(scope="module", autouse=True)
def few_compiled_programs():
    """Programs of earlier files are forgotten before they are too many."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > _MOST_MAPS:
        jax.clear_caches()
        gc.collect()


# What a signature says of shapes and dtypes holds at every call, while JAX traces as well.
install_import_hook(shapes.modules_with_shapes(), "tests.shapes.check")


def pytest_ignore_collect(collection_path, config):
    """Where `-m` only leaves markers out, a file that has one as a whole is not imported either.

    Importing torch, peft and servers costs `make check` more than most of its tests.
    """
    if re.fullmatch(r"not \w+( and not \w+)*", config.option.markexpr) is None:
        return None
    if collection_path.suffix != ".py":
        return None
    left_out = "|".join(re.findall(r"not (\w+)", config.option.markexpr))
    marked = rf"^pytestmark = (\[[^]]*|.*)\bpytest\.mark\.({left_out})\b"
    text = collection_path.read_text(encoding="utf-8")
    return True if re.search(marked, text, re.MULTILINE) else None


def pytest_collection_modifyitems(items):
    """The file that takes longest comes first, so that no worker is left alone with it."""
    items.sort(key=lambda item: item.path.name != "test_pipeline.py")


def pytest_collection_finish():
    """What the imports have made stays to the end: the collector need not look at it again.

    And while JAX traces, it need not look every 700 objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
