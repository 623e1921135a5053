"""Rule tables that a search looks at: every way to divide the chips among the axes there are.

    train      data x fsdp x sequence x tensor x ffn    rows on data and fsdp, weights along the
                                                        model's width on fsdp and sequence
    generate   replica x tensor x ffn                   rows on replica

`sequence` cuts the tokens of a row, for long ones; `tensor` cuts heads, MLP and vocabulary; `ffn`
MLP and vocabulary only, and its devices compute attention alike: fewer messages of attention for
more of its work. Each table is there a second time
with the vocabulary whole: fewer messages for a larger head.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from thinksafe_jax.planning.memory import factorisations
from thinksafe_jax.sharding import LOGICAL_AXES, Phase, Topology

_AXES = {
    "train": ("data", "fsdp", "sequence", "tensor", "ffn"),
    "generate": ("replica", "tensor", "ffn"),
}
_BATCH = {"train": ("data", "fsdp"), "generate": ("replica",)}
_EMBED = {"train": ("fsdp", "sequence"), "generate": ()}
_OPTIONAL = ("data", "sequence", "ffn")  # left out of a table where their size is 1


@dataclass(frozen=True)
class Proposal:
    """A table that may be tried.

    Attributes:
        name: short, for people: "fsdp 8 x tensor 2".
        phase: as a mesh file has it.
    """

    name: str
    phase: Phase


def proposals(kind: str, topology: Topology) -> Iterator[Proposal]:
    """All tables of a phase for these chips, whatever the model.

    Args:
        kind: train or generate.
    """
    for sizes in factorisations(topology.chips, list(_AXES[kind])):
        axes = {n: size for n, size in sizes.items() if size > 1 or n not in _OPTIONAL}
        model = tuple(name for name in ("tensor", "ffn") if name in axes)
        name = " x ".join(f"{n} {size}" for n, size in axes.items() if size > 1) or "one chip"
        dcn = _across_slices(kind, axes, topology.slices)
        yield Proposal(name, _phase(kind, axes, dcn, vocab=model))
        if sizes["tensor"] * sizes["ffn"] > 1:
            yield Proposal(f"{name}, vocabulary whole", _phase(kind, axes, dcn, vocab=()))


def _phase(kind: str, axes: dict[str, int], dcn: dict[str, int], vocab: tuple[str, ...]) -> Phase:
    def present(*names: str) -> tuple[str, ...]:
        return tuple(name for name in names if name in axes)

    cut = {
        "batch": present(*_BATCH[kind]),
        "sequence": present("sequence"),
        "vocab": vocab,
        "embed": present(*_EMBED[kind]),
        "heads": ("tensor",),
        "kv_heads": ("kv",),
        "mlp": present("tensor", "ffn"),
    }
    rules = {logical: cut.get(logical, ()) for logical in LOGICAL_AXES}
    return Phase(axes, {"tensor": ("kv", "group")}, rules, dcn)


def _across_slices(kind: str, axes: dict[str, int], slices: int) -> dict[str, int]:
    """Which axis of rows lies across slices; none where no axis can, which is then refused."""
    names = [name for name in _BATCH[kind] if axes.get(name, 1) % slices == 0]
    return {names[0]: slices} if slices > 1 and names else {}
