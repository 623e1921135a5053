"""The KV cache on the device: the keys and values of every layer, in pages.

    keys of one layer, [K, pages, page_size, H], seen from above (one KV head):

       page 0     page 1     page 2     page 3     page 4
     ┌──────────┬──────────┬──────────┬──────────┬──────────┐
     │ nobody's │ slot 0   │ slot 1   │ free     │ slot 0   │    table[0] = [1, 4, 0, ...]
     │          │ 0..ps-1  │ 0..ps-1  │          │ ps..2ps-1│    table[1] = [2, 0, 0, ...]
     └──────────┴──────────┴──────────┴──────────┴──────────┘

A page belongs to one slot at a time. Page 0 belongs to nobody: idle slots and padding write there,
so no write needs a mask. In int8 each page has its scales beside it, `[K, pages, 2, page_size]`: a
row of its keys' and a row of its values'. With one row XLA for TPU would store eight pages in a
tile, and copy all scales for the kernel, which takes a page at a time.

A TPU's rows have 128 lanes. Where head_dim fills half of one, each value lies behind its key:

    one token    | key, 64 lanes | value, 64 lanes |    keys is [K, pages, page_size, 128]

With rows of 64 XLA would store the pages innermost, and copy the whole pool for a kernel.

How a token is stored is known to this file and to the kernels in attention/, and to nobody else:
the sampler, `plan` and the sweep ask `KvCache` for shapes, bytes and shardings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from thinksafe_jax.config import EngineConfig
from thinksafe_jax.machine import free_memory
from thinksafe_jax.models import ModelConfig
from thinksafe_jax.sampling.kv_rounding import INT8, from_int8, to_int8
from thinksafe_jax.sampling.layout import ONE_DEVICE, Layout

_DEVICE_SHARE = 0.85  # of the device memory that is free once the weights are there
PAIRED_HEAD_DIM = 64  # half of a TPU's lanes
_HOST_SHARE = 0.25  # of the host memory that is free, where the device is the host


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KvPages:
    """Keys and values of one layer; or a shape, spec or sharding for each array.

    Attributes:
        keys, values: `[K, pages, page_size, H]`; values None where they lie behind the keys, in
            `[K, pages, page_size, 2 H]`.
        scales: f32 `[K, pages, 2, page_size]`, of keys and of values, beside int8; else None.
    """

    keys: Any
    values: Any = None
    scales: Any = None

    @property
    def page_size(self) -> int:
        """Tokens of a page."""
        return self.keys.shape[2]

    @property
    def has_scales(self) -> bool:
        """Whether keys and values are int8."""
        return self.scales is not None

    @property
    def is_paired(self) -> bool:
        """Whether each value lies behind its key, in the row of one array."""
        return self.values is None

    def specs(self, layout: Layout) -> "KvPages":
        """Mesh axes of each array: KV heads over the model's axes, pages over the slots' axes."""
        spec = PartitionSpec(layout.kv_heads or None, layout.slots or None, None, None)
        return jax.tree.map(lambda _: spec, self)

    def as_read(self, x: Float[Array, "*T H"]) -> Float[Array, "*T H"]:
        """Keys or values as they are read back once they are written, in x's dtype.

        Prefill attends to these, so that a token's hidden state does not depend on whether prefill
        or decode has computed it.
        """
        return from_int8(*to_int8(x)).astype(x.dtype) if self.has_scales else x

    def write_tokens(
        self,
        k: Float[Array, "B Q K H"],
        v: Float[Array, "B Q K H"],
        page: Int[Array, "B Q"],
        offset: Int[Array, "B Q"],
    ) -> "KvPages":
        """The pages with the next tokens of each slot written, each at its `page` and `offset`."""
        # an index for every leading axis: a slice there would make XLA transpose the whole pool
        head = jnp.arange(self.keys.shape[0], dtype=jnp.int32)[:, None]

        def write(pages: jax.Array, new: jax.Array) -> jax.Array:
            flat = jnp.moveaxis(new, 2, 0).reshape(*pages.shape[:1], -1, *pages.shape[3:])
            at = pages.at[head, page.reshape(1, -1), offset.reshape(1, -1)]
            return at.set(flat.astype(pages.dtype), mode="promise_in_bounds")

        if self.is_paired:
            return KvPages(write(self.keys, jnp.concatenate([k, v], axis=-1)))
        if not self.has_scales:
            return KvPages(write(self.keys, k), write(self.values, v))
        (k, key_scales), (v, value_scales) = to_int8(k), to_int8(v)
        both = jnp.stack([key_scales, value_scales], axis=-1)
        scales = _with_scales(self.scales, both, page, offset)
        return KvPages(write(self.keys, k), write(self.values, v), scales)

    def write_prompts(
        self, k: Float[Array, "P T K H"], v: Float[Array, "P T K H"], page_ids: Int[Array, "P N"]
    ) -> "KvPages":
        """The pages with whole prompts written into `page_ids`; T is N times the page size."""

        heads, _, page_size, _ = self.keys.shape

        def paged(new: jax.Array) -> jax.Array:  # [P, T, K, ...] -> [K, P N, page_size, ...]
            return jnp.moveaxis(new, 2, 0).reshape(heads, -1, page_size, *new.shape[3:])

        def write(pages: jax.Array, new: jax.Array) -> jax.Array:
            head = jnp.arange(heads, dtype=jnp.int32)[:, None]
            at = pages.at[head, page_ids.reshape(1, -1)]
            return at.set(new.astype(pages.dtype), mode="promise_in_bounds")

        if self.is_paired:
            return KvPages(write(self.keys, paged(jnp.concatenate([k, v], axis=-1))))
        if not self.has_scales:
            return KvPages(write(self.keys, paged(k)), write(self.values, paged(v)))
        (k, key_scales), (v, value_scales) = to_int8(k), to_int8(v)
        scales = write(self.scales, jnp.stack([paged(key_scales), paged(value_scales)], axis=2))
        return KvPages(write(self.keys, paged(k)), write(self.values, paged(v)), scales)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KvCache:
    """The pages of every layer. Arrays are apart, so that each layer's are updated in place.

    Attributes:
        layers: one entry a layer.
    """

    layers: tuple[KvPages, ...]

    @staticmethod
    def abstract(
        cfg: ModelConfig,
        pages: int,
        page_size: int,
        dtype: Any,
        layout: Layout = ONE_DEVICE,
    ) -> "KvCache":
        """Shapes and shardings of a cache; nothing is allocated.

        Args:
            pages: of each shard of the slots, page 0 included.
            dtype: in which keys and values are stored; int8 has scales beside it.
        """
        shapes = _layer_shapes(cfg, layout.shards * pages, page_size, dtype, layout.platform)
        shardings = jax.tree.map(layout.sharding, shapes.specs(layout))
        layer = jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            shapes,
            shardings,
        )
        return KvCache((layer,) * cfg.num_layers)

    @staticmethod
    def new(
        cfg: ModelConfig, pages: int, page_size: int, dtype: Any, layout: Layout = ONE_DEVICE
    ) -> "KvCache":
        """A zeroed cache, as `abstract` describes it.

        Zeros, because 0 x NaN of an uninitialised page is NaN.
        """
        shapes = KvCache.abstract(cfg, pages, page_size, dtype, layout)
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype, device=x.sharding), shapes)

    @staticmethod
    def bytes_per_token(cfg: ModelConfig, dtype: Any, num_shards: int = 1) -> int:
        """Bytes that one token takes over all layers on each device.

        Args:
            num_shards: devices over which the KV heads are cut.
        """
        layer = jax.tree.leaves(_layer_shapes(cfg, 1, 1, dtype))
        size = sum(math.prod(x.shape) * x.dtype.itemsize for x in layer)
        return cfg.num_layers * size // num_shards

    @property
    def page_size(self) -> int:
        """Tokens of a page."""
        return self.layers[0].page_size

    @property
    def pages(self) -> int:
        """Pages of all shards, each shard's page 0 included."""
        return self.layers[0].keys.shape[1]

    @property
    def dtype(self) -> jnp.dtype:
        """In which keys and values are stored."""
        return self.layers[0].keys.dtype

    @property
    def nbytes(self) -> int:
        """Bytes over all layers and devices."""
        return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(self))


