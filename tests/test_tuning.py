"""Tuning: the config comes first and last, luck does not win, a killed study goes on, several processes share one."""

import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

import twotower as tt
from conftest import WORLD_CONFIG
from twotower.app.reports.markdown import markdown
from twotower.app.reports.tuned import tuned as tuned_document
from twotower.config import from_values, override, read, to_toml, to_values
from twotower.errors import BundleError, ConfigError, DataError, MissingExtra, OutputError
from twotower.learning.options import seconds_of
from twotower.runs import spaces, study, trials, tuning
from twotower.runs.progress import Progress
from twotower.runs.spaces import Choices, Span
from twotower.runs.trials import Tried
from twotower.runs.tuning import Final, judged

POOR = {"epochs": 2, "batch_size": 64, "correction": False, "table_learning_rate": 0.003}  # far too slow: much is better
CONFIG = WORLD_CONFIG | {"train": POOR, "search": {"mode": "vectors"}, "machine": {"threads": 1}}
SPACE = {
    "train.table_learning_rate": {"low": 0.003, "high": 0.3, "log": True},
    "model.body": ["none", "linear"],
    "model.dropout": {"low": 0.0, "high": 0.5},
}


def tuned(world, folder, given=CONFIG, progress=None, **tune):
    return tt.tune(*world, config=given | {"tune": {"budget": "10m", "trials": 8, "space": SPACE} | tune}, output=folder, progress=progress)


@pytest.fixture(scope="module")
def found(world, tmp_path_factory):
    return tuned(world, tmp_path_factory.mktemp("tuned") / "study")


def test_a_poor_config_is_improved_and_the_best_is_what_the_files_say(found, world):
    result = found.result
    assert len(result["trials"]) == 8 and result["winner"] is not None and result["changed"]["train.table_learning_rate"] > 0.01
    first = result["trials"][0]
    assert first["trial"] == 0 and first["settings"]["train.table_learning_rate"] == 0.003 and first["settings"]["model.body"] == "none"
    assert "model.dropout" not in first["settings"]  # nothing reads it
    winner = next(row for row in result["finals"] if row["trial"] == result["winner"])
    assert winner["better"] and winner["low"] > 0 and result["seeds"] == 2 and len(result["finals"]) <= 2
    test = result["test"]["mrr"]
    runs = {name: tt.open_run(found.folder / name) for name in ("best", "yours")}
    for name, run in runs.items():
        assert test[name] == pytest.approx(run.metrics["model"]["mrr"]["value"], abs=1e-6)
    assert test["difference"] > 0.1 and test["low"] > 0
    best = read(found.folder / "best.toml")
    assert best == read(found.folder / "best" / "config.toml")
    assert best.train.table_learning_rate == result["changed"]["train.table_learning_rate"] and best.train.seed == 0
    assert found.best.retriever.search("subject1 sort1").ids.size


def test_the_test_pairs_are_opened_by_the_two_runs_at_the_end_alone(world, tmp_path, monkeypatch):
    """Changed test pairs change what these runs say, and nothing before."""
    results = []
    for name, answer in (("one", 1000), ("other", 1001)):
        part = ["test" if n % 6 == 0 else "validation" if n % 6 == 1 else "train" for n in range(world[0].num_rows)]
        things = [answer if p == "test" else thing for p, thing in zip(part, world[0].column("thing").to_pylist(), strict=True)]
        pairs = world[0].set_column(1, "thing", [things]).append_column("part", [part])
        given = CONFIG | {"split": {"by": "column", "column": "part"}}
        results.append(tuned((pairs, world[1]), tmp_path / name, given, trials=5).result)
    one, other = ([{k: v for k, v in trial.items() if k not in ("seconds", "said")} for trial in result["trials"]] for result in results)
    assert one == other and results[0]["finals"] == results[1]["finals"] and results[0]["winner"] is not None
    assert results[0]["figures"] != results[1]["figures"]


