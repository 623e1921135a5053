"""What a compiler says of a program: memory, collectives, FLOPs. Nothing is allocated.

The TPU's compiler takes minutes for a training step, nearly all of them for the machine code of its
kernels and matmuls, so neither fewer layers (they are scanned) nor more threads would help. What it
gave is kept on disk, and read again for the same program:

    program -> lower (a second) -> sha256 of text, chips, versions, flags -> kept? read : compile

Within `hlo_written_to(folder)` the text of each program that is asked for is written there.

XLA:CPU takes seconds. Machine code for simulated devices is never run, so LLVM need not optimise
it: that halves them, and changes neither text nor memory.
"""

import gzip
import json
import logging
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache

from thinksafe_jax.errors import EnvironmentFault
from thinksafe_jax.json_files import load_unique
from thinksafe_jax.machine import cache_folder, tpu_compiler_flags
from thinksafe_jax.planning.abstract_programs import Program, shard_bytes
from thinksafe_jax.planning.collectives import Collectives, collectives_of
from thinksafe_jax.storage import atomic_write, content_hash, prepare_directory

_log = logging.getLogger(__name__)

_VERSIONS = ("jax", "jaxlib", "libtpu")
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")  # all of them: what is to be dumped is compiled anew
_UNOPTIMISED = {"xla_backend_optimization_level": 0}


@dataclass(frozen=True)
class Compiled:
    """A compiled program, read; bytes are per device.

    Attributes:
        compiler: whose figures these are.
        arguments: weights, cache, optimiser state, batch.
        temporaries: everything else that is alive at the same time.
        collectives: by kind, of one call.
        flops: as the compiler counts them: every loop once.
        seconds: that compiling took; where it was kept, when it was compiled.
    """

    compiler: str
    arguments: int
    temporaries: int
    collectives: Collectives
    flops: float
    seconds: float

    @property
    def peak(self) -> int:
        """Results replace the arguments that they are computed from."""
        return self.arguments + self.temporaries


@dataclass(frozen=True)
class CompilerOutput:
    """What a compiler gave, unread; bytes are per device.

    Attributes:
        text: the compiled program (HLO).
        flops: as the compiler counts them: every loop once.
        seconds: that compiling took.
    """

    text: str
    argument_bytes: int
    temporary_bytes: int
    flops: float
    seconds: float


@dataclass(frozen=True)
class HloFolder:
    """Where the texts of programs (HLO) go.

    Attributes:
        files: what was written, in order.
    """

    path: Path
    files: list[Path] = field(default_factory=list)

    def write(self, name: str, text: str) -> None:
        """Writes NAME.hlo.txt; a second program of that name gets a number."""
        stem = re.sub(r"[^\w.\-]+", "-", name).strip("-.")
        file, number = self.path / f"{stem}.hlo.txt", 1
        while file in self.files:
            number += 1
            file = self.path / f"{stem}-{number}.hlo.txt"
        atomic_write(file, text)
        self.files.append(file)


_hlo_folder: ContextVar[HloFolder | None] = ContextVar("hlo_folder", default=None)


@contextmanager
def hlo_written_to(folder: Path) -> Iterator[HloFolder]:
    """Writes the text of every program that `compile_program` reads, as it comes, to a folder.

    Raises:
        EnvironmentFault: the folder cannot be written.
    """
    prepare_directory(folder)
    texts = HloFolder(folder)
    token = _hlo_folder.set(texts)
    try:
        yield texts
    finally:
        _hlo_folder.reset(token)


