"""Look-up: shapes, kinds of queries, modes, errors, threads; always against a full matrix."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from twotower import load
from twotower.bundle.layout import Segment, open_bundle, write_catalogue
from twotower.errors import ConfigError, DataError

ASKED = ["subject3 sort1", "noise7 sort2 subject11", "sort0 subject0 n17", "words that nobody ever said"]


@pytest.fixture(scope="module")
def retriever(world_run):
    return world_run.retriever


def with_items(world_folder, folder, rows):
    """The world's model over other catalogue rows; rows may repeat."""
    shutil.copytree(world_folder / "bundle", folder)
    bundle = open_bundle(folder)
    segment = bundle.segments[0]
    ids = pa.array(np.arange(len(rows)) + 5000)
    items = segment.items.take(pa.array(rows)).drop_columns("_id").add_column(0, "_id", ids)
    write_catalogue(folder, bundle.fingerprint, Segment(np.array(segment.vectors[rows]), items, None))
    return load(folder)


def test_one_query_gives_a_list_and_several_a_table(retriever):
    one, table, none = (retriever.search(queries, k=4) for queries in ("subject1", ["subject1"], []))
    assert [part.shape for part in one] == [(4,)] * 3
    assert [part.shape for part in table] == [(1, 4)] * 3
    assert [part.shape for part in none] == [(0, 4)] * 3
    assert one.ids.tolist() == table.ids[0].tolist()
    assert retriever.search({"asked": "subject1"}, k=4).ids.tolist() == one.ids.tolist()


def test_kinds_of_queries_agree(retriever):
    frame = pd.DataFrame({"asked": ASKED, "other": 1})
    kinds = [
        ASKED,
        tuple(ASKED),
        [{"asked": text} for text in ASKED],
        {"asked": ASKED},
        {"asked": np.array(ASKED)},
        frame,
        frame["asked"],
        np.array(ASKED),
        pa.table({"asked": ASKED}),
        pa.chunked_array([ASKED[:1], ASKED[1:]]),
    ]
    expected = retriever.search(ASKED, k=5)
    for queries in kinds:
        found = retriever.search(queries, k=5)
        assert found.ids.tolist() == expected.ids.tolist()
        assert found.scores.tolist() == expected.scores.tolist()
        np.testing.assert_array_equal(retriever.embed_queries(queries), retriever.embed_queries(ASKED))


