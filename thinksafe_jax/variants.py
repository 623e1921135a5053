"""A variant is one file, and the file's name is the variant's name.

    guards/formats/llama_guard.py            guard.kind: llama-guard
    training/objectives/ce_plus_kl.py        training.objective: ce+kl

In the name `_` stands for `-`, and `_plus_` for `+`. Recipes, checks and help texts read the names
from a listing of the folder, so a new variant is a new file and nothing else has to be told of it.
Nothing is imported before it is used: a recipe is checked within milliseconds.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Generic, TypeVar

from thinksafe_jax.errors import ConfigError, did_you_mean, quoted

T = TypeVar("T")
_PACKAGE = Path(__file__).parent


def variant_names(folder: str) -> tuple[str, ...]:
    """The names of the variants in a folder of the package, sorted.

    Args:
        folder: below the package, as "guards/formats". Files that begin with `_` are no variants.
    """
    stems = (file.stem for file in (_PACKAGE / folder).glob("*.py"))
    return tuple(sorted(_name(stem) for stem in stems if not stem.startswith("_")))


class Variants(Mapping[str, T], Generic[T]):
    """The variants of one kind, by name; each file is imported when its variant is first asked for.

    Args:
        package: the folder as a module, its own `__name__`.
        attribute: what every file calls the variant that it defines, as "FORMAT".
        what: the kind, for messages: "guard format".
    """

    def __init__(self, package: str, attribute: str, what: str):
        self._package, self._attribute, self._what = package, attribute, what
        self._names = variant_names("/".join(package.split(".")[1:]))

    def __getitem__(self, name: str) -> T:
        """The variant of that name.

        Raises:
            ConfigError: there is no such file; the message names the nearest one.
        """
        if name not in self._names:
            raise ConfigError(
                f"no {self._what} {quoted(name)}{did_you_mean(name, self._names)} "
                f"(choose from {', '.join(self._names)})"
            )
        module = import_module(f"{self._package}.{_stem(name)}")
        return getattr(module, self._attribute)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _name(stem: str) -> str:
    return stem.replace("_plus_", "+").replace("_", "-")


def _stem(name: str) -> str:
    return name.replace("+", "_plus_").replace("-", "_")
