"""The probability of an item to be a candidate: formulas against exact fractions and against epochs that are dealt, averages against streams."""

from fractions import Fraction
from math import comb, log

import numpy as np
import pytest

from twotower.data.batches import Epochs
from twotower.data.prepared import Log
from twotower.model.negatives import NEGATIVES, log_prob, sampler_state
from twotower.model.options import NegativesOptions
from twotower.model.probabilities import Meetings, Span, counts_of, log_absent, log_present, meetings, span


@pytest.mark.parametrize(("pairs", "drawn"), [(10, 3), (100, 8), (100, 95), (100, 100), (50, 1), (1000, 64), (7, 0)])
def test_no_pair_among_those_dealt_by_exact_fractions(pairs, drawn):
    counts = np.arange(pairs + 1)
    exact = np.array([log(Fraction(comb(pairs - k, drawn), comb(pairs, drawn))) if k <= pairs - drawn else -np.inf for k in counts.tolist()])
    found = log_absent(counts, pairs, drawn)
    assert (np.isneginf(found) == np.isneginf(exact)).all()
    there = np.isfinite(exact)
    assert found[there] == pytest.approx(exact[there], rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("pairs", [10**6, 10**9])
def test_a_large_log_loses_no_digits(pairs):
    """By the product form: an item of one pair in a thousand million has as many digits as any."""
    dealt = np.arange(pairs - 1023, pairs + 1, dtype=np.float64)
    for count in (1, 7, 1000, pairs // 2):
        assert log_absent(np.array([count]), pairs, 1024)[0] == pytest.approx(np.log1p(-count / dealt).sum(), rel=1e-9)
    assert log_present(log_absent(np.array([0, pairs]), pairs, 1024)).tolist() == [-np.inf, 0.0]


def test_a_span_counts_the_pairs_of_each_epoch():
    """Ten pairs in batches of four: 4, 4 and 2."""
    assert span(0, 0, 3, 10, 4) == Span((4,), 1)
    assert span(0, 2, 1, 10, 4) == Span((6,), 2)
    assert span(1, 0, 1, 10, 4) == Span((2, 4), 2)
    assert span(1, 1, 4, 10, 4) == Span((10, 8), 5)
    assert span(2, 0, 4, 10, 4) == Span((2, 10, 4), 5)


def log_of(keys, items):
    return Log(keys, keys, items, *np.ones((2, len(keys)), np.float32))


def worlds():
    generator = np.random.default_rng(0)
    popular = 1 / (1 + np.arange(30))
    keys = np.repeat(np.arange(40), 10)
    items = np.concatenate([generator.choice(30, 10, replace=False, p=popular / popular.sum()) for _ in range(40)])
    again = np.concatenate([generator.choice(30, 10, p=popular / popular.sum()) for _ in range(40)])  # an item comes back within a key
    return {
        "alone": (Epochs(log_of(keys, items), 48, 3), {}),
        "together": (Epochs(log_of(keys, items), 48, 3, parts=2), {"parts": 2}),
        "together, repeated": (Epochs(log_of(keys, again), 48, 3, parts=2), {"parts": 2}),
        "windows": (Epochs(log_of(keys, items), 48, 3, groups=keys), {"groups": keys}),
        "windows, repeated": (Epochs(log_of(keys, again), 48, 3, groups=keys), {"groups": keys}),
    }


@pytest.mark.parametrize("kept", [0, 3])
@pytest.mark.parametrize("name", worlds())
def test_formulas_hold_in_epochs_as_they_are_dealt(name, kept):
    """How often an item is among the last batches, by dealing many epochs; by independent pairs it would be told wrong."""
    epochs, given = worlds()[name]
    rows, share = epochs.log.item_rows, np.bincount(epochs.log.item_rows, minlength=30) / 400
    sampler = sampler_state(rows, 30, NegativesOptions(), keys=epochs.log.query_keys, batch_size=48, **given)
    met, told, independent, seen, last = np.zeros(30), np.zeros(30), np.zeros(30), 0, []
    for epoch in range(100):
        for number, part in enumerate(epochs.drafts(epoch)):
            last = [*last, np.bincount(part.item_rows, minlength=30) > 0][-kept - 1 :]
            over = span(epoch, number, kept, 400, 48)
            met += np.logical_or.reduce(last)
            told += np.exp(log_prob("in_batch", sampler, np.arange(30), over))
            independent += 1 - (1 - share) ** sum(over.pairs)
            seen += 1
    wrong, old = np.abs(met - told) / seen, np.abs(met - independent) / seen
    assert wrong.max() < 0.045 and wrong.mean() < 0.011 and old.mean() > 2 * wrong.mean()


def test_pairs_of_a_group_count_by_where_they_stand():
    groups, items = np.array([0, 0, 0, 0, 1, 1]), np.array([5, 5, 2, 5, 5, 2])
    counts = counts_of(items, 6, groups, None, 0, batch_size=10)
    assert counts.pieces.tolist() == [0, 0, 2, 0, 0, 2] and counts.spread.tolist() == [0, 0, 0, 0, 0, 3]  # 1 and 2 places apart
    assert (counts.units, counts.pairs) == (2, 6)
    assert counts_of(items, 6, None, None, 0, 10).pieces.tolist() == [0, 0, 2, 0, 0, 4]
    dealt = counts_of(items, 6, None, groups, 2, 10)
    assert dealt.pieces.tolist() == [0, 0, 2, 0, 0, 2 * (1 - 1 / 8) + 1]
    assert dealt.units == 2 * (1 - 1 / 16) + 2 * (1 - 1 / 4)
    # Of five groups of two pairs a batch of four pairs is two: one in two groups is absent from C(3, 2) of C(5, 2).
    even = counts_of(np.array([0, 1, 0, 2, 3, 3, 4, 5, 6, 7]), 8, np.repeat(np.arange(5), 2), None, 0, 4)
    assert np.exp(even.absent(np.array([0, 1, 3]), 4)) == pytest.approx([0.3, 0.6, 0.5], abs=0.06)
    assert np.exp(even.absent(np.array([0, 1]), 4)) == pytest.approx([0.3, 0.6])


# --- streaming ----------------------------------------------------------------------------------------------------


def stream(chances, steps, generator):
    """Which items [steps, items] each batch holds, by their chances [items] or [steps, items]."""
    return generator.random((steps, np.shape(chances)[-1])) < chances


def followed(state: Meetings, held, kept=0, begun=0):
    for now, row in enumerate(held, begun):
        state.note(np.flatnonzero(row), now, kept)
    return state


def test_intervals_of_a_made_stream_tell_its_probabilities():
    chances = np.array([0.9, 0.5, 0.2, 0.05, 0.02])
    wrong = np.full(5, np.log(0.3), np.float32)  # what it begins with is forgotten
    state = followed(meetings(wrong, wrong), stream(chances, 20_000, np.random.default_rng(0)))
    assert np.exp(state.log_prob(np.arange(5))) == pytest.approx(chances, rel=0.3)
    assert np.abs(np.log(chances) - state.log_prob(np.arange(5))).mean() < 0.12


def test_they_follow_a_stream_that_drifts():
    """The popular and the rare change places, and a formula of the whole log would still call them equal."""
    generator = np.random.default_rng(1)
    before, after = np.array([0.5, 0.02]), np.array([0.02, 0.5])
    state = followed(meetings(*np.log([before, before])), stream(before, 4_000, generator))
    assert np.exp(state.log_prob(np.arange(2))) == pytest.approx(before, rel=0.35)
    followed(state, stream(after, 8_000, generator), begun=4_000)
    assert np.exp(state.log_prob(np.arange(2))) == pytest.approx(after, rel=0.35)


@pytest.mark.parametrize("kept", [1, 5])
def test_with_a_memory_they_tell_how_long_an_item_stays(kept):
    """Also where meetings come in twos, which no formula of independent batches would tell."""
    generator = np.random.default_rng(2)
    first = stream(np.array([0.3, 0.05, 0.01]), 20_000, generator)
    held = first | np.roll(first, 1, axis=0)
    there = np.logical_or.reduce([np.roll(held, n, axis=0) for n in range(kept + 1)])[kept:].mean(axis=0)
    state = followed(meetings(*np.log(np.full((2, 3), 0.2))), held, kept)
    assert np.exp(state.log_prob(np.arange(3))) == pytest.approx(there, rel=0.35)
    assert (np.exp(state.log_prob(np.arange(3))) <= 1).all()


def test_an_item_that_is_never_met_has_no_probability(recwarn):
    met = meetings(np.array([-np.inf, np.log(0.25)]), np.array([-np.inf, np.log(0.25)]))
    assert met.log_prob(np.array([0, 1])) == pytest.approx([-np.inf, np.log(0.25)])
    assert not recwarn.list


def test_they_begin_with_the_formula():
    batch, there = np.log([0.5, 0.1, 0.0]), np.log([0.75, 0.3, 0.0])
    assert np.exp(meetings(batch, there).log_prob(np.arange(2))).tolist() == pytest.approx([0.75, 0.3])
    assert "in_batch" in NEGATIVES
