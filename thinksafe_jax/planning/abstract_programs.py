"""The programs of a run, from shapes alone: decode, prefill, guard and training step on a mesh.

Nothing is allocated. They are what runs: one replica's sampler on its own devices, one host's
guard, one training step over the whole mesh. `compiler` compiles them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.guards import score_words
from thinksafe_jax.models import AttentionRequest, ModelConfig, Params, abstract_params
from thinksafe_jax.planning.memory import cache_dtype
from thinksafe_jax.sampling import (
    DecodeSpec,
    KvCache,
    Layout,
    choose,
    decode,
    decode_drafted,
    draft_shape,
    empty_slots,
    heads_first,
    prefill,
    table_pages,
)
from thinksafe_jax.sharding import ModelMesh, Phase, slice_indices
from thinksafe_jax.training import (
    TrainingMesh,
    TrainingSetup,
    abstract_arguments,
    make_step,
    shaped,
)

_PLATFORMS: dict[str, str] = {"cuda": "gpu", "rocm": "gpu"}
_GUARD_BLANKS = (4, 8)  # blanks and words of an answer: more than any guard's format has
Tree = Any


@dataclass(frozen=True)
class Program:
    """A function that is to be compiled.

    Attributes:
        function, arguments, statics: the jitted function with its abstract arguments.
        rows, tokens: of one call, over all its devices.
        devices: number of devices that it runs on.
        slices: number of slices that these lie in.
        page_table: which argument names pages of the KV cache, which is then the second.
        rare_branches: its conditionals hold what is hardly ever needed.
        again: (arguments, results) -> the arguments of the next call, for those that donate.
    """

    function: Any
    arguments: tuple[Any, ...]
    statics: Mapping[str, Any]
    rows: int
    tokens: int
    devices: int
    page_table: int | None = None
    rare_branches: bool = False
    slices: int = 1
    again: Callable[[tuple, Any], tuple] = lambda arguments, results: arguments

    @property
    def device(self) -> Any:
        """One of those that it is compiled for."""
        return self._mesh.devices.flat[0]

    @property
    def slice_indices(self) -> list[int]:
        """The slice of each device, in the order in which the compiled program numbers them."""
        return slice_indices(list(self._mesh.devices.flat), self.slices)

    @property
    def _mesh(self) -> Mesh:
        return jax.tree.leaves(self.arguments)[0].sharding.mesh


@dataclass(frozen=True)
class Sampler:
    """Shapes of one replica's sampler.

    Attributes:
        slots: rows decoded together.
        pool_tokens: of the KV pool.
        longest: tokens of the longest row.
        prompt: padded tokens of a prompt.
        page_size: tokens of a page.
        simulated: the devices only stand for chips.
        window: decode steps of one call.
        drafts: tokens of a draft, each step then runs over one position more; 0 is plain decoding.
        kv_dtype: of the pool, as `EngineConfig.kv_dtype`.
    """

    slots: int
    pool_tokens: int
    longest: int
    prompt: int = 512
    page_size: int = 64
    simulated: bool = False
    window: int = 1
    drafts: int = 0
    kv_dtype: str = "model"


def shard_bytes(tree: Tree) -> int:
    """Bytes per device of abstract arrays with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * _itemsize(leaf.dtype)
        for leaf in jax.tree.leaves(tree)
    )


