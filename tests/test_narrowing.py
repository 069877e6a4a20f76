"""Searches among some of the items: against brute force, in every mode, one option with another."""

import threading

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import WORLD_CONFIG, planted_world
from twotower import train
from twotower.bundle import narrowing
from twotower.bundle.narrowing import Masks
from twotower.bundle.ranking import mean_direction, nearest
from twotower.errors import ConfigError, DataError
from twotower.search.filters import parse
from twotower.search.index import Exact, Hits, no_hits

ASKED = ["subject3 sort1", "noise7 sort2 subject11", "sort0 subject0 n17", "words that nobody ever said"]
MODES = ["vectors", "words", "hybrid"]
N = 36
IDS = list(range(1000, 1000 + N))
STOCK = [None if n % 7 == 3 else n % 5 for n in range(N)]
TAGS = [["red"] if n % 3 else ["blue", "red"] if n % 2 else [] for n in range(N)]
FILTERS = {
    "price < 20": [n < 20 for n in range(N)],
    "stock > 1": [s is not None and s > 1 for s in STOCK],
    "not stock > 1": [not (s is not None and s > 1) for s in STOCK],
    "'blue' in tags and 3 <= price < 30": ["blue" in t and 3 <= n < 30 for n, t in enumerate(TAGS)],
    "_id in [1001, 1002, 1035]": [n in (1, 2, 35) for n in range(N)],
    "price == 17": [n == 17 for n in range(N)],
    "price < 0": [False] * N,
}


@pytest.fixture(scope="module")
def retriever(tmp_path_factory):
    pairs, items = planted_world()
    items = items.append_column("stock", pa.array(STOCK, pa.int32())).append_column("tags", pa.array(TAGS, pa.list_(pa.string())))
    config = {**WORLD_CONFIG, "item": {**WORLD_CONFIG["item"], "payload": ["title", "price", "stock", "tags"]}, "train": {**WORLD_CONFIG["train"]}}
    return train(pairs, items, config=config, output=tmp_path_factory.mktemp("narrowed") / "run").retriever


@pytest.fixture(scope="module")
def whole(retriever):
    """All that each mode finds for each question, in its order."""
    return {mode: retriever.search(ASKED, k=N, mode=mode) for mode in MODES}


def picked(found, n, keep):
    """The rows of a whole answer that are to be kept, in its order."""
    return [row for row in found.rows[n].tolist() if row >= 0 and keep[row]]


def ids(draw):
    return st.lists(st.sampled_from([*IDS, 7, "1003", "nobody", None, 1004.0]), max_size=12)


def rows_named(given):
    return {int(float(value)) - 1000 for value in given if value not in (7, "nobody", None)}


@settings(max_examples=150)
@given(st.data())
def test_every_narrowing_equals_the_whole_answer_without_the_rest(retriever, whole, data):
    mode = data.draw(st.sampled_from(MODES))
    where = data.draw(st.none() | st.sampled_from(list(FILTERS)))
    allow, deny = (data.draw(st.none() | ids(None)) for _ in "ab")
    exclude = data.draw(st.none() | st.lists(st.none() | ids(None), min_size=4, max_size=4))
    k, skip = data.draw(st.integers(1, 40)), data.draw(st.integers(0, 40))
    threshold = data.draw(st.none() | st.floats(-0.5, 0.9))
    found = retriever.search(ASKED, k, mode=mode, where=where, allow=allow, deny=deny, exclude=exclude, skip=skip, threshold=threshold)
    assert [part.shape for part in found] == [(4, k)] * 3
    for n in range(4):
        keep = np.ones(N, bool) if where is None else np.array(FILTERS[where])
        for row in range(N):
            keep[row] &= allow is None or row in rows_named(allow)
            keep[row] &= deny is None or row not in rows_named(deny)
            keep[row] &= exclude is None or row not in rows_named(exclude[n] or [])
        of = dict(zip(whole[mode].rows[n].tolist(), whole[mode].scores[n].tolist(), strict=True))
        # A last bit of a score may differ with the shape of a product, and none of the thresholds drawn is that near to one.
        wanted = [row for row in picked(whole[mode], n, keep)[skip : skip + k] if threshold is None or of[row] >= threshold]
        there = found.rows[n] >= 0
        assert found.rows[n][there].tolist() == wanted
        assert there.tolist() == [True] * len(wanted) + [False] * (k - len(wanted))
        assert found.ids[n].tolist() == [1000 + row for row in wanted] + [None] * (k - len(wanted))
        assert found.scores[n][there] == pytest.approx([of[row] for row in wanted], abs=1e-5)
        assert (found.scores[n][~there] == -np.inf).all()


