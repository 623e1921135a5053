"""Times a program on the devices at hand, with arrays of zeros."""

import time
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp

from thinksafe_jax import profiling
from thinksafe_jax.planning.abstract_programs import Program
from thinksafe_jax.sampling import Slots

_CALLS = 5  # timed, after one that is not


def measured_seconds(program: Program, context: int, name: str = "") -> float:
    """Median time of one call.

    Args:
        context: tokens that the rows of a decode step have behind them.
        name: of the trace, where one is asked for: of calls after those that are timed.
    """
    arguments = filled_arguments(program, context)
    times, results = [], None
    for _ in range(_CALLS + 1):
        began = time.perf_counter()
        results = jax.block_until_ready(program.function(*arguments, **program.statics))
        times.append(time.perf_counter() - began)
        arguments = program.again(arguments, results)
    for _ in range(profiling.steps_to_trace()):
        profiling.step(name, results)
        results = jax.block_until_ready(program.function(*arguments, **program.statics))
        arguments = program.again(arguments, results)
    return median(times[1:])


def filled_arguments(program: Program, context: int) -> tuple[Any, ...]:
    """Arrays for a call in which all slots decode and each reads pages of its own."""
    arguments = [_busy(jax.tree.map(_filled, x), context) for x in program.arguments]
    if program.page_table is not None:
        cache, table = arguments[1], arguments[program.page_table]
        pages = cache.pages
        arguments[program.page_table] = jax.device_put(_own_pages(table, pages), table.sharding)
    return tuple(arguments)


def _own_pages(table: jax.Array, pages: int) -> jax.Array:
    """Dealt out row by row, from page 1: no two live ones are alike while the pool holds them."""
    slots, width = table.shape
    return 1 + jnp.arange(table.size, dtype=table.dtype).reshape(width, slots).T % (pages - 1)


def _filled(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """Ones where they are integers, so that lengths and segments are real; else zeros."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.device_put(jax.random.key(0), leaf.sharding)
    value: Any = 0 if jnp.issubdtype(leaf.dtype, jnp.floating) else 1
    return jax.jit(lambda: jnp.full(leaf.shape, value, leaf.dtype), out_shardings=leaf.sharding)()


def _busy(argument: Any, context: int) -> Any:
    """A sampler's slots, all of them decoding."""
    if not isinstance(argument, Slots):
        return argument
    position = jnp.full_like(argument.position, context)
    return argument._replace(position=position, remaining=jnp.full_like(argument.remaining, 2**30))
