"""Filters and their kin at the command line, for one question and for a file of them."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower.app import bulk


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def asked(typed, world_folder, desk):
    """The answers, as dicts, to a question with these options."""

    def ask(*options):
        code, out, err = typed("search", world_folder, *options, "--json")
        assert code == 0, err
        return json.loads(out)

    return ask


def ids(answers):
    return [answer["id"] for answer in answers]


def test_a_filter_is_a_text_or_json_or_a_file(asked, world_run, desk):
    wanted = world_run.retriever.search("subject3 sort1", 10, where="price < 20 and not price in [3, 4]").ids
    wanted = [each for each in wanted.tolist() if each is not None]
    assert len(wanted) == 10 and all(each - 1000 < 20 and each not in (1003, 1004) for each in wanted)
    Path("cheap.json").write_text('{"price": {"lt": 20}, "not": {"price": {"in": [3, 4]}}}', encoding="utf-8")
    Path("cheap.txt").write_text("price < 20 and price not in [3, 4]\n", encoding="utf-8")
    for where in ("price < 20 and not price in [3, 4]", Path("cheap.json").read_text(encoding="utf-8"), "@cheap.json", "@cheap.txt"):
        assert ids(asked("subject3 sort1", "--where", where)) == wanted


def test_options_go_together(asked, world_run):
    options = ("--where", "price < 30", "--deny", "1010,nobody", "--skip", "2", "--diversity", "0.3", "-k", "5")
    wanted = world_run.retriever.search("subject3 sort1", 5, where="price < 30", deny=[1010], skip=2, diversity=0.3).ids.tolist()
    assert ids(asked("subject3 sort1", *options)) == wanted
    assert {*ids(asked("subject3 sort1", "--allow", "1001,1002", "--mode", "vectors"))} == {1001, 1002}


def test_more_like_these(asked, typed, world_run, world_folder):
    wanted = world_run.retriever.similar([1000, 1001], 4, where="price > 10").ids.tolist()
    assert ids(asked("--like", "1000,1001", "--where", "price > 10", "-k", "4")) == wanted
    assert "1.000" not in typed("search", world_folder, "--like", "1000", "-k", "2")[1]  # itself is left out
    assert "unlikeness" in typed("search", world_folder, "--like", "1000", "--diversity", "0.9")[1]


def test_an_unknown_id_is_told_of(typed, world_folder, desk):
    code, _, err = typed("search", world_folder, "subject3", "--deny", "1000,nobody")
    assert code == 0 and "the catalogue lacks nobody; --deny passes over that" in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--where", "price < 0"], "no item meets the filter"),
        (["--allow", "nobody"], "no item is left by --allow"),
        (["--skip", "50"], "nothing is left behind the first 50"),
        (["--threshold", "1.5", "--where", "price < 5"], "below the threshold 1.5"),
    ],
)
def test_nothing_found_says_why(typed, world_folder, desk, options, said):
    code, out, err = typed("search", world_folder, "subject3", "--mode", "vectors", *options)
    assert (code, out) == (0, "") and said in err


REFUSED = {
    "an unknown column": (["x", "--where", "pric < 5"], ['"pric"', 'did you mean "price"']),
    "a wrong type": (["x", "--where", "price == 'cheap'"], ['"price" is a number', '"cheap" is a text', "price < 50"]),
    "an open quote": (["x", "--where", "title == 'a"], ["character 10", "not closed"]),
    "nothing at all": (["x", "--where", ""], ["empty"]),
    "very deep": (["x", "--where", "(" * 8000], ["32 levels"]),
    "deep json": (["x", "--where", '{"not":' * 4000], ["JSON"]),
    "a file that is not there": (["x", "--where", "@none.json"], ["none.json", "cannot be read"]),
    "a folder": (["x", "--where", "@."], ["cannot be read"]),
    "no id": (["x", "--deny", ","], ["--deny 13,14"]),
    "a page before the first": (["x", "--skip", "-1"], ["skip"]),
    "too diverse": (["x", "--diversity", "1.5"], ["diversity", "up to 1"]),
    "like a stranger": (["--like", "1000,nobody"], ["nobody"]),
    "like and a question": (["x", "--like", "1000"], ["--like stands instead"]),
    "like in a mode": (["--like", "1000", "--mode", "words"], ["leave out --mode"]),
    "a column of no file": (["x", "--exclude-column", "seen"], ["--queries"]),
    "a file that lacks it": (["--queries", "q.parquet", "-o", "f.parquet", "--exclude-column", "sen"], ['"sen"', '"seen"']),
    "a file and a wrong filter": (["--queries", "q.parquet", "-o", "f.parquet", "--where", "pric < 5"], ['did you mean "price"']),
    "a file and a wrong page": (["--queries", "q.parquet", "-o", "f.parquet", "--skip", "-1"], ["skip"]),
    "a file and a wrong diversity": (["--queries", "q.parquet", "-o", "f.parquet", "--diversity", "0"], ["diversity"]),
}


@pytest.fixture
def questions(desk, world):
    """A file of questions, with what each has seen."""
    texts = world[0].column("asked").to_pylist()[:20]
    seen = [[1000 + n, 1000 + 2 * n % 36, 7] if n % 3 else None for n in range(20)]
    table = pa.table({"asked": [*texts[:3], None, *texts[4:]], "seen": pa.array(seen, pa.list_(pa.int64()))})
    pq.write_table(table, "q.parquet")
    return table


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_leaves_with_2(typed, world_folder, questions, desk, name):
    options, said = REFUSED[name]
    before = sorted(desk.iterdir())
    code, out, err = typed("search", world_folder, *options)
    assert (code, out) == (2, "") and "Traceback" not in err
    assert all(words in err for words in said)
    assert sorted(desk.iterdir()) == before


@pytest.mark.parametrize("form", ["lists", "text", "json"])
def test_a_file_is_answered_as_its_questions_one_by_one(typed, world_run, world_folder, questions, desk, monkeypatch, form):
    monkeypatch.setattr(bulk, "ROWS", 7)
    seen = questions["seen"].to_pylist()
    if form != "lists":
        texts = [None if each is None else "|".join(map(str, each)) if form == "text" else json.dumps(each) for each in seen]
        pq.write_table(questions.set_column(1, "seen", pa.array(texts, pa.string())), "q.parquet")
    options = ["--where", "price < 30", "--deny", "1002", "--skip", "1", "--diversity", "0.4", "-k", "3", "--exclude-column", "seen"]
    code, _, err = typed("search", world_folder, "--queries", "q.parquet", "-o", "f.parquet", *options)
    assert code == 0, err
    found = pq.read_table("f.parquet")
    for n, text in enumerate(questions["asked"].to_pylist()):
        if text is None:
            assert found["ids"][n].as_py() == []
            continue
        one = world_run.retriever.search(text, 3, where="price < 30", deny=[1002], exclude=seen[n] or [], skip=1, diversity=0.4)
        assert found["ids"][n].as_py() == [each for each in one.ids.tolist() if each is not None]
    assert sorted(path.name for path in desk.iterdir()) == ["f.parquet", "q.parquet"]


CHANGES = {
    "where": ["--where", "price < 5"],
    "allow": ["--allow", "1001,1002"],
    "deny": ["--deny", "1001,1002"],
    "skip": ["--skip", "3"],
    "diversity": ["--diversity", "0.9"],
    "exclude": ["--exclude-column", "seen"],
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_job_that_was_killed_is_not_gone_on_with_by_another(typed, world_folder, questions, desk, monkeypatch, name):
    from twotower.bundle import Retriever

    monkeypatch.setattr(bulk, "ROWS", 5)
    command = ("search", world_folder, "--queries", "q.parquet", "-o", "f.parquet", "-k", 4)
    assert typed(*command, *CHANGES[name])[0] == 0
    wanted = pq.read_table("f.parquet")
    Path("f.parquet").unlink()
    search, calls = Retriever.search, []

    def dying(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return search(self, *arguments, **options)

    monkeypatch.setattr(Retriever, "search", dying)
    assert typed(*command)[0] == 130
    assert (desk / ".f.parquet.parts" / "job.json").exists()
    assert typed(*command, *CHANGES[name])[0] == 0
    assert pq.read_table("f.parquet") == wanted
    assert len(calls) == 3 + 4  # all four parts anew
    # The same filter in another spelling is the same job.
    if name == "where":
        calls.clear()
        assert typed(*command, *CHANGES[name])[0] == 130
        assert typed(*command, "--where", '{"price": {"lt": 5}}')[0] == 0
        assert len(calls) == 3 + 2


def test_a_filter_that_leaves_nothing_is_told_of(typed, world_folder, questions, desk):
    code, _, err = typed("search", world_folder, "--queries", "q.parquet", "-o", "f.parquet", "--where", "price < 0")
    assert code == 0 and "no item meets the filter" in err
    assert not any(map(len, pq.read_table("f.parquet")["ids"].to_pylist()))
    assert np.all([len(each) == 0 for each in pq.read_table("f.parquet")["scores"].to_pylist()])
