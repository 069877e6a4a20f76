"""Curves of growth: intervals that hold what comes, and no forecast where there is no such curve."""

import numpy as np
import pytest

from twotower.learning import curves
from twotower.learning.curves import Forecast, fit, forecast, needed

SIZES = np.repeat([1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0], 3) * 1000


def value(size, ceiling=0.8, lack=0.3, rate=0.4):
    return ceiling - lack * (size / 1000) ** -rate


def test_a_planted_curve_is_found_again():
    generator = np.random.default_rng(0)
    curve = fit(SIZES, value(SIZES) + 0.0005 * generator.standard_normal(15), generator)
    assert curve.is_sound and (curve.smallest, curve.largest) == (62.5, 1000)
    for times in (1, 2, 4, 10):
        found = forecast(curve, times * 1000, generator)
        assert found.value == pytest.approx(value(times * 1000), abs=0.01) and found.low <= found.value <= found.high
    assert forecast(curve, 10_000, generator).high - forecast(curve, 10_000, generator).low > forecast(curve, 1000, generator).high - 0.5


@pytest.mark.parametrize("times", [2, 4, 10])
def test_intervals_hold_nine_in_ten_and_beat_a_line_and_no_change(times):
    """Random curves, noises and ceilings; a wrong sign, a noise left out or a fit without its doubt fails this."""
    generator = np.random.default_rng(times)
    held, off, same, line = [], [], [], []
    while len(held) < 200:
        ceiling, rate = generator.uniform(0.3, 0.95), generator.uniform(0.1, 0.9)
        lack, noise = generator.uniform(0.1, 0.6) * ceiling, generator.uniform(0.001, 0.008)
        values = value(SIZES, ceiling, lack, rate) + noise * generator.standard_normal(15)
        if values.min() < 0.02:
            continue
        curve = fit(SIZES, values, generator)
        if not curve.is_sound:
            continue
        found = forecast(curve, times * 1000, generator)
        truth = value(times * 1000, ceiling, lack, rate) + noise * generator.standard_normal()
        held.append(found.low <= truth <= found.high)
        off.append(abs(found.value - truth))
        same.append(abs(values[-3:].mean() - truth))
        line.append(abs(np.polyval(np.polyfit(np.log(SIZES), values, 1), np.log(times * 1000)) - truth))
    assert 0.78 <= np.mean(held) <= 0.98
    assert np.median(off) < min(np.median(same), np.median(line)) / 2


def test_the_farther_the_wider():
    generator = np.random.default_rng(1)
    curve = fit(SIZES, value(SIZES) + 0.004 * generator.standard_normal(15), generator)
    widths = [found.high - found.low for times in (1, 2, 5, 10) for found in [forecast(curve, times * 1000, generator)]]
    assert widths == sorted(widths) and widths[-1] > 1.5 * widths[0]


def test_what_a_target_takes():
    generator = np.random.default_rng(2)
    curve = fit(SIZES, value(SIZES) + 0.0003 * generator.standard_normal(15), generator)
    found = needed(curve, float(value(3000)))
    assert isinstance(found, Forecast) and found.low < 3100 and found.high > 2900 and found.value == pytest.approx(3000, rel=0.2)
    assert needed(curve, 0.95) is None  # beyond the ceiling
    flat = fit(SIZES, 0.5 + 0.001 * generator.standard_normal(15), generator)
    assert flat.is_sound and needed(flat, 0.6) is None and forecast(flat, 10_000, generator).value == pytest.approx(0.5, abs=0.01)


def test_what_is_no_such_curve_is_said():
    generator = np.random.default_rng(3)
    jumping = np.repeat([0.3, 0.6, 0.2, 0.7, 0.4], 3) + 0.002 * generator.standard_normal(15)
    assert not fit(SIZES, jumping, generator).is_sound
    falling = np.repeat([0.7, 0.6, 0.5, 0.4, 0.3], 3) + 0.002 * generator.standard_normal(15)
    assert not fit(SIZES, falling, generator).is_sound


def test_growth_that_still_gathers_speed_is_one_too():
    """As where most items have no pair yet: with each doubling it gains more than with the one before."""
    generator = np.random.default_rng(6)

    def grown(size):
        return 0.9 / (1 + 1.6 * (size / 1000) ** -0.6)

    gains = np.diff(grown(np.unique(SIZES)))
    assert (np.diff(gains) > 0).all()
    curve = fit(SIZES, grown(SIZES) + 0.003 * generator.standard_normal(15), generator)
    found = forecast(curve, 2000, generator)
    assert curve.is_sound and found.low < grown(2000) < found.high and found.value == pytest.approx(grown(2000), abs=0.01)


def test_a_size_at_which_nothing_is_learnt_is_left_out():
    generator = np.random.default_rng(4)
    values = value(SIZES) + 0.001 * generator.standard_normal(15)
    values[:3] = 0.01  # a curve would begin far higher
    curve = fit(SIZES, values, generator)
    assert curve.is_sound and curve.smallest == 125
    assert forecast(curve, 2000, generator).value == pytest.approx(value(2000), abs=0.02)


def test_too_few_sizes_are_refused():
    with pytest.raises(ValueError, match=f"needs {curves.FEWEST_SIZES} sizes"):
        fit(SIZES[:9], value(SIZES[:9]), np.random.default_rng(0))


def test_one_training_a_size_is_enough_for_a_wide_answer():
    generator = np.random.default_rng(5)
    one, three = (fit(sizes, value(sizes), generator) for sizes in (SIZES[::3], SIZES))
    assert one.is_sound and one.noise >= three.noise > 0
