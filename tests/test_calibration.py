"""Probabilities: where similarities are made by a known law the law is found, and what is said holds."""

import json
from itertools import pairwise

import numpy as np
import pyarrow.csv as csv
import pytest

from twotower.bundle import load
from twotower.data.columns import Ragged
from twotower.data.splits import TEST
from twotower.errors import ConfigError
from twotower.learning.evaluation import Cases, cases_of
from twotower.runs.certainty import fitting
from twotower.runs.held import held_of
from twotower.runs.measuring import Asked
from twotower.search.calibration import error, fit, probability
from twotower.search.thresholds import fits


def test_the_curve_that_made_the_matches_is_found():
    generator = np.random.default_rng(0)
    scores = generator.normal(0.3, 0.4, 200_000)
    matches = generator.random(len(scores)) < 1 / (1 + np.exp(-(6 * scores - 2)))
    slope, intercept = fit(scores, matches)
    assert slope == pytest.approx(6, rel=0.02)
    # Matches and others count for half each, which shifts the curve by the logit of their share.
    share = matches.mean()
    assert intercept == pytest.approx(-2 - np.log(share / (1 - share)), abs=0.05)
    assert error(probability(scores, slope, intercept, share), matches) < 0.005
    assert error(probability(scores, slope, intercept, 0.2), matches) > 0.1  # a wrong prior


@pytest.mark.parametrize("scores", [np.array([0.9, 0.8, 0.1, 0.2]), np.array([0.5, 0.5, 0.5, 0.5]), np.array([0.9, 0.1])], ids=str)
def test_scores_that_part_all_or_nothing_give_a_finite_curve(scores):
    matches = np.arange(len(scores)) < len(scores) / 2
    slope, intercept = fit(scores, matches)
    assert np.isfinite([slope, intercept]).all()
    told = probability(scores, slope, intercept)
    assert (told[matches] >= told[~matches]).all() and ((told > 0) & (told < 1)).all()


def test_a_prior_moves_every_probability():
    scores = np.array([-1.0, 0.0, 1.0, np.nan])
    half, rare = probability(scores, 2.0, 0.0), probability(scores, 2.0, 0.0, 0.01)
    np.testing.assert_allclose(half[:3], [0.1192, 0.5, 0.8808], atol=1e-4)
    np.testing.assert_allclose(rare[:3] / (1 - rare[:3]), half[:3] / (1 - half[:3]) / 99)
    assert np.isnan(half[3])
    for prior in (0, 1, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="share of matches"):
            probability(scores, 1.0, 0.0, prior)


def test_the_error_is_the_mean_distance_in_bins():
    probabilities, matches = np.repeat([0.2, 0.9], 50), np.arange(100) % 2 == 0
    assert error(probabilities, matches) == pytest.approx((0.3 + 0.4) / 2, abs=0.05)
    assert error(np.array([0.7]), np.array([True])) == pytest.approx(0.3)


# --- when to answer nothing -------------------------------------------------------------------------------------------


def counted(scores, relevant, threshold):
    """Coverage, precision and the number of answers, one query after the other."""
    answered = [right for score, right in zip(scores.tolist(), relevant.tolist(), strict=True) if score >= threshold]
    return len(answered) / len(scores), sum(answered) / max(1, len(answered)), len(answered)


def agrees_with_a_count(found, scores, relevant):
    """Every point, and for every precision each threshold that there might have been."""
    for threshold, coverage, precision in found.points:
        assert (coverage, precision) == pytest.approx(counted(scores, relevant, threshold)[:2])
    assert [wanted for wanted, *_ in found.reached] == [0.5, 0.8, 0.9, 0.95]
    possible = sorted({score for score in scores.tolist() if score > -np.inf})
    for wanted, threshold, coverage, _ in found.reached:
        enough = [t for t in possible if counted(scores, relevant, t)[1] >= wanted and counted(scores, relevant, t)[2] >= 30]
        assert threshold == (enough[0] if enough else None)
        assert coverage == (pytest.approx(counted(scores, relevant, threshold)[0]) if enough else None)


