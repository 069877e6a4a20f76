"""Batches against a second, brute-force reading of the log."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.data.batches import Epochs, complete, draft
from twotower.data.columns import group, ragged
from twotower.data.prepared import Log

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 7)), min_size=1, max_size=30)


def log_of(pairs):
    rows, keys, items = (np.array(part, np.int64) for part in zip(*pairs, strict=True))
    return Log(rows, keys, items, np.arange(1, len(pairs) + 1, dtype=np.float32), np.ones(len(pairs), np.float32))


def known_of(pairs):
    both = sorted({(key, item) for _, key, item in pairs})
    return group(np.array([k for k, _ in both]), np.array([i for _, i in both]), 3)


def views(part):
    """Each view of a batch or draft with its pairs."""
    offsets = part.offsets
    return {
        (int(row), int(key)): part.pair_rows[offsets[n] : offsets[n + 1]].tolist()
        for n, (row, key) in enumerate(zip(part.query_rows, part.query_keys, strict=True))
    }


@given(PAIRS, st.randoms())
def test_pairs_with_the_same_row_and_key_are_one_view(pairs, random):
    chosen = random.sample(range(len(pairs)), random.randint(1, len(pairs)))
    part = draft(log_of(pairs), np.array(chosen, np.int64))
    plain = defaultdict(list)
    for pair in chosen:
        plain[pairs[pair][:2]].append(pair)
    assert views(part) == plain and len(part.query_rows) == len(plain)
    assert part.item_rows.tolist() == [pairs[pair][2] for pair in part.pair_rows]
    assert part.weights.tolist() == [pair + 1 for pair in part.pair_rows]
    assert part.offsets[0] == 0 and part.offsets[-1] == len(chosen) and part.offsets.dtype == np.int64


@given(PAIRS, st.sets(st.integers(0, 9)), st.randoms())
def test_masks_hold_every_known_match_and_nothing_else(pairs, extra, random):
    chosen = random.sample(range(len(pairs)), random.randint(1, len(pairs)))
    part = draft(log_of(pairs), np.array(chosen, np.int64))
    candidates = np.array(sorted({*part.item_rows.tolist(), *extra}), np.int64)
    batch = complete(part, candidates, np.zeros(len(candidates), np.float32), known_of(pairs))
    for n, (row, key) in enumerate(zip(batch.query_rows, batch.query_keys, strict=True)):
        positions = batch.positives.positions[batch.positives.offsets[n] : batch.positives.offsets[n + 1]]
        assert {int(i) for i in candidates[positions]} == {pairs[pair][2] for pair in chosen if pairs[pair][:2] == (row, key)}
        mask = batch.mask_rows[n]
        masked = candidates[batch.masks.values[batch.masks.offsets[mask] : batch.masks.offsets[mask + 1]]]
        assert masked.tolist() == [i for i in candidates.tolist() if any(p[1:] == (key, i) for p in pairs)]


@pytest.mark.parametrize("batch_size", [1, 7, 100, 1000])
def test_an_epoch_visits_each_pair_once(batch_size):
    pairs = [(n % 5, n % 3, n % 8) for n in range(100)]
    epochs = Epochs(log_of(pairs), batch_size, seed=3)
    drafts = list(epochs.drafts(0))
    assert len(drafts) == epochs.batches == -(-100 // batch_size)
    assert all(len(part.pair_rows) == batch_size for part in drafts[:-1])
    assert Counter(int(pair) for part in drafts for pair in part.pair_rows) == Counter(range(100))


def test_the_pairs_of_a_key_are_dealt_to_some_batches():
    """Anew in each epoch, each pair once; those of a key in one part follow each other."""
    pairs = [(0, n % 6, n) for n in range(120)]
    epochs = Epochs(log_of(pairs), 20, seed=3, parts=2)
    dealt = []
    for epoch in range(2):
        order = epochs.order(epoch)
        assert sorted(order.tolist()) == list(range(120))
        keys = order % 6
        runs = np.split(order, 1 + np.flatnonzero(np.diff(keys)))
        assert len(runs) <= 12  # six keys, two parts; neighbours of one key may touch
        dealt.append({frozenset(run.tolist()) for run in runs})
    assert dealt[0] != dealt[1]
    part = next(epochs.drafts(0))
    assert len(part.query_rows) < 6 and len(part.pair_rows) == 20


def test_a_batch_depends_on_seed_epoch_and_number_alone():
    pairs = [(n % 5, n % 3, n % 8) for n in range(60)]

    def number(seed, epoch, start):
        return next(Epochs(log_of(pairs), 8, seed).drafts(epoch, start)).pair_rows.tolist()

    straight = [part.pair_rows.tolist() for part in Epochs(log_of(pairs), 8, 1).drafts(2)]
    assert straight == [number(1, 2, n) for n in range(8)]
    assert len({str(number(*where)) for where in [(1, 2, 0), (1, 3, 0), (2, 2, 0), (2, 1, 0)]}) == 4


@given(PAIRS, st.sets(st.integers(0, 9)), st.lists(st.sets(st.integers(0, 11), max_size=3), min_size=3, max_size=3), st.randoms())
def test_what_a_key_turned_down_joins_the_candidates(pairs, extra, refused, random):
    chosen = random.sample(range(len(pairs)), random.randint(1, len(pairs)))
    part = draft(log_of(pairs), np.array(chosen, np.int64))
    candidates = np.array(sorted({*part.item_rows.tolist(), *extra}), np.int64)
    log_prob = -np.arange(1, len(candidates) + 1, dtype=np.float32)
    rejected = ragged([sorted(refused[key]) for key in part.query_keys])
    batch = complete(part, candidates, log_prob, known_of(pairs), rejected)
    added = {item for key in part.query_keys for item in refused[key]} - set(candidates.tolist())
    assert batch.item_rows.tolist() == sorted({*candidates.tolist(), *added})
    assert set(batch.item_rows[batch.alone].tolist()) == added
    told = dict(zip(batch.item_rows.tolist(), batch.log_prob.tolist(), strict=True))
    assert told == {**dict(zip(candidates.tolist(), log_prob.tolist(), strict=True)), **dict.fromkeys(added, 0.0)}
    assert batch.log_prob.dtype == np.float32 and batch.item_rows.dtype == np.int64
    plain = complete(part, candidates, log_prob, known_of(pairs))
    for n, key in enumerate(part.query_keys):
        span = slice(batch.negatives.offsets[n], batch.negatives.offsets[n + 1])
        assert batch.item_rows[batch.negatives.values[span]].tolist() == sorted(refused[key])
        view = slice(part.offsets[n], part.offsets[n + 1])
        assert batch.item_rows[batch.positives.positions[view]].tolist() == plain.item_rows[plain.positives.positions[view]].tolist()
    assert not plain.alone.any() and len(plain.negatives.values) == 0 and len(plain.negatives.offsets) == len(part.query_keys) + 1