def compile_program(build: Callable[[str], Program], dtype: str, name: str) -> Compiled:
    """Compiles a program, or takes what is kept of it, and reads it.

    XLA:CPU knows no bfloat16 and would keep float32 copies beside every array. There the program is
    compiled in float32 and sizes are scaled to the dtype, which comes near what a chip needs. A
    program without an array of that dtype, as full fine-tuning, is float32 on every chip and not
    scaled.

    Args:
        build: dtype of weights and cache -> the program.
        name: stage, program, model and mesh, as its text is called within `hlo_written_to`.
    """
    wanted = build(dtype)
    native = wanted.device.platform != "cpu" or not _has_arrays_of(wanted, dtype)
    program = wanted if native else build("float32")
    scale = jnp.dtype(dtype).itemsize / 4 if not native else 1
    output = compiler_output(program)
    if (texts := _hlo_folder.get()) is not None:
        texts.write(name, output.text)
    branches = "least" if program.rare_branches else "all"
    collectives = collectives_of(output.text, branches=branches, slices=program.slice_indices)
    return Compiled(
        compiler=_compiler_of(program) + ("" if native else f" (float32, scaled to {dtype})"),
        arguments=output.argument_bytes if native else shard_bytes(wanted.arguments),
        temporaries=round(scale * output.temporary_bytes),
        collectives={kind: traffic.scaled(scale) for kind, traffic in collectives.items()},
        flops=output.flops,
        seconds=output.seconds,
    )


def _has_arrays_of(program: Program, dtype: str) -> bool:
    """Whether the program is another in float32."""
    leaves = jax.tree.leaves(program.arguments)
    return dtype != "float32" and any(leaf.dtype == jnp.dtype(dtype) for leaf in leaves)


def _compiler_of(program: Program) -> str:
    """What a program is compiled for, and whether with flags of one's own."""
    kind = program.device.device_kind
    flags = tpu_compiler_flags()
    return f"{kind} with {len(flags)} XLA flag(s)" if flags and kind != "cpu" else kind


def compiler_output(program: Program) -> CompilerOutput:
    """What the compiler gives for a program; of the TPU's, what it gave before.

    JAX's own cache keeps what is compiled for devices that are here.
    """
    began = time.monotonic()
    lowered = program.function.lower(*program.arguments, **program.statics)
    if program.device.platform != "tpu":
        simulated = program.device.platform == "cpu"  # a GPU's program is compiled as it runs
        return _output(lowered.compile(_UNOPTIMISED if simulated else None), began)
    file = cache_folder() / "compiled" / f"{_key(program, lowered)}.json.gz"
    if kept := _kept(file):
        return kept
    kind = program.device.device_kind
    _log.info("compiling a program for %s, up to minutes; kept in %s", kind, file.parent)
    output = _output(_compiled_elsewhere(lowered), began)
    with suppress(EnvironmentFault, OSError):  # a plan needs no place on the disk
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(file, gzip.compress(json.dumps(asdict(output)).encode()))
    return output


def _key(program: Program, lowered: Any) -> str:
    """Digest of all that the compiler's output follows from."""
    devices = jax.tree.leaves(program.arguments)[0].sharding.device_set
    chips = sorted((d.id, d.device_kind, _coordinates(d)) for d in devices)
    versions = [_version(name) for name in _VERSIONS]
    flags = [os.environ.get(name, "") for name in _FLAGS]
    return content_hash(lowered.as_text(), chips, versions, flags)


def _coordinates(device: Any) -> list[int]:
    """Place of a chip in its slice."""
    return list(device.coords)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _kept(file: Path) -> CompilerOutput | None:
    """What is in the file; None where there is none, or it cannot be read."""
    try:
        return CompilerOutput(**load_unique(gzip.decompress(file.read_bytes()).decode()))
    except (OSError, EOFError, ValueError, TypeError, zlib.error):
        return None


def _output(compiled: Any, began: float) -> CompilerOutput:
    seconds = time.monotonic() - began
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis()
    return CompilerOutput(
        text=compiled.as_text(),
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        flops=float((costs or {}).get("flops", 0.0)),
        seconds=seconds,
    )


def _compiled_elsewhere(lowered: Any) -> Any:
    """The program compiled for chips that are not here (`jax.stages.Compiled`).

    JAX writes such programs to its cache on disk, cannot read them back, and warns.
    """
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        return lowered.compile()
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()