@pytest.mark.parametrize("digits", [7, 1])  # with 1 most scores are shared
@pytest.mark.parametrize("steepness", [0, 3, 20])
def test_thresholds_are_those_of_a_count(digits, steepness):
    generator = np.random.default_rng(steepness)
    scores = generator.uniform(-0.2, 1, 600).round(digits).astype(np.float32)
    relevant = generator.random(600) < 1 / (1 + np.exp(-steepness * (scores - 0.5)))
    scores[:60] = -np.inf  # which found nothing
    found = fits(scores, relevant & (scores > -np.inf))
    agrees_with_a_count(found, scores, relevant)
    coverages = [coverage for _, coverage, _ in found.points]
    assert found.queries == 600 and coverages == sorted(set(coverages)) and coverages[-1] == pytest.approx(0.9)
    if digits == 7:
        assert coverages == pytest.approx(np.arange(1, 21) * 0.9 / 20, abs=1 / 600)
    assert (found.reached[3].threshold is None) == (steepness < 20)


def test_few_answers_tell_no_precision():
    scores = np.arange(100, dtype=np.float32)
    assert fits(scores, scores >= 71).reached[3].threshold == pytest.approx(70)  # 29 of 30
    assert fits(scores, scores >= 72).reached[3] == (0.95, None, None, None)  # 28 of 30, and 28 of 28 are too few
    assert fits(np.full(5, -np.inf), np.zeros(5, bool)) is None and fits(np.empty(0), np.empty(0, bool)) is None
    same = fits(np.full(40, 0.5, np.float32), np.arange(40) < 36)
    assert same.points == [(0.5, 1.0, 0.9)] and same.reached[2] == (0.9, 0.5, 1.0, None)


def test_a_threshold_is_tried_on_others():
    generator = np.random.default_rng(0)
    scores, others = generator.random((2, 400)).astype(np.float32)
    relevant, there = generator.random(400) < scores, generator.random(400) < others / 2
    found = fits(scores, relevant, (others, there))
    agrees_with_a_count(found, scores, relevant)
    assert found.reached[0].threshold is not None
    for wanted, threshold, _, tried in found.reached:
        if threshold is None or counted(others, there, threshold)[2] < 30:
            assert tried is None
        else:
            assert tried == pytest.approx((threshold, *counted(others, there, threshold)[:2])) and tried.precision < wanted
    few = fits(scores, relevant, (others[:20], there[:20]))
    assert [each.tried for each in few.reached] == [None] * 4 and few.points == found.points


def test_the_first_result_is_that_of_the_ranking():
    """What is left out is passed over, unless it is asked for; whose vector is 0 finds nothing."""
    items = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    queries = np.array([[1, 0], [1, 0], [1, 0], [0, 0]], np.float32)
    relevant = Ragged(np.array([0, 1, 0, 0]), np.arange(5))
    left_out = Ragged(np.array([0, 0, 1]), np.array([0, 0, 1, 3, 3]))  # nothing; the best; the best, which is asked for, and the next; nothing
    found = fitting(Asked(Cases(np.arange(4), np.arange(4), relevant, left_out), queries, [""] * 4), None, items)
    assert found.queries == 4
    assert found.points == [(pytest.approx(1.0), 0.5, 1.0), (pytest.approx(0.8), 0.75, 1.0)]
    last = Cases(np.arange(4), np.arange(4), Ragged(np.full(4, 2), np.arange(5)), left_out)
    found = fitting(Asked(last, queries, [""] * 4), None, items)
    np.testing.assert_allclose(found.points, [(1, 0.25, 0), (0.8, 0.5, 0), (0, 0.75, 1 / 3)], rtol=1e-6)