def decode_program(
    cfg: ModelConfig, phase: Phase, devices: Sequence[Any], sampler: Sampler, dtype: str
) -> Program:
    """Decode of one replica, on the first of `devices`; rows and tokens are those of a step."""
    layout, params, cache = _replica(cfg, phase, devices, sampler, dtype)
    sharding = layout.sharding(layout.rows)
    slots = jax.eval_shape(lambda: empty_slots(sampler.slots))
    slots = jax.tree.map(lambda x: _array(x.shape, x.dtype, sharding), slots)
    platform: str = _first(layout).platform
    request = AttentionRequest(
        _PLATFORMS.get(platform, platform),
        cfg.head_dim,
        page_size=sampler.page_size,
        kv_dtype=cache.dtype.name,
    )
    attention = "xla-one-walk" if sampler.simulated else choose(request)
    block = table_pages(sampler.page_size)
    width = -(-sampler.longest // (sampler.page_size * block)) * block
    table = _array((sampler.slots, width), jnp.int32, sharding)
    function, state = decode, (cache, slots)
    statics: dict[str, Any] = {"spec": DecodeSpec(cfg, sampler.window, (0,), layout, attention)}
    if sampler.drafts:
        shape = draft_shape(sampler.drafts, sampler.longest)
        function, statics["shape"] = decode_drafted, shape
        state += (_array((sampler.slots, shape.columns), jnp.int32, sharding),)
    return Program(
        function,
        (params, *state, table),
        statics,
        rows=sampler.slots * (1 + sampler.drafts),
        tokens=sampler.slots * (1 + sampler.drafts),
        devices=_size(layout),
        page_table=1 + len(state),
        rare_branches=True,  # the filter over the whole vocabulary
        again=lambda arguments, results: (arguments[0], *results[: len(state)], arguments[-1]),
    )


def prefill_program(
    cfg: ModelConfig, phase: Phase, devices: Sequence[Any], sampler: Sampler, dtype: str
) -> Program:
    """One prompt into one replica's cache, on the first of `devices`."""
    layout, params, cache = _replica(cfg, phase, devices, sampler, dtype)
    sharding = layout.sharding(layout.rows)
    length = -(-sampler.prompt // sampler.page_size) * sampler.page_size
    shapes = ((1, length), (1,), (1, length // sampler.page_size))
    tokens, lengths, pages = (_array(shape, jnp.int32, sharding) for shape in shapes)
    return Program(
        prefill,
        (params, cache, tokens, lengths, pages),
        {"cfg": cfg, "layout": layout},
        rows=1,
        tokens=length,
        devices=_size(layout),
        page_table=4,
        again=lambda arguments, results: (arguments[0], results, *arguments[2:]),
    )


def guard_program(
    cfg: ModelConfig, phase: Phase, devices: Sequence[Any], rows: int, length: int, dtype: str
) -> Program:
    """One forward pass of a guard over `rows` exchanges of `length` tokens."""
    mesh = ModelMesh.of_phase(phase, cfg, devices)
    rows = mesh.num_shards * -(-rows // mesh.num_shards)
    blanks, words = _GUARD_BLANKS
    shapes = ((rows, length), (rows,), (rows, blanks), (rows, blanks, words))
    params = shaped(abstract_params(cfg, jnp.dtype(dtype)), mesh.param_shardings())
    arrays = (_array(shape, jnp.int32, mesh.row_sharding) for shape in shapes)
    return Program(
        score_words,
        (params, *arrays),
        {"cfg": cfg, "mesh": mesh},
        rows=rows,
        tokens=rows * length,
        devices=mesh.mesh.size,
    )


def train_program(
    cfg: ModelConfig, phase: Phase, devices: Sequence[Any], config: TrainingConfig, dtype: str
) -> Program:
    """One optimiser step; rows and tokens are those of one of its forward passes."""
    mesh = TrainingMesh.of_phase(phase, cfg, devices)
    setup = TrainingSetup(cfg, config, mesh)
    sequences = mesh.num_shards * max(1, config.micro_batch_size // mesh.num_shards)
    length = mesh.sequence_shards * -(-config.max_length // mesh.sequence_shards)
    arguments = abstract_arguments(setup, (sequences, length), dtype)
    return Program(
        make_step(setup, 100),
        arguments,
        {},
        rows=sequences,
        tokens=sequences * length,
        devices=mesh.mesh.size,
        slices=phase.slices,
        again=lambda arguments, results: (results[0], *arguments[1:]),
    )


def _replica(
    cfg: ModelConfig, phase: Phase, devices: Sequence[Any], sampler: Sampler, dtype: str
) -> tuple[Layout, Params, KvCache]:
    """Layout, weights with layers apart, and KV cache of one replica."""
    mesh = ModelMesh.of_phase(phase.for_model(cfg).of_replica(), cfg, devices)
    layout = Layout.of(mesh)
    stacked = abstract_params(cfg, jnp.dtype(dtype))
    layer = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), stacked["layers"])
    params = shaped(
        {**stacked, "layers": (layer,) * cfg.num_layers}, mesh.param_shardings("unstacked")
    )
    params = heads_first(params) if layout.platform == "tpu" else params
    pages = 1 + sampler.pool_tokens // sampler.page_size
    stored = cache_dtype(sampler.kv_dtype, dtype)
    return layout, params, KvCache.abstract(cfg, pages, sampler.page_size, stored, layout)


def _array(shape: tuple[int, ...], dtype: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _itemsize(dtype: Any) -> int:
    return 8 if jnp.issubdtype(dtype, jax.dtypes.prng_key) else dtype.itemsize


def _first(layout: Layout) -> Any:
    assert layout.mesh is not None
    return layout.mesh.devices.flat[0]


def _size(layout: Layout) -> int:
    assert layout.mesh is not None
    return layout.mesh.size