def _with_scales(pool: jax.Array, new: jax.Array, page: jax.Array, offset: jax.Array) -> jax.Array:
    """Scales `[K, pages, 2, page_size]` with those of the next tokens of each slot in them.

    The rows of a page are read, changed and written whole: for single lanes XLA for TPU would carry
    all scales of a layer to VMEM and back. Tokens of a slot that share a page write the same rows.

    Args:
        new: `[B, Q, K, 2]`; `page` and `offset` are `[B, Q]`.
    """
    kv_heads, _, _, page_size = pool.shape
    head = jnp.arange(kv_heads, dtype=jnp.int32)[:, None]
    at = pool.at[head, page.reshape(1, -1)]
    rows = at.get(mode="promise_in_bounds").reshape(kv_heads, *page.shape, 2, page_size)
    lane = jnp.arange(page_size, dtype=jnp.int32)[None, None]
    for step in range(page.shape[1]):
        same = (page == page[:, step : step + 1])[..., None]  # [B, Q, 1]
        here = same & (lane == offset[:, step, None, None])  # [B, Q, page_size]
        token = jnp.swapaxes(new[:, step], 0, 1)  # [K, B, 2]
        rows = jnp.where(here[None, :, :, None], token[:, :, None, :, None], rows)
    return at.set(rows.reshape(kv_heads, -1, 2, page_size), mode="promise_in_bounds")


