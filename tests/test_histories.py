"""Histories against a slow reading of the log, one event after another."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.bundle.memory import Memory
from twotower.data.batches import Epochs, draft
from twotower.data.columns import Ragged, ragged
from twotower.data.encoder import Encoder
from twotower.data.features import History, Id
from twotower.data.hashes import hash_texts
from twotower.data.histories import histories, stand_in
from twotower.data.prepared import Log

KEYS, ITEMS = 4, 8
EVENTS = st.lists(
    st.tuples(st.integers(0, KEYS - 1), st.integers(0, ITEMS - 1), st.integers(0, 6), st.sampled_from([0.0, 1.0, 1.0, 2.0]), st.booleans()),
    min_size=1,
    max_size=40,
)


def log_of(events, timed=True):
    """(log, which pairs may be known, time of each pair): pairs of (key, item, time, label, may be known), as a prepared log holds them."""
    if timed:
        events = sorted(events, key=lambda event: event[2])
    keys, items, times, labels, known = map(np.array, zip(*events, strict=True))
    moments = np.searchsorted(times, times) if timed else None  # the first position of the same time
    n = len(events)
    log = Log(np.arange(n), keys, items, np.ones(n, np.float32), labels.astype(np.float32), keys, moments)
    return log, known.astype(bool), times


def slow_timed(events, key, time, last):
    """Every match of the key that may be known and is strictly earlier, oldest first."""
    return [item for k, item, t, label, known in sorted(events, key=lambda event: event[2]) if k == key and t < time and label > 0 and known][-last:]


def rows_of(column):
    return [column.values[a:b].tolist() for a, b in zip(column.offsets[:-1], column.offsets[1:], strict=True)]


@settings(max_examples=200)
@given(EVENTS, st.integers(1, 7))
def test_a_history_is_what_was_strictly_earlier(events, last):
    log, known, times = log_of(events)
    seen = histories(log, known, last)
    keys = log.history_keys
    cuts = seen.cuts(keys, log.moments)
    found = rows_of(seen.of(keys, cuts))
    assert found == [slow_timed(events, key, time, last) for key, time in zip(keys, times, strict=True)]
    # What is asked for changes nothing where there are times: it cannot be among what is earlier unless it came before.
    asked = Ragged(np.asarray(log.item_rows), np.arange(len(keys) + 1))
    assert rows_of(seen.of(keys, cuts, asked)) == found


@settings(max_examples=200)
@given(EVENTS, st.integers(1, 7), st.lists(st.sets(st.integers(0, ITEMS - 1), max_size=3), min_size=KEYS, max_size=KEYS))
def test_without_times_a_history_is_all_but_what_is_asked_for(events, last, asked):
    log, known, _ = log_of(events, timed=False)
    seen = histories(log, known, last)
    keys = np.array([k for k in range(KEYS) if k <= log.history_keys.max()])
    cuts = seen.cuts(keys, None)
    found = rows_of(seen.of(keys, cuts, ragged([sorted(asked[k]) for k in keys])))
    for key, items in zip(keys, found, strict=True):
        assert items == [i for k, i, _, label, may in events if k == key and label > 0 and may and i not in asked[key]][-last:]


@settings(max_examples=200)
@given(EVENTS, st.integers(1, 7))
def test_windows_hold_at_least_half_of_each_history_and_end_alike(events, last):
    log, known, _ = log_of(events)
    seen = histories(log, known, last)
    keys = log.history_keys
    cuts = seen.cuts(keys, log.moments)
    whole = rows_of(seen.of(keys, cuts))
    bags, window_of, lengths = seen.windows(keys, cuts)
    rows = rows_of(bags)
    for view, history in enumerate(whole):
        part = rows[window_of[view]][: lengths[view]]
        assert len(part) == lengths[view] <= last
        assert len(part) * 2 >= len(history)
        assert history[len(history) - len(part) :] == part
        if cuts[view] <= last:
            assert part == history
    assert max(map(len, rows)) <= last
    # Every window is as long as somebody needs, and pairs of one group are views of one window.
    assert {n for n, row in enumerate(rows)} == set(window_of.tolist())
    groups = seen.groups(keys, cuts)
    assert len(set(zip(groups.tolist(), window_of.tolist(), strict=True))) == len(rows) == len(set(groups.tolist()))


@given(EVENTS, st.integers(1, 5), st.integers(0, 5))
def test_pairs_of_a_group_stay_together_and_each_comes_once(events, batch_size, epoch):
    log, known, _ = log_of(events)
    seen = histories(log, known, 3)
    groups = seen.groups(log.history_keys, seen.cuts(log.history_keys, log.moments))
    order = Epochs(log, batch_size, 0, seen, groups).order(epoch)
    assert sorted(order.tolist()) == list(range(len(events)))
    firsts = [groups[pair] for n, pair in enumerate(order) if n == 0 or groups[pair] != groups[order[n - 1]]]
    assert len(firsts) == len(set(groups.tolist()))
    assert all(a < b for a, b in pairwise(order) if groups[a] == groups[b])


def test_ties_are_never_seen_by_hand():
    events = [
        (0, 1, 10, 1.0, True),
        (0, 2, 10, 1.0, True),
        (0, 3, 20, 1.0, True),
        (1, 4, 15, 1.0, True),
        (0, 5, 20, 0.0, True),
        (0, 6, 30, 1.0, True),
    ]
    log, known, _ = log_of(events)
    seen = histories(log, known, 50)
    found = rows_of(seen.of(log.history_keys, seen.cuts(log.history_keys, log.moments)))
    asked = dict(zip(log.item_rows.tolist(), found, strict=True))
    assert asked == {1: [], 2: [], 3: [1, 2], 4: [], 5: [1, 2], 6: [1, 2, 3]}  # 5 was turned down, and is nobody's history


def test_views_of_one_row_and_key_differ_by_their_cut():
    events = [(0, item, item // 2, 1.0, True) for item in range(6)]
    log, known, _ = log_of(events)
    log = log._replace(query_rows=np.zeros(6, np.int64))
    part = draft(log, np.arange(6)[::-1].copy(), histories(log, known, 50))
    assert part.cuts.tolist() == [0, 2, 4]
    assert [sorted(part.item_rows[a:b].tolist()) for a, b in zip(part.offsets, part.offsets[1:], strict=False)] == [[0, 1], [2, 3], [4, 5]]
    assert len(draft(log, np.arange(6)).query_rows) == 1


def test_a_key_without_known_events_has_an_empty_history():
    log, known, _ = log_of([(0, 1, 1, 1.0, True), (3, 2, 2, 1.0, False)])
    seen = histories(log, known, 5)
    assert rows_of(seen.of(np.array([3, 2, 0]), seen.cuts(np.array([3, 2, 0]), np.array([9, 9, 9])))) == [[], [], [1]]
    nothing = histories(log, np.zeros(2, bool), 5)
    assert rows_of(nothing.of(np.array([0, 3]), nothing.cuts(np.array([0, 3]), np.array([9, 9])))) == [[], []]


# --- the two roads ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("items", ["tower", "ids"])
@settings(max_examples=60)
@given(EVENTS, st.integers(1, 6))
def test_the_log_and_a_list_of_ids_give_equal_arrays(items, events, last):
    """Sliced from the log as in training, or asked for by ids as at look-up: the query tower reads the same."""
    log, known, times = log_of(events)
    names = pa.array([str(100 + n) if n % 2 else f"item {n}" for n in range(ITEMS)])
    named, history = Id(column="sku"), History(column="seen", items=items, last=last)
    state = named.fit([(names.slice(0, ITEMS - 2), np.ones(ITEMS - 2, np.int64))])  # the last two are new
    encoder = Encoder({"query": (history,), "item": (named,)}, {"query": {"seen:history": {}}, "item": {"sku:id": state}})
    vectors = np.random.default_rng(0).normal(size=(ITEMS, 3)).astype(np.float32)
    stand_ins = named.encode(names, state) if items == "ids" else vectors

    seen = histories(log, known, last)
    cuts = seen.cuts(log.history_keys, log.moments)
    trained = stand_in(seen.of(log.history_keys, cuts), stand_ins)

    everything = [slow_timed(events, key, time, 10**6) for key, time in zip(log.history_keys, times, strict=True)]
    asked = pa.array([[names[item].as_py() for item in items_of] for items_of in everything], pa.list_(pa.string()))
    memory = Memory.of(encoder, pa.chunked_array([names]), vectors)
    found = memory.column(encoder.encode("query", pa.table({"seen": asked}))["seen:history"])
    assert np.array_equal(found.values, trained.values) and found.values.dtype == trained.values.dtype
    assert np.array_equal(found.offsets, trained.offsets)


def memory_of(names, **given_options):
    history = History(column="seen", **given_options)
    encoder = Encoder({"query": (history,), "item": ()}, {"query": {"seen:history": {}}, "item": {}})
    column = pa.chunked_array([pa.array(names, pa.string())])
    return encoder, Memory.of(encoder, column, np.arange(len(names) * 2, dtype=np.float32).reshape(-1, 2))


def test_items_that_a_catalogue_does_not_hold_are_passed_over():
    encoder, memory = memory_of(["a", "b", "7"])
    found = memory.column(encoder.encode("query", [{"seen": ["a", "gone", "7.0"]}, {"seen": None}, {"seen": ["gone"]}])["seen:history"])
    assert found.values.tolist() == [[0, 1], [4, 5]] and found.offsets.tolist() == [0, 2, 2, 2]


def test_an_empty_catalogue_remembers_nothing():
    _, memory = memory_of([])
    found = memory.column(Ragged(hash_texts(["a"]), np.array([0, 1])))
    assert found.values.shape == (0, 2) and found.offsets.tolist() == [0, 0]


def test_a_model_without_a_history_has_no_memory():
    encoder = Encoder({"query": (Id(column="user"),), "item": ()}, {"query": {"user:id": {}}, "item": {}})
    assert Memory.of(encoder, pa.chunked_array([pa.array(["a"])]), np.zeros((1, 2), np.float32)) is None


def test_without_times_repeats_of_what_is_asked_for_leave_room_for_the_rest():
    log, known, _ = log_of([(0, item, 0, 1.0, True) for item in (1, 2, 3, 7, 7, 7)], timed=False)
    seen = histories(log, known, 3)
    assert rows_of(seen.of(np.array([0]), seen.cuts(np.array([0]), None), ragged([[7]]))) == [[1, 2, 3]]
