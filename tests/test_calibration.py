"""Probabilities: where similarities are made by a known law the law is found, and what is said holds."""

import json

import numpy as np
import pyarrow.csv as csv
import pytest

from twotower.bundle import load
from twotower.errors import ConfigError
from twotower.search.calibration import error, fit, probability


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