def test_ids_keep_their_type(retriever):
    found = retriever.search("subject1", k=2)
    assert all(type(item) is int for item in found.ids)
    assert found.ids.dtype == object
    assert found.ids.tolist() == [1000 + row for row in found.rows.tolist()]
    assert (found.scores.dtype, found.rows.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("mode", ["vectors", "hybrid"])
def test_past_the_end_of_the_catalogue_is_none(retriever, mode):
    found = retriever.search(["subject1", "subject2"], k=50, mode=mode)
    assert found.ids.shape == (2, 50)
    assert set(found.ids[0][:36]) == set(range(1000, 1036))
    assert found.ids[0][36:].tolist() == [None] * 14
    assert (found.scores[:, 36:] == -np.inf).all()
    assert (found.rows[:, 36:] == -1).all()
    assert np.isfinite(found.scores[:, :36]).all()


@pytest.mark.parametrize("k", [0, -1])
def test_no_k_below_one(retriever, k):
    for queries in ("subject1", ["subject1"]):
        with pytest.raises(ConfigError, match=str(k)):
            retriever.search(queries, k=k)
    with pytest.raises(ConfigError):
        retriever.similar(1000, k=k)


@pytest.mark.parametrize("blank", ["", "  ", "\n\t", " "])
def test_an_empty_query_is_refused(retriever, blank):
    with pytest.raises(DataError, match="empty"):
        retriever.search(blank)
    with pytest.raises(DataError, match=r"row 1 is empty"):
        retriever.search(["subject1", blank])
    with pytest.raises(DataError, match="empty"):
        retriever.search({"asked": None})


def test_a_query_without_its_column_is_refused(retriever):
    with pytest.raises(DataError, match=r'"asked".*did you mean "askd"'):
        retriever.search({"askd": "subject1"})
    with pytest.raises(DataError):
        retriever.search(object())


def full(retriever, mode):
    """Scores of all items by a second road."""
    by_vectors = retriever.embed_queries(ASKED) @ np.asarray(retriever.vectors).T
    by_words = retriever.lexical.scores(ASKED)
    if mode == "vectors":
        return by_vectors
    if mode == "words":
        return by_words
    weight = retriever.bundle.model["search"]["words_weight"]
    return np.array([v + weight * np.abs(v).max() * w / w.max() if w.max() else v for v, w in zip(by_vectors, by_words, strict=True)])


@pytest.mark.parametrize("mode", ["vectors", "words", "hybrid"])
@pytest.mark.parametrize("k", [1, 5, 36])
def test_the_order_is_that_of_the_full_matrix(retriever, mode, k):
    found, scores = retriever.search(ASKED, k=k, mode=mode), full(retriever, mode)
    similarities = full(retriever, "vectors")
    for n, row in enumerate(scores):
        kept = found.rows[n][found.rows[n] >= 0]
        assert len(set(kept.tolist())) == len(kept)
        expected = np.sort(row[row > 0] if mode == "words" else row)[::-1][:k]
        assert row[kept] == pytest.approx(expected, abs=1e-5)
        assert found.scores[n][: len(kept)] == pytest.approx(similarities[n][kept], abs=1e-5)  # always the raw similarity
    if mode == "words":
        assert found.ids[3].tolist() == [None] * k  # shares no word with anything


def test_the_mode_chosen_on_validation_is_used(retriever):
    chosen = retriever.bundle.model["search"]["mode"]
    assert retriever.search(ASKED).ids.tolist() == retriever.search(ASKED, mode=chosen).ids.tolist()
    with pytest.raises(ConfigError, match=r'"vektors".*"vectors"'):
        retriever.search("subject1", mode="vektors")


@pytest.mark.parametrize("mode", ["vectors", "words", "hybrid"])
@pytest.mark.parametrize("k", [5, 50])
def test_a_threshold_leaves_out_exactly_what_is_below(retriever, mode, k):
    whole = retriever.search(ASKED, k=k, mode=mode)
    scores = np.sort(whole.scores[whole.rows >= 0])
    for threshold in (-5.0, *scores[:: max(1, len(scores) // 7)], float(scores[-1]), 5):
        found = retriever.search(ASKED, k=k, mode=mode, threshold=threshold)
        assert [part.shape for part in found] == [(len(ASKED), k)] * 3 and (found.scores.dtype, found.rows.dtype) == (np.float32, np.int64)
        for n in range(len(ASKED)):
            wanted = [hit for hit in zip(*(part[n].tolist() for part in whole), strict=True) if hit[2] >= 0 and hit[1] >= float(threshold)]
            assert list(zip(*(part[n].tolist() for part in found), strict=True)) == wanted + [(None, -np.inf, -1)] * (k - len(wanted))
    one = retriever.search(ASKED[0], k=k, mode=mode, threshold=5)
    assert one.ids.tolist() == [None] * k


def test_by_words_too_the_threshold_is_on_the_similarity(retriever):
    """What is left out stands between what stays, since the order is another."""
    whole = retriever.search(ASKED[1], k=36, mode="words")
    kept = whole.scores >= np.median(whole.scores[whole.rows >= 0])
    assert (np.diff(np.flatnonzero(kept)) > 1).any() or not kept[0]
    found = retriever.search(ASKED[1], k=36, mode="words", threshold=np.median(whole.scores[whole.rows >= 0]))
    assert found.ids[found.rows >= 0].tolist() == whole.ids[kept].tolist()


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), -float("inf"), "0.5", True, [0.5], np.float32("nan")], ids=repr)
def test_a_threshold_that_is_no_number_is_refused(retriever, threshold):
    with pytest.raises(ConfigError, match="a threshold is the similarity"):
        retriever.search("subject1", threshold=threshold)


def test_it_finds_what_it_should(retriever):
    for topic in range(12):
        for sort in range(3):
            assert retriever.search(f"sort{sort} subject{topic}", k=1).ids[0] == 1000 + 3 * topic + sort


def test_score_equals_the_score_of_search(retriever):
    found = retriever.search(ASKED, k=36)
    for n, query in enumerate(ASKED):
        rows = found.rows[n] >= 0
        ids = found.ids[n][rows].tolist()
        assert retriever.score([query] * len(ids), ids) == pytest.approx(found.scores[n][rows], abs=1e-6)


def test_score_takes_ids_of_any_kind_and_rows(retriever, world):
    expected = retriever.score(ASKED[:2], [1001, 1035])
    for ids in (["1001", "1035"], np.array([1001, 1035]), pd.Series([1001, 1035]), pa.array([1001, 1035]), [1001.0, 1035.0], (1001, 1035)):
        assert retriever.score(ASKED[:2], ids).tolist() == expected.tolist()
    assert (
        retriever.score(ASKED[0], 1001).tolist()
        == retriever.score(ASKED[0], np.int64(1001)).tolist()
        == pytest.approx(expected[:1].tolist(), abs=1e-5)
    )
    rows = world[1].take(pa.array([1, 35]))
    assert retriever.score(ASKED[:2], rows) == pytest.approx(expected, abs=1e-6)
    assert retriever.score(ASKED[:2], rows.to_pylist()) == pytest.approx(expected, abs=1e-6)
    assert retriever.score(ASKED[:2], rows.to_pandas()) == pytest.approx(expected, abs=1e-6)
    assert retriever.score([], []).shape == (0,)
    with pytest.raises(DataError, match="2 queries came with 1 item"):
        retriever.score(ASKED[:2], [1001])


def test_score_known_is_nan_for_strangers(retriever):
    found = retriever.score_known(pa.table({"asked": ASKED[:3]}), pa.array([1001, 9, 1035]))
    assert np.isnan(found[1])
    assert found[[0, 2]] == pytest.approx(retriever.score([ASKED[0], ASKED[2]], [1001, 1035]), abs=1e-6)


def test_an_unknown_id_names_the_nearest(retriever):
    with pytest.raises(DataError, match=r"10355.*did you mean \"1035\""):
        retriever.score("subject1", 10355)
    with pytest.raises(DataError, match="no item"):
        retriever.similar("nothing like it")


def test_similar_items_are_the_nearest_others(retriever):
    found = retriever.similar(1004, k=35)
    vectors = np.asarray(retriever.vectors)
    assert 1004 not in found.ids
    expected = np.delete(vectors @ vectors[4], 4)
    assert found.scores == pytest.approx(np.sort(expected)[::-1], abs=1e-5)
    assert retriever.similar(1004, k=40).ids[35:].tolist() == [None] * 5


def test_a_new_item_can_be_embedded(retriever):
    vector = retriever.embed_items([{"name": "never seen", "title": "tovar4 vid1", "kind": "k1"}])
    assert vector.shape == (1, 32)
    assert int((retriever.vectors @ vector[0]).argmax()) == 13
    assert retriever.embed_items(retriever.items.slice(0, 0)).shape == (0, 32)


def test_a_catalogue_of_one(world_folder, tmp_path):
    lone = with_items(world_folder, tmp_path / "lone", [7])
    assert len(lone) == 1
    found = lone.search(["subject1", "zzz"], k=3, mode="vectors")
    assert found.ids.tolist() == [[5000, None, None]] * 2
    assert lone.search("subject1", k=1, mode="vectors").ids.tolist() == [5000]
    assert lone.similar(5000, k=2).ids.tolist() == [None, None]
    with pytest.raises(ConfigError, match="no words"):
        lone.search("subject1", mode="hybrid")


def test_equal_vectors_all_come(world_folder, tmp_path):
    twins = with_items(world_folder, tmp_path / "twins", [3, 9, 3, 3, 20, 9])
    found = twins.search(["subject1 sort0"], k=6, mode="vectors")
    assert sorted(found.ids[0].tolist()) == list(range(5000, 5006))
    assert sorted(found.rows[0][:3].tolist()) == [0, 2, 3]
    assert len(set(found.scores[0][:3].tolist())) == 1
    assert found.ids.tolist() == twins.search(["subject1 sort0"], k=6, mode="vectors").ids.tolist()
    assert set(twins.similar(5000, k=2).ids.tolist()) == {5002, 5003}


def test_threads_share_a_retriever(world_folder):
    fresh = load(world_folder)
    generator = np.random.default_rng(0)
    asked = [[f"subject{generator.integers(12)} sort{generator.integers(3)} n{n}" for n in range(size)] for size in generator.integers(1, 9, 48)]

    def answers(queries):
        found = fresh.search(queries, k=5)
        return found.ids.tolist(), found.scores.tolist(), fresh.similar(1003, k=3).ids.tolist(), fresh.score(queries[:1], 1000).tolist()

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(answers, asked))
    assert together == [answers(queries) for queries in asked]