def _layer_shapes(
    cfg: ModelConfig, pages: int, page_size: int, dtype: Any, platform: str = "cpu"
) -> KvPages:
    """What is stored for one layer: the only place that says so."""
    pool = cfg.num_kv_heads, pages
    tokens = jax.ShapeDtypeStruct((*pool, page_size, cfg.head_dim), jnp.dtype(dtype))
    if platform == "tpu" and tokens.dtype != INT8 and cfg.head_dim == PAIRED_HEAD_DIM:
        return KvPages(jax.ShapeDtypeStruct((*pool, page_size, 2 * cfg.head_dim), tokens.dtype))
    scales = jax.ShapeDtypeStruct((*pool, 2, page_size), jnp.float32)
    return KvPages(tokens, tokens, scales if tokens.dtype == INT8 else None)


def stored_dtype(config: EngineConfig, params_dtype: Any) -> jnp.dtype:
    """In which dtype this process stores keys and values.

    Args:
        params_dtype: of the weights.
    """
    if config.kv_dtype == "int8":
        return INT8
    # XLA:CPU widens a whole bfloat16 pool to float32 and back for every write
    return jnp.dtype("float32" if jax.default_backend() == "cpu" else params_dtype)


def pool_pages(
    cfg: ModelConfig,
    config: EngineConfig,
    max_length: int,
    dtype: jnp.dtype,
    layouts: Sequence[Layout],
) -> int:
    """Pages of one pool, page 0 included: what `config` says, or what the weights leave free.

    Args:
        max_length: tokens of a slot at its full length.
        dtype: in which keys and values are stored.
        layouts: of all programs of this process, one for each.
    """
    layout, tokens = layouts[0], config.pool_tokens
    if tokens is None:
        mesh, num_shards = layout.mesh, layout.num_shards(layout.kv_heads)
        device = jax.local_devices()[0] if mesh is None else mesh.devices.flat[0]
        tokens = tokens_that_fit(
            config.slots * max_length,
            KvCache.bytes_per_token(cfg, dtype),
            device,
            num_shards=num_shards,
            pools=len(layouts) * layout.shards,
        )
        if device.platform == "gpu" and dtype == INT8:  # Triton counts int8 elements in 31 bits
            of_token = cfg.num_kv_heads // num_shards * cfg.head_dim
            tokens = min(tokens, 2**31 // of_token - 2 * config.page_size)
    return 1 + -(-tokens // config.page_size)


def tokens_that_fit(
    wanted: int, bytes_per_token: int, device: Any, *, num_shards: int, pools: int
) -> int:
    """Tokens that one pool holds: `wanted`, or as many as free memory allows.

    Args:
        wanted: every slot at its full length; the pool is never larger.
        bytes_per_token: over all devices that share a token's heads.
        device: one of those that hold the pool.
        num_shards: devices over which the heads of one token are cut.
        pools: pools that share the host's memory, where devices have none of their own.
    """
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        free = _DEVICE_SHARE * (stats["bytes_limit"] - stats["bytes_in_use"])
        return min(wanted, int(free // (bytes_per_token / num_shards)))
    free = free_memory()
    if free is None:
        return wanted
    return min(wanted, int(_HOST_SHARE * free / pools // bytes_per_token))