@pytest.mark.parametrize("mode", MODES)
def test_one_question_is_narrowed_as_several_are(retriever, mode):
    options = {"where": {"price": {"lt": 30}}, "deny": 1002, "skip": 2, "mode": mode}
    several = retriever.search(ASKED[:1], 5, exclude=[[1001, 1004]], **options)
    for exclude in ([1001, 1004], ["1001", "1004"], np.array([1001, 1004]), pa.array([1001, 1004]), [[1001, 1004]]):
        one = retriever.search(ASKED[0], 5, exclude=exclude, **options)
        assert one.ids.shape == (5,)
        assert one.ids.tolist() == several.ids[0].tolist()
    assert not {1001, 1002, 1004} & set(several.ids[0])


def test_a_column_of_lists_excludes_for_each_question(retriever):
    lists = [[1000, 1001], None, [], [1035]]
    given = [lists, pa.array(lists, pa.list_(pa.int64())), pa.chunked_array([pa.array(lists[:1]), pa.array(lists[1:], pa.list_(pa.int64()))])]
    answers = [retriever.search(ASKED, 36, exclude=each).ids.tolist() for each in given]
    assert answers[0] == answers[1] == answers[2]
    assert not {1000, 1001} & set(answers[0][0])
    assert retriever.search(ASKED, 36, exclude=[]).ids.tolist() == retriever.search(ASKED, 36).ids.tolist()


def test_allowing_what_nobody_knows_finds_nothing(retriever):
    assert retriever.search("subject1", 3, allow=["nobody"]).ids.tolist() == [None] * 3
    assert retriever.search("subject1", 3, allow=[]).ids.tolist() == [None] * 3
    assert retriever.search("subject1", 3, deny=["nobody"], exclude=["nobody"]).ids.tolist() == retriever.search("subject1", 3).ids.tolist()


@pytest.mark.parametrize("mode", MODES)
def test_pages_make_the_whole(retriever, whole, mode):
    pages = [retriever.search(ASKED, 7, mode=mode, skip=skip).ids for skip in range(0, 42, 7)]
    assert np.concatenate(pages, axis=1)[:, :N].tolist() == whole[mode].ids.tolist()


@pytest.mark.parametrize("mode", MODES)
def test_diversity_shows_the_same_items_in_another_order(retriever, whole, mode):
    diverse = retriever.search(ASKED, N, mode=mode, diversity=0.6)
    for n in range(4):
        assert {*diverse.rows[n].tolist()} == {*whole[mode].rows[n].tolist()}
        assert diverse.rows[n][0] == whole[mode].rows[n][0]  # the best stays first
    assert diverse.rows[:3].tolist() != whole[mode].rows[:3].tolist()
    alike = [
        np.mean([np.tril(v @ v.T, -1).sum() for v in (np.asarray(retriever.vectors)[rows[:6]] for rows in found.rows[:3])])
        for found in (whole[mode], diverse)
    ]
    assert alike[1] < alike[0]
    narrowed = retriever.search(ASKED, 5, mode=mode, diversity=0.6, where="price < 20", deny=[1001], threshold=0.0, skip=2)
    kept = narrowed.rows[narrowed.rows >= 0]
    assert ((kept < 20) & (kept != 1)).all()
    assert (narrowed.scores[narrowed.rows >= 0] >= 0).all()


