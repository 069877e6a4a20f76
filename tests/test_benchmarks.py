"""The machinery of `make bench`: what is measured anew, what is kept, and that every recipe is a config of today."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks import __main__ as command
from benchmarks import fingerprints, results, sets
from benchmarks.rows import HERE, ROOT, ROWS, Asked, Figure, Row
from twotower import config

RECIPES = sorted((HERE / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_a_config_and_reads_a_set_that_can_be_made(path: Path) -> None:
    read = config.read(path)
    named = [place for place in vars(read.data).values() if isinstance(place, str)]  # a query names its files within
    assert named and all(Path(place).parent.parent == sets.MADE and Path(place).parent.name in sets.SETS for place in named)
    assert sets.read_by(path.stem) == [Path(str(read.data.pairs)).parent.name]


def test_every_row_has_its_module_recipes_and_peers() -> None:
    for name, row in ROWS.items():
        assert importlib.util.find_spec(f"benchmarks.rows.{name}") is not None
        files = [HERE / "recipes" / f"{recipe}.toml" for recipe in row.recipes]
        files += [HERE / "peers" / f"{peer}.py" for peer in row.peers] + [HERE / "peers" / f"{one}.txt" for one in row.environments]
        assert all(file.is_file() for file in files), name
    assert {path.stem for path in RECIPES} == {recipe for row in ROWS.values() for recipe in row.recipes}
    assert {path.stem for path in (HERE / "rows").glob("*.py")} - {"__init__"} == set(ROWS)


def test_a_row_depends_on_what_it_imports_and_on_nothing_else() -> None:
    blockwise, gowalla = (fingerprints.fingerprint(name, ROWS[name]) for name in ("blockwise", "gowalla"))
    assert {"benchmarks/rows/blockwise.py", "src/twotower/model/blockwise.py", "src/twotower/model/losses.py"} <= set(blockwise)
    assert not any(path.startswith(("src/twotower/runs/", "src/twotower/app/", "benchmarks/recipes/")) for path in blockwise)
    needed = {"benchmarks/recipes/gowalla.toml", "benchmarks/peers/factors.py", "benchmarks/peers/own.txt", "benchmarks/quality.py"}
    assert needed | {"src/twotower/learning/training.py", "src/twotower/runs/run.py", "src/twotower/model/losses.py"} <= set(gowalla)
    assert not any(path.startswith("src/twotower/app/") for path in gowalla)


def test_words_about_code_change_no_fingerprint_and_code_does(tmp_path: Path) -> None:
    path = tmp_path / "module.py"

    def digest(text: str) -> str:
        path.write_text(text, encoding="utf-8")
        return fingerprints.digest(path)

    plain = digest("def f(x):\n    return x + 1\n")
    assert digest('"""A module."""\n\ndef f(x):  # a function\n    """Add."""\n    return (x +\n            1)\n') == plain
    assert (
        len({plain, digest("def f(x):\n    return x + 2\n"), digest("def f(x):\n    return x - 1\n"), digest("def f(y):\n    return y + 1\n")}) == 4
    )
    assert digest('X = "a"\n') != digest('X = "b"\n')
    assert digest("X = 1\n") != digest("X = 1.0\n") != digest("X = '1'\n")
    assert digest("if a:\n    'text'\n    b()\n") != digest("if a:\n    b()\n")  # not a docstring


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results of their own, and a page with an old part."""
    monkeypatch.setattr(results, "KEPT", tmp_path / "results")
    monkeypatch.setattr(results, "PAGE", tmp_path / "RESULTS.md")
    (tmp_path / "RESULTS.md").write_text(f"# Results\n\n{results.EARLIER}\n\nold | figures\n", encoding="utf-8")
    return tmp_path


