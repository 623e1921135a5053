"""Rows that several processes write are waited for."""

from types import SimpleNamespace

from tests.hosts.test_group import together
from thinksafe_jax.errors import Terminated
from thinksafe_jax.hosts import Group
from thinksafe_jax.runs import RowStore, storage
from thinksafe_jax.runs.merge import wait_for_rows


def test_who_waits_for_rows_that_do_not_appear_can_be_stopped(tmp_path, monkeypatch):
    """The other process tells of a row that its disk does not show here."""
    looked = []
    monkeypatch.setattr(storage, "_mounts", {})
    bucket = SimpleNamespace(url="memory://run", pull=lambda: looked.append("again"))
    storage.mount(tmp_path, bucket)

    def poll() -> None:
        if looked:
            raise Terminated(15)

    def wait(group: Group) -> None:
        if group.first:
            wait_for_rows(group, RowStore(tmp_path / "samples"), lambda key: True, poll)
        else:
            group.gather("rows of samples", 1)

    stopped, _ = together(wait, count=2)
    assert isinstance(stopped, Terminated)
