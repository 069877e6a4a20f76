"""What stands out in a run: said where it is so, with its figure, and nowhere else."""

import pytest

from twotower.app.reporting import Account
from twotower.app.reports.advice import SIGNS, signs

CONFIG = '[item]\nfeatures = [{ column = "i", type = "id" }, { column = "t", type = "text" }]\n[train]\nepochs = 4\ncorrection = true\n'
IDS = CONFIG.replace(', { column = "t", type = "text" }', "")


def history(*values, losses=(1.0, 0.9, 0.8, 0.7)):
    return [{"epoch": n + 1, "mrr": value, "loss": loss} for n, (value, loss) in enumerate(zip(values, losses, strict=False))]


def account(values=(0.30, 0.40, 0.41, 0.41), losses=(1.0, 0.9, 0.8, 0.7), best=3, config=CONFIG, commonest=(("a", 5),), **facts):
    model = {"coverage": facts.get("coverage", 0.5), "lift": facts.get("lift", 1.0)}
    metrics = {
        "model": {"mrr": {"value": 0.4, "low": 0.35, "high": 0.45}},
        "evaluation": {"select": "mrr", "rankings": facts.get("rankings", 5000), "part": "test"},
        "training": {"best_epoch": best, "temperature": facts.get("temperature", 0.05)},
        "lists": {"lists": 100, "k": 10, "of": {"model": model}},
        "data": {"items": facts.get("items", 1000), "items_without_pairs": facts.get("without", 0)},
    }
    return Account("runs/a", metrics, history(*values, losses=losses), [], [], list(commonest), config)


def titles(**facts):
    return [found.title for found in signs(account(**facts))]


def test_a_run_in_which_nothing_stands_out():
    assert titles() == []


@pytest.mark.parametrize(
    ("facts", "told", "near"),
    [
        ({"values": (0.3, 0.35, 0.38, 0.40), "best": 4}, "0.380 -> 0.400 in the last", {"values": (0.3, 0.35, 0.40, 0.401), "best": 4}),
        (
            {"values": (0.3, 0.4, 0.39, 0.38), "best": 2, "losses": (1.0, 0.8, 0.4, 0.2)},
            "from 0.8 to 0.2, and mrr from 0.400 to 0.380",
            {"values": (0.3, 0.4, 0.399, 0.398), "best": 2, "losses": (1.0, 0.8, 0.4, 0.2)},
        ),
        ({"temperature": 0.004}, "0.004, below", {"temperature": 0.02}),
        ({"temperature": 0.9}, "0.9, above", {"temperature": None}),
        ({"lift": 2.5}, "2.5 times as popular", {"lift": 1.2}),
        ({"commonest": [("the hub", 40)]}, "the hub is in 40% of all lists", {"commonest": [("the hub", 40)], "items": 50}),
        ({"coverage": 0.01}, "Only 1.0% of the catalogue is in any of 100 lists", {"coverage": 0.01, "items": 50}),
        ({"without": 400, "config": IDS}, "40% of the catalogue have no training pair", {"without": 400}),
        ({"rankings": 57}, "57 rankings decide, so mrr is known to 0.050 either way", {"rankings": 200}),
    ],
)
def test_each_sign_is_said_with_its_figure_and_not_beside_it(facts, told, near):
    (title,) = titles(**facts)
    assert told in title and titles(**near) == []


def test_every_sign_says_what_to_do():
    everything = account(
        values=(0.3, 0.4, 0.39, 0.38), best=2, losses=(1.0, 0.8, 0.4, 0.2), temperature=0.9, lift=3.0, coverage=0.01, rankings=10, without=500,
        config=IDS.replace("correction = true", "correction = false"), commonest=[("a", 90)],
    )  # fmt: skip
    found = signs(everything)
    assert len(found) == len(SIGNS) - 1 and all(each.advice for each in found)  # what is learnt by heart no longer rises
    assert any("train.correction=true" in each.advice for each in found)


def test_a_real_report_has_the_section(world_run, typed, tmp_path):
    assert typed("report", world_run.folder, "-o", tmp_path / "run.md")[0] == 0
    text = (tmp_path / "run.md").read_text(encoding="utf-8")
    assert "## What stands out" in text and "60 rankings decide" in text
