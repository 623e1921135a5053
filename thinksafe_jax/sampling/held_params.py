"""The weights that a sampler holds: laid out once, and exchanged without a recompile."""

from typing import Any

import jax
import numpy as np

from thinksafe_jax.errors import InputError
from thinksafe_jax.models import Params, unstack_layers
from thinksafe_jax.sampling.layout import ONE_DEVICE
from thinksafe_jax.sharding import ModelMesh, on_devices


def held_params(params: Params, mesh: ModelMesh | None) -> Params:
    """The parameters on a program's devices, layers apart.

    With layers apart already (`unstack_layers`) they are shared where they lie as the mesh has
    them; stacked ones are copied.
    """
    apart = isinstance(params["layers"], tuple)
    if mesh is None:
        params = ONE_DEVICE.put(params)
    else:
        params = on_devices(params, mesh.shardings_like(params))
    return params if apart else unstack_layers(params)


def exchanged(held: Params, new: Params) -> Params:
    """The held parameters with new ones in their place: of the same shape, dtype and sharding.

    Args:
        new: the whole tree or a part of it, layers stacked or apart.

    Raises:
        InputError: a parameter that is not held, or one of another shape or dtype.
    """
    if isinstance(new.get("layers"), dict):
        new = unstack_layers(new)
    return _exchanged(held, new, "")


def _exchanged(held: Any, new: Any, path: str) -> Any:
    if isinstance(held, dict) and isinstance(new, dict):
        unknown = sorted(new.keys() - held.keys())
        if unknown:
            raise InputError(f"update: the model has no parameter {path}{unknown[0]}")
        return {**held, **{k: _exchanged(held[k], new[k], f"{path}{k}.") for k in new}}
    if isinstance(held, tuple) and isinstance(new, tuple) and len(held) == len(new):
        pairs = enumerate(zip(held, new, strict=True))
        return tuple(_exchanged(old, layer, f"{path}{n}.") for n, (old, layer) in pairs)
    if isinstance(held, jax.Array) and isinstance(new, jax.Array | np.ndarray):
        if (held.shape, held.dtype) == (new.shape, new.dtype):
            return on_devices(new, held.sharding)
        raise InputError(
            f"update: {path[:-1]} is {new.dtype} {list(new.shape)}, the sampler holds "
            f"{held.dtype} {list(held.shape)}"
        )
    raise InputError(f"update: {path[:-1] or 'params'} is not built as the parameters are")