def test_report_and_table_say_what_was_decided(found, typed, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    code, _, err = typed("report", found.folder, "-o", tmp_path / "tuned.html")
    page = (tmp_path / "tuned.html").read_text(encoding="utf-8")
    assert code == 0 and "Better settings were found" in err
    for part in ("What was decided", "train.table_learning_rate", "surely better", "The best validation mrr so far"):
        assert part in page
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?http|<script", page)
    assert typed("report", found.folder, "-o", tmp_path / "tuned.md")[0] == 0
    assert "## What was tried" in (tmp_path / "tuned.md").read_text(encoding="utf-8")


def test_the_data_are_prepared_once_for_all_trials(world, tmp_path):
    """Dropout of words and ids, drawn anew in each trial, changes nothing that is read."""
    drawn = {"low": 0.0, "high": 0.5}
    result = tuned(world, tmp_path / "study", space={"item.features.title.dropout": drawn, "item.features.name.dropout": drawn}, trials=5).result
    assert len({trial["settings"]["item.features.title.dropout"] for trial in result["trials"]}) == 5
    assert len([path for path in (tmp_path / "study" / "prepared").iterdir() if path.is_dir()]) == 1


def test_trials_are_the_trainings_that_they_say(found, world):
    """A trial's value is that of a run of its settings."""
    trial = max((t for t in found.result["trials"] if t["state"] == "finished"), key=lambda t: t["value"])
    chosen = spaces.changed(from_values(CONFIG | {"tune": {"space": SPACE}}), trial["settings"])
    run = tt.train(*world, config=chosen, output=found.folder.parent / "again")
    lines = [json.loads(line) for line in (run.folder / "history.jsonl").read_text().splitlines()]
    assert max(line["mrr"] for line in lines) == pytest.approx(trial["value"], abs=1e-5)
    assert trial["epoch"] == run.metrics["training"]["best_epoch"]


def test_luck_does_not_win(world, tmp_path, monkeypatch):
    """Trials that say they are better and, with other seeds, are not: the config stays."""
    generator = np.random.default_rng(0)

    def pretended(shop, chosen, *, stop, look=None, each=False):
        lucky = chosen.train.table_learning_rate != POOR["table_learning_rate"] and not each
        values = generator.uniform(size=60)
        return Tried(0.9 if lucky else 0.5, 1, 0.01, True, values if each else None, np.arange(60) if each else None)

    monkeypatch.setattr(study, "tried", pretended)
    monkeypatch.setattr(tuning, "tried", pretended)
    result = tuned(world, tmp_path / "study", trials=4).result
    assert result["finals"] and not any(row["better"] for row in result["finals"])
    assert result["winner"] is None and result["changed"] == {} and result["test"] is None and not (tmp_path / "study" / "yours").exists()
    assert read(tmp_path / "study" / "best.toml").train.table_learning_rate == POOR["table_learning_rate"]


def test_finalists_are_judged_together_ranking_by_ranking():
    generator = np.random.default_rng(1)
    own, keys = generator.uniform(size=300), np.arange(300)
    shifts = {3: 0.1, 5: 0.0, 7: -0.1}
    rows = judged([Final(0, own, keys), *(Final(n, own + s + generator.normal(0, 0.05, 300), keys) for n, s in shifts.items())])
    assert [row["trial"] for row in rows] == [3, 5, 7] and [row["better"] for row in rows] == [True, False, False]
    assert rows[0]["difference"] == pytest.approx(0.1, abs=0.02) and rows[0]["low"] > 0.08 and rows[2]["high"] < 0
    assert judged([Final(0, own, keys)]) == []
    # Better by its rankings, but with one seed alone: two trainings of one config differ as well.
    for each, better in (((0.61, 0.59), False), ((0.61, 0.605), True)):
        (row,) = judged([Final(0, own, keys, (0.55, 0.6)), Final(1, own + 0.05 + generator.normal(0, 0.05, 300), keys, each)])
        assert row["p_value"] < 0.05 and row["better"] == better
    # Twenty that are nothing but luck: alone some would look sure, together none.
    noise = [Final(n, own + generator.normal(0, 0.2, 300), keys) for n in range(1, 21)]
    assert not any(row["better"] for row in judged([Final(0, own, keys), *noise]))


def test_trials_that_are_behind_are_stopped(world, tmp_path):
    told = []
    given = CONFIG | {"train": POOR | {"table_learning_rate": 0.1, "epochs": 6, "patience": 0}}
    space = {"train.table_learning_rate": {"low": 1e-5, "high": 0.1, "log": True}}
    result = tuned(world, tmp_path / "study", given, Progress(note=told.append), trials=14, space=space).result
    states = [trial["state"] for trial in result["trials"]]
    assert states[0] == "finished" and "behind" in states
    assert sum("behind after" in line for line in told) == states.count("behind")


def test_what_cannot_be_trained_is_told_and_the_search_goes_on(world, tmp_path):
    """A loss that is no number, and settings that do not fit together."""
    space = {"train.table_learning_rate": [0.1, 1e38], "train.loss": ["softmax", "triplet"], "model.temperature": [0.1, 0.2]}
    result = tuned(world, tmp_path / "study", space=space, trials=12).result
    failed = [trial["said"] for trial in result["trials"] if trial["state"] == "failed"]
    assert any("similarities as they are" in said for said in failed)
    assert any(trial["state"] == "finished" for trial in result["trials"][1:])


def test_settings_that_nothing_reads_any_more_are_said_and_not_offered_as_flags():
    """`--set` cannot take away: only best.toml can."""
    row = {"trial": 1, "value": 0.5, "yours": 0.4, "difference": 0.1, "low": 0.05, "high": 0.15, "p_value": 0.0, "better": True}
    found = {"best": 0.5, "yours": 0.4, "difference": 0.1, "low": 0.05, "high": 0.15, "p_value": 0.0}
    result = {"metric": "mrr", "budget": "5m", "trials": [], "importances": {}, "finals": [row], "seeds": 2, "winner": 1, "test": {"mrr": found}}
    result |= {"yours": {"model.body": "residual", "model.hidden": (64, 32)}, "space": {}}

    def page(**changed):
        return str(tuned_document(result | {"changed": {"model." + name: value for name, value in changed.items()}}, "runs/t"))

    assert "--set" not in page(body="none", hidden=None) and "Left out" in page(body="none", hidden=None)
    assert "--set 'model.hidden=[8, 8]'" in page(hidden=[8, 8])


@pytest.mark.parametrize(
    ("within", "picked", "around"),
    [
        (Span(0.03, 0.3, log=True), 0.032, Span(0.008, 0.128, log=True)),
        (Span(0.03, 0.3, log=True), 0.1, None),
        (Span(0.0, 0.5), 0.48, Span(0.24, 0.73)),
        (Span(0.0, 0.5), 0.0, None),  # there is no less
        (Span(0.0, 0.9), 0.88, Span(0.44, 0.94)),  # and no dropout of 1
        (Span(0.5, 2.0), 0.5, Span(0.25, 1.25)),
        (Span(8, 64, True, True), 64, Span(16, 256, True, True)),
        (Choices((64, 128, 256)), 256, Choices((128, 256, 512))),
        (Choices((64, 128, 256)), 128, None),
        (Choices((256, 1024)), 1024, None),  # of two each is an end
        (Choices(("none", "linear", "residual")), "none", None),
        (Choices((0.0, 0.5, 1.0)), 1.0, None),
        (Choices((True, False)), True, None),
    ],
)
def test_where_to_search_next_for_what_came_out_at_an_end(within, picked, around):
    found = spaces.further({"train.it": within}, {"train.it": picked, "train.other": 3})
    if around is None:
        assert found == {}
        return
    flat, expected = (within.values if isinstance(within, Choices) else tuple(within) for within in (found["train.it"], around))
    assert list(found) == ["train.it"] and flat == pytest.approx(expected)


def test_the_search_beyond_an_end_can_be_typed(tmp_path):
    """As the report says it, to the letter."""
    found = {"best": 0.5, "yours": 0.4, "difference": 0.1, "low": 0.05, "high": 0.15, "p_value": 0.0}
    result = {"metric": "mrr", "budget": "5m", "trials": [], "importances": {}, "finals": [], "seeds": 2, "winner": 1, "test": {"mrr": found}}
    result |= {"yours": {"model.temperature": 0.1, "item.features.title.dropout": 0.0}, "changed": {"model.temperature": 0.0301234}}
    result["space"] = spaces.stored({"model.temperature": Span(0.03, 0.3, log=True), "item.features.title.dropout": Span(0.0, 0.5)})
    said = markdown(tuned_document(result, str(tmp_path)))
    assert "At an end of what was searched: model.temperature = 0.0301" in said
    words = shlex.split(next(line for line in said.splitlines() if "-further" in line))
    assert words[:3] == ["twotower", "tune", f"{tmp_path}/best.toml"] and words[5:] == ["-o", f"{tmp_path}-further"]
    (tmp_path / "best.toml").write_text(to_toml(from_values(CONFIG)))
    chosen = read(tmp_path / "best.toml", [words[4]])
    within = spaces.declared(chosen.tune.space, chosen)["model.temperature"]
    assert within.log and 0.007 < within.low < 0.0301 < within.high == pytest.approx(0.12, abs=0.001)
    for changed in ({"model.temperature": 0.1}, {}):
        assert "At an end" not in markdown(tuned_document(result | {"changed": changed}, "t"))
    assert "At an end" not in markdown(tuned_document(result | {"winner": None}, "t"))


# --- going on -----------------------------------------------------------------------------------------------------


def counted(result, *states):
    return sum(trial["state"] in states for trial in result["trials"])


@pytest.mark.parametrize(
    ("model", "train", "space", "tried"),
    [
        ({"body": "residual", "hidden": [16]}, {}, {"model.hidden": [[16], [8]]}, 2),
        ({}, {"negatives": "mixed", "draws": 16, "power": 0.5}, {"train.power": {"low": 0, "high": 1}}, 3),
        ({}, {}, {"model.dimensions": [16, 8]}, 2),
    ],
    ids=["list", "span", "used up"],
)
def test_the_configs_own_trial_is_known_and_a_space_that_is_used_up_ends_the_search(world, tmp_path, model, train, space, tried):
    """Neither is trained twice, and a study whose space holds two settings does not last until its budget."""
    given = CONFIG | {"model": {"dimensions": 16, **model}, "train": POOR | train}
    result = tuned(world, tmp_path / "study", given, space=space, trials=3).result
    assert result["trials"][0]["own"] and result["trials"][0]["state"] == "finished" and sum(trial["own"] for trial in result["trials"]) >= 1
    assert counted(result, "finished", "behind") == tried
    told = [json.dumps(trial["settings"]) for trial in result["trials"] if trial["state"] == "finished"]
    assert len(told) == len(set(told))


def test_settings_that_are_refused_one_after_another_end_the_search(world, tmp_path, monkeypatch):
    def refused(shop, chosen, **more):
        if chosen.train.table_learning_rate != POOR["table_learning_rate"]:
            raise ConfigError("not these")
        return trials.tried(shop, chosen, **more)

    monkeypatch.setattr(study, "tried", refused)
    result = tuned(world, tmp_path / "study", trials=None).result
    assert len(result["trials"]) <= study.IDLE + 5 and counted(result, "failed") >= study.IDLE
    document = tuned_document(result, "runs/t")
    assert "why other settings failed" in document.verdict and "several times as much" not in document.verdict


def test_what_the_config_leaves_out_is_a_choice_too(world, tmp_path):
    given = CONFIG | {"train": POOR | {"mined": 2}}
    result = tuned(world, tmp_path / "study", given, space={"train.mine_margin": [0.05, 0.2]}, trials=3).result
    assert {trial["settings"]["train.mine_margin"] for trial in result["trials"] if trial["state"] == "finished"} == {None, 0.05, 0.2}
    with pytest.raises(ConfigError, match=r"leaves .* out"):
        tuned(world, tmp_path / "other", given, space={"train.mine_margin": {"low": 0.05, "high": 0.2}})


def test_advice_outside_a_space_of_ones_own_is_left_out(world, tmp_path):
    """The doctor advises a batch that this space does not hold."""
    result = tuned(world, tmp_path / "study", space={"train.batch_size": [64, 128]}, trials=3).result
    assert {trial["settings"]["train.batch_size"] for trial in result["trials"]} <= {64, 128}


def test_a_full_disk_is_not_taken_for_another_leader(world, tmp_path, monkeypatch):
    with pytest.raises(Enough):
        tuned(world, tmp_path / "study", progress=Progress(note=lambda line: (_ for _ in ()).throw(Enough)))

    def full(*given):
        raise OutputError("No space left on device")

    monkeypatch.setattr(tuning, "_lead", full)
    with pytest.raises(OutputError, match="No space left"):
        tt.tune(*world, config=CONFIG | {"tune": {"budget": "10m", "trials": 8, "space": SPACE}}, output=tmp_path / "study", resume=True)


class Enough(Exception):
    pass


def test_a_study_that_was_killed_goes_on(world, tmp_path):
    folder, told = tmp_path / "study", []

    def kill(line):
        told.append(line)
        if len(told) == 3:
            raise Enough

    with pytest.raises(Enough):
        tuned(world, folder, progress=Progress(note=kill))
    with open(folder / "study.journal", "a", encoding="utf-8") as file:
        file.write('{"op_code": 4, "wor')  # cut off within a line
    settings = CONFIG | {"tune": {"budget": "10m", "trials": 8, "space": SPACE}}
    with pytest.raises(OutputError, match="--resume"):
        tt.tune(*world, config=settings, output=folder)
    with pytest.raises(ConfigError, match=r"another config.*batch_size was 64 and is 32"):
        tt.tune(*world, config=settings, settings=["train.batch_size=32"], output=folder, resume=True)
    lines = []
    result = tt.tune(*world, config=settings, output=folder, resume=True, progress=Progress(note=lines.append)).result
    assert sum(line.startswith("trial ") for line in lines) == 8 - 3
    assert [trial["trial"] for trial in result["trials"]] == list(range(8)) and result["winner"] is not None
    with pytest.raises(BundleError, match="finished"):
        tt.tune(*world, config=settings, output=folder, resume=True)
    assert tt.tune(*world, config=settings | {"tune": {"budget": "10m", "trials": 2, "space": SPACE}}, output=folder, overwrite=True).result["trials"]


@pytest.mark.parametrize("advised", [False, True])
@pytest.mark.parametrize("at", [0, 1])
def test_a_config_whose_trial_was_broken_off_is_tried_again(world, tmp_path, monkeypatch, at, advised):
    """Killed within a trial, by a process that is no more, long ago: the time between is not counted."""
    space = SPACE | ({"train.batch_size": [16, 64]} if advised else {})  # the doctor advises 16
    settings, calls = CONFIG | {"tune": {"budget": "60s", "trials": 6, "space": space}}, []

    def killed(*given, **more):
        calls.append(given)
        if len(calls) == at + 1:
            raise Enough
        return trials.tried(*given, **more)

    monkeypatch.setattr(study, "tried", killed)
    with pytest.raises(Enough):
        tt.tune(*world, config=settings, output=tmp_path / "study")
    monkeypatch.undo()
    journal = tmp_path / "study" / "study.journal"
    text = journal.read_text().replace(f"{platform.node()} {os.getpid()}", f"{platform.node()} 999999999")
    journal.write_text(re.sub(r"20\d\d-\d\d-\d\dT", "2020-01-01T", text))
    result = tt.tune(*world, config=settings, output=tmp_path / "study", resume=True).result
    own = [trial["trial"] for trial in result["trials"] if trial["own"] and trial["state"] == "finished"]
    assert len(own) == 1 and (own == [0]) == (at == 1) and result["winner"] not in (None, *own)
    assert len(result["trials"]) == 7  # six, and what was broken off


def test_a_finalist_that_cannot_be_trained_with_another_seed_is_left_out(world, tmp_path, monkeypatch):
    def picky(shop, chosen, **more):
        if more.get("each") and chosen.train.table_learning_rate != POOR["table_learning_rate"]:
            raise DataError("the loss is no number")
        return trials.tried(shop, chosen, **more)

    monkeypatch.setattr(tuning, "tried", picky)
    result = tuned(world, tmp_path / "study", trials=4).result
    assert result["finals"] == [] and result["winner"] is None


def test_what_was_broken_off_does_not_count_as_tried(world, tmp_path, monkeypatch):
    """Killed in its first trial, a study of two still tries two: the config's own, and another."""
    import optuna

    opened = study.Study.search

    def killed(self, kept):
        for said in (None, study.BROKEN_OFF):
            trial = kept.ask()
            if said:
                trial.set_user_attr("said", said)
            kept.tell(trial, state=optuna.trial.TrialState.FAIL)
        monkeypatch.setattr(study.Study, "search", opened)
        raise Enough

    monkeypatch.setattr(study.Study, "search", killed)
    with pytest.raises(Enough):
        tuned(world, tmp_path / "study", trials=2)
    settings = CONFIG | {"tune": {"budget": "10m", "trials": 2, "space": SPACE}}
    result = tt.tune(*world, config=settings, output=tmp_path / "study", resume=True).result
    assert sum(trial["state"] in ("finished", "behind") for trial in result["trials"]) == 2


def test_a_study_of_other_data_or_another_space_is_refused(world, tmp_path, monkeypatch):
    def stopped(*given):
        raise Enough

    monkeypatch.setattr(study.Study, "search", stopped)
    with pytest.raises(Enough):
        tuned(world, tmp_path / "study")
    monkeypatch.undo()
    settings = CONFIG | {"tune": {"budget": "10m", "trials": 8, "space": SPACE}}
    wider = settings["tune"] | {"space": SPACE | {"model.dimensions": [8, 16]}}
    with pytest.raises(ConfigError, match=r"another \[tune\] space"):
        tt.tune(*world, config=settings | {"tune": wider}, output=tmp_path / "study", resume=True)
    with pytest.raises(BundleError, match=r"data .* have changed"):
        tt.tune(world[0].slice(5), world[1], config=settings, output=tmp_path / "study", resume=True)
    with pytest.raises(ConfigError, match=r"\[search\] mode was 'vectors' and is 'auto'"):  # finalists are measured as they would be searched
        tt.tune(*world, config=settings | {"search": {"mode": "auto"}}, output=tmp_path / "study", resume=True)
    longer = settings | {"tune": settings["tune"] | {"budget": "20m", "trials": 3}}
    assert len(tt.tune(*world, config=longer, output=tmp_path / "study", resume=True).result["trials"]) == 3


def test_whoever_helps_before_any_trial_is_finished_breaks_none_off(world, tmp_path, monkeypatch):
    """A study whose leader is still at trial one: a helper knows what a training takes, ends with the leader's time, and with the search."""
    opened = study.Study.search

    def led(self, kept):
        first = kept.ask()  # the leader is at the config's own
        first.set_user_attr("process", f"{platform.node()} {os.getppid()}")
        helper = study.Study(self.folder, self.chosen, self.shop)
        monkeypatch.setattr(study.Study, "search", opened)
        helper.budget = 9999.0
        limited = replace(self.chosen, tune=replace(self.chosen.tune, trials=4))
        helper.chosen = limited
        helper.help()
        assert abs(helper.until - self.until) < 5
        states = [trial.state.name for trial in kept.get_trials(deepcopy=False) if trial.number]
        assert len(states) == 3 and "FAIL" not in states
        kept.set_user_attr("closed", True)
        helper.help()  # there is nothing more to do
        assert len(kept.get_trials(deepcopy=False)) == 4
        raise Enough

    monkeypatch.setattr(study.Study, "search", led)
    with pytest.raises(Enough):
        tuned(world, tmp_path / "study")


def test_a_trial_ends_when_the_search_does(world, tmp_path, monkeypatch):
    """Closed by another process while a trial is trained."""
    opened, own = study.Study.search, []

    def remembered(self, kept):
        own.append(self)
        opened(self, kept)

    def closing(shop, chosen, *, stop, look=lambda epoch, value: None, each=False):
        if chosen.train.table_learning_rate == POOR["table_learning_rate"] or each:
            return trials.tried(shop, chosen, stop=stop, look=look, each=each)
        own[0].storage(1).set_user_attr("closed", True)
        own[0].looked = 0.0
        return trials.tried(shop, chosen, stop=stop, look=look)

    monkeypatch.setattr(study.Study, "search", remembered)
    monkeypatch.setattr(study, "tried", closing)
    result = tuned(world, tmp_path / "study").result
    assert [trial["state"] for trial in result["trials"]] == ["finished", "broken off"]


def test_finalists_that_were_trained_are_not_trained_again(world, tmp_path, monkeypatch):
    folder = tmp_path / "study"
    monkeypatch.setattr(tuning, "_close", lambda *given: (_ for _ in ()).throw(Enough))
    with pytest.raises(Enough):
        tuned(world, folder, trials=4)
    monkeypatch.undo()
    before = {path: path.stat().st_mtime_ns for path in (folder / "finals").iterdir()}
    monkeypatch.setattr(tuning, "tried", lambda *given, **more: pytest.fail("trained again"))
    settings = CONFIG | {"tune": {"budget": "10m", "trials": 4, "space": SPACE}}
    assert tt.tune(*world, config=settings, output=folder, resume=True).result["finals"]
    assert before and all(path.stat().st_mtime_ns == when for path, when in before.items())


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_tried_and_two_processes_share_a_study(world, tmp_path):
    """Killed by SIGINT between trials, then taken up by two processes at once."""
    pq.write_table(world[0], tmp_path / "pairs.parquet")
    pq.write_table(world[1], tmp_path / "items.parquet")
    data = {"pairs": str(tmp_path / "pairs.parquet"), "items": str(tmp_path / "items.parquet")}
    given = CONFIG | {"data": data, "tune": {"budget": "10m", "space": SPACE}, "train": POOR | {"epochs": 8, "patience": 0}}
    (tmp_path / "c.toml").write_text(to_toml(from_values(given)), encoding="utf-8")
    command = [sys.executable, "-m", "twotower", "tune", str(tmp_path / "c.toml"), "-o", str(tmp_path / "study"), "--trials", "16"]

    def started(*more):
        return subprocess.Popen(
            [*command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )

    first = started()
    while "trial 2 " not in (line := first.stderr.readline()) and line:
        pass
    first.send_signal(signal.SIGINT)
    _, told = first.communicate(timeout=120)
    assert first.returncode == 130 and "--resume" in told and (tmp_path / "study" / "study.journal").exists()
    leader = started("--resume")
    while "trial " not in (line := leader.stderr.readline()) and line:
        pass
    helper = started("--resume")
    (shown, told), (helped, about) = leader.communicate(timeout=300), helper.communicate(timeout=300)
    assert leader.returncode == 0 and "What tuning came to" in shown, told
    if "helping with trials" in about:  # else the leader was done before it began
        assert helper.returncode == 0 and "helped with trials" in about and not helped, about
    result = json.loads((tmp_path / "study" / "tuning.json").read_text())
    numbers = [trial["trial"] for trial in result["trials"]]
    assert len(numbers) == len(set(numbers)) >= 16


# --- spaces -------------------------------------------------------------------------------------------------------


class Draws:
    """Suggests at random, and notes what it was asked for."""

    def __init__(self, seed):
        self.generator, self.asked = np.random.default_rng(seed), []

    def suggest_categorical(self, name, choices):
        self.asked.append(name)
        return choices[int(self.generator.integers(len(choices)))]

    def suggest_float(self, name, low, high, *, log=False):
        self.asked.append(name)
        return float(np.exp(self.generator.uniform(np.log(low), np.log(high))) if log else self.generator.uniform(low, high))

    def suggest_int(self, name, low, high, *, log=False):
        self.asked.append(name)
        return int(self.generator.integers(low, high + 1))


def prepared_of(chosen, pairs, items, folder):
    from twotower.data.preparation import prepare
    from twotower.data.sources import open_source

    return prepare(open_source(pairs, "pairs"), None if items is None else open_source(items, "items"), chosen.schema, chosen.split, folder)


LOGS = {
    "texts": lambda world: (CONFIG, *world),
    "interactions": lambda world: (
        {
            "query": {"key": "u", "features": [{"column": "u", "type": "id"}]},
            "item": {"id": "i", "features": [{"column": "i", "type": "id"}]},
            "train": {"batch_size": 64},
        },
        [{"u": f"u{n % 40}", "i": f"i{(n * n) % 23}"} for n in range(400)],
        None,
    ),
    "unordered": lambda world: (
        {
            "query": {"key": "u", "features": [{"type": "history", "last": 4, "pool": "mean"}]},
            "item": {"id": "i", "features": [{"column": "i", "type": "id"}]},
            "train": {"batch_size": 64},
        },
        [{"u": f"u{n % 40}", "i": f"i{(n * n) % 23}"} for n in range(400)],
        None,
    ),
    "histories": lambda world: (
        {
            "pairs": {"time": "at"},
            "query": {"key": "u", "features": [{"type": "history", "last": 4, "pool": "transformer"}]},
            "item": {"id": "i", "features": [{"column": "i", "type": "id"}]},
            "split": {"by": "last"},
            "train": {"batch_size": 64},
        },
        [{"u": f"u{n % 40}", "i": f"i{(n * n) % 23}", "at": n} for n in range(400)],
        None,
    ),
}


@pytest.mark.parametrize("kind", LOGS)
def test_a_ready_space_holds_the_config_and_nothing_that_is_refused(kind, world, tmp_path):
    given, pairs, items = LOGS[kind](world)
    chosen = from_values(given)
    space = spaces.ready(chosen, prepared_of(chosen, pairs, items, tmp_path), {"model.temperature": 0.5})
    assert len(space) >= 8 and space["model.temperature"].high == 0.5
    own = spaces.own_values(chosen, space)
    assert all(space[name].holds(value) for name, value in own.items()) and spaces.changed(chosen, own) == chosen
    assert spaces.restored(json.loads(json.dumps(spaces.stored(space)))) == space
    bodies = set()
    for seed in range(60):
        draws = Draws(seed)
        picked = spaces.suggested(draws, space, chosen)
        tried = spaces.changed(chosen, picked)  # never refused
        bodies.add(tried.model.body)
        assert ("model.dropout" in picked) == (tried.model.body != "none") and ("train.power" in picked) == (tried.train.negatives == "mixed")
        assert {name: value for name, value in spaces.own_values(tried, space).items() if name in picked} == picked
    assert bodies == {"none", "linear", "residual"}
    expected = {
        "texts": ({"train.symmetric", "item.features.title.dropout", "query.features.asked.dropout"}, {"train.negatives"}),
        "interactions": ({"train.negatives", "train.warm_start", "item.features.i.dropout"}, {"train.symmetric"}),
        "unordered": ({"query.features.history.dropout"}, {"query.features.history.pool", "train.warm_start"}),
        "histories": ({"query.features.history.pool", "query.features.history.dropout"}, {"train.symmetric"}),
    }[kind]
    assert expected[0] <= space.keys() and not expected[1] & space.keys()


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ({"train.learnin_rate": [0.1, 0.2]}, "learnin_rate"),
        ({"split.test": [0.1, 0.2]}, "cannot be tuned"),
        ({"evaluate.select": ["mrr", "hit@1"]}, "cannot be tuned"),
        ({"item.features.titel.dropout": [0.0, 0.1]}, "title"),
        ({"model.dimensions": [64]}, "list of values"),
        ({"model.dimensions": 64}, "list of values"),
        ({"train.learning_rate": {"low": 0.1, "high": 0.01}}, "low below high"),
        ({"train.learning_rate": {"low": 0.0, "high": 0.01, "log": True}}, "above 0"),
        ({"train.learning_rate": {"low": 0.1, "high": 0.2, "step": 3}}, "low below high"),
        ({"model.dimensions": ["wide", "wider"]}, "dimensions"),
        ({"model.dropout": {"low": 0.0, "high": 0.5}}, "nothing reads"),
        ({"model.features.title.dropout": [0.0, 0.1]}, "names no feature"),
        ({"train.epochs": {"low": 5, "high": 20.5}}, "not all values"),
        ({"model.dimensions": [8, "wide"]}, "not all values"),
    ],
)
def test_a_space_that_cannot_be_meant_is_refused_before_any_work(space, told, world, tmp_path):
    with pytest.raises(ConfigError, match=told):
        tuned(world, tmp_path / "study", space=space)
    assert not (tmp_path / "study").exists()


