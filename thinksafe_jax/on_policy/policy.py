"""Which policy wrote a rollout: what is stored is tied to the adapter that it was sampled with."""

import hashlib
from typing import Any

import jax
import numpy as np

from thinksafe_jax.training import TrainingMesh

Tree = Any


def whole_adapter(adapter: Tree, mesh: TrainingMesh | None) -> Tree:
    """The adapter as numpy arrays, in every process all of it."""
    if mesh is not None and mesh.mesh.is_multi_process:
        adapter = jax.jit(lambda tree: tree, out_shardings=mesh.replicated)(adapter)
    return jax.tree.map(np.asarray, jax.device_get(adapter))


def adapter_hash(adapter: Tree) -> str:
    """16 hex digits over all values of an adapter of numpy arrays, by their names."""
    digest = hashlib.sha256()
    for path, leaf in sorted(jax.tree_util.tree_leaves_with_path(adapter), key=lambda x: str(x[0])):
        digest.update(f"{jax.tree_util.keystr(path)}{leaf.shape}{leaf.dtype}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]
