"""Rows that several processes write are waited for."""

from pathlib import Path

from tests.hosts.test_group import together
from thinksafe_jax.errors import Terminated
from thinksafe_jax.hosts import Group
from thinksafe_jax.runs import RowStore, wait_for_rows
from thinksafe_jax.storage import files as storage


class Bucket:
    """Shows nothing, and knows when it was looked into."""

    url, looked_into = "memory://run", False

    def push(self, path: Path, *, wait: bool = True) -> None:
        pass

    def pull(self) -> None:
        self.looked_into = True


def test_who_waits_for_rows_that_do_not_appear_can_be_stopped(tmp_path, monkeypatch):
    """The other process tells of a row that its disk does not show here."""
    bucket = Bucket()
    monkeypatch.setattr(storage, "_mounts", {})
    storage.mount(tmp_path, bucket)

    def poll() -> None:
        if bucket.looked_into:
            raise Terminated(15)

    def wait(group: Group) -> None:
        if group.first:
            wait_for_rows(group, RowStore(tmp_path / "samples"), poll)
        else:
            group.gather("rows of samples", 1)

    stopped, _ = together(wait, count=2)
    assert isinstance(stopped, Terminated)
