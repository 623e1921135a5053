"""Attention where each device has a part of every sequence: tokens are exchanged for heads.

DeepSpeed-Ulysses (Jacobs et al., arXiv 2309.14509). Every part of the model but attention works on
tokens alone. Attention works on heads alone, so for its time each device has whole sequences, of
its share of the heads; two all-to-alls lie around an attention that knows nothing of it:

    tokens cut, all heads                      all tokens, heads cut

    device   0    1    2    3                  device 0 | a0 a1 a2 a3 |
    head a | a0 | a1 | a2 | a3 |    ------>    device 1 | b0 b1 b2 b3 |
    head b | b0 | b1 | b2 | b3 |    <------    device 2 | c0 c1 c2 c3 |
    ...                                        ...

So any packing is balanced, and the kernels are those of one device. docs/sharding.md has what it
sends beside a ring and beside gathered keys.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

# q [B, T, N, H], k and v [B, T, K, H], segment_ids i32 [B, T] -> [B, T, N, H]
Attention = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def exchanged_heads(num_heads: int, num_kv_heads: int, num_shards: int) -> tuple[int, int]:
    """Query and KV heads that are exchanged: those of the model, made to divide over the shards.

        4 KV heads with 7 queries each, 8 shards:   k k, q q q q | q q q 0   for each of the four

    KV heads are repeated until each shard has one at least; the queries of a KV head are shared
    out over its copies, with zeros where they do not divide.
    """
    copies = num_shards // math.gcd(num_shards, num_kv_heads)
    queries_of_copy = -(-num_heads // (num_kv_heads * copies))
    return num_kv_heads * copies * queries_of_copy, num_kv_heads * copies


def attend_by_heads(
    q: Float[Array, "B P N H"],
    k: Float[Array, "B P K H"],
    v: Float[Array, "B P K H"],
    segment_ids: Int32[Array, "B T"],
    *,
    axes: Sequence[str],
    attend: Attention,
) -> Float[Array, "B P N H"]:
    """`attend` over whole sequences, on devices that each have P = T / shards tokens of them.

    Called within a shard_map region; its derivative exchanges the gradients in the same way.

    Args:
        q, k, v: of this device's tokens.
        segment_ids: of all tokens.
        axes: mesh axes over which tokens are cut, in order.
    """
    batch, part, heads, head_dim = q.shape
    kv_heads, shards = k.shape[2], segment_ids.shape[1] // part
    padded, copied = exchanged_heads(heads, kv_heads, shards)
    to_heads = partial(jax.lax.all_to_all, axis_name=tuple(axes), split_axis=2, concat_axis=1)
    to_tokens = partial(jax.lax.all_to_all, axis_name=tuple(axes), split_axis=1, concat_axis=2)
    grouped = q.reshape(batch, part, kv_heads, heads // kv_heads, head_dim)
    unused = (padded - heads) // kv_heads  # queries of zeros, behind those of each KV head
    grouped = jnp.pad(grouped, [(0, 0)] * 3 + [(0, unused), (0, 0)])
    keys, values = (jnp.repeat(x, copied // kv_heads, axis=2) for x in (k, v))
    queries = grouped.reshape(batch, part, padded, head_dim)
    q, k, v = (to_heads(x, tiled=True) for x in (queries, keys, values))
    out = to_tokens(attend(q, k, v, segment_ids), tiled=True)
    used = out.reshape(grouped.shape)[:, :, :, : heads // kv_heads]
    return used.reshape(batch, part, heads, head_dim)
