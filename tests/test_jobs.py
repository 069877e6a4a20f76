"""Bulk jobs: shards that together are the whole, parts that a kill leaves, vectors that are kept and shared."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import twotower
from twotower.app import bulk, shelf
from twotower.app.jobs import Shard, changed, shard_of
from twotower.app.shelf import Shelf, keys_of_rows
from twotower.bundle import Retriever
from twotower.data.sources import open_source
from twotower.errors import ConfigError


@pytest.fixture
def desk(world, tmp_path, monkeypatch) -> Path:
    """A folder to work in, with items and questions; of each kind some that occur twice."""
    pa.parquet.write_table(world[1], tmp_path / "things.parquet")
    texts = [*world[0]["asked"].to_pylist()[:40], None, *world[0]["asked"].to_pylist()[:9]]
    pa.parquet.write_table(pa.table({"asked": texts, "n": list(range(50))}), tmp_path / "asked.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """How many rows each run of a tower was given."""
    counts: list[int] = []
    for name in ("embed_items", "embed_queries"):
        plain = getattr(Retriever, name)

        def counting(self, rows, plain=plain):
            counts.append(rows.num_rows)
            return plain(self, rows)

        monkeypatch.setattr(Retriever, name, counting)
    return counts


def vectors_of(path) -> list:
    return pa.parquet.read_table(path)["vector"].to_pylist()


# --- shards -------------------------------------------------------------------------------------------------------


@given(rows=st.integers(1, 60), of=st.integers(1, 9), part=st.integers(1, 20), batch=st.integers(1, 30))
@settings(max_examples=60)
def test_shards_hold_every_row_once_and_say_where_it_stands(rows, of, part, batch):
    table = pa.Table.from_batches(pa.table({"n": list(range(rows))}).to_batches(max_chunksize=batch))
    source = open_source(table, "rows")
    kept = [[] for _ in range(of)]
    for number in range(1, of + 1):
        for some in changed(source, lambda table: table, part, Shard(number, of)):
            assert some.num_rows <= part + batch
            kept[number - 1] += some["n"].to_pylist()
    assert all(values == list(range(number, rows, of)) for number, values in enumerate(kept))


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "-1/4", "1/0", "a/b", "1/2/3", "1.5/2", "1/1000000", "١/٢"])
def test_what_is_no_shard(text):
    with pytest.raises(ConfigError, match="1/16"):
        shard_of(text)


def test_a_shard_as_it_is_typed():
    assert shard_of("3/16") == Shard(3, 16) and shard_of(" 1/1 ") == Shard(1, 1)


def test_shards_of_vectors_are_the_whole(typed, world_folder, desk, monkeypatch):
    monkeypatch.setattr(bulk, "ROWS", 7)
    assert typed("embed", world_folder, "asked.parquet", "--side", "query", "-o", "whole.parquet")[0] == 0
    whole = pa.parquet.read_table("whole.parquet").to_pylist()
    assert whole[40]["vector"] is None and len(whole) == 50
    for number in (1, 2, 3):
        assert typed("embed", world_folder, "asked.parquet", "--side", "query", "--shard", f"{number}/3", "-o", f"{number}.parquet")[0] == 0
        rows = pa.parquet.read_table(f"{number}.parquet").to_pylist()
        assert [row["n"] for row in rows] == list(range(number - 1, 50, 3))
        for row in rows:
            expected = whole[row["n"]]["vector"]
            assert row["vector"] == (None if expected is None else pytest.approx(expected, abs=1e-6))


def test_more_shards_than_rows_leave_an_empty_file(typed, world_folder, desk):
    assert typed("embed", world_folder, "things.parquet", "--shard", "99/100", "-o", "none.parquet")[0] == 0
    empty = pa.parquet.read_table("none.parquet")
    assert empty.num_rows == 0 and empty.column_names[-1] == "vector"


def test_an_unreadable_value_is_told_by_its_row_of_the_file(desk):
    from twotower.data.features import Number

    source = open_source(pa.table({"price": ["1", "2", "3", "x", "5", "6", "7", "y"]}), "prices.csv")
    feature = Number(column="price")

    def read(table):
        return feature.normalise(table["price"].combine_chunks())

    with pytest.raises(twotower.DataError, match=r"prices\.csv.*row 4 'x'"):
        list(changed(source, read, 3))
    with pytest.raises(twotower.DataError, match=r"prices\.csv.*row 4 'x', row 8 'y'"):
        list(changed(source, read, 3, Shard(4, 4)))
    assert len(list(changed(source, read, 3, Shard(1, 4)))) == 1


# --- going on -----------------------------------------------------------------------------------------------------


def test_vectors_go_on_behind_a_kill(typed, world_folder, desk, monkeypatch, encoded):
    monkeypatch.setattr(bulk, "ROWS", 10)
    command = ("embed", world_folder, "things.parquet", "-o", "vectors.parquet")
    assert typed(*command)[0] == 0
    whole, counting = pa.parquet.read_table("vectors.parquet"), Retriever.embed_items
    os.remove("vectors.parquet")
    encoded.clear()

    def dying(self, rows):
        if len(encoded) == 2:
            raise KeyboardInterrupt
        return counting(self, rows)

    monkeypatch.setattr(Retriever, "embed_items", dying)
    code, out, err = typed(*command)
    assert code == 130 and out == "" and "goes on" in err and not Path("vectors.parquet").exists()
    monkeypatch.setattr(Retriever, "embed_items", counting)
    assert typed(*command)[0] == 0
    assert encoded == [10, 10, 10, 6]
    assert pa.parquet.read_table("vectors.parquet") == whole
    assert not [path.name for path in desk.iterdir() if path.name.startswith(".")]
    # Another shard at the same place is another job.
    encoded.clear()
    monkeypatch.setattr(Retriever, "embed_items", dying)
    assert typed(*command)[0] == 130
    monkeypatch.setattr(Retriever, "embed_items", counting)
    assert typed(*command, "--shard", "1/2")[0] == 0
    assert pa.parquet.read_table("vectors.parquet").num_rows == 18


# --- a cache ------------------------------------------------------------------------------------------------------


def test_rows_met_before_are_not_encoded_again(typed, world_folder, desk, encoded):
    plain, cached = ("embed", world_folder, "asked.parquet", "--side", "query", "-o"), ("--cache", "kept")
    assert typed(*plain, "plain.parquet")[0] == 0 and encoded == [49]
    encoded.clear()
    assert typed(*plain, "first.parquet", *cached)[0] == 0
    assert encoded == [40]  # nine of forty-nine occur twice
    code, _, err = typed(*plain, "again.parquet", *cached)
    assert code == 0 and encoded == [40] and "49 of them from the cache" in err
    for name in ("first.parquet", "again.parquet"):
        for found, expected in zip(vectors_of(name), vectors_of("plain.parquet"), strict=True):
            assert found == (None if expected is None else pytest.approx(expected, abs=1e-6))
    # The other side of the same model has vectors of its own.
    assert typed("embed", world_folder, "things.parquet", "-o", "things_v.parquet", *cached)[0] == 0
    assert encoded == [40, 36] and len(list((desk / "kept").iterdir())) == 2


def test_a_cache_below_a_file_is_refused(typed, world_folder, desk):
    before = sorted(desk.rglob("*"))
    code, out, err = typed("embed", world_folder, "things.parquet", "-o", "v.parquet", "--cache", "things.parquet")
    assert code == 2 and out == "" and "things.parquet" in err and sorted(desk.rglob("*")) == before


def keys(numbers):
    return np.stack([np.asarray(numbers, np.uint64) * np.uint64(7919), np.asarray(numbers, np.uint64)], axis=1)


def values(numbers):
    return np.repeat(np.asarray(numbers, np.float32)[:, None], 3, axis=1)


@given(st.lists(st.lists(st.integers(0, 60), max_size=12), max_size=30))
@settings(max_examples=40)
def test_a_shelf_holds_what_was_put_on_it(tmp_path_factory, jobs):
    place = tmp_path_factory.mktemp("shelf")
    one, other = Shelf(place, 3), Shelf(place, 3)
    known: set[int] = set()
    for n, numbers in enumerate(jobs):
        own = (one, other)[n % 2]
        computed: list[int] = []

        def compute(rows, numbers=numbers, computed=computed):
            computed += [numbers[row] for row in rows]
            return values([numbers[row] for row in rows])

        vectors, there = own.once(keys(numbers).reshape(-1, 2), compute)
        assert np.array_equal(vectors, values(numbers).reshape(-1, 3))
        assert sorted(computed) == sorted(set(numbers) - known)
        assert there == sum(number in known for number in numbers)
        known |= set(numbers)
    assert len(list(place.iterdir())) < 3 * shelf.MERGED


def test_parts_are_merged_and_a_torn_one_is_passed_over(tmp_path, monkeypatch):
    place = Shelf(tmp_path, 3)
    for n in range(64):
        place.add(keys(range(10 * n, 10 * n + 10)), values(range(10 * n, 10 * n + 10)))
    assert [path.name[:9] for path in tmp_path.iterdir()] == ["000000640"]
    assert place.find(keys(range(640)))[1].all()
    monkeypatch.setattr(shelf, "LARGEST", 0)
    place.add(keys([700]), values([700]))
    for fault in ("gone", "torn", "of another width", "an empty folder"):
        small = next(path for path in tmp_path.iterdir() if path.name.startswith("000000001"))
        if fault == "gone":
            (small / "vectors.npy").unlink()
        elif fault == "torn":
            np.save(small / "vectors.npy", values([700]))
            (small / "vectors.npy").write_bytes((small / "vectors.npy").read_bytes()[:-3])
        elif fault == "of another width":
            np.save(small / "vectors.npy", np.ones((1, 5), np.float32))
        else:
            for path in small.iterdir():
                path.unlink()
        found, there = Shelf(tmp_path, 3).find(keys([5, 700]))
        assert there.tolist() == [True, False] and np.array_equal(found[:1], values([5]))


def test_a_key_that_only_begins_alike_is_another(tmp_path):
    place = Shelf(tmp_path, 3)
    place.add(np.array([[5, 1]], np.uint64), values([1]))
    _, there = place.find(np.array([[5, 2], [5, 1], [4, 1], [6, 1]], np.uint64))
    assert there.tolist() == [False, True, False, False]


SHARE = """
import sys
import numpy as np
from pathlib import Path
from twotower.app.shelf import Shelf
place = Shelf(Path(sys.argv[1]), 3)
for n in range(120):
    numbers = np.random.default_rng(n).permutation(400)[:40].astype(np.uint64)
    keys = np.stack([numbers * np.uint64(7919), numbers], axis=1)
    vectors, _ = place.once(keys, lambda rows: np.repeat(numbers[rows].astype(np.float32)[:, None], 3, axis=1))
    assert (vectors == numbers.astype(np.float32)[:, None]).all(), n