def test_a_run_tells_what_thresholds_come_to(world_run):
    held, retriever = held_of(world_run, "look"), world_run.retriever
    questions = held.prepared.queries.column("asked").take(held.asked.query_rows).to_pylist()
    first = retriever.search(questions, k=1, mode="vectors")
    right = retriever.items.column("_id").take(held.asked.relevant.values).to_pylist()
    relevant = first.ids[:, 0] == np.array(right, object)
    told = world_run.metrics["fits"]
    assert told["queries"] == len(questions) == world_run.metrics["calibration"]["matches"] and len(told["points"]) > 10
    for threshold, coverage, precision in map(dict.values, told["points"]):
        assert (coverage, precision) == pytest.approx(counted(first.scores[:, 0], relevant, threshold - 1e-5)[:2])
    for wanted, threshold, coverage, _ in map(dict.values, told["reached"]):
        kept = retriever.search(questions, k=1, mode="vectors", threshold=threshold - 1e-5).rows[:, 0] >= 0
        assert kept.mean() == pytest.approx(coverage) and relevant[kept].mean() >= wanted


def test_a_run_tries_its_thresholds_on_the_test(world_run):
    held, retriever = held_of(world_run, "look"), world_run.retriever
    cases = cases_of(held.prepared, TEST, held.chosen.evaluate, None)
    questions = held.prepared.queries.column("asked").take(cases.query_rows).to_pylist()
    found = retriever.search(questions, k=len(retriever), mode="vectors")
    if cases.excluded is not None:
        for query, (start, end) in enumerate(pairwise(cases.excluded.offsets.tolist())):
            left_out = np.setdiff1d(cases.excluded.values[start:end], cases.relevant.values[query])
            found.scores[query][np.isin(found.rows[query], left_out)] = -np.inf
    first = found.scores.argmax(axis=1)
    scores, rows = (np.take_along_axis(part, first[:, None], axis=1)[:, 0] for part in (found.scores, found.rows))
    relevant = rows == cases.relevant.values
    for row in world_run.metrics["fits"]["reached"]:
        kept = scores >= row["threshold"] - 1e-5
        assert row["tried"] == pytest.approx({"threshold": row["threshold"], "coverage": kept.mean(), "precision": relevant[kept].mean()})


# --- a bundle ---------------------------------------------------------------------------------------------------------


def test_a_bundle_tells_how_likely_a_pair_matches(world_run, world):
    told = world_run.metrics["calibration"]
    assert told["matches"] == world_run.metrics["data"]["split"]["validation"] and told["slope"] > 0 and told["error"] < 0.2
    retriever = world_run.retriever
    pairs = world[0].to_pylist()
    asked, right = [pair["asked"] for pair in pairs], [pair["thing"] for pair in pairs]
    wrong = np.random.default_rng(1).permutation(right).tolist()
    matching, drawn = (retriever.probability(retriever.score(asked, items)) for items in (right, wrong))
    assert matching.mean() > 0.8 and drawn.mean() < 0.3
    assert (retriever.probability(retriever.score(asked, right), prior=0.01) < matching).all()


def test_score_writes_probabilities(world_run, world, typed, tmp_path):
    csv.write_csv(world[0].slice(0, 5), tmp_path / "pairs.csv")
    code, out, _ = typed("score", world_run.folder, "--pairs", tmp_path / "pairs.csv", "--probability", "--prior", 0.2)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(rows) == 5
    expected = world_run.retriever.probability(np.array([row["score"] for row in rows], np.float32), prior=0.2)
    assert [row["probability"] for row in rows] == pytest.approx(expected.tolist(), abs=1e-6)
    assert "probability" not in typed("score", world_run.folder, "--pairs", tmp_path / "pairs.csv")[1]
    for wrong, said in ((["--prior", 0.2], "--probability"), (["--probability", "--prior", 2], "share of matches")):
        code, _, err = typed("score", world_run.folder, "--pairs", tmp_path / "pairs.csv", *wrong)
        assert code == 2 and said in err


def test_a_bundle_of_before_has_no_probabilities():
    from pathlib import Path

    retriever = load(Path(__file__).parent / "data" / "bundle-1")
    with pytest.raises(ConfigError, match="no calibration"):
        retriever.probability(np.array([0.5]))