def test_lists_are_values_too(world):
    chosen = from_values(CONFIG | {"model": {"dimensions": 16, "body": "mlp"}})
    space = spaces.declared({"model.hidden": [[32], [64, 32]]}, chosen)
    assert space == {"model.hidden": Choices(((32,), (64, 32), (256,)))}
    picked = {spaces.suggested(Draws(seed), space, chosen)["model.hidden"] for seed in range(20)}
    assert picked == {(32,), (64, 32), (256,)}
    assert spaces.changed(chosen, {"model.hidden": (64, 32)}).model.hidden == (64, 32)
    whole = spaces.declared({"model.dimensions": {"low": 8, "high": 64, "log": True}}, chosen)
    assert spaces.declared({"train.positive_temperature": {"low": 1, "high": 3}}, from_values(CONFIG | {"train": {"loss": "bilateral"}})) == {
        "train.positive_temperature": Span(1, 3, False, False)
    }
    assert spaces.declared({"train.epochs": {"low": 5, "high": 20.0}}, chosen)["train.epochs"].whole
    assert whole == {"model.dimensions": Span(8, 64, True, True)} and isinstance(spaces.suggested(Draws(0), whole, chosen)["model.dimensions"], int)


@pytest.mark.parametrize(("text", "seconds"), [("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("90s", 90), ("1.5h", 5400), (" 5m ", 300)])
def test_a_budget_is_a_span_of_time(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "0m", "m", "-5m", "30 minutes", "1h 30m x"])
def test_anything_else_is_refused(text, world, tmp_path):
    with pytest.raises(ConfigError, match="no span of time"):
        tuned(world, tmp_path / "study", budget=text)


def test_a_budget_too_small_for_one_training_is_refused_and_leaves_nothing(world, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "probe", lambda *given: _Slow())
    with pytest.raises(ConfigError, match=r"one training takes about 17 min.*--budget 1\d\dm"):
        tuned(world, tmp_path / "study")
    assert not (tmp_path / "study" / "tuning.json").exists() and not (tmp_path / "study" / "study.json").exists()


class _Slow:
    epochs, epoch_seconds, catalogue_seconds = 2, 500.0, 0.0


@pytest.mark.slow
def test_the_search_ends_while_there_is_time_for_the_rest(world, tmp_path):
    begun = time.monotonic()
    result = tuned(world, tmp_path / "study", budget="14s", trials=None).result
    assert len(result["trials"]) >= 2 and result["figures"]["best"]
    # Trials take tenths of a second: a search that knew no end would fill the test's hour.
    assert time.monotonic() - begun < 120


def test_what_is_missing_is_said(world, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"twotower\[tune\]"):
        tuned(world, tmp_path / "study")
    monkeypatch.undo()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="torchrun"):
        tuned(world, tmp_path / "study")


def test_data_that_cannot_be_trained_on_are_refused(tmp_path):
    pairs = [{"asked": "a", "thing": 1000}] * 3
    with pytest.raises(DataError):
        tuned((pairs, [{"name": 1000, "title": "x", "kind": "k", "price": 1.0}]), tmp_path / "study")


def test_the_block_is_written_and_read(tmp_path):
    chosen = from_values(override(CONFIG, ["tune.budget='2h'", "tune.trials=5"]) | {"tune": {"budget": "2h", "trials": 5, "space": SPACE}})
    (tmp_path / "c.toml").write_text(to_toml(chosen), encoding="utf-8")
    assert read(tmp_path / "c.toml") == chosen and to_values(read(tmp_path / "c.toml"))["tune"]["space"] == SPACE
    assert "[tune]" not in to_toml(chosen, locations=False)
    assert replace(chosen, tune=replace(chosen.tune, trials=None)).tune.trials is None
