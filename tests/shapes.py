"""What conftest.py has jaxtyping check at every call: shapes and dtypes of arrays, and no more.

Other types are pyright's business: at run time they would refuse the stand-ins of tests, and lists
and arrays where one does as well as the other.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray

PACKAGE = Path(__file__).parents[1] / "thinksafe_jax"
# an Example takes lists, and refuses lengths that differ by itself
UNCHECKED = {"thinksafe_jax.training.examples"}


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as beartype checks it, where its annotations hold arrays."""
    hints = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in hints.items() if _has_shape(hint)}
    return beartype(function)


def modules_with_shapes() -> list[str]:
    """Modules of the package that give shapes in signatures, but for UNCHECKED."""
    files = [file.relative_to(PACKAGE.parent) for file in PACKAGE.rglob("*.py")
             if "from jaxtyping import" in file.read_text(encoding="utf-8")]  # fmt: skip
    dotted = {".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files}
    return sorted(dotted - UNCHECKED)


def _has_shape(hint: Any) -> bool:
    if isinstance(hint, list):  # the parameters of a Callable
        return any(map(_has_shape, hint))
    is_array = isinstance(hint, type) and issubclass(hint, AbstractArray)
    return is_array or any(map(_has_shape, get_args(hint)))
