"""Weights from one phase's layout to another's, without two copies of them."""

from typing import Any

import jax

Tree = dict[str, Any]  # nested dicts with an array at each leaf


def move(tree: Tree, shardings: Tree | None) -> Tree:
    """Lays the arrays of `tree` out anew, one leaf after the other, and lets go of the old ones.

    The tree is emptied on the way: at any time the devices hold all of it once, and one leaf twice.
    An array that somebody else still holds stays alive, and whole.

    Args:
        tree: taken over by this function.
        shardings: like `tree`; None is this process's first device.

    Returns:
        The same nested dict.
    """
    for name in list(tree):
        if isinstance(tree[name], dict):
            move(tree[name], shardings and shardings[name])
        else:
            where = shardings[name] if shardings else jax.local_devices()[0]
            tree[name] = jax.block_until_ready(jax.device_put(tree[name], where))
    return tree
