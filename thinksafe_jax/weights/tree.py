"""Walking a nested dictionary by path."""

from typing import Any


def at(tree: Any, path: tuple[str, ...]) -> Any:
    """The leaf of `tree` at `path`."""
    for name in path:
        tree = tree[name]
    return tree
