"""A catalogue that grows: what is found is what a catalogue made at once would give, and nobody ever sees half of a version."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from twotower import load
from twotower.app.server.shown import Shown
from twotower.bundle import compact, growth, open_bundle, rollback, verify, versions
from twotower.bundle.layout import Segment, current, write_segment, write_version
from twotower.errors import BundleError, ConfigError, DataError, OutputError
from twotower.files import held


@pytest.fixture
def copied(world_folder, tmp_path):
    return Path(shutil.copytree(world_folder / "bundle", tmp_path / "bundle"))


@pytest.fixture
def items(world):
    return world[1].to_pylist()


NEW = {"name": 2000, "title": "tovar3 vid1 novinka", "kind": "k0", "price": 7.0}


def same_as_made_at_once(retriever, rows):
    """Whether a retriever holds exactly these rows, with the vectors that they have, and finds them as one whole segment would."""
    assert sorted(retriever.items.column("_id").to_pylist()) == sorted(row["name"] for row in rows)
    expected = {row["name"]: row for row in rows}
    for shown in retriever.items.to_pylist():
        row = expected[shown["_id"]]
        assert {name: shown[name] for name in row} == row
    np.testing.assert_allclose(retriever.vectors, retriever.embed_items(retriever.items), atol=1e-6)
    ids = retriever.items.column("_id").to_pylist()
    assert retriever.rows_of(ids).tolist() == list(range(len(rows)))
    questions = ["subject3 sort1", "tovar3 vid1", "novinka"]
    near = retriever.embed_queries(questions) @ np.asarray(retriever.vectors).T
    found = retriever.search(questions, k=len(rows), mode="vectors")
    for n in range(2):  # of the third no word is known
        assert near[n, found.rows[n]].tolist() == pytest.approx(sorted(near[n], reverse=True), abs=1e-6)


def test_a_catalogue_grows_changes_and_shrinks(copied, items):
    retriever = load(copied)
    asked = retriever.lexical.scores(["subject3 sort1"])[0]
    price = [items[0] | {"price": 99.5}, *items[1:]]
    title = [price[0], price[1] | {"title": "tovar9 vid2"}, *price[2:]]
    now = [*title[:-1], NEW]
    change = retriever.refresh(now)
    assert (change.added, change.embedded, change.shown, change.removed, change.same) == (1, 1, 1, 1, len(items) - 3)
    assert (change.version, change.parent, change.rows) == ("000002", "000001", len(items))
    assert not change.nothing
    same_as_made_at_once(retriever, now)
    assert retriever.search("novinka", k=1, mode="words").ids.tolist() == [2000]
    # The words of the training queries stay with an item that is only shown otherwise, or whose title changed.
    row = int(retriever.rows_of([items[0]["name"]])[0])
    assert (retriever.lexical.scores(["subject0"])[0][row] > 0) == (asked is not None)
    again = retriever.refresh(pa.Table.from_pylist(now))
    assert again.nothing and again.version == "000002" and current(copied) == "000002"
    same_as_made_at_once(load(copied), now)
    verify(copied)


def test_the_words_of_training_queries_stay_with_their_items(copied, items):
    retriever = load(copied)

    def led_to(word, item):
        return float(retriever.lexical.scores([word])[0][retriever.rows_of([item])[0]])

    before = {row["name"]: led_to(f"subject{n // 3}", row["name"]) for n, row in enumerate(items)}
    assert min(before.values()) > 0
    retriever.refresh([row | {"title": row["title"] + " znovu", "price": 1.0} for row in items])
    after = {row["name"]: led_to(f"subject{n // 3}", row["name"]) for n, row in enumerate(items)}
    assert min(after.values()) > 0 and min(led_to("znovu", row["name"]) for row in items) > 0
    retriever.refresh([*items, NEW])
    for name, value in before.items():
        assert led_to(f"subject{(name - 1000) // 3}", name) == pytest.approx(value, rel=0.1)  # one text more changes how rare a word is
    assert led_to("subject3", 2000) == 0


@pytest.mark.parametrize("seed", range(4))
def test_any_walk_ends_where_a_catalogue_made_at_once_is(copied, items, seed, monkeypatch):
    monkeypatch.setattr(growth, "MOST_SEGMENTS", 4)
    generator = np.random.default_rng(seed)
    retriever, rows, next_id = load(copied), {row["name"]: row for row in items}, 5000
    for step in range(9):
        names = list(rows)
        for name in generator.choice(names, size=min(len(names), int(generator.integers(0, 6))), replace=False).tolist():
            what = generator.integers(3)
            if what == 0 and len(rows) > 10:
                del rows[name]
            elif what == 1:
                rows[name] = rows[name] | {"price": float(generator.integers(100))}
            else:
                rows[name] = rows[name] | {"title": f"tovar{generator.integers(12)} slovo{step}"}
        for _ in range(int(generator.integers(0, 4))):
            rows[next_id] = NEW | {"name": next_id, "title": f"tovar{generator.integers(12)} vid{generator.integers(3)}"}
            next_id += 1
        order = generator.permutation(list(rows)).tolist()
        retriever.refresh([rows[name] for name in order], yes=True)
        if step == 5:
            rollback(copied)
            assert retriever.reload()
            retriever.refresh([rows[name] for name in order], yes=True)
        same_as_made_at_once(retriever, list(rows.values()))
        assert len(open_bundle(copied).segments) <= 4
    words = retriever.lexical.scores(["tovar3 slovo1"])[0]
    compact(copied)
    whole = load(copied)
    assert len(whole.bundle.segments) == 1 and not len(whole.bundle.removed)
    same_as_made_at_once(whole, list(rows.values()))
    np.testing.assert_allclose(whole.lexical.scores(["tovar3 slovo1"])[0], words, rtol=1e-5)
    verify(copied)


def test_only_what_reads_otherwise_is_embedded(copied, items, monkeypatch):
    retriever, embedded = load(copied), []
    own = retriever.embed_items
    monkeypatch.setattr(retriever, "embed_items", lambda rows: embedded.append(rows.num_rows) or own(rows))
    retriever.refresh([row | {"price": row["price"] + 1} for row in items])
    assert embedded == []
    retriever.refresh([items[0] | {"kind": "k1"}, *items[1:]])
    assert embedded == [1]


def test_a_small_change_is_a_small_file(copied, items):
    retriever = load(copied)
    retriever.refresh([items[0] | {"price": 99.0}, *items[1:]])
    first, second = versions(copied)
    assert first.own_bytes > second.own_bytes and second.own_bytes < 10_000
    assert (first.in_use, second.in_use, second.parent, second.rows) == (False, True, "000001", len(items))
    assert second.change == {"added": 0, "embedded": 0, "shown": 1, "removed": 0}
    assert second.written is not None


def test_types_are_those_of_the_catalogue_wherever_items_come_from(copied, items, tmp_path):
    pyarrow.csv.write_csv(pa.Table.from_pylist(items), tmp_path / "items.csv")
    pq.write_table(pa.Table.from_pylist(items), tmp_path / "items.parquet")
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))
    retriever = load(copied)
    for name in ("items.csv", "items.parquet", "items.jsonl"):
        assert retriever.refresh(str(tmp_path / name)).nothing, name
    assert retriever.refresh(pa.Table.from_pylist([row | {"price": int(row["price"])} for row in items])).nothing


# --- in Python ----------------------------------------------------------------------------------------------------


def test_items_are_added_changed_and_removed(copied, items):
    retriever = load(copied)
    assert retriever.add_items([NEW]).added == 1
    assert retriever.search("tovar3 vid1 novinka", k=1, mode="words").ids.tolist() == [2000]
    with pytest.raises(DataError, match=r"such as 2000.*update_items"):
        retriever.add_items([NEW | {"price": 1.0}])
    before = retriever.vectors[retriever.rows_of([2000])]
    assert retriever.update_items([{"name": 2000, "price": 1.0}]).shown == 1
    assert retriever.show(retriever.rows_of([2000]))[0]["price"] == 1.0
    assert np.array_equal(retriever.vectors[retriever.rows_of([2000])], before)
    assert retriever.update_items([{"name": 2000, "title": "tovar9 vid2"}]).embedded == 1
    with pytest.raises(DataError, match="no item 3000"):
        retriever.update_items([{"name": 3000, "price": 1.0}])
    with pytest.raises(DataError, match=r'"prize".*"price"'):
        retriever.update_items([{"name": 2000, "prize": 1.0}])
    with pytest.raises(DataError, match='"name"'):
        retriever.update_items([{"price": 1.0}])
    assert retriever.remove_items([2000, 2000]).removed == 1
    with pytest.raises(DataError, match="no item 2000"):
        retriever.remove_items(2000)
    same_as_made_at_once(load(copied), items)
    assert [version.version for version in versions(copied)] == ["000001", "000002", "000003", "000004", "000005"]


def test_bad_catalogues_change_nothing(copied, items, tmp_path):
    retriever = load(copied)
    table = pa.Table.from_pylist(items)
    (tmp_path / "empty.csv").write_text("")
    cases = [
        (table.drop_columns(["name"]), DataError, '"name".*the id'),
        (table.drop_columns(["price"]), DataError, '"price".*shown'),
        (table.drop_columns(["title"]), DataError, '"title".*read'),
        (table.slice(0, 0), DataError, "no rows"),
        (str(tmp_path / "empty.csv"), DataError, "empty"),
        ([*items, items[3]], DataError, r"1 item more than once, such as 1003 in the rows 4 and 37"),
        ([*items[:5], items[5] | {"name": None}, *items[6:]], DataError, "row 6: the item has no id"),
        ([*items[:5], items[5] | {"price": "cheap"}, *items[6:]], DataError, "row 6: the column \"price\" holds 'cheap'"),
        ([*items[:5], items[5] | {"name": "B7"}, *items[6:]], DataError, "row 6.*'B7'"),
        (items[:20], ConfigError, r"lacks 16 of the 36 items, such as 1020.*--yes.*--partial"),
    ]
    for given, error, said in cases:
        with pytest.raises(error, match=said):
            retriever.refresh(given)
    assert current(copied) == "000001" and len(list((copied / "segments").iterdir())) == 1
    assert retriever.refresh(items[:20], partial=True).nothing
    assert retriever.refresh(items[:20], yes=True).removed == 16
    with pytest.raises(ConfigError, match="no item would be left"):
        retriever.remove_items(retriever.items.column("_id"))


def test_an_item_whose_vector_is_no_number_is_named_and_changes_nothing(copied, monkeypatch):
    retriever = load(copied)
    embed = retriever.embed_items
    monkeypatch.setattr(retriever, "embed_items", lambda rows: embed(rows) * np.where(np.arange(rows.num_rows) == 1, np.nan, 1.0)[:, None])
    with pytest.raises(DataError, match="the item 2001 becomes a vector that is no number"):
        retriever.add_items([NEW, NEW | {"name": 2001}, NEW | {"name": 2002}])
    assert retriever.bundle.version == load(copied).bundle.version == "000001"
    assert retriever.add_items([NEW]).added == 1


def test_words_weighed_by_an_earlier_version_cannot_grow(items, tmp_path):
    folder = Path(shutil.copytree(Path(__file__).parent / "data" / "bundle-1", tmp_path / "bundle"))
    retriever = load(folder)
    assert retriever.refresh(items).nothing
    with pytest.raises(BundleError, match="earlier version"):
        retriever.refresh([*items, NEW])


# --- versions -----------------------------------------------------------------------------------------------------


def test_versions_are_gone_back_to(copied, items):
    retriever = load(copied)
    retriever.add_items([NEW])
    retriever.remove_items(1000)
    other = load(copied)
    assert rollback(copied) == "000002" and other.reload() and not other.reload()
    same_as_made_at_once(other, [*items, NEW])
    assert rollback(copied, "3") == "000003"
    assert rollback(copied, "000001") == "000001"
    same_as_made_at_once(load(copied), items)
    with pytest.raises(ConfigError, match=r"none before it.*000001"):
        rollback(copied)
    with pytest.raises(ConfigError, match="no version 000009"):
        rollback(copied, "9")
    other.reload()
    assert other.add_items([NEW]).version == "000004"
    assert versions(copied)[-1].parent == "000001"


def test_old_versions_are_forgotten(copied, items):
    retriever = load(copied)
    for price in range(4):
        retriever.update_items([{"name": 1000, "price": 100.0 + price}])
    before = len(list((copied / "segments").iterdir()))
    assert before == 5
    rollback(copied, "3")
    assert compact(copied, keep=2) == "000006"
    assert [version.version for version in versions(copied)] == ["000005", "000006"]
    assert load(copied).show(load(copied).rows_of([1000]))[0]["price"] == 101.0
    verify(copied)
    with pytest.raises(ConfigError, match="keep is 0"):
        compact(copied, keep=0)


def test_a_segment_of_another_model_is_refused(copied, items):
    load(copied).add_items([NEW])
    bundle = open_bundle(copied)
    folder = copied / "segments" / bundle.catalogue["segments"][1]
    told = json.loads((folder / "manifest.json").read_text())
    from twotower.manifests import _digest

    told["fingerprint"] = "0" * 64
    told["sha256"] = _digest(told)
    (folder / "manifest.json").write_text(json.dumps(told))
    with pytest.raises(BundleError, match="another model"):
        open_bundle(copied)


# --- writers and readers ------------------------------------------------------------------------------------------


def test_two_writers_cannot_both_write(copied, items):
    retriever = load(copied)
    with held(copied), pytest.raises(OutputError, match="another process is writing"):
        retriever.add_items([NEW])
    with held(copied), pytest.raises(OutputError, match="another process is writing"):
        rollback(copied)
    # Of two that read the same version, the second builds on what the first wrote.
    other = load(copied)
    retriever.add_items([NEW])
    other.add_items([NEW | {"name": 2001}])
    same_as_made_at_once(load(copied), [*items, NEW, NEW | {"name": 2001}])


def test_readers_see_whole_versions_alone(copied, items):
    """Two prices always change together, in another process; threads that ask and reload never see one alone."""
    retriever, wrong, asked, done = load(copied), [], [0], threading.Event()

    def read():
        mine = load(copied)
        while not done.is_set():
            mine.reload()
            found = mine.search("subject3 sort1", k=36, mode="vectors")
            shown = mine.items
            prices = {row["price"] for row in shown.to_pylist() if row["name"] in (1000, 1001)}
            if len(prices) != 1 and mine.bundle.version != "000001":
                wrong.append(prices)
            if sorted(found.ids.tolist()) != sorted(row["name"] for row in items):
                wrong.append(found.ids)
            asked[0] += 1

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for price in range(12):
            retriever.update_items([{"name": 1000, "price": 500.0 + price}, {"name": 1001, "price": 500.0 + price}])
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not wrong and asked[0] > 5


def test_one_question_is_answered_by_one_version(copied, items, monkeypatch):
    retriever = load(copied)
    own = retriever._run

    def meanwhile(side, columns):
        monkeypatch.undo()
        load(copied).refresh([*items[:-3], NEW], yes=True)
        retriever.reload()
        return own(side, columns)

    monkeypatch.setattr(retriever, "_run", meanwhile)
    found = retriever.search("subject11 sort2", k=36, mode="vectors")
    assert sorted(found.ids.tolist()) == sorted(row["name"] for row in items)  # the version that it began with
    assert 2000 in retriever.search("subject11 sort2", k=36, mode="vectors").ids.tolist()


KILLED = """
import os, signal, sys
import pyarrow.parquet as pq
import twotower.files as files
from twotower import load
from twotower.app.server.shown import Shown
from twotower.bundle import growth
growth.BLOCK = 8
at, seen = int(sys.argv[3]), [0]
def counting(name):
    own = getattr(files, name)
    def call(*arguments, **options):
        seen[0] += 1
        if seen[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return own(*arguments, **options)
    setattr(files, name, call)
for name in ("write_array", "write_table", "write_json", "write_text", "rename_folder", "remove_folder"):
    counting(name)
change = load(sys.argv[1]).refresh(pq.read_table(sys.argv[2]))
print(seen[0], change.version)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a kill that cannot be caught")
def test_killed_at_any_moment_the_old_version_serves_and_a_rerun_finishes(copied, items, tmp_path):
    grown = [row | {"title": row["title"] + " znovu"} for row in items] + [NEW]
    pq.write_table(pa.Table.from_pylist(grown), tmp_path / "grown.parquet")
    program = [sys.executable, "-c", KILLED, str(copied), str(tmp_path / "grown.parquet")]
    embedded_before = 0
    for at in (1, 2, 4, 6, 7, 9, 12, 15, 18, 20, 22, 24):
        killed = subprocess.run([*program, str(at)], capture_output=True, text=True, check=False)
        if killed.returncode == 0:
            break
        assert killed.returncode == -signal.SIGKILL
        if current(copied) == "000001":
            same_as_made_at_once(load(copied), items)
            embedded_before = max(embedded_before, len(list((copied / "staging").rglob("*.npy"))) if (copied / "staging").exists() else 0)
    assert embedded_before >= 4
    change = load(copied).refresh(grown)
    same_as_made_at_once(load(copied), grown)
    verify(copied)
    assert change.version == "000002" or change.nothing


def test_what_a_killed_writer_left_is_cleared(copied, items):
    for place in ("segments/unnamed", "segments/.unnamed.1a.part", "catalogue/.000002.1a.part"):
        (copied / place).mkdir()
        (copied / place / "vectors.npy").write_bytes(b"half")
    (copied / ".CURRENT.1a.part").write_text("0")
    load(copied).add_items([NEW])
    same_as_made_at_once(load(copied), [*items, NEW])
    assert len(list((copied / "segments").iterdir())) == 2
    assert sorted(path.name for path in (copied / "catalogue").iterdir()) == ["000001", "000002"]
    assert not list(copied.glob(".*"))


def test_what_was_embedded_before_a_kill_is_not_embedded_again(copied, items, monkeypatch):
    monkeypatch.setattr(growth, "BLOCK", 8)
    grown = [row | {"title": row["title"] + " znovu"} for row in items]
    retriever, embedded = load(copied), []
    own = retriever.embed_items

    def stops(rows):
        if len(embedded) == 3:
            raise KeyboardInterrupt
        embedded.append(rows.num_rows)
        return own(rows)

    monkeypatch.setattr(retriever, "embed_items", stops)
    with pytest.raises(KeyboardInterrupt):
        retriever.refresh(grown)
    assert current(copied) == "000001" and embedded == [8, 8, 8]
    again = load(copied)
    rest = []
    own = again.embed_items
    monkeypatch.setattr(again, "embed_items", lambda rows: rest.append(rows.num_rows) or own(rows))
    again.refresh(grown)
    assert rest == [8, 4]
    same_as_made_at_once(again, grown)
    assert not (copied / "staging").exists()


@pytest.mark.parametrize("at", range(1, 9))
def test_a_full_disk_leaves_the_old_version_in_use(copied, items, monkeypatch, at):
    own, seen = os.replace, [0]

    def full(*arguments, **options):
        seen[0] += 1
        if seen[0] >= at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return own(*arguments, **options)

    retriever = load(copied)
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        retriever.add_items([NEW])
    monkeypatch.undo()
    same_as_made_at_once(load(copied), items)
    assert load(copied).add_items([NEW]).rows == 37
    verify(copied)


# --- at the command line ------------------------------------------------------------------------------------------


def test_the_verbs(copied, items, tmp_path, typed):
    table = pa.Table.from_pylist([*items[1:], NEW])
    pq.write_table(table, tmp_path / "now.parquet")
    code, out, _ = typed("refresh", copied, "--items", tmp_path / "now.parquet")
    assert code == 0 and "version 000002 is in use: 36 items, 1 new, 1 gone, 35 as they were" in " ".join(out.split())
    code, out, _ = typed("refresh", copied, "--items", tmp_path / "now.parquet", "--json")
    assert code == 0 and json.loads(out) | {"parent": ""} == {
        "version": "000002",
        "parent": "",
        "rows": 36,
        "added": 0,
        "embedded": 0,
        "shown": 0,
        "removed": 0,
        "same": 36,
        "changed": False,
    }
    code, out, _ = typed("versions", copied)
    assert code == 0 and out.index("000002") < out.index("000001") and "in use" in out
    code, out, _ = typed("versions", copied, "--json")
    assert [version["version"] for version in json.loads(out)] == ["000001", "000002"]
    code, out, err = typed("rollback", copied)
    assert (code, out) == (0, "") and "version 000001 is in use" in err and "--to 2" in err
    code, out, err = typed("refresh", copied, "--remove", "1001,1002")
    assert code == 0 and "34 items, 2 gone" in out
    code, out, err = typed("compact", copied, "--keep", "1")
    assert code == 0 and "version 000004 is in use" in err
    code, out, err = typed("info", copied)
    assert code == 0 and "34" in out


def test_mistakes_at_the_command_line_end_in_one_line(copied, items, tmp_path, typed):
    pq.write_table(pa.Table.from_pylist(items[:3]), tmp_path / "few.parquet")
    for arguments, said in (
        (["refresh", copied], "--items FILE"),
        (["refresh", copied, "--items", tmp_path / "few.parquet", "--remove", "1"], "--items FILE"),
        (["refresh", copied, "--remove", "1", "--partial"], "leave out --partial"),
        (["refresh", copied, "--remove", "77"], "no item"),
        (["refresh", copied, "--items", tmp_path / "nothing.parquet"], "nothing.parquet"),
        (["refresh", copied, "--items", tmp_path / "few.parquet"], "lacks 33 of the 36"),
        (["refresh", tmp_path / "few.parquet", "--items", tmp_path / "few.parquet"], "neither a bundle nor a run"),
        (["rollback", copied], "none before it"),
        (["rollback", copied, "--to", "x"], "no version x"),
        (["compact", copied, "--keep", "0"], "keep is 0"),
        (["versions", tmp_path / "few.parquet"], "neither a bundle nor a run"),
    ):
        code, out, err = typed(*arguments)
        assert (code, out) == (2, ""), arguments
        assert said in err and "Traceback" not in err and err.count("\n") == 1
    assert current(copied) == "000001"


def test_texts_stay_as_they_are_spelled_whatever_type_of_text_they_come_as(copied, items):
    kinds = ["2.0", "True", "", " k ", "7"]
    frame = pa.Table.from_pylist([row | {"kind": kind, "price": 0.5} for row, kind in zip(items, kinds, strict=False)])
    for name in ("title", "kind"):
        frame = frame.set_column(frame.schema.get_field_index(name), name, frame[name].cast(pa.large_string()))
    retriever = load(copied)
    retriever.refresh(frame, partial=True)
    assert retriever.items.schema.field("kind").type == pa.string()
    assert [row["kind"] for row in retriever.show(retriever.rows_of(frame["name"].to_pylist()))] == kinds
    assert retriever.refresh(frame, partial=True).nothing


def test_a_date_past_the_year_9999_is_shown(copied):
    bundle = open_bundle(copied)
    first = bundle.segments[0]
    dated = first.items.append_column("until", pa.array([3_000_000, *range(1, len(first.items))], pa.date32()))
    write_version(copied, bundle.fingerprint, [write_segment(copied, replace(first, items=dated), bundle.fingerprint)], len(dated), parent="000001")
    retriever = load(copied)
    found = retriever.search("subject3 sort1", k=len(retriever))
    assert [row["until"] for row in retriever.show(found.rows) if row["_id"] == 1000] == ["10183-09-21"]
    until = {name: orjson.loads(orjson.dumps(text))["until"] for name, text in Shown(retriever.catalogue).of(range(36)).values()}
    assert until[1000] == "10183-09-21" and until[1001] == "1970-01-02"


def test_fractions_may_join_whole_numbers(copied, items):
    whole = load(copied)
    assert whole.items.schema.field("price").type == pa.float64()
    counted = [row | {"price": int(row["price"])} for row in items]
    retriever = load(copied)
    # Write a catalogue whose prices are whole numbers, as a CSV of such gives.
    first = retriever.bundle.segments[0]
    place = first.items.schema.get_field_index("price")
    segment = Segment(first.vectors, first.items.set_column(place, "price", pa.array([row["price"] for row in counted])), first.words)
    name = write_segment(copied, segment, retriever.bundle.fingerprint)
    write_version(copied, retriever.bundle.fingerprint, [name], len(items), parent="000001")
    retriever.reload()
    assert retriever.items.schema.field("price").type == pa.int64()
    assert retriever.refresh(counted).nothing
    retriever.refresh([counted[0] | {"price": "0.5"}, *counted[1:]])
    assert retriever.items.schema.field("price").type == pa.float64()
    same_as_made_at_once(retriever, [items[0] | {"price": 0.5}, *items[1:]])
    with pytest.raises(DataError, match="holds 'cheap'"):
        retriever.update_items([{"name": 1000, "price": "cheap"}])
    compact(copied)
    same_as_made_at_once(load(copied), [items[0] | {"price": 0.5}, *items[1:]])
