"""What features are worth: a planted one everything, one that says nothing nothing, and the test pairs stay closed."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

import twotower as tt
from conftest import planted_world
from twotower.runs import open_run
from twotower.runs.worth import worth

CONFIG = {
    "pairs": {"item": "thing"},
    "query": {"features": [{"column": "asked", "type": "text", "buckets": 4096}, {"column": "mood", "type": "category"}]},
    "item": {"id": "name", "features": [{"column": "title", "type": "text", "buckets": 4096}, {"column": "kind", "type": "category"}]},
    "model": {"dimensions": 32},
    "train": {"epochs": 6, "batch_size": 64, "correction": False},
    "evaluate": {"baselines": []},
}


@pytest.fixture(scope="module")
def moody(tmp_path_factory):
    pairs, items = planted_world()
    pairs = pairs.append_column("mood", pa.array([f"m{n % 3}" for n in np.random.default_rng(0).permutation(pairs.num_rows)]))
    return tt.train(pairs, items, config=CONFIG, output=tmp_path_factory.mktemp("moody") / "run")


def test_words_are_worth_everything_and_a_mood_nothing(moody):
    told = worth(moody)
    parts = {(part.side, part.feature): part for part in told.features}
    assert set(parts) == {("query", "asked"), ("query", "mood"), ("item", "title"), ("item", "kind")}
    assert told.whole == pytest.approx(max(json.loads(line)["mrr"] for line in (moody.folder / "history.jsonl").open()), abs=1e-3)
    assert told.rankings == moody.metrics["data"]["split"]["validation"]
    for side, name in (("query", "asked"), ("item", "title")):
        assert parts[side, name].sure and parts[side, name].without < 0.3 < parts[side, name].low
        assert parts[side, name].lost == pytest.approx(told.whole - parts[side, name].without)
    assert not parts["query", "mood"].sure and abs(parts["query", "mood"].lost) < 0.05
    assert worth(moody) == told  # the same deal every time


def test_a_history_is_worth_what_it_tells(tmp_path):
    """Items stand in circles of four; who touched three of one circle takes the fourth."""
    generator = np.random.default_rng(0)
    circles = generator.integers(0, 12, 300)
    pairs = [{"user": u, "item": f"i{4 * c + n}"} for u, c in enumerate(circles) for n in generator.permutation(4)]
    config = {
        "pairs": {"ordered": True},
        "query": {"key": "user", "features": [{"type": "history", "last": 4}]},
        "item": {"id": "item", "features": [{"column": "item", "type": "id"}]},
        "split": {"by": "last"},
        "model": {"dimensions": 16},
        "train": {"epochs": 12, "batch_size": 128},
        "evaluate": {"baselines": []},
    }
    told = worth(tt.train(pairs, config=config, output=tmp_path / "run"))
    assert told.whole > 0.5
    assert all(part.sure for part in told.features)
    (history,) = [part for part in told.features if part.side == "query"]
    assert history.without < told.whole / 2


def test_worth_is_shown_and_what_has_none_to_tell_is_refused(moody, typed, tmp_path, monkeypatch):
    for columns, unsure in ((200, "nothing that is sure"), (80, "unsure")):
        monkeypatch.setenv("COLUMNS", str(columns))
        code, out, _ = typed("evaluate", moody.folder, "--features")
        assert code == 0
        assert "query: asked (text)" in out and unsure in out
        assert max(map(len, out.splitlines()[:8])) <= columns
    code, out, _ = typed("evaluate", moody.folder, "--features", "--json")
    assert code == 0 and {part["feature"] for part in json.loads(out)["features"]} == {"asked", "mood", "title", "kind"}
    for more in (["--pairs", "x.csv"], ["--slices"]):
        code, _, err = typed("evaluate", moody.folder, "--features", *more)
        assert code == 2 and "--features" in err
    code, _, err = typed("evaluate", moody.folder / "bundle", "--features")
    assert code == 2 and "no finished run" in err
    shutil.copytree(moody.folder, tmp_path / "runs" / "moved")
    code, _, err = typed("evaluate", tmp_path / "runs" / "moved", "--features")
    assert code == 2 and "prepared" in err and "Traceback" not in err
    assert open_run(tmp_path / "runs" / "moved").metrics == moody.metrics
