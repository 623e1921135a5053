"""The KV cache's one type: what it says of itself is what it holds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from tests.support import tiny_config
from thinksafe_jax.sampling import KvCache, Layout
from thinksafe_jax.sampling.kv_cache import KvPages
from thinksafe_jax.sharding import ModelMesh

CFG = tiny_config()  # 2 layers, 2 KV heads, head_dim 16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("sizes", [{}, {"replicas": 2}, {"tensor": 2}, {"tensor": 8}])
def test_abstract_new_and_bytes_agree(dtype, sizes):
    layout = Layout.of(ModelMesh.of_sizes(CFG, **sizes) if sizes else None)
    shape = (CFG, 5, 16, dtype, layout)
    abstract, cache = KvCache.abstract(*shape), KvCache.new(*shape)
    for want, have in zip(jax.tree.leaves(abstract), jax.tree.leaves(cache), strict=True):
        assert (want.shape, want.dtype, want.sharding) == (have.shape, have.dtype, have.sharding)
    assert cache.dtype == dtype
    assert (cache.page_size, cache.pages) == (16, 5 * layout.shards)
    tokens = cache.pages * cache.page_size
    assert cache.nbytes == tokens * KvCache.bytes_per_token(CFG, dtype)
    shards = layout.num_shards(layout.kv_heads)
    on_device = [x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(cache)]
    per_token = KvCache.bytes_per_token(CFG, dtype, shards)
    assert sum(on_device) * layout.shards == tokens * per_token


def test_a_token_is_found_where_the_table_says_it_is():
    pages = KvCache.new(CFG, 4, 8, "float32").layers[0]
    rng = np.random.default_rng(0)
    k, v = (jnp.asarray(rng.normal(size=(1, 16, 2, 16)), jnp.float32) for _ in range(2))
    table = jnp.asarray([[3, 1]], jnp.int32)
    at_once = pages.write_prompts(k, v, table)
    one_by_one = pages
    for n in range(16):
        page, offset = table[:, n // 8 : n // 8 + 1], jnp.asarray([[n % 8]], jnp.int32)
        one_by_one = one_by_one.write_tokens(k[:, n : n + 1], v[:, n : n + 1], page, offset)
    for a, b in zip(jax.tree.leaves(at_once), jax.tree.leaves(one_by_one), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(at_once.keys[:, 3, 2], k[0, 2])
    np.testing.assert_array_equal(at_once.values[:, 1, 5], v[0, 13])
    assert not at_once.keys[:, [0, 2]].any()


class OnTpu(Layout):
    """One device, which says that it is a TPU."""

    platform = "tpu"


def test_on_a_tpu_a_value_of_half_a_row_lies_behind_its_key():
    cfg = dataclasses.replace(CFG, head_dim=64)
    pages = KvCache.new(cfg, 4, 8, "float32", OnTpu()).layers[0]
    apart = KvCache.new(cfg, 4, 8, "float32").layers[0]
    assert pages.keys.shape == (2, 4, 8, 128)
    assert len(jax.tree.leaves(pages)) == 1
    rng = np.random.default_rng(0)
    k, v = (jnp.asarray(rng.normal(size=(1, 8, 2, 64)), jnp.float32) for _ in range(2))
    page, offset = jnp.asarray([[1]], jnp.int32), jnp.asarray([[3]], jnp.int32)

    def written(pages):
        pages = pages.write_prompts(k, v, jnp.asarray([[2]], jnp.int32))
        return pages.write_tokens(k[:, :1], v[:, :1], page, offset)

    pages, apart = written(pages), written(apart)
    np.testing.assert_array_equal(pages.keys[..., :64], apart.keys)
    np.testing.assert_array_equal(pages.keys[..., 64:], apart.values)
    assert len(jax.tree.leaves(KvCache.new(cfg, 4, 8, "int8", OnTpu()).layers[0])) == 3
    narrow = KvCache.new(CFG, 4, 8, "float32", OnTpu()).layers[0]
    assert not narrow.is_paired


def test_specs_are_a_spec_for_each_array():
    layout = Layout.of(ModelMesh.of_sizes(CFG, replicas=2, tensor=4))
    spec = PartitionSpec("kv", "replica", None, None)
    for dtype, arrays in (("float32", 2), ("int8", 3)):
        pages = KvCache.abstract(CFG, 4, 8, dtype, layout).layers[0]
        assert pages.specs(layout) == KvPages(*[spec] * arrays)
