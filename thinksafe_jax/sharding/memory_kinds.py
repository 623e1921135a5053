"""A model in the memory of the hosts, which is on the devices for moments only.

    devices   | student | KV pool          |      | student | teacher |        |
    hosts     | teacher |                         | teacher |

    sampling, training                            the teacher reads a step's rows

Each host keeps the parts that its own devices hold, page-locked, so they are copied at full speed.
"""

from typing import Any

import jax

Tree = Any
_HOST = "pinned_host"


def in_host_memory(tree: Tree) -> Tree:
    """Copies of all arrays in the memory of the hosts whose devices hold them, laid out alike."""
    return jax.tree.map(lambda x: jax.device_put(x, x.sharding.with_memory_kind(_HOST)), tree)


def in_device_memory(tree: Tree) -> Tree:
    """Copies on the devices of arrays that lie with their hosts; others are given back as they are.

    The copies live as long as somebody holds them.
    """
    return jax.tree.map(_in_device_memory, tree)


def _in_device_memory(array: jax.Array) -> jax.Array:
    if array.sharding.memory_kind != _HOST:
        return array
    kind = next(iter(array.sharding.device_set)).default_memory().kind
    return jax.device_put(array, array.sharding.with_memory_kind(kind))
