"""How items lie: a map that keeps neighbours near, and what the nearest have in common."""

import numpy as np
import pyarrow as pa
import pytest

from twotower.data.features import Categories, Category
from twotower.learning.projection import _neighbourhoods, _slope, kept, nearest, plane
from twotower.learning.space import grouped, sampled


def planted(groups=6, each=40, wide=16, spread=0.15, seed=0):
    """Vectors around as many centres, and the centre of each."""
    generator = np.random.default_rng(seed)
    of = np.repeat(np.arange(groups), each)
    vectors = generator.standard_normal((groups, wide))[of] + spread * generator.standard_normal((len(of), wide))
    order = generator.permutation(len(of))
    return vectors[order].astype(np.float32), of[order]


def test_the_slope_is_that_of_the_divergence():
    vectors, _ = planted(groups=3, each=7)
    wanted = _neighbourhoods(vectors, 5.0)
    places = np.random.default_rng(1).standard_normal((len(vectors), 2))

    def divergence(at):  # of the paper, equation 5, written out
        close = 1 / (1 + ((at[:, None] - at[None]) ** 2).sum(axis=2))
        np.fill_diagonal(close, 0)
        here = close / close.sum()
        some = wanted > 0
        return float((wanted[some] * np.log(wanted[some] / here[some])).sum())

    found = _slope(wanted, places.astype(np.float32))
    for point, axis in ((0, 0), (5, 1), (20, 0)):
        there, step = np.zeros_like(places), 1e-4
        there[point, axis] = step
        assert found[point, axis] == pytest.approx((divergence(places + there) - divergence(places - there)) / (2 * step), abs=1e-4)


def test_neighbourhoods_are_as_wide_as_asked():
    vectors, _ = planted(spread=1.0)
    wanted = _neighbourhoods(vectors, 12.0)
    assert wanted.sum() == pytest.approx(1, abs=1e-4) and (wanted == wanted.T).all() and not wanted.diagonal().any()
    # Of one row before the two directions are added up there is no trace; the sum is at least as wide, and not by far.
    rows = wanted / wanted.sum(axis=1, keepdims=True)
    width = np.exp(-(rows * np.log(np.maximum(rows, 1e-30))).sum(axis=1))
    assert 10 < np.median(width) < 20


def test_what_is_near_in_the_space_is_near_on_the_map():
    vectors, of = planted()
    places = plane(vectors)
    near = nearest(-((vectors[:, None] - vectors[None]) ** 2).sum(axis=2), 10)
    there = nearest(-((places[:, None] - places[None]) ** 2).sum(axis=2), 10)
    assert (of[there] == of[:, None]).mean() > 0.99
    by_directions = plane(vectors, iterations=0)
    assert kept(near, places) > kept(near, by_directions) + 0.1 and kept(near, places) > 0.4
    assert plane(vectors).tobytes() == places.tobytes()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 21])
def test_few_points_and_equal_ones_have_places_too(n):
    assert np.isfinite(plane(np.ones((n, 8), np.float32))).all()
    assert np.isfinite(plane(np.eye(n, 8, dtype=np.float32))).all() and plane(np.eye(n, 1, dtype=np.float32)).shape == (n, 2)


def test_kept_by_hand():
    line = np.arange(6, dtype=np.float32)[:, None]
    near = nearest(-((line - line.T) ** 2), 1)
    assert kept(near, np.concatenate([3 * line, 0 * line], axis=1)) == 1.0
    # 0 and 1 change places with 4 and 5: of six points 2 and 3 alone, next to each other still, keep theirs.
    moved = np.array([[50.0, 0], [90, 0], [20, 0], [21, 0], [0, 0], [10, 0]], np.float32)
    assert kept(np.array([[1], [0], [3], [2], [5], [4]]), moved) == pytest.approx(4 / 6)


def items(**columns):
    return pa.table({"_id": [str(n) for n in range(len(next(iter(columns.values()))))], **columns})


def test_the_column_that_the_space_parts_best_is_taken():
    vectors, of = planted(groups=4, each=30)
    by_lot = np.random.default_rng(3).permutation(of)
    table = items(lot=[f"l{n}" for n in by_lot], kind=[f"k{n}" for n in of], text=[f"t{n}" for n in of])
    sample = sampled(vectors)
    found = grouped(sample, table, [Category(column="lot"), Category(column="kind")])
    assert found.by == "kind" and sorted(found.names) == ["k0", "k1", "k2", "k3"]
    assert found.alike > 0.99 and found.chance == pytest.approx(29 / 119) and found.parted > 0.98
    assert [found.names[group] for group in found.of] == [f"k{n}" for n in of[sample.rows]]
    worse = grouped(sample, table, [Category(column="lot")])
    assert abs(worse.parted) < 0.1 and worse.alike == pytest.approx(worse.chance, abs=0.08)
    assert grouped(sample, table, []) is None


def test_rare_values_and_none_are_the_rest():
    vectors, _ = planted(groups=10, each=20)
    values = [f"k{n // 18}" for n in range(180)] + [None] * 15 + ["rare"] * 5
    sample = sampled(vectors)
    found = grouped(sample, items(kind=values), [Category(column="kind")])
    assert len(found.names) == 8  # of the ten that are large enough
    for row, group in zip(sample.rows, found.of, strict=True):
        assert (found.names[group] if group < 8 else "rest") == (values[row] if values[row] in found.names else "rest")
    assert found.values[list(sample.rows).index(199)] == "rare" and found.values[list(sample.rows).index(185)] == ""


def test_an_item_of_several_values_is_of_the_rarest():
    vectors, of = planted(groups=2, each=40)
    listed = [["all", "war"] if n else ["all"] for n in of]
    sample = sampled(vectors)
    for column, feature in (
        (listed, Categories(column="tags")),
        (["|".join(each) for each in listed], Categories(column="tags")),
        ([dict.fromkeys(each, 0.5) for each in listed], Categories(column="tags", pool="weighted")),
    ):
        column = (
            pa.array([[(k, v) for k, v in each.items()] for each in column], pa.map_(pa.string(), pa.float64()))
            if isinstance(column[0], dict)
            else column
        )
        found = grouped(sample, items(tags=column), [feature])
        assert [found.names[group] for group in found.of] == ["war" if of[row] else "all" for row in sample.rows]
        assert found.alike > 0.99


def test_a_sample_holds_what_has_a_vector():
    vectors = np.random.default_rng(0).standard_normal((5000, 4)).astype(np.float32)
    vectors[::2] = 0
    sample = sampled(vectors)
    assert len(sample.rows) == len(set(sample.rows.tolist())) <= 1200 and len(sample.rows) > 1100 and (sample.rows % 2 == 1).all()
    assert np.allclose(np.linalg.norm(sample.vectors, axis=1), 1)
    assert np.allclose(sample.vectors * np.linalg.norm(vectors[sample.rows], axis=1)[:, None], vectors[sample.rows], atol=1e-5)
    likeness = sample.vectors[7] @ sample.vectors.T
    assert set(sample.near[7]) == set(np.argsort(-likeness)[1:11])
    assert sampled(vectors[:30]) is None and (sampled(vectors).rows == sample.rows).all()