def test_a_row_is_measured_once_until_something_it_depends_on_changes(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = ROWS["blockwise"]
    assert results.state("blockwise", row) == "new"
    results.keep("blockwise", [Figure("a step", "3.0x", "3x", {"ratio": 3.0})], 1.5, "run it")
    assert results.state("blockwise", row) == "measured"
    told = json.loads((kept / "results" / "blockwise.json").read_text(encoding="utf-8"))
    assert told["figures"] == [{"what": "a step", "measured": "3.0x", "wanted": "3x", "values": {"ratio": 3.0}}]
    now = fingerprints.fingerprint("blockwise", row)
    changed = now | {"src/twotower/model/losses.py": "other"}
    monkeypatch.setattr(results, "fingerprint", lambda name, row: changed)
    assert results.state("blockwise", row) == "changed since: src/twotower/model/losses.py"


def test_the_page_shows_what_is_kept_marks_what_is_old_and_leaves_the_rest_alone(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results.keep("blockwise", [Figure("a step", "3.0x", "3x")], 1.5, "run it")
    for _ in range(2):  # rendering is repeatable
        results.render()
        page = (kept / "RESULTS.md").read_text(encoding="utf-8")
        assert "| a step | 3.0x | 3x |" in page and "have changed since" not in page
        assert page.endswith(f"{results.EARLIER}\n\nold | figures\n") and page.count(results.EARLIER) == 1
    monkeypatch.setattr(results, "fingerprint", lambda name, row: {})
    results.render()
    assert "have changed since" in (kept / "RESULTS.md").read_text(encoding="utf-8")


def test_a_row_that_was_broken_off_keeps_its_lines_but_no_finished_ones_place(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lines(asked: Asked) -> Iterator[Figure]:
        yield Figure("a step", "3.0x")
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "measure_of", lambda name: lines)
    monkeypatch.setattr(command.signal, "signal", lambda *_: None)
    monkeypatch.setattr(command, "MADE", kept)
    monkeypatch.setattr(command, "THREADS", 2)
    row = ROWS["blockwise"]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            command.main(["measure", "blockwise"])
        assert results.state("blockwise", row) == "unfinished"
    results.render()
    assert "| a step | 3.0x |" in (page := (kept / "RESULTS.md").read_text(encoding="utf-8")) and "Broken off after these lines" in page
    results.keep("blockwise", [Figure("a step", "9.9x")], 1.0, "run it")
    with pytest.raises(KeyboardInterrupt):
        command.main(["measure", "blockwise"])
    assert results.state("blockwise", row) == "measured" and "9.9x" in (kept / "results" / "blockwise.json").read_text(encoding="utf-8")


def test_who_is_killed_while_writing_leaves_what_was_there(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results.keep("blockwise", [Figure("a step", "3.0x")], 1.0, "run it")
    before = (kept / "results" / "blockwise.json").read_bytes()
    monkeypatch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        results.keep("blockwise", [Figure("a step", "9.9x")], 1.0, "run it")
    assert (kept / "results" / "blockwise.json").read_bytes() == before


def test_a_set_is_made_whole_or_not_at_all_and_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def tables(raw: Path) -> sets.Tables:
        calls.append(raw)
        if len(calls) == 1:
            raise OSError("the disk is full")
        return {"pairs": pa.table({"a": [1, 2]})}

    monkeypatch.setattr(sets, "MADE", tmp_path)
    monkeypatch.setitem(sets.SETS, "tiny", tables)
    with pytest.raises(OSError, match="full"):
        sets.made("tiny")
    assert not (tmp_path / "tiny").exists()
    assert sets.made("tiny") == sets.made("tiny") == tmp_path / "tiny"
    assert len(calls) == 2 and (tmp_path / "tiny" / "pairs.parquet").is_file()


def test_lists_of_users_are_read_as_pairs(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "gowalla").mkdir()
    for part, text in (("train", "0 5 6 7\n1 5\n"), ("test", "0 8\n1 \n")):
        (tmp_path / "gowalla" / f"{part}.txt.gz").write_bytes(gzip.compress(text.encode()))
    made = sets.gowalla(tmp_path)["pairs"]
    assert made.select(["user", "item"]).to_pydict() == {"user": [0, 0, 0, 1, 0], "item": [5, 6, 7, 5, 8]}
    assert set(made["part"].to_pylist()[:4]) <= {"train", "validation"} and made["part"].to_pylist()[4] == "test"


def test_validation_claims_are_training_claims_and_whole(tmp_path: Path) -> None:
    import gzip

    folder = tmp_path / "scifact"
    (folder / "qrels").mkdir(parents=True)
    claims = "\n".join(json.dumps({"_id": str(n), "text": f"claim {n}"}) for n in range(40))
    abstracts = "\n".join(json.dumps({"_id": f"a{n}", "title": f"t{n}", "text": f"abstract {n}"}) for n in range(3))
    (folder / "queries.jsonl.gz").write_bytes(gzip.compress(claims.encode()))
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(abstracts.encode()))
    head = "query-id\tcorpus-id\tscore\n"
    training = [(n, f"a{n % 3}") for n in range(30)] + [(n, f"a{(n + 1) % 3}") for n in range(30)]
    (folder / "qrels" / "train.tsv").write_text(head + "".join(f"{n}\t{a}\t1\n" for n, a in training), encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text(head + "".join(f"{n}\ta0\t{n % 2}\n" for n in range(30, 40)), encoding="utf-8")
    made = sets.scifact(tmp_path)
    asked = {part: set(made[part]["claim"].to_pylist()) for part in ("pairs", "validation", "test")}
    assert len(asked["validation"]) == 3 and len(made["validation"]) == 6
    assert not asked["pairs"] & asked["validation"] and len(asked["pairs"] | asked["validation"]) == 30
    assert asked["test"] == {f"claim {n}" for n in range(31, 40, 2)}  # a score of 0 is no match


def test_the_command_line_lists_and_refuses() -> None:
    listed = subprocess.run([sys.executable, "-m", "benchmarks", "list"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in listed.splitlines()] == list(ROWS)
    refused = subprocess.run([sys.executable, "-m", "benchmarks", "run", "gowala"], cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2 and "gowala" in refused.stderr and "gowalla_wide" in refused.stderr


def test_a_row_without_its_data_is_skipped_and_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "RAW", tmp_path)
    assert sets.lacking(Row("any", data=("gowalla",))) == str(tmp_path / "gowalla")
    assert sets.lacking(Row("any")) == ""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert sets.lacking(Row("any", cuda=True)) == "CUDA device"


def test_peers_are_ranked_on_the_same_cases() -> None:
    """Vectors and a matrix of scores that say the same come to the same figures, by key or by row of the query."""
    from benchmarks import environments, quality
    from twotower.data.columns import Ragged
    from twotower.learning.evaluation import Cases
    from twotower.learning.options import EvaluateOptions

    generator = np.random.default_rng(0)
    queries, items = generator.normal(size=(6, 3)).astype(np.float32), generator.normal(size=(20, 3)).astype(np.float32)
    keys = np.array([4, 0, 2])
    asked = Cases(np.array([1, 3, 5]), keys, Ragged(np.array([7, 1, 19]), np.arange(4)), None)

    class Prepared:
        n_items = 20

    test = quality.Tested(None, Prepared(), asked, EvaluateOptions(metrics=("mrr",)), None)  # type: ignore[arg-type]
    by_key = quality.ranked(test, quality.scorer_of(test, environments.Answer({}, {"queries": queries, "items": items})))
    matrix = quality.ranked(test, quality.scorer_of(test, environments.Answer({}, {"scores": queries @ items.T})))
    by_row = quality.ranked(test, quality.scorer_of(test, environments.Answer({"by": "rows"}, {"queries": queries, "items": items})))
    scores = queries[keys].astype(np.float64) @ items.T.astype(np.float64)
    places = [int((row > row[right]).sum()) + 1 for row, right in zip(scores, (7, 1, 19), strict=True)]
    assert by_key.values["mrr"] == pytest.approx([1 / place for place in places])
    assert matrix.values["mrr"] == pytest.approx(by_key.values["mrr"])
    assert by_row.values["mrr"] != pytest.approx(by_key.values["mrr"])


@pytest.mark.parametrize("text", ["import twotower as tt\n", "def f():\n    from twotower import train\n"])
def test_who_trains_by_the_package_depends_on_all_of_training(text: str, tmp_path: Path) -> None:
    (tmp_path / "row.py").write_text(text, encoding="utf-8")
    found = {path.relative_to(ROOT).as_posix() for path in fingerprints.modules(tmp_path / "row.py") if path.is_relative_to(ROOT)}
    assert {"src/twotower/runs/run.py", "src/twotower/learning/training.py", "src/twotower/data/preparation/__init__.py"} <= found
