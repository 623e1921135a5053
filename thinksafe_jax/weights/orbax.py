"""A verified Orbax copy of a checkpoint, for fast restarts on pods, and the way back.

OUT/params/          Orbax (OCDBT): one array per name, read by each host as its slices
    config.json, tokenizer files
    manifest.json    format, shapes and dtypes, sha256 and size of every file; written last
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from thinksafe_jax.errors import InputError, listed, quoted
from thinksafe_jax.models import ModelConfig, Params, declare, map_params, stacked_shape, walk
from thinksafe_jax.weights.atomic_folder import (
    config_of_plain_weights,
    copy_files,
    scratch_of,
    write_json,
    written_aside,
)
from thinksafe_jax.weights.checksums import NAME, check_files, read_manifest, write_manifest
from thinksafe_jax.weights.gather import agree
from thinksafe_jax.weights.names import at

FORMAT = "thinksafe-orbax"
_ARRAYS = "params"
_STORED = ("bfloat16", "float16", "float32", "float64")  # dtypes
_CHUNK = 1 << 26  # bytes; a host that holds a slice reads the chunks it touches, not the array


def is_orbax_copy(directory: Path) -> bool:
    """Whether the directory was made by `save_copy` (complete or not)."""
    return (directory / _ARRAYS).is_dir() and not any(directory.glob("*.safetensors"))


def save_copy(
    out: str | Path,
    params: Params,
    cfg: ModelConfig,
    config_json: dict[str, Any],
    tokenizer_from: str | Path,
) -> None:
    """Writes the copy beside `out` and renames it when complete.

    With parameters over several processes all must call it, on one file system.

    Raises:
        EnvironmentFault: the disk is full or cannot be written.
    """
    out = Path(out)
    arrays = {".".join(path): at(params, path) for path, _ in walk(declare(cfg))}
    with _written_by_all(out, sum(array.nbytes for array in arrays.values())) as folder:
        with ocp.StandardCheckpointer() as checkpointer:  # every process writes what it holds
            chunked = {name: ocp.SaveArgs(chunk_byte_size=_CHUNK) for name in arrays}
            checkpointer.save(folder.absolute() / _ARRAYS, arrays, save_args=chunked)
            checkpointer.wait_until_finished()
        if jax.process_index() == 0:
            write_json(folder / "config.json", config_of_plain_weights(config_json))
            copy_files(Path(tokenizer_from), folder)
            tree = {name: _describe(a.shape, a.dtype) for name, a in arrays.items()}
            write_manifest(folder, {"format": FORMAT, "tree": tree})


@contextmanager
def _written_by_all(out: Path, needs: int) -> Iterator[Path]:
    """`written_aside` by process 0, whose scratch directory all of them use."""
    if jax.process_count() == 1:
        with written_aside(out, needs) as folder:
            yield folder
        return
    with ExitStack() as stack:
        ready = False
        try:
            if jax.process_index() == 0:
                stack.enter_context(written_aside(out, needs))
            ready = True
        finally:
            agree(ready, out)
        yield scratch_of(out)
    agree(True, out)  # process 0 has renamed it


def restore_copy(
    directory: Path, cfg: ModelConfig, dtype: Any = None, shardings: Params | None = None
) -> Params:
    """The parameters of a copy; every file is compared with the manifest first.

    Args:
        dtype: cast to it on the device, or None to keep what is stored.
        shardings: as for `load_params`.

    Raises:
        InputError: the copy is unfinished, damaged, or does not fit its config.json.
    """
    try:
        manifest = read_manifest(directory)
        # each process checks its share: together they cover every file
        names = sorted(manifest["files"])[jax.process_index() :: jax.process_count()]
        check_files(directory, manifest["files"], names)
    except InputError as error:
        raise InputError(f"{error}. Make the copy again") from None
    if manifest.get("format") != FORMAT:
        raise InputError(
            f"{directory / NAME}: format {quoted(manifest.get('format'))}, not {FORMAT}"
        )
    tree = manifest.get("tree")
    if not isinstance(tree, dict):
        raise InputError(f"{directory / NAME}: tree is {quoted(tree)}, not an object")
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = {}
    for path, param in walk(declare(cfg)):
        shape = stacked_shape(path, param, cfg)
        sharding = default if shardings is None else at(shardings, path)
        name = ".".join(path)
        stored = str(tree.get(name)).partition("[")[0]
        wanted = np.dtype(stored if stored in _STORED else "float32")
        abstract[name] = jax.ShapeDtypeStruct(shape, wanted, sharding=sharding)
    _check_tree(directory, tree, abstract)
    with ocp.StandardCheckpointer() as checkpointer:
        arrays = checkpointer.restore(directory.absolute() / _ARRAYS, abstract)
    return map_params(lambda path, _: _cast(arrays[".".join(path)], dtype), cfg)


def _check_tree(directory: Path, stored: dict[str, str], abstract: dict[str, Any]) -> None:
    wanted = {name: _describe(a.shape, a.dtype) for name, a in abstract.items()}
    differ = [
        f"{name}: stored {stored.get(name, 'nothing')}, config.json makes it "
        f"{wanted.get(name, 'nothing')}"
        for name in sorted({*stored, *wanted})
        if stored.get(name) != wanted.get(name)
    ]
    if differ:
        raise InputError(f"{directory}: the copy does not fit config.json: {listed(differ)}")


def _describe(shape: tuple[int, ...], dtype: Any) -> str:
    return f"{np.dtype(dtype).name}{list(shape)}"


def _cast(array: jax.Array, dtype: Any) -> jax.Array:
    if dtype is None or array.dtype == np.dtype(dtype):
        return array
    return jax.jit(lambda x: x.astype(dtype), out_shardings=array.sharding)(array)
