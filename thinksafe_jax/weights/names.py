"""The one table between Hugging Face names and parameter paths; load and every export read it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from thinksafe_jax.models import ModelConfig, Param, declare, walk

Path = tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint.

    Attributes:
        hf_name: key in the safetensors files.
        path: where the parameter lives in our tree.
        layer: its index on the leading layer axis, or None where there is none.
        param: the declaration; `hf_shape` joins the axes that `shape` splits.
    """

    hf_name: str
    path: Path
    layer: int | None
    param: Param


def entries(cfg: ModelConfig) -> Iterator[Entry]:
    """Every tensor of the checkpoint, in layer order."""
    outer = [(path, param) for path, param in walk(declare(cfg)) if path[0] != "layers"]
    inner = [(path, param) for path, param in walk(declare(cfg)) if path[0] == "layers"]
    for path, param in outer:
        yield Entry(param.hf_name, path, None, param)
    for layer in range(cfg.num_layers):
        for path, param in inner:
            yield Entry(param.hf_name.format(i=layer), path, layer, param)


def at(tree: Any, path: tuple[str, ...]) -> Any:
    """The leaf of `tree` at `path`."""
    for name in path:
        tree = tree[name]
    return tree
