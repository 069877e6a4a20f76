"""Before there are data: what is shipped is whole, and what is said follows from it."""

import numpy as np
import pytest

from twotower.errors import ConfigError
from twotower.learning import growth
from twotower.learning.growth import Grown, grown, like


def test_what_is_shipped_is_whole():
    sets = grown()
    assert {one.kind for one in sets} == {"text", "interactions"} and len({one.name for one in sets}) == len(sets) >= 4
    for one in sets:
        pairs = [pairs for pairs, _ in one.points]
        assert pairs == sorted(set(pairs)) and len(pairs) >= 4 and one.items > 1 and one.about
        assert all(0 <= value <= 1 for _, value in one.points) and one.points[-1][1] == max(value for _, value in one.points)
        assert pairs[0] <= one.pairs_for(0.5) <= one.pairs_for(0.9) <= pairs[-1]


def test_shares_lie_between_the_points():
    one = Grown("a", "text", "", "hit@10", 100, [(100, 0.2), (1000, 0.4), (10_000, 0.8)])
    assert one.pairs_for(0.5) == pytest.approx(1000) and one.pairs_for(0.75) == pytest.approx(np.sqrt(1000 * 10_000))
    assert one.pairs_for(0.01) == pytest.approx(100)  # no smaller part was tried
    assert one.took_fewer(0.01) and one.took_fewer(0.25) and not one.took_fewer(0.26)


def test_pairs_grow_with_the_items(monkeypatch):
    sets = [Grown(f"{n}", "text", "", "hit@10", items, [(items, 0.4), (10 * items, 0.8)]) for n, items in enumerate((100, 1000, 5000))]
    monkeypatch.setattr(growth, "grown", lambda kind: sets)
    found = like("text", 50_000)
    assert found.half == pytest.approx((50_000, 50_000, 50_000)) and found.most[0] > found.half[2]
    assert like("text", 100_000).half[1] == pytest.approx(2 * found.half[1])


def test_what_is_not_known_is_refused(typed):
    with pytest.raises(ConfigError, match="interactions, text"):
        like("images", 100)
    with pytest.raises(ConfigError, match="how many"):
        like("text", 1)
    for words, told in (
        (["--like", "text"], "--items"),
        (["c.toml", "--like", "text", "--items", 100], "before there are data"),
        (["--items", 100], "takes a config"),
        ([], "takes a config"),
        (["--like", "text", "--items", 100, "--target", 0.5], "trains nothing"),
        (["--like", "text", "--items", 100, "-o", "f"], "trains nothing"),
        (["--like", "text", "--items", 100, "--set", "train.epochs=1"], "trains nothing"),
        (["--like", "pictures", "--items", 100], "text"),
    ):
        code, out, err = typed("forecast", *words)
        assert code == 2 and told in err and out == "" and "Traceback" not in err


def test_the_verb_says_an_order_of_magnitude_and_where_it_is_from(typed, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    code, out, _ = typed("forecast", "--like", "text", "--items", 50_000)
    assert code == 0 and "For 50,000 items" in out and "tldr" in out and "goodbooks" not in out
    assert "at most 1.8" in out and "may be lower too" in out  # the smallest part of banking77 had more than half
    code, out, _ = typed("forecast", "--like", "interactions", "--items", 50_000, "--json")
    assert code == 0 and "goodbooks" in out
