"""All suites of the paper through one queue, rehearsed without a model."""

import sys

import pytest

from tests.support import REPOSITORY

pytestmark = pytest.mark.slow


def test_slots_stay_filled_until_the_tail(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts/bench"))
    for name in ("machine", "rehearsal", "workloads", "evaluation_queue"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import evaluation_queue  # pyright: ignore[reportMissingImports]

    found = evaluation_queue.simulate(slots=256, window=2, scale=64)
    assert found["samples"] == 2_165 + 16_376
    assert found["occupancy_until_tail"] >= 0.95
