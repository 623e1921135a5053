"""Bytes that are whole or not there, on a disk and in a bucket."""

from thinksafe_jax.storage.files import (
    atomic_write,
    atomic_writer,
    existing_place,
    free_bytes,
    full_disk_errors,
    is_mounted,
    persist,
    prepare_directory,
    refresh,
    set_aside,
    shown,
    storage_errors,
    sync_folder,
    writable_place,
)
from thinksafe_jax.storage.hashing import content_hash, file_sha256, now
from thinksafe_jax.storage.jsonl import drop_torn_tail, parse, plain, sound_length, to_line
from thinksafe_jax.storage.lock import RunLock, describe, flock, holder, is_held
from thinksafe_jax.storage.mirror import mirror_of, run_folder
from thinksafe_jax.storage.objects import identity, is_url, list_objects, open_store, store_errors

__all__ = [
    "RunLock",
    "atomic_write",
    "atomic_writer",
    "content_hash",
    "describe",
    "drop_torn_tail",
    "existing_place",
    "file_sha256",
    "flock",
    "free_bytes",
    "full_disk_errors",
    "holder",
    "identity",
    "is_held",
    "is_mounted",
    "is_url",
    "list_objects",
    "mirror_of",
    "now",
    "open_store",
    "parse",
    "persist",
    "plain",
    "prepare_directory",
    "refresh",
    "run_folder",
    "set_aside",
    "shown",
    "sound_length",
    "storage_errors",
    "store_errors",
    "sync_folder",
    "to_line",
    "writable_place",
]
