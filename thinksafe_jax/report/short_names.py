"""Names of runs that fit beside each other, and still tell them apart."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath


def short_names(paths: Sequence[str]) -> list[str]:
    """The ends of paths, as short as they can be and stay apart.

    `runs/a/mini` and `runs/b/mini` are "a/mini" and "b/mini", beside them `runs/c/big` is "big".
    Equal paths have equal names.
    """
    parts = {path: PurePath(path).parts for path in paths}
    return [_shortest(path, parts) for path in paths]


def _shortest(path: str, parts: Mapping[str, tuple[str, ...]]) -> str:
    others = [other for name, other in parts.items() if name != path]
    for count in range(1, len(parts[path])):
        end = parts[path][-count:]
        if all(other[-count:] != end for other in others):
            return "/".join(end)
    return path
