"""Object stores (gs://, s3://, memory://, ...) as fsspec opens them, with errors for users."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from thinksafe_jax.errors import EnvironmentFault, InputError, ThinkSafeError, first_line

# what stores call the identity of an object's content; the first that is there counts
_IDENTITY = ("md5Hash", "etag", "ETag", "crc32c", "generation", "mtime", "created", "LastModified")
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "s3a": "s3fs", "az": "adlfs"}


def is_url(name: object) -> bool:
    """Whether a path lies in a bucket and not on a disk."""
    return "://" in str(name)


def open_store(url: str) -> tuple[Any, str]:
    """(file system, path of `url` in it). Logs in as the environment says; asks for nothing yet.

    Raises:
        InputError: a kind of path that fsspec does not know.
        EnvironmentFault: the package for it is missing.
    """
    import fsspec

    protocol = url.partition("://")[0]
    options = {"auto_mkdir": True} if protocol in ("file", "local") else {}
    try:
        filesystem, root = fsspec.core.url_to_fs(url, **options)
    except ImportError:
        package = _PACKAGES.get(protocol, f"the fsspec package for {protocol}")
        raise EnvironmentFault(f"{url}: needs {package}; pip install {package}") from None
    except ValueError as error:
        raise InputError(f"{url}: {error}") from None
    return filesystem, root.rstrip("/")


def list_objects(filesystem: Any, root: str) -> dict[str, dict[str, Any]]:
    """{name beneath `root`: facts} of every object, as the store has them now."""
    filesystem.invalidate_cache()
    objects = filesystem.find(root, detail=True)
    prefix = root.strip("/") + "/"
    return {path.strip("/").removeprefix(prefix): info for path, info in objects.items()}


def identity(info: Mapping[str, Any]) -> str:
    """Text that changes when the content of an object does."""
    version = next((str(info[key]) for key in _IDENTITY if info.get(key)), "")
    return f"{info['size']} {version}"


@contextmanager
def store_errors(url: str) -> Iterator[None]:
    """One sentence for whatever a store's client raises inside; each has its own kinds.

    Raises:
        EnvironmentFault: for every error that is not ours already.
    """
    try:
        yield
    except ThinkSafeError:
        raise
    except Exception as error:
        raise EnvironmentFault(
            f"{url}: the bucket refused or could not be reached ({first_line(error)}); does it "
            "exist, are you logged in, and may you read and write there? What is complete is kept: "
            "run again"
        ) from error