def test_it_shows_what_it_holds(retriever):
    assert len(retriever) == 36
    assert "36 items" in repr(retriever)
    assert retriever.show(np.array([2, -1]))[0] == {"_id": 1002, "name": "1002", "title": "tovar0 vid2", "kind": "k0", "price": 2.0} | (
        {"name": 1002} if retriever.items.schema.field("name").type == pa.int64() else {}
    )


@pytest.mark.parametrize("mode", ["vectors", "words", "hybrid"])
def test_a_query_of_nothing_known_finds_nothing(world_run, mode):
    found = world_run.retriever.search(["\u2205", "subject3"], k=4, mode=mode)
    assert list(found.ids[0]) == [None] * 4 and list(found.rows[0]) == [-1] * 4
    assert np.isneginf(found.scores[0]).all()
    assert found.ids[1][0] is not None


def test_a_value_that_is_no_text_is_a_query_too(retriever):
    assert retriever.search(7, k=2).ids.shape == (2,)
    assert retriever.search([7, "subject1"], k=2).ids.shape == (2, 2)
    np.testing.assert_array_equal(retriever.search([7, 8], k=2).scores, retriever.search(["7", "8"], k=2).scores)


def test_an_index_by_name(world_folder, retriever):
    graph = load(world_folder, index="hnsw")
    for queries in (["subject3 sort1"], ["subject4", "sort2"]):
        np.testing.assert_array_equal(graph.search(queries, k=5, mode="vectors").rows, retriever.search(queries, k=5, mode="vectors").rows)
    with pytest.raises(ConfigError, match=r'did you mean "hnsw"'):
        load(world_folder, index="hnws")
