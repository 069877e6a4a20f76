"""The model card of a server says what the bundle says, from the bundle alone, for bundles of every age."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from twotower.app.server.information import card
from twotower.bundle import load, rollback

STORED = Path(__file__).parent / "data"


def text(place, retriever=None):
    page = card(SimpleNamespace(retriever=retriever or load(place))).decode()
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL))


@pytest.mark.parametrize("name", ["bundle-1", "bundle-2"])
def test_a_stored_bundle_has_a_card(name, tmp_path):
    place = shutil.copytree(STORED / name, tmp_path / "a folder of ours" / name)
    said, metrics = text(place), json.loads((place / "model" / "metrics.json").read_text())
    figure = metrics["model"]["mrr"]
    assert f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]" in said
    assert all(f"{row['mrr']['value']:.3f} [" in said for row in metrics["baselines"].values())
    assert "Trained on 280 pairs over a catalogue of 36 items" in said and "asked (text)" in said and "knows nothing of later changes" in said
    assert "a folder of ours" not in said and "http" not in said


def test_a_catalogue_that_grew_tells_its_versions_and_which_of_them_answers(tmp_path):
    place = shutil.copytree(STORED / "bundle-2", tmp_path / "bundle")
    told = text(place).split("Its catalogue")[1]
    assert re.search(r"000004 answers .* 1 removed .* 000003 .* 1 added .* 000002 .* 1 shown .* 000001", told)
    answers = load(place)
    rollback(place, to="2")
    assert "000004 answers" in text(place, answers)  # whatever is in use by now
    assert re.search(r"000002 answers", text(place))


def test_a_card_without_the_one_that_was_written(tmp_path):
    place = shutil.copytree(STORED / "bundle-2", tmp_path / "bundle")
    served = SimpleNamespace(retriever=load(place))
    (place / "model" / "card.md").unlink()
    shutil.rmtree(place / "catalogue" / "000001")
    page = card(served).decode()
    assert "Trained on" not in page and "kept from epoch" in page
