"""Files of a folder that somebody else made: none of them may stand for a file elsewhere."""

from pathlib import Path

from thinksafe_jax.errors import InputError

_LONGEST_NAME, _LONGEST_PATH = 255, 1024  # bytes of a file's name, on Linux and macOS; of a path


def refuse_link_out(file: Path) -> None:
    """Refuses a file that is a link out of its folder; its content would be read and copied.

    Raises:
        InputError: it is; the links of a Hub cache, which lead to its blobs, are none.
    """
    root = file.parent.resolve()
    if root.parent.name == "snapshots":  # a Hub cache links its files to ../../blobs
        root = root.parent.parent
    target = file.resolve()
    if not target.is_relative_to(root):
        raise InputError(
            f"{file}: is a link out of its folder, to {target}; refused. Copy the file in its place"
        )


def refuse_links_out(folder: Path) -> None:
    """Refuses a folder in which any file is a link out of it.

    Raises:
        InputError: as `refuse_link_out`.
    """
    for file in folder.iterdir():
        if file.is_symlink():
            refuse_link_out(file)


def is_plain_name(name: object) -> bool:
    """Whether a name that was read from a file names a file of the same folder."""
    return (
        isinstance(name, str)
        and _is_written(name)
        and name not in ("", ".", "..")
        and Path(name).name == name
    )


def is_within(name: object) -> bool:
    """Whether a path that was read from a file stays within the folder of that file."""
    return (
        isinstance(name, str)
        and _is_written(name)
        and not Path(name).is_absolute()
        and ".." not in Path(name).parts
    )


def _is_written(name: str) -> bool:
    """Whether the file system takes a name: no NUL, no half of a surrogate pair, not too long."""
    if "\0" in name:
        return False
    try:
        parts = [part.encode("utf-8") for part in name.split("/")]
    except UnicodeEncodeError:
        return False
    return len(name) <= _LONGEST_PATH and max(map(len, parts)) <= _LONGEST_NAME