def test_pages_of_diverse_results_make_the_whole(retriever):
    first = retriever.search(ASKED, 8, diversity=0.5, mode="vectors").rows
    second = retriever.search(ASKED, 8, diversity=0.5, mode="vectors", skip=8).rows
    assert not any(set(a[a >= 0]) & set(b[b >= 0]) for a, b in zip(first, second, strict=True))


# More like these.


@settings(max_examples=60)
@given(st.lists(st.sampled_from(IDS), min_size=1, max_size=4), st.integers(1, 40), st.sampled_from([None, *FILTERS]), st.integers(0, 5))
def test_more_like_several(retriever, like, k, where, skip):
    vectors = np.asarray(retriever.vectors, np.float64)
    rows = [item - 1000 for item in like]
    units = vectors[rows] / np.linalg.norm(vectors[rows], axis=1, keepdims=True)
    scores = vectors @ units.sum(axis=0)
    keep = np.ones(N, bool) if where is None else np.array(FILTERS[where])
    keep[rows] = False
    wanted = [row for row in np.argsort(-scores, kind="stable").tolist() if keep[row]][skip : skip + k]
    found = retriever.similar(like, k, where=where, skip=skip)
    assert found.rows.shape == (k,)
    there = found.rows >= 0
    assert scores[found.rows[there]] == pytest.approx(scores[wanted], abs=1e-5)
    assert {*found.rows[there].tolist()} == {*wanted}
    if len(like) == 1:
        assert retriever.similar(like[0], k, where=where, skip=skip).ids.tolist() == found.ids.tolist()


def test_more_like_these_takes_what_search_takes(retriever):
    plain = retriever.similar([1000, "1001"], 36)
    assert not {1000, 1001} & set(plain.ids)
    assert retriever.similar([1000, 1001], 36, deny=[1005], allow=IDS[:10]).ids.tolist()[:7] == [i for i in plain.ids if i in IDS[:10] and i != 1005]
    near = retriever.similar([1000, 1001], 36, threshold=float(np.median(plain.scores[:34])))
    assert near.ids[near.rows >= 0].tolist() == [i for i, s in zip(plain.ids, plain.scores, strict=True) if s >= np.median(plain.scores[:34])]
    diverse = retriever.similar([1000, 1001], 34, diversity=0.7)
    assert {*diverse.ids} == {*plain.ids[:34]}
    assert diverse.ids.tolist() != plain.ids[:34].tolist()
    with pytest.raises(DataError, match="1099"):
        retriever.similar([1000, 1099])
    with pytest.raises(DataError, match="without any"):
        retriever.similar([])


def test_the_mean_of_directions_is_not_bent_by_lengths():
    mean = mean_direction(np.array([[10, 0], [0, 0.1]], np.float32))
    assert mean == pytest.approx(np.array([[5.05, 5.05]]) / np.sqrt(2), abs=1e-5)
    assert not mean_direction(np.array([[1, 0], [-1, 0]], np.float32)).any()


# Masks and their use.


class Forgetful:
    """An index that finds one row and misses the others, as a graph may among few allowed ones."""

    def __init__(self, vectors):
        self.exact, self.asked = Exact(vectors), 0

    def search(self, queries, k, allow=None):
        self.asked += 1
        hits = self.exact.search(queries, k, allow=allow)
        return Hits(np.where(np.arange(k) < 1, hits.rows, -1), np.where(np.arange(k) < 1, hits.scores, -np.inf))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.099, 0.101, 0.3, 1.0])
