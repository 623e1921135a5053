"""Several hosts in one run directory, each with its own rows, shards and lock."""

import pytest

from tests.support import REPOSITORY
from thinksafe_jax.config import load_recipe
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.runs import Part, RowStore, Run
from thinksafe_jax.runs.row_store import WHOLE


def test_every_row_belongs_to_one_part():
    ids = [f"row-{n}" for n in range(1000)]
    for of in (1, 2, 7):
        parts = [Part(number, of) for number in range(of)]
        assert all(sum(id in part for part in parts) == 1 for id in ids)
        counts = [sum(id in part for id in ids) for part in parts]
        assert max(counts) < 1.3 * len(ids) / of


def test_a_row_is_followed_up_by_who_wrote_it_or_by_the_hash():
    """Shards of processes that are there now are theirs; of earlier starts one process is named."""
    parts = [Part(number, 3) for number in range(3)]
    assert [part.follows_up("row", "part-1of3-00000.jsonl") for part in parts] == [
        False,
        True,
        False,
    ]
    for shard in ("part-00000.jsonl", "part-1of4-00007.jsonl", "part-0of13-00000.jsonl"):
        hashed = [id in part for id in map(str, range(9)) for part in parts]
        assert [p.follows_up(str(n), shard) for n in range(9) for p in parts] == hashed
        assert WHOLE.follows_up("row", shard)


@pytest.mark.parametrize("text", ["", "2", "2/2", "-1/2", "1/0", "a/b", "0/4/2"])
def test_a_part_that_is_none_is_refused(text):
    assert Part.parse("3/8") == Part(3, 8)
    with pytest.raises(ConfigError, match="expected NUMBER/PARTS from 0/8 to 7/8"):
        Part.parse(text)


def test_writers_have_shards_of_their_own_and_readers_see_all(tmp_path):
    """A torn line of another writer is left alone: that host repairs it, or samples it again."""
    one, two, whole = (RowStore(tmp_path, writer=name) for name in ("0of2", "1of2", ""))
    one.append([{"id": "a"}])
    two.append([{"id": "b"}])
    torn = tmp_path / "part-1of2-00000.jsonl"
    with torn.open("ab") as file:
        file.write(b'{"id": "c')
    one.append([{"id": "d"}])
    whole.append([{"id": "a"}, {"id": "e"}])
    assert torn.read_bytes().endswith(b'{"id": "c')
    assert whole.keys() == {"a", "b", "d", "e"}
    assert whole.duplicates == 1
    RowStore(tmp_path, writer="1of2").append([{"id": "c"}])
    assert sorted(p.name for p in whole.shards()) == [
        "part-00000.jsonl",
        "part-0of2-00000.jsonl",
        "part-1of2-00000.jsonl",
    ]
    assert whole.keys() == {"a", "b", "c", "d", "e"}


def test_parts_share_a_directory_that_the_whole_has_alone(tmp_path):
    path = tmp_path / "run"
    recipe = load_recipe(REPOSITORY / "configs/recipes/mini.yaml")
    with Run.open(recipe, path, part=Part(0, 2)) as one:
        with Run.open(recipe, path, part=Part(1, 2)) as two:
            one.log("sample", rows=1)
            two.log("sample", rows=2)
        for part in (Part(0, 2), WHOLE):
            with (
                pytest.raises(ConfigError, match="is in use by"),
                Run.open(recipe, path, part=part),
            ):
                pass
    with Run.open(recipe, path), pytest.raises(ConfigError, match=r"is in use by pid \d+"):
        Run.open(recipe, path, part=Part(1, 2)).__enter__()
    assert {p.name for p in path.glob("metrics*")} == {"metrics-0of2.jsonl", "metrics-1of2.jsonl"}
    with Run.open(recipe, path, new_run=True):
        assert not list(path.glob("metrics*"))
