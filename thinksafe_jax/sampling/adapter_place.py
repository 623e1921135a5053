"""The adapter that a sampler holds beside its weights: exchanged without a recompile."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thinksafe_jax.errors import InputError
from thinksafe_jax.models import (
    Adapter,
    LoraConfig,
    ModelConfig,
    UnstackedAdapter,
    abstract_adapter,
    unstack_adapter,
)
from thinksafe_jax.sampling.layout import ONE_DEVICE
from thinksafe_jax.sharding import ModelMesh
from thinksafe_jax.weights import on_host


class AdapterPlace:
    """Where an adapter lies on the devices of one program, and how it gets there.

        trainer, [L, ...] stacked          sampler, L dicts of [...], in the activations' dtype

        train mesh, float32   --put-->     generation mesh, each a as its kernel's inputs,
                                           each b as its kernel's outputs

    Args:
        cfg: the model's facts.
        lora: rank, targets and scale of every adapter that comes here.
        dtype: of the activations.
        mesh: of the program; None is one device.

    Raises:
        ConfigError: the mesh's rules do not fit the adapter, or a target is no linear layer.
    """

    def __init__(self, cfg: ModelConfig, lora: LoraConfig, dtype: Any, mesh: ModelMesh | None):
        self._shapes = abstract_adapter(cfg, lora)
        stacked = apart = None
        if mesh is not None:
            stacked = mesh.adapter_shardings(lora)
            apart = UnstackedAdapter(mesh.adapter_shardings(lora, "unstacked")["layers"], lora)
        self._stacked: Any = stacked or ONE_DEVICE.sharding(jax.P())
        self._unstack = jax.jit(
            partial(unstack_adapter, lora=lora, dtype=dtype), out_shardings=apart or self._stacked
        )

    def put(self, adapter: Adapter | None) -> UnstackedAdapter:
        """The adapter on the program's devices; None is one that changes nothing.

        Args:
            adapter: arrays `[L, ...]` of JAX, on any devices, or of numpy. Where they span
                processes this is a collective: all processes call it.

        Raises:
            InputError: an adapter of another shape.
        """
        if adapter is None:
            adapter = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), self._shapes)
        else:
            _require_like(self._shapes, adapter)
        return self._unstack(jax.device_put(jax.tree.map(_in_reach, adapter), self._stacked))


def _in_reach(leaf: Any) -> Any:
    """The array where this process can read all of it: a trainer's may span processes."""
    spans = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
    return on_host(leaf) if spans else leaf


def _require_like(wanted: Adapter, given: Adapter) -> None:
    want, have = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (wanted, given))
    for path in want.keys() ^ have.keys():
        name, side = jax.tree_util.keystr(path, simple=True, separator="."), path in want
        raise InputError(
            f"update_adapter: {name} is {'missing' if side else 'unknown'}; this sampler was built "
            f"for an adapter of {', '.join(wanted['layers'])}"
        )
    for path, leaf in have.items():
        if leaf.shape != want[path].shape or not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise InputError(
                f"update_adapter: {jax.tree_util.keystr(path, simple=True, separator='.')} is "
                f"{leaf.dtype} {list(leaf.shape)}, this sampler was built for float32 "
                f"{list(want[path].shape)}"
            )
