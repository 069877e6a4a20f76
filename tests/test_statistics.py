"""Intervals and tests: coverage in a planted world, exact enumeration, and what must not change them."""

import time
from itertools import product
from statistics import NormalDist

import numpy as np
import pytest

from twotower.errors import ConfigError, DataError
from twotower.learning.statistics import interval, paired_test


def generator(seed=0):
    return np.random.default_rng(seed)


def test_the_interval_of_many_values_is_the_normal_one():
    values = generator().exponential(size=2000)
    found = interval(values, confidence=0.9, resamples=4000, generator=generator(1))
    half = NormalDist().inv_cdf(0.95) * values.std() / np.sqrt(2000)
    assert found.value == pytest.approx(values.mean())
    assert float(found.value - found.low) == pytest.approx(half, rel=0.1)
    assert float(found.high - found.value) == pytest.approx(half, rel=0.1)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    covered = 0
    for seed in range(400):
        values = generator(seed).random(80) < 0.3
        found = interval(values, confidence=0.8, resamples=200, generator=generator(seed + 9999))
        covered += bool(found.low <= 0.3 <= found.high)
    assert 0.72 < covered / 400 < 0.88


def test_metrics_share_their_resamples_and_keep_their_shapes():
    values = generator().random((50, 3))
    together = interval(values, generator=generator(1))
    alone = interval(values[:, 1], generator=generator(1))
    assert together.value.shape == together.low.shape == (3,) and alone.low.shape == ()
    assert together.low[1] == pytest.approx(alone.low) and together.high[1] == pytest.approx(alone.high)
    doubled = interval(np.stack([values[:, 0], 2 * values[:, 0]], axis=1), generator=generator(2))
    assert doubled.high[1] == pytest.approx(2 * doubled.high[0])


def test_same_seed_same_bytes():
    values = generator().random((40, 2))
    first, again, other = (interval(values, generator=generator(seed)) for seed in (3, 3, 4))
    assert [array.tobytes() for array in first] == [array.tobytes() for array in again]
    assert first.low.tobytes() != other.low.tobytes()


def test_groups_are_drawn_as_a_whole():
    # Forty users with 25 equal values each are forty observations, not a thousand.
    users = generator().random(40)
    users = np.repeat(users, 25)
    names = np.repeat([f"user {number}" for number in range(40)], 25)
    kept = interval(users, groups=names, resamples=4000, generator=generator(1))
    apart = interval(users, resamples=4000, generator=generator(1))
    assert kept.value == pytest.approx(apart.value)
    assert float(kept.high - kept.low) == pytest.approx(5 * float(apart.high - apart.low), rel=0.1)


def test_groups_of_one_and_weights_of_one_change_nothing():
    values = generator().random(30)
    plain = interval(values, generator=generator(1))
    assert interval(values, groups=np.arange(30), generator=generator(1)) == plain
    assert interval(values, weights=np.ones(30), generator=generator(1)) == plain


def test_weights():
    values, weights = np.array([1.0, 0.0, 5.0]), np.array([3.0, 1.0, 0.0])
    assert interval(values, weights=weights, generator=generator()).value == pytest.approx(0.75)
    grouped = interval(values, weights=weights, groups=np.array([7, 7, 8]), generator=generator())
    assert (grouped.value, grouped.low, grouped.high) == pytest.approx((0.75, 0.75, 0.75))


def test_the_p_value_is_that_of_all_swaps():
    a, b = generator(7).integers(0, 5, (2, 10)) / 4
    sums = np.array([np.dot(signs, a - b) for signs in product([-1, 1], repeat=10)])
    exact = (np.abs(sums) >= abs((a - b).sum()) - 1e-9).mean()
    found = paired_test(a, b, resamples=40_000, generator=generator(1))
    assert 0.05 < exact < 0.95
    assert float(found.p_value) == pytest.approx(exact, abs=0.012)
    assert found.difference == pytest.approx((a - b).mean())
    assert found.low < found.difference < found.high


def test_p_values_of_no_difference_are_uniform():
    p_values = []
    for seed in range(400):
        a, b = generator(seed).random((2, 30))
        p_values.append(float(paired_test(a, b, resamples=200, generator=generator(seed + 9999)).p_value))
    for level in (0.1, 0.3, 0.5, 0.9):
        assert np.mean(np.array(p_values) <= level) == pytest.approx(level, abs=0.08)


def test_the_test_is_two_sided_and_sees_a_clear_difference():
    a = generator().random(200)
    better = paired_test(a + 0.1, a + 0.02 * generator(1).random(200), resamples=999, generator=generator(2))
    worse = paired_test(a, a + 0.1, resamples=999, generator=generator(2))
    assert better.p_value == worse.p_value == pytest.approx(1 / 1000)
    assert better.low > 0 > worse.high
    same = paired_test(a, a, generator=generator(2))
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_groups_make_the_test_more_careful():
    differences = np.repeat(generator(0).normal(0.5, 1, 12), 30)
    apart = paired_test(differences, np.zeros(360), generator=generator(1))
    kept = paired_test(differences, np.zeros(360), groups=np.repeat(np.arange(12), 30), generator=generator(1))
    assert apart.p_value < 0.001 < 0.01 < kept.p_value


def test_many_metrics_are_tested_at_once():
    a, b = generator().random((2, 60, 3))
    together = paired_test(a, b, generator=generator(1))
    assert together.p_value.shape == together.low.shape == (3,)
    assert together.p_value[2] == pytest.approx(paired_test(a[:, 2], b[:, 2], generator=generator(1)).p_value)


def test_one_query_has_an_interval_of_no_width():
    found = interval(np.array([0.4]), generator=generator())
    assert (found.value, found.low, found.high) == pytest.approx((0.4, 0.4, 0.4))
    assert paired_test(np.array([1.0]), np.array([0.0]), generator=generator()).p_value == 1


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (np.array([]), {}),
        (np.array([1.0, np.nan]), {}),
        (np.array([1.0, 2.0]), {"weights": np.array([1.0, -1.0])}),
        (np.array([1.0, 2.0]), {"weights": np.zeros(2)}),
        (np.array([1.0, 2.0]), {"weights": np.ones(3)}),
        (np.array([1.0, 2.0]), {"groups": np.zeros(3)}),
    ],
)
def test_values_that_have_no_mean_raise(values, options):
    with pytest.raises(DataError):
        interval(values, generator=generator(), **options)


def test_options_that_cannot_be_meant_raise():
    for options in ({"confidence": 95}, {"confidence": 0}, {"resamples": 0}):
        with pytest.raises(ConfigError):
            interval(np.ones(3), generator=generator(), **options)
    with pytest.raises(DataError, match="same queries"):
        paired_test(np.ones(3), np.ones(4), generator=generator())


def test_three_thousand_queries_are_quick():
    values = generator().random((3000, 8))
    start = time.perf_counter()
    interval(values, generator=generator(1))
    assert time.perf_counter() - start < 2  # some 0.05 s on an idle machine
