"""The command line: what it answers, what it refuses and how, and that nothing but the answer is on stdout."""

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import typer

import twotower
from twotower.app import bulk, cli
from twotower.app.cli import application
from twotower.errors import DataError
from twotower.learning.training import Step, Validation
from twotower.runs import progress

VERBS = ["demo", "init", "check", "train", "tune", "forecast", "evaluate", "compare", "report", "info", "search", "score", "embed", "export"]
CONFIG = """
version = 1
[data]
pairs = "pairs.csv"
items = "things.parquet"
[pairs]
item = "thing"
[query]
features = [ { column = "asked", type = "text", buckets = 4096 } ]
[item]
id = "name"
features = [ { column = "title", type = "text", buckets = 4096 } ]
payload = ["title", "price"]
[model]
dimensions = 4
[train]
epochs = 1
batch_size = 64
[search]
mode = "vectors"
"""


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Tt = Callable[..., Outcome]


@pytest.fixture
def tt(typed) -> Tt:
    """Types a command, in this process."""
    return lambda *arguments: Outcome(*typed(*arguments))


@pytest.fixture
def desk(world, tmp_path, monkeypatch) -> Path:
    """A folder to work in, with the planted world as files and a config."""
    pa.csv.write_csv(world[0], tmp_path / "pairs.csv")
    pa.parquet.write_table(world[1], tmp_path / "things.parquet")
    (tmp_path / "twotower.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def typed_apart(*arguments: object, **options) -> subprocess.Popen:
    """Types a command, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(Path(twotower.__file__).parents[1])}
    return subprocess.Popen([sys.executable, "-m", "twotower.app.cli", *map(str, arguments)], env=environment, text=True, **options)


# --- help ---------------------------------------------------------------------------------------------------------


def test_no_words_at_all_are_a_question_for_help(tt):
    outcome = tt()
    assert outcome.code == 0 and outcome.err == ""
    assert all(re.search(rf"^  {verb} ", outcome.out, re.M) for verb in VERBS)
    assert "..." not in outcome.out.partition("Commands:")[2]  # no summary is cut off at 80 columns


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_examples_that_parse(tt, verb):
    outcome = tt(verb, "--help")
    assert outcome.code == 0 and outcome.err == ""
    examples = [shlex.split(line)[1:] for line in outcome.out.splitlines() if line.startswith("  ") and line.strip().startswith("twotower ")]
    assert examples
    for first, *rest in examples:
        typer.main.get_command(cli.app).commands[first].make_context(first, rest)


def test_the_version(tt):
    assert tt("--version") == Outcome(0, f"twotower {twotower.__version__}\n", "")


def test_help_and_import_load_nothing_heavy():
    heavy = "{'numpy', 'pyarrow', 'torch', 'onnxruntime', 'rich'}"
    check = f"import sys, twotower, twotower.app.cli; print(sorted({heavy} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(Path(twotower.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", check], env=environment, capture_output=True, text=True).stdout.strip() == "[]"


# --- search -------------------------------------------------------------------------------------------------------


def test_search_as_json(tt, world_folder):
    outcome = tt("search", world_folder, "subject3 sort1", "-k", 3, "--json")
    answers = json.loads(outcome.out)
    assert outcome.code == 0 and outcome.err == "" and len(answers) == 3
    assert set(answers[0]) == {"id", "score", "item"}
    assert answers[0]["item"]["title"].startswith("tovar3")
    planted = {1000 + n: f"tovar{n // 3} vid{n % 3}" for n in range(36)}
    assert all(answer["item"]["title"] == planted[answer["id"]] for answer in answers)


def test_search_as_a_table_is_plain_where_no_terminal_is(tt, world_folder):
    answers = json.loads(tt("search", world_folder, "subject3 sort1", "-k", 3, "--json").out)
    lines = tt("search", world_folder, "subject3", "sort1", "-k", 3).out.splitlines()
    shown = lines[2:5]
    assert [line.split()[2] for line in shown] == [str(answer["id"]) for answer in answers]
    assert all(answer["item"]["title"] in line for answer, line in zip(answers, shown, strict=True))
    assert all(line == line.rstrip() and "\x1b" not in line for line in lines)


def test_a_column_may_be_named(tt, world_folder):
    named, plain = (json.loads(tt("search", world_folder, query, "--json").out) for query in ("asked=subject3 sort1", "subject3 sort1"))
    assert named == plain


@pytest.mark.parametrize("width", [80, 40])
def test_tables_fit_a_narrow_page(tt, world_folder, desk, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    for command in (["search", world_folder, "subject3"], ["evaluate", world_folder], ["compare", world_folder, world_folder]):
        lines = tt(*command).out.splitlines()
        assert lines and max(map(len, lines)) <= width


def test_a_row_of_figures_stays_in_one_line(tt, world_folder, desk, monkeypatch):
    metrics = json.loads(tt("evaluate", world_folder, "--json").out)
    for width, intervals in ((200, 4), (80, 1)):
        monkeypatch.setenv("COLUMNS", str(width))
        row = next(line for line in tt("evaluate", world_folder).out.splitlines() if line.startswith("➤"))
        figures = [float(number) for number in re.findall(r"(?<![\[\d])(?:1\.000|\.\d{3})(?= |$)", re.sub(r"\[.*?\]", "", row))]
        assert figures == [pytest.approx(figure["value"], abs=6e-4) for figure in metrics["model"].values()]
        assert row.count("[") == intervals


def test_more_items_than_there_are_gives_them_all(tt, world_folder):
    answers = json.loads(tt("search", world_folder, "subject3", "-k", 500, "--json").out)
    assert sorted(answer["id"] for answer in answers) == list(range(1000, 1036))


@pytest.mark.parametrize("query", ["subject1\x00b", "\x1b[31msubject1", "🙃 naïve 東京 subject1", "subject1\udcff", "subject1 " * 200_000])
def test_odd_questions_are_answered(tt, world_folder, query):
    outcome = tt("search", world_folder, "-k", 2, "--", query)
    assert outcome.code == 0 and outcome.err == "" and len(outcome.out.splitlines()) >= 4


@pytest.mark.parametrize("query", ["\udcff", "-k", "]["])
def test_a_question_of_nothing_known_finds_nothing_and_says_so(tt, world_folder, query):
    outcome = tt("search", world_folder, "-k", 2, "--", query)
    assert outcome.code == 0 and outcome.out == "" and "nothing was found" in outcome.err
    assert json.loads(tt("search", world_folder, "--json", "--", query).out) == []


def test_what_scores_below_the_threshold_is_not_shown(tt, world_folder):
    whole = json.loads(tt("search", world_folder, "subject3 sort1", "--json").out)
    middle = sorted(answer["score"] for answer in whole)[5]
    outcome = tt("search", world_folder, "subject3 sort1", "--json", "--threshold", middle)
    assert json.loads(outcome.out) == [answer for answer in whole if answer["score"] >= middle]
    outcome = tt("search", world_folder, "subject3 sort1", "--threshold", 1.5)
    best = max(answer["score"] for answer in whole)
    assert outcome.code == 0 and outcome.out == ""
    assert f"nothing fits: the best scores {best:.4g}, below the threshold 1.5" in outcome.err
    assert "nothing was found" in tt("search", world_folder, "--threshold", 1.5, "--", "][").err
    assert json.loads(tt("search", world_folder, "subject3", "--json", "--threshold", 1.5).out) == []


def test_what_is_shown_cannot_move_the_cursor():
    from twotower.app.reports import plain_text

    assert plain_text("\x1b[2Ja\tb\r\nc\x9b") == "[2Ja b c"


# --- files of queries ---------------------------------------------------------------------------------------------


@pytest.fixture
def asked(world, desk) -> pa.Table:
    """A file of queries, `queries.csv`: fifty, of which the fourth is empty."""
    texts = world[0].column("asked").to_pylist()[:50]
    table = pa.table({"asked": [*texts[:3], None, *texts[4:]], "n": list(range(50))})
    pa.csv.write_csv(table, desk / "queries.csv")
    return table


def test_a_file_of_queries_is_answered_row_by_row(tt, world_run, world_folder, asked, desk, monkeypatch):
    monkeypatch.setattr(bulk, "ROWS", 7)
    outcome = tt("search", world_folder, "--queries", "queries.csv", "-k", 4, "-o", "found.parquet")
    assert outcome.code == 0 and outcome.out == "" and "50 answers" in outcome.err and "1 of them empty" in outcome.err
    found = pa.parquet.read_table("found.parquet")
    assert found.column_names == ["asked", "n", "ids", "scores"]
    for n, query in enumerate(asked.column("asked").to_pylist()):
        one = None if query is None else world_run.retriever.search(query, k=4)
        assert found["ids"][n].as_py() == ([] if one is None else one.ids.tolist())
        assert found["scores"][n].as_py() == ([] if one is None else pytest.approx(one.scores.tolist(), abs=1e-5))
    assert sorted(p.name for p in desk.iterdir()) == ["found.parquet", "pairs.csv", "queries.csv", "things.parquet", "twotower.toml"]


def test_a_file_of_queries_is_answered_above_a_threshold(tt, world_run, world_folder, asked, desk):
    tt("search", world_folder, "--queries", "queries.csv", "-k", 4, "-o", "found.parquet")
    scores = np.concatenate(pa.parquet.read_table("found.parquet")["scores"].to_pylist())
    threshold = float(np.quantile(scores, 0.8))
    assert tt("search", world_folder, "--queries", "queries.csv", "-k", 4, "-o", "found.parquet", "--threshold", threshold).code == 0
    kept = pa.parquet.read_table("found.parquet")["scores"].to_pylist()
    np.testing.assert_array_equal(np.concatenate(kept), scores[scores >= threshold])
    assert [] in kept and len(kept) == 50


def test_a_killed_job_goes_on_where_it_was(tt, world_folder, asked, monkeypatch):
    from twotower.bundle import Retriever

    monkeypatch.setattr(bulk, "ROWS", 10)
    command = ("search", world_folder, "--queries", "queries.csv", "-k", 4, "-o", "found.parquet")
    tt(*command)
    whole = pa.parquet.read_table("found.parquet")
    os.remove("found.parquet")
    search, calls = Retriever.search, []

    def dying(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return search(self, *arguments, **options)

    monkeypatch.setattr(Retriever, "search", dying)
    assert tt(*command).code == 130
    assert not Path("found.parquet").exists()
    assert tt(*command).code == 0
    assert len(calls) == 4 + 2  # three parts of five were kept
    assert pa.parquet.read_table("found.parquet") == whole
    # Another k is another job: nothing of one that was killed is used for it.
    calls.clear()
    assert tt(*command).code == 130
    assert tt(*command[:4], "-k", 2, "-o", "found.parquet").code == 0
    assert all(len(ids) <= 2 for ids in pa.parquet.read_table("found.parquet")["ids"].to_pylist())
    # So is another threshold.
    calls.clear()
    assert tt(*command).code == 130
    assert tt(*command, "--threshold", 1.5).code == 0
    assert not any(pa.parquet.read_table("found.parquet")["ids"].to_pylist())


def test_an_error_leaves_nothing_half_written(tt, world_folder, asked, desk, monkeypatch):
    from twotower.bundle import Retriever

    monkeypatch.setattr(bulk, "ROWS", 10)
    search, calls, before = Retriever.search, [], sorted(desk.rglob("*"))

    def failing(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 4:
            raise DataError("the fourth part cannot be read")
        return search(self, *arguments, **options)

    monkeypatch.setattr(Retriever, "search", failing)
    assert tt("search", world_folder, "--queries", "queries.csv", "-o", "found.parquet").code == 2
    assert len(calls) == 4 and sorted(desk.rglob("*")) == before


def test_a_text_with_an_equals_sign_is_one(tt, world_folder):
    for words in (["subject3=sort1"], ["what is aksed=1?"], ["subject3", "aksed=1"]):
        assert tt("search", world_folder, *words).code == 0


def test_a_date_beside_a_pair_may_lie_past_the_year_9999(tt, world_folder, desk):
    some = {"asked": ["subject3"], "thing": [1010], "until": pa.array([2932897], pa.int32()).cast(pa.date32())}
    pa.parquet.write_table(pa.table(some), "some.parquet")
    outcome = tt("score", world_folder, "--pairs", "some.parquet")
    assert outcome.code == 0 and json.loads(outcome.out)["until"] == "10000-01-01", outcome.err


def test_scores_are_the_retrievers(tt, world_run, world_folder, desk):
    Path("some.jsonl").write_text(
        '{"asked": "subject3 sort1", "thing": 1010}\n{"asked": "subject3", "thing": 7}\n{"asked": null, "thing": 1010}\n', encoding="utf-8"
    )
    outcome = tt("score", world_folder, "--pairs", "some.jsonl")
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    assert outcome.code == 0 and [row["thing"] for row in rows] == [1010, 7, 1010]
    assert rows[0]["score"] == pytest.approx(float(world_run.retriever.score("subject3 sort1", 1010)[0]), abs=1e-5)
    assert rows[1]["score"] is None and rows[2]["score"] is None
    written = tt("score", world_folder, "--pairs", "some.jsonl", "-o", "scores.parquet")
    assert written.out == "" and "3 scores" in written.err
    assert pa.parquet.read_table("scores.parquet")["score"].to_pylist() == [pytest.approx(rows[0]["score"]), None, None]


def test_vectors_are_the_retrievers(tt, world, world_run, world_folder, desk):
    assert tt("embed", world_folder, "things.parquet", "-o", "vectors.parquet").code == 0
    vectors = np.stack(pa.parquet.read_table("vectors.parquet")["vector"].to_numpy(zero_copy_only=False))
    np.testing.assert_allclose(vectors, world_run.retriever.vectors, atol=1e-5)
    assert tt("embed", world_folder, "pairs.csv", "--side", "query", "-o", "asked.parquet").code == 0
    written = pa.parquet.read_table("asked.parquet")
    assert written.num_rows == world[0].num_rows
    np.testing.assert_allclose(written["vector"][0].as_py(), world_run.retriever.embed_queries(world[0]["asked"][0].as_py())[0], atol=1e-5)


# --- refusals -----------------------------------------------------------------------------------------------------

REFUSED = {
    "no such verb": (["sarch"], ["sarch", "--help"]),
    "no such option": (["search", "RUN", "x", "--moode", "words"], ["--moode", "twotower search --help"]),
    "no question": (["search", "RUN"], ["question", "--queries"]),
    "an empty question": (["search", "RUN", "  "], ["empty", "asked"]),
    "none asked for": (["search", "RUN", "x", "-k", 0], ["k is 0"]),
    "fewer than none": (["search", "RUN", "x", "-k", -3], ["k is -3"]),
    "k in words": (["search", "RUN", "x", "-k", "ten"], ["-k"]),
    "a mode that is none": (["search", "RUN", "x", "--mode", "wrods"], ["wrods", "did you mean", "words"]),
    "a threshold that is no number": (["search", "RUN", "x", "--threshold", "nan"], ["threshold", "nan", "0.5"]),
    "a threshold in words": (["search", "RUN", "x", "--threshold", "high"], ["--threshold", "number"]),
    "a threshold of no number for a file": (["search", "RUN", "--queries", "pairs.csv", "-o", "f.parquet", "--threshold", "inf"], ["threshold"]),
    "no such run": (["search", "nowhere", "x"], ["nowhere"]),
    "a folder that is neither": (["search", ".", "x"], ["neither"]),
    "a slip in the name of the column": (["search", "RUN", "aksed=boots"], ['"aksed"', 'did you mean asked="boots"', 'asked="aksed=boots"']),
    "a history to a model without": (["search", "RUN", "x", "--history", "1000,nothing"], ["reads no history", "Leave out --history"]),
    "a question and a file of them": (
        ["search", "RUN", "boots", "--queries", "pairs.csv", "-o", "f.parquet"],
        ['"boots"', "pairs.csv", "leave out one"],
    ),
    "a file without a question": (["search", "RUN", "--queries", "unasked.csv", "-o", "new/f.parquet"], ["unasked.csv", "no rows"]),
    "answers to a file on stdout too": (["search", "RUN", "--queries", "pairs.csv", "-o", "f.parquet", "--json"], ["--json", "-o"]),
    "a name without a store to search": (["search", "RUN", "x", "--name", "books"], ["--name", "--store"]),
    "a name without a store to refresh": (["refresh", "RUN", "--remove", "1000", "--name", "books"], ["--name", "--to"]),
    "a name without a store to go back in": (["rollback", "RUN", "--name", "books"], ["--name", "--store"]),
    "a store's recall for a file": (["export", "RUN", "--to", "parquet", "-o", "f.parquet", "--recall", "0.9"], ["--recall", "store"]),
    "answers to a file without queries": (["search", "RUN", "x", "-o", "found.parquet"], ["--queries"]),
    "queries without a place for answers": (["search", "RUN", "--queries", "pairs.csv"], ["-o"]),
    "no such file of queries": (["search", "RUN", "--queries", "pears.csv", "-o", "f.parquet"], ["pears.csv", 'mean "pairs.csv"']),
    "queries without the column": (["search", "RUN", "--queries", "things.parquet", "-o", "f.parquet"], ['"asked"', "title"]),
    "queries with a mode that is none": (["search", "RUN", "--queries", "pairs.csv", "-o", "f.parquet", "--mode", "no"], ['"no"', "hybrid"]),
    "answers to a folder": (["search", "RUN", "--queries", "pairs.csv", "-o", "."], ["folder"]),
    "answers to a CSV": (["search", "RUN", "--queries", "pairs.csv", "-o", "f.csv"], ["f.parquet"]),
    "answers below a file": (["search", "RUN", "--queries", "pairs.csv", "-o", "pairs.csv/f.parquet"], ["cannot write", "pairs.csv"]),
    "vectors in place of what is read": (["embed", "RUN", "things.parquet", "-o", "things.parquet"], ["things.parquet is the file that is read"]),
    "scores of a file without items": (["score", "RUN", "--pairs", "things.parquet"], ["things.parquet", "asked"]),
    "vectors of a side that is none": (["embed", "RUN", "pairs.csv", "--side", "left"], ["query", "item", "left"]),
    "a part without a place of its own": (["embed", "RUN", "things.parquet", "--shard", "2/3"], ["--shard", "-o part2.parquet"]),
    "against without pairs": (["evaluate", "RUN", "--against", "RUN"], ["--pairs", "compare"]),
    "a gate without another": (["evaluate", "RUN", "--fail-if-worse"], ["--against"]),
    "pairs without the item": (["evaluate", "RUN", "--pairs", "things.parquet"], ["thing"]),
    "pairs of unknown items": (["evaluate", "RUN", "--pairs", "unknown.csv"], ["unknown.csv", "none of its 2 pairs"]),
    "compared with nothing": (["compare", "RUN", "nowhere"], ["nowhere"]),
    "no such config": (["train", "twotwer.toml"], ["twotwer.toml", "twotower.toml"]),
    "data for a config": (["train", "pairs.csv"], ["train takes a config", "twotower init pairs.csv -o"]),
    "data for a config to check": (["check", "pairs.csv"], ["check takes a config", "twotower init pairs.csv -o"]),
    "a folder for a config": (["train", "."], ["."]),
    "a question for a run": (["search", "boots " * 100, "x"], ["too long", "boots"]),
    "a config with too long a name": (["train", "c" * 300], ["too long"]),
    "pairs with too long a name": (["init", "p" * 300, "-o", "new.toml"], ["too long"]),
    "a place with too long a name": (["search", "RUN", "--queries", "pairs.csv", "-o", "f" * 300 + ".parquet"], ["too long"]),
    "resume what": (["train", "twotower.toml", "--resume"], ["-o"]),
    "resume and overwrite": (["train", "twotower.toml", "-o", "r", "--resume", "--overwrite"], ["choose one"]),
    "resume a finished run": (["train", "twotower.toml", "-o", "RUN", "--resume"], []),
    "a folder that is taken": (["train", "twotower.toml", "-o", "taken"], ["taken", "--resume", "--overwrite"]),
    "a folder that is somebody's": (["train", "twotower.toml", "-o", "taken", "--overwrite"], ["taken"]),
    "a run below a file": (["train", "twotower.toml", "-o", "pairs.csv/run"], ["pairs.csv/run"]),
    "an override that sets nothing": (["train", "twotower.toml", "-o", "r", "--set", "nonsense"], ["nonsense", "train.epochs=3"]),
    "an override of nothing": (["train", "twotower.toml", "-o", "r", "--set", "train.epoch=3"], ["train.epoch", '"epochs"']),
    "an override of a wrong type": (["train", "twotower.toml", "-o", "r", "--set", "train.epochs=few"], ["train.epochs", "few"]),
    "broken TOML": (["train", "broken.toml", "-o", "r"], ["broken.toml", "line 2"]),
    "a newer config": (["train", "newer.toml", "-o", "r"], ["newer.toml", "pip install -U"]),
    "no such pairs": (["init", "pears.csv", "-o", "new.toml"], ["pears.csv", 'mean "pairs.csv"']),
    "an empty file": (["init", "empty.csv", "-o", "new.toml"], ["empty.csv"]),
    "a header alone": (["init", "header.csv", "-o", "new.toml"], ["header.csv", "no rows"]),
    "one column": (["init", "column.csv", "-o", "new.toml"], ["column.csv", "two"]),
    "half a Parquet file": (["init", "half.parquet", "-o", "new.toml"], ["half.parquet", "truncated"]),
    "not UTF-8": (["init", "latin.csv", "-o", "new.toml"], ["latin.csv line 2", "UTF-8"]),
    "a config that is there": (["init", "pairs.csv"], ["twotower.toml", "--overwrite"]),
    "no such sample": (["demo", "--sample", "tldt"], ["tldr"]),
    "from a folder that is no run": (["train", "twotower.toml", "-o", "r", "--from", "taken"], ["taken", "neither a bundle nor a run"]),
    "from nowhere": (["train", "twotower.toml", "-o", "r", "--from", "nowhere"], ["there is no nowhere"]),
    "from another kind of model": (
        ["train", "twotower.toml", "-o", "r", "--from", "RUN", "--set", "model.similarity=dot"],
        ["similarity was 'cosine' and is 'dot'", "start anew"],
    ),
}


@pytest.fixture
def bad_desk(desk) -> Path:
    (desk / "empty.csv").touch()
    (desk / "header.csv").write_text("q,a\n")
    (desk / "unasked.csv").write_text("asked,thing\n")
    (desk / "column.csv").write_text("q\na\nb\n")
    (desk / "latin.csv").write_bytes("q,a\ncafé noir,thé\n".encode("latin1"))
    (desk / "unknown.csv").write_text("asked,thing\nhello,1\nbye,2\n")
    (desk / "broken.toml").write_text("version = 1\n[data\n")
    (desk / "newer.toml").write_text("version = 99\n")
    things = (desk / "things.parquet").read_bytes()
    (desk / "half.parquet").write_bytes(things[: len(things) // 2])
    (desk / "taken").mkdir()
    (desk / "taken" / "letter.txt").write_text("dear diary")
    return desk


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_gets_one_clear_error(tt, world_folder, bad_desk, case):
    arguments, said = REFUSED[case]
    before = sorted(bad_desk.rglob("*"))
    outcome = tt(*(world_folder if argument == "RUN" else argument for argument in arguments))
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("twotower: ") and "Traceback" not in outcome.err
    assert all(part in outcome.err for part in said)
    assert sorted(bad_desk.rglob("*")) == before  # nothing written, nothing lost


def test_all_that_is_wrong_with_a_config_is_said_at_once(tt, desk):
    text = CONFIG.replace("epochs = 1", 'epochs = "few"').replace("[model]", "[modle]").replace("payload", "paylod")
    Path("twotower.toml").write_text(text)
    outcome = tt("train", "twotower.toml", "-o", "r")
    assert outcome.code == 2 and outcome.out == ""
    assert all(part in outcome.err for part in ("train.epochs", '"model"', '"payload"')) and not Path("r").exists()


@pytest.mark.parametrize("missing", ["torch", "duckdb"])
def test_training_without_the_extra_names_it(tt, desk, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)  # importing it now fails
    outcome = tt("train", "twotower.toml", "-o", "r")
    assert outcome.code == 2 and 'pip install "twotower[train]"' in outcome.err


def test_a_fault_of_ours_is_none_of_theirs(tt, world_folder, monkeypatch):
    monkeypatch.setattr("twotower.bundle.load", lambda place: 1 / 0)
    outcome = tt("search", world_folder, "x")
    assert outcome.code == 1 and outcome.out == ""
    assert "ZeroDivisionError" in outcome.err and "Please report it" in outcome.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_said_plainly(world_folder):
    with open("/dev/full", "w") as full:
        command = typed_apart("search", world_folder, "subject3", stdout=full, stderr=subprocess.PIPE)
        _, said = command.communicate()
    assert command.returncode == 2 and "No space left" in said and "Traceback" not in said


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_fault(world_folder, closed):
    environment = os.environ | {"PYTHONPATH": str(Path(twotower.__file__).parents[1])}
    verb = shlex.join([sys.executable, "-m", "twotower.app.cli", "search", str(world_folder), "word1"])
    done = subprocess.run(f"{verb} {closed}", shell=True, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert ("score" in done.stdout) == (" >&-" not in f" {closed}")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_a_reader_who_has_enough_is_no_error(world_folder):
    command = typed_apart("search", world_folder, "subject3", "-k", 36, "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    command.stdout.close()
    assert command.stderr.read() == "" and command.wait() == 0


def test_a_report_on_data_names_keys_and_warns_of_pairs_met_twice():
    from twotower.app.reports import data, dropped

    split = {"by": "random", "train": 8, "validation": 1, "test": 1}
    told = data({"pairs": 10, "query_rows": 9, "items": 4, "split": split, "test_keys_in_train": 1_000, "test_pairs_in_train": 2_000})
    assert "1,000 test keys" in told and "test queries" not in told
    assert "2,000 test pairs that training holds too: figures are too good by them" in told
    lines = dropped({"of_unlisted_event": 3, "without_query": 0, "item_not_in_catalogue": 1, "repeated": 2})
    assert lines == ["Rows left out: 3 of an event without weight, 1 whose item the catalogue lacks, 2 that repeat another."]


def test_a_comparison_says_what_was_not_the_same_for_both(capsys):
    from twotower.app.reports import comparison, show
    from twotower.runs.comparing import compare_values

    values = {"mrr": np.array([0.1, 0.4])}
    same = compare_values(("new", "old"), values, values, np.arange(2))
    show(comparison(same._replace(catalogues=(7, 7), left_out=("nothing is", "nothing is"))))
    assert "catalogue" not in capsys.readouterr().out
    show(comparison(same._replace(catalogues=(7_000, 9), left_out=("nothing is", "all is"))))
    out = " ".join(capsys.readouterr().out.split())
    assert "new has 7,000, old 9." in out and "new: nothing is; old: all is." in out


# --- train, evaluate, compare, info -------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [[], ["--items", "things.parquet"]])
def test_what_init_writes_is_a_config_that_trains(tt, desk, extra):
    outcome = tt("init", "pairs.csv", *extra, "-o", "new.toml")
    assert outcome.code == 0 and Path("new.toml").read_text() == outcome.out
    assert "twotower train new.toml" in outcome.err
    small = ("--set", "train.epochs=1", "--set", "model.dimensions=4")
    trained = tt("train", "new.toml", "-o", "runs/new", *small, "--json")
    assert trained.code == 0, trained.err
    assert json.loads(trained.out)["data"]["pairs"] == 400


def test_train_evaluate_compare_and_the_gate(tt, world_folder, desk):
    trained = tt("train", "twotower.toml", "-o", "weak")
    assert trained.code == 0 and "320 train" in trained.out and "weak/bundle" in trained.out
    assert "epoch 1" in trained.err and "pairs/s" in trained.err and "epoch 1" not in trained.out
    assert tt("train", "twotower.toml", "-o", "weak").code == 2
    assert tt("train", "twotower.toml", "-o", "weak", "--overwrite", "--set", "train.seed=1", "--json").code == 0

    metrics = json.loads(tt("evaluate", "weak", "--json").out)
    assert metrics["training"] and metrics["model"] == json.loads(tt("evaluate", "weak/bundle", "--json").out)["model"]
    on_pairs = json.loads(tt("evaluate", "weak", "--pairs", "pairs.csv", "--json").out)
    assert on_pairs["evaluation"]["rankings"] == 400 and on_pairs["evaluation"]["catalogue"] == 36

    gate = ("--pairs", "pairs.csv", "--fail-if-worse", "--against")
    worse = tt("evaluate", "weak", *gate, world_folder)
    assert worse.code == 3 and "is worse than" in worse.err and "difference" in worse.out
    assert tt("evaluate", world_folder, *gate, "weak").code == 0
    assert tt("evaluate", "weak", *gate, "weak").code == 0
    assert tt("evaluate", "weak", *gate[:1], "pairs.csv", "--against", world_folder).code == 0  # without the flag, only told

    compared = json.loads(tt("compare", "weak", "weak", "--json").out)
    assert compared["tests"]["mrr"]["difference"] == 0 and compared["figures"]["mrr"][0] == pytest.approx(metrics["model"]["mrr"]["value"])
    facts = json.loads(tt("info", "weak", "--verify", "--json").out)
    assert facts["items"] == 36 and facts["dimensions"] == 4 and facts["verified"] and facts["search"] == "vectors"
    assert "title (text)" in tt("info", "weak/bundle").out
    assert sum(1 for _ in Path("weak/bundle").rglob("vectors.npy")) == 1


def test_damage_is_seen(tt, desk):
    assert tt("train", "twotower.toml", "-o", "run").code == 0
    vectors = next(Path("run/bundle").rglob("vectors.npy"))
    whole = vectors.read_bytes()
    vectors.write_bytes(whole[:-1])
    assert tt("search", "run", "x").code == 2
    vectors.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    outcome = tt("info", "run", "--verify")
    assert outcome.code == 2 and "vectors.npy" in outcome.err
    os.remove("run/bundle/CURRENT")
    outcome = tt("search", "run", "x")
    assert outcome.code == 2 and "run" in outcome.err


def test_ctrl_c_saves_and_names_the_command_that_goes_on(tt, desk, monkeypatch):
    lines = progress._lines()

    def interrupting(told):
        lines(told)
        if not interrupted and not hasattr(told, "loss"):  # the first validation
            interrupted.append(told)
            signal.raise_signal(signal.SIGINT)

    interrupted: list[object] = []
    monkeypatch.setattr(progress, "_lines", lambda: interrupting)
    outcome = tt("train", "twotower.toml", "-o", "my runs/a", "--set", "train.epochs=3")
    assert outcome.code == 130 and outcome.out == ""
    assert tt("search", "my runs/a", "x").code == 2  # it has not finished
    command = shlex.split(outcome.err.splitlines()[-1])
    assert command == ["twotower", "train", "twotower.toml", "-o", "my runs/a", "--set", "train.epochs=3", "--resume"]
    resumed = tt(*command[1:], "--json")
    assert resumed.code == 0, resumed.err
    straight = tt("train", "twotower.toml", "-o", "straight", "--set", "train.epochs=3", "--json")
    assert json.loads(resumed.out)["model"] == json.loads(straight.out)["model"]


def test_train_from_a_run_says_what_it_does(tt, desk):
    assert "--from RUN|BUNDLE" in " ".join(tt("train", "--help").out.split())
    assert tt("train", "twotower.toml", "-o", "first", "--set", "train.epochs=1").code == 0
    outcome = tt("train", "twotower.toml", "-o", "again", "--from", "first", "--json")
    assert outcome.code == 0, outcome.err
    assert re.search(r"going on from .*\d+ rows known and 0 new; 1 epoch, by \[train\] again", outcome.err)
    assert len(json.loads(outcome.out)["training"]["from"]) == 64
    assert '"continues"' in tt("info", "again", "--json").out


@pytest.mark.parametrize(("epochs", "said"), [(9, "stopped after epoch 3 of 9: no better for 2 validations"), (3, "")])
def test_an_early_end_is_told(capsys, epochs, said):
    """Told once, by the first stage behind training; not while training goes on, nor at its proper end."""
    with progress.watching() as told:
        told.stage("training")
        for epoch in range(3):
            told.training(Step(epoch + 1, epoch, 0, 1, epochs, 1.0, 8, 0.1))
            told.training(Validation(epoch + 1, {"mrr": 0.5}, "mrr", epoch == 0, 0.1))
        for stage in ("exporting", "ranking"):
            told.stage(stage)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "stopped" in line] == ([said] if said else [])
    assert not said or lines[-3:] == [said, "exporting", "ranking"]


def test_each_tower_that_is_exported_is_a_stage(tt, desk):
    lines = tt("train", "twotower.toml", "-o", "run").err.splitlines()
    assert [line for line in lines if line.endswith("tower")] == ["exporting the query tower", "exporting the item tower"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_loading_is_told_at_a_terminal_and_leaves_nothing_there(monkeypatch, capsys):
    screen = Terminal()
    with application.loading():
        pass
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "stderr", screen)
    with application.loading():
        assert screen.getvalue() == "loading ..."
    assert screen.getvalue() == "loading ...\r\x1b[K"


def test_the_demo_replaces_no_run_that_could_be_resumed(tt, desk, monkeypatch):
    monkeypatch.setattr("twotower.app.demonstration.train", lambda *_, **__: pytest.fail("it would be replaced"))
    Path("mine").mkdir()
    Path("mine/config.toml").write_text(CONFIG, encoding="utf-8")
    Path("mine/checkpoint.safetensors").write_bytes(b"an hour of training")
    outcome = tt("demo", "--sample", "goodbooks", "-o", "mine")
    assert outcome.code == 2 and "mine holds a run that is no demo" in outcome.err


def test_a_demo_that_is_stopped_while_it_asks_can_begin_again(tt, desk, monkeypatch):
    def trained(*_, output, **__):
        output.mkdir(exist_ok=True)
        (output / "metrics.json").write_text("{}")
        return SimpleNamespace(retriever=None)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("twotower.app.demonstration.train", trained)
    monkeypatch.setattr("twotower.app.demonstration._count", interrupted)
    assert [tt("demo", "-o", "demo").code for _ in range(2)] == [130, 130]


def test_square_brackets_reach_a_terminal(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with progress.watching() as told:
        told.stage("reading [old]/[/clicks] of [data]")
        told.training(Validation(1, {"mrr": 0.5}, "mrr", True, 0.1, fault="Lower [train] learning_rate"))
        told.note("failed: [/model] says too little")
    for said in ("reading [old]/[/clicks] of [data]", "Lower [train] learning_rate", "failed: [/model] says too little"):
        assert said in screen.getvalue()


def test_a_run_folder_and_a_column_may_have_square_brackets(tt, desk):
    table = pa.parquet.read_table("things.parquet")
    pa.parquet.write_table(table.append_column("weight [kg]", pa.array([1.5] * len(table))), "things.parquet")
    payload = 'item.payload=["title", "weight [kg]"]'
    trained = tt("train", "twotower.toml", "-o", "[old]/[/run]", "--set", payload)
    assert trained.code == 0 and "The run is in [old]/[/run], its bundle in" in trained.out, trained.err
    assert "weight [kg]" in tt("search", "[old]/[/run]", "word1").out.splitlines()[0]


def test_ctrl_c_before_training_says_so(tt, desk, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("twotower.runs.run.prepare", interrupted)
    outcome = tt("train", "twotower.toml", "-o", "run")
    assert outcome.code == 130 and outcome.err.rstrip().endswith("twotower train twotower.toml -o run --overwrite")


def test_paths_in_a_config_are_relative_to_it(tt, desk, monkeypatch):
    (desk / "elsewhere").mkdir()
    monkeypatch.chdir(desk / "elsewhere")
    assert tt("train", "../twotower.toml", "-o", "run").code == 0
    assert (desk / "elsewhere" / "run" / "bundle").is_dir()
