"""Nothing that is read ends in a traceback: a damaged file is read, or refused in a sentence.

scripts/fuzz.py does the same for hours, with seeds of its own.
"""

import json
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile.mutations import is_json, mutate
from tests.hostile.readers import MOST_CHARACTERS, READERS, Workbench
from thinksafe_jax.errors import ThinkSafeError

pytestmark = pytest.mark.slow

each_reader = pytest.mark.parametrize("bench", READERS, ids=lambda r: r.name, indirect=True)


@pytest.fixture
def bench(request, tmp_path) -> Workbench:
    return Workbench(request.param, tmp_path)


def read(bench: Workbench, damage: dict) -> None:
    """Success, or a ThinkSafeError that says something."""
    try:
        bench.read(damage)
    except ThinkSafeError as error:
        assert 10 < len(str(error)) < MOST_CHARACTERS


@each_reader
def test_sound_files_are_read(bench: Workbench):
    bench.read({})


@each_reader
def test_a_file_that_is_gone(bench: Workbench):
    for name in bench.targets[:8]:
        read(bench, {name: None})


@each_reader
def test_a_damaged_file_is_read_or_refused_in_a_sentence(bench: Workbench):
    examples = 12 if bench.reader.slow else 60

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**32 - 1))
    def check(seed: int) -> None:
        read(bench, bench.mutant(seed))

    check()


def test_mutations_change_files_in_many_ways():
    """A mutator that returned its input would let everything above pass."""
    content = json.dumps({"a": [1, 2, {"b": "c"}], "d": 1.5, "e": None}).encode()
    mutants = {mutate(content, Random(seed)) for seed in range(300)}
    assert len(mutants - {content}) > 150
    assert sum(is_json(mutant) for mutant in mutants) > 60
    assert mutate(content, Random(7)) == mutate(content, Random(7))
