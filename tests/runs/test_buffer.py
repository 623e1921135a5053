"""Rows reach the disk in batches, and all of them whatever happens."""

import pytest

from thinksafe_jax.runs import RowBuffer, RowStore
from thinksafe_jax.runs import row_buffer as buffer


def test_rows_are_appended_when_the_batch_is_full_and_at_the_end(tmp_path):
    store = RowStore(tmp_path)
    with RowBuffer(store) as rows:
        for i in range(buffer.ROWS + 1):
            rows.add({"id": i})
        assert len(store.read()) == buffer.ROWS
    assert len(store.read()) == buffer.ROWS + 1


def test_old_rows_do_not_wait_for_a_full_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(buffer, "SECONDS", 0.0)
    store = RowStore(tmp_path)
    with RowBuffer(store) as rows:
        rows.add({"id": 0})
        assert store.keys() == {0}


def test_an_error_in_the_block_loses_no_row(tmp_path):
    store = RowStore(tmp_path)
    with pytest.raises(KeyError), RowBuffer(store) as rows:
        rows.add({"id": 0})
        raise KeyError
    assert store.keys() == {0}
