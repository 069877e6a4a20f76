"""How far two samples lie apart: against published numbers, brute force, and how often luck alone would cry wolf."""

import math

import numpy as np
import pytest

from twotower.learning.shifts import Cloud, Histogram, difference, histogram, needed, shift, told_apart
from twotower.learning.statistics import Interval


def wilson(hits, n, z=1.959964):
    """The score interval of a share (Wilson 1927)."""
    share, middle = hits / n, (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(n * share * (1 - share) + z * z / 4)
    return Interval(np.asarray(share), np.asarray(middle - half), np.asarray(middle + half))


@pytest.mark.parametrize(
    ("new", "old", "low", "high"),
    [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090), ((10, 10), (0, 20), 0.6791, 1.0)],
)
def test_a_difference_is_the_published_one(new, old, low, high):
    """Of two shares with their score intervals: method 10 of Newcombe (1998), table II."""
    found = difference(wilson(*old), wilson(*new))
    assert float(found.value) == pytest.approx(new[0] / new[1] - old[0] / old[1])
    assert [float(found.low), float(found.high)] == pytest.approx([low, high], abs=1e-4)


def test_as_many_pairs_as_are_needed_show_a_fall_four_times_in_five():
    generator, fall, share = np.random.default_rng(0), 0.1, 0.5
    old, few = wilson(2000, 4000), wilson(50, 100)
    n = needed(old, few, fall, 100)
    seen = [difference(old, wilson(int(generator.binomial(n, share - fall)), n)).high < 0 for _ in range(2000)]
    assert n > 100 and 0.76 < np.mean(seen) < 0.86
    assert needed(wilson(5, 10), few, 0.01, 100) is None and needed(old, Interval(*(np.asarray(1.0) for _ in range(3))), fall, 100) is None


def by_hand(bins, weights, keys, n_bins):
    """The effective number, key by key and bin by bin."""
    total, names = weights.sum(), np.unique(keys)
    shares = np.array([weights[bins == b].sum() / total for b in range(n_bins)])
    between = 0.0
    for key in names:
        own = weights[keys == key].sum()
        between += sum((weights[(keys == key) & (bins == b)].sum() - shares[b] * own) ** 2 for b in range(n_bins))
    variance = between / total**2 * len(names) / (len(names) - 1)
    return (shares * (1 - shares)).sum() / variance


def test_an_effective_number_is_that_of_independent_rows():
    generator = np.random.default_rng(1)
    keys, bins = generator.integers(0, 40, 300), generator.integers(0, 5, 300)
    bins = np.where(generator.random(300) < 0.6, keys % 5, bins)
    weights = generator.integers(1, 4, 300).astype(float)
    found = histogram(bins, weights, keys, 6)
    assert found.counts.tolist() == [float(weights[bins == b].sum()) for b in range(6)]
    assert found.effective == pytest.approx(by_hand(bins, weights, keys, 6))
    alone = histogram(np.repeat(np.arange(50) % 4, 10), np.ones(500), np.repeat(np.arange(50), 10), 4)
    assert alone.effective == pytest.approx(50, rel=0.03)  # ten equal rows of a key are one
    assert histogram(bins, weights, np.zeros(300, int), 6).effective == 1
    assert histogram(np.zeros(30, int), np.ones(30), np.arange(30), 3).effective == 30
    assert histogram(bins, np.ones(300), np.arange(300), 6).effective <= 300


def drawn(generator, keys, favourites=None):
    """Rows of so many keys, of very different activity, that mostly stay at a bin of their own."""
    sizes = generator.geometric(0.1, keys)
    own = generator.integers(0, 6, keys) if favourites is None else generator.choice(6, keys, p=favourites)
    names = np.repeat(np.arange(keys), sizes)
    return np.where(generator.random(len(names)) < 0.7, own[names], generator.integers(0, 6, len(names))), names