"""


def test_several_processes_share_a_shelf(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(twotower.__file__).parents[1])}
    both = [subprocess.Popen([sys.executable, "-c", SHARE, str(tmp_path)], env=environment, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[1] for process in both] == ["", "", ""]
    assert Shelf(tmp_path, 3).find(keys(range(400)))[1].all()
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_what_stands_side_by_side_does_not_run_together():
    one, other = keys_of_rows([pa.array(["a\x01", "a"]), pa.array(["b", "\x01b"])])
    assert (one != other).any()


CELLS = {
    pa.string(): st.none() | st.text(max_size=4),
    pa.float64(): st.none() | st.sampled_from([0.0, 1.0, -1.5]),
    pa.list_(pa.string()): st.none() | st.lists(st.text(max_size=2), max_size=3),
    pa.list_(pa.float32()): st.none() | st.lists(st.sampled_from([0.0, 1.0]), max_size=3),
}


@given(st.data())
@settings(max_examples=100)
def test_rows_have_one_key_if_and_only_if_they_are_equal(data):
    kinds = data.draw(st.lists(st.sampled_from(list(CELLS)), min_size=1, max_size=3))
    rows = data.draw(st.lists(st.tuples(*(CELLS[kind] for kind in kinds)), min_size=1, max_size=12))
    columns = [pa.array([row[n] for row in rows], kind) for n, kind in enumerate(kinds)]
    made = keys_of_rows(columns)
    for one in range(len(rows)):
        for other in range(len(rows)):
            assert (made[one] == made[other]).all() == (repr(rows[one]) == repr(rows[other]))
    sliced = keys_of_rows([pa.concat_arrays([column, column]).slice(len(rows) - 1, 2) for column in columns])
    assert (sliced == made[[len(rows) - 1, 0]]).all()
