"""The weights that a sampler holds: laid out once, and exchanged without a recompile."""

from typing import Any

import jax
import numpy as np
from jax.experimental.layout import Format
from jax.experimental.layout import Layout as DeviceLayout

from thinksafe_jax.errors import InputError
from thinksafe_jax.models import Params, unstack_layers
from thinksafe_jax.sampling.layout import ONE_DEVICE, Layout
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
    params = params if apart else unstack_layers(params)
    return heads_first(params) if Layout.of(mesh).platform == "tpu" else params


def heads_first(params: Params) -> Params:
    """The parameters with the kernels of `o_proj` stored as the TPU multiplies with them.

        [D, N, H] as it is declared        stored: for each head a matrix
        d: | n: | h h h | |                n: | d: | h h h | |

    The product sums over N and H, which no tile of the declared order holds side by side. Left so,
    each window of decode first makes a copy of every layer's kernel, and keeps it to its end.

    Args:
        params: layers apart, arrays or ShapeDtypeStructs.
    """

    def stored(leaf: Any) -> Any:
        place = Format(DeviceLayout(major_to_minor=(1, 0, 2)), leaf.sharding)
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
        return jax.device_put(leaf, place)

    def of_layer(layer: Params) -> Params:
        projection = {**layer["o_proj"], "kernel": stored(layer["o_proj"]["kernel"])}
        return {**layer, "o_proj": projection}

    return {**params, "layers": tuple(map(of_layer, params["layers"]))}


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


def _stored_as(held: Any, new: Any) -> jax.Array:
    """The new array in the order of the held one, see `heads_first`."""
    same = new.format.layout == held.format.layout
    return new if same else jax.device_put(new, held.format)


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
            return _stored_as(held, on_devices(new, held.sharding))
        raise InputError(
            f"update: {path[:-1]} is {new.dtype} {list(new.shape)}, the sampler holds "
            f"{held.dtype} {list(held.shape)}"
        )
    raise InputError(f"update: {path[:-1] or 'params'} is not built as the parameters are")