def test_luck_cries_wolf_one_time_in_twenty_whatever_keys_do():
    generator = np.random.default_rng(2)
    cried, naive = [], []
    for _ in range(200):
        old, new = (histogram(bins, np.ones(len(bins)), keys, 6) for bins, keys in (drawn(generator, 300), drawn(generator, 60)))
        cried.append(shift(old, new, generator).p_value < 0.05)
        alone = [Histogram(each.counts, float(each.counts.sum())) for each in (old, new)]
        naive.append(shift(*alone, generator).p_value < 0.05)
    assert np.mean(cried) < 0.11 and np.mean(naive) > 0.5


def test_a_shift_is_found_and_measured():
    generator = np.random.default_rng(3)
    old = histogram(*(lambda bins, keys: (bins, np.ones(len(bins)), keys))(*drawn(generator, 300)), 6)
    new = histogram(*(lambda bins, keys: (bins, np.ones(len(bins)), keys))(*drawn(generator, 200, [0.6, 0.2, 0.05, 0.05, 0.05, 0.05])), 6)
    found = shift(old, new, generator)
    assert found.distance == pytest.approx(np.abs(old.shares - new.shares).sum() / 2) and found.p_value < 0.01 and found.distance > found.floor
    assert found.bin == 0
    plain = shift(Histogram(np.array([50.0, 50.0]), 100), Histogram(np.array([75.0, 25.0]), 100), generator)
    smooth = [(50.5 / 101, 75.5 / 101), (50.5 / 101, 25.5 / 101)]
    assert plain.stability == pytest.approx(sum((b - a) * math.log(b / a) for a, b in smooth)) and plain.distance == 0.25
    same = shift(old, old, generator)
    assert same.distance == 0 and same.p_value == 1 and same.stability == 0


def vectors_of(generator, users, chosen, moved=0.0):
    """Queries near the vectors of those who ask, whose names are the same whenever they ask."""
    vectors = users[chosen] + 0.3 * generator.normal(size=(len(chosen), users.shape[1]))
    vectors[:, 0] += moved
    names = np.random.default_rng(9).permutation(np.arange(1, 5001, dtype=np.uint64))
    return Cloud(vectors.astype(np.float32), np.ones(len(chosen)), names[chosen])


def test_queries_are_told_apart_where_they_have_moved_and_only_there():
    generator = np.random.default_rng(4)
    above, found = [], None
    for _ in range(25):
        users = generator.normal(size=(600, 24))
        clouds = [vectors_of(generator, users, generator.choice(who, n)) for who, n in ((np.arange(400), 800), (np.arange(200, 600), 400))]
        found = told_apart(*clouds)
        above.append(found.low > 0.5)
    assert np.mean(above) < 0.17 and 0.4 < found.value < 0.6
    moved = vectors_of(generator, users, generator.choice(np.arange(200, 600), 400), moved=1.0)
    assert told_apart(clouds[0], moved).low > 0.6


def test_the_same_people_are_alike_and_not_below_luck():
    """Who asked at launch and asks again is in one fold, else a line that knows the one from the other would be wrong about them."""
    generator = np.random.default_rng(5)
    users = generator.normal(size=(200, 40))
    clouds = [Cloud(users.astype(np.float32), np.ones(200), np.arange(200, dtype=np.uint64) * np.uint64(7919)) for _ in range(2)]
    assert float(told_apart(*clouds).value) == pytest.approx(0.5, abs=1e-9)


def test_an_area_counts_pairs():
    from twotower.learning.shifts import _areas

    generator = np.random.default_rng(6)
    old, new = generator.integers(0, 5, 30).astype(float), generator.integers(1, 6, 20).astype(float)
    a, b = generator.random(30), generator.random(20)
    wanted = sum(a[i] * b[j] * ((new[j] > old[i]) + 0.5 * (new[j] == old[i])) for i in range(30) for j in range(20)) / (a.sum() * b.sum())
    assert _areas(old, new, [a], [b])[0] == pytest.approx(wanted)


def test_too_few_keys_say_nothing():
    generator = np.random.default_rng(7)
    users = generator.normal(size=(50, 8))
    assert told_apart(*(vectors_of(generator, users, generator.choice(29, n)) for n in (400, 400))) is None