@pytest.mark.parametrize("kind", [Exact, Forgetful])
def test_what_is_found_among_few_is_exact(kind, share):
    generator = np.random.default_rng(0)
    vectors, queries = generator.normal(size=(5000, 8)).astype(np.float32), generator.normal(size=(3, 8)).astype(np.float32)
    queries[1] = 0
    allow = np.zeros(5000, bool)
    allow[generator.permutation(5000)[: int(share * 5000)]] = True
    index = kind(vectors)
    found = nearest(index, vectors, queries, 12, allow)
    scores = np.where(allow, queries @ vectors.T, -np.inf)
    for n in (0, 2):
        order = np.argsort(-scores[n], kind="stable")[: min(12, int(allow.sum()))]
        assert found.rows[n].tolist() == [*order.tolist(), *[-1] * (12 - len(order))]
        assert found.scores[n][: len(order)] == pytest.approx(scores[n][order], abs=1e-5)
    assert found.rows[1].tolist() == no_hits(1, 12).rows[0].tolist()
    if kind is Forgetful:
        assert index.asked == (share > 0.1)


def test_a_mask_is_kept_for_its_table_and_its_condition(monkeypatch):
    calls = []
    monkeypatch.setattr(narrowing, "mask", lambda condition, table: calls.append(condition) or np.array([len(calls)] * table.num_rows) > 0)
    masks, first, second = Masks(), pa.table({"x": [1, 2]}), pa.table({"x": [1, 2, 3]})
    assert masks.of("x < 5", first) is masks.of({"x": {"lt": 5}}, first)
    assert len(calls) == 1
    masks.of("x < 5.0", first)  # another text: 5 and 5.0 are told apart
    assert len(calls) == 2
    assert len(masks.of("x < 5", second)) == 3
    for n in range(20):
        masks.of(f"x < {n}", first)
    assert len(masks._kept) == narrowing.MASKS
    with pytest.raises(ValueError, match="read-only"):
        masks.of("x < 19", first)[0] = False


def test_masks_may_be_asked_by_threads():
    masks, tables = Masks(), [pa.table({"x": np.arange(n)}) for n in (10, 20)]
    wrong = []

    def ask(seed):
        generator = np.random.default_rng(seed)
        for _ in range(200):
            table, bound = tables[generator.integers(2)], int(generator.integers(20))
            if masks.of(parse(f"x < {bound}"), table).sum() != min(bound, table.num_rows):
                wrong.append(bound)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_matching_counts_what_may_be_found(retriever):
    assert retriever.matching("price < 20").tolist() == FILTERS["price < 20"]
    assert retriever.matching(deny=[1000]).sum() == N - 1
    assert retriever.matching().all()
    retriever.matching("price < 20")[:] = False  # a copy
    assert retriever.matching("price < 20").sum() == 20


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"where": "pric < 5"}, '"price"'),
        ({"where": "price < 'cheap'"}, "a number"),
        ({"where": ""}, "empty"),
        ({"where": 5}, "a text"),
        ({"allow": {"a": 1}}, "allow is a list"),
        ({"deny": [[1]]}, "deny is a list"),
        ({"exclude": [[[1]]]}, "exclude is a list"),
        ({"exclude": {"a": 1}}, "exclude is a list"),
        ({"allow": [b"x"]}, "allow is a list"),
        ({"deny": pa.array([b"x"])}, "deny is a list"),
        ({"exclude": [b"x"]}, "exclude is a list"),
        ({"k": 0}, "k is 0"),
        ({"k": 10.0}, "k is 10.0"),
        ({"k": "10"}, "k is '10'"),
        ({"k": True}, "k is True"),
        ({"k": None}, "k is None"),
        ({"skip": -1}, "skip"),
        ({"skip": 1.5}, "skip"),
        ({"skip": True}, "skip"),
        ({"diversity": 0}, "diversity"),
        ({"diversity": 2}, "diversity"),
    ],
)
def test_what_cannot_be_meant_is_refused(retriever, options, said):
    with pytest.raises(ConfigError, match=said):
        retriever.search("subject1", **options)
    if "exclude" not in options:
        with pytest.raises(ConfigError, match=said):
            retriever.similar(1000, **options)


def test_lists_to_exclude_must_be_as_many_as_the_questions(retriever):
    with pytest.raises(DataError, match="4 queries came with 2 lists"):
        retriever.search(ASKED, exclude=[[1], [2]])
    with pytest.raises(DataError, match="4 queries came with 1 lists"):
        retriever.search(ASKED, exclude=[1, 2])
