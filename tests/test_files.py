"""The one package that writes: whole or not at all, and never trusted unchecked."""

import contextlib
import io
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower import files, manifests
from twotower.errors import BundleError, OutputError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with contextlib.suppress(RuntimeError), files.replacing(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_a_new_file_has_the_rights_of_any_other(tmp_path):
    files.write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_place_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"):
        files.write_text(tmp_path / "file" / "a.txt", "x")
    with pytest.raises(OutputError, match="cannot write"), files.new_folder(tmp_path / "file" / "folder"):
        pass


def test_json_keeps_what_it_can(tmp_path):
    value = {"a": float("nan"), "b": np.float32(0.5), "c": (1, np.int64(2)), "d": "é\udc80"}
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == {"a": None, "b": 0.5, "c": [1, 2], "d": "é\udc80"}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\xfa"])
def test_damaged_json_is_a_bundle_error(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(BundleError, match="not valid JSON"):
        files.read_json(tmp_path / "a.json")


# --- journals


@pytest.mark.parametrize("torn", ['{"n": 3', '{"n": 3}', '{"n": "é'.encode()[:-1], "3"])
def test_a_torn_last_line_is_passed_over_and_the_next_one_is_whole(tmp_path, torn):
    path = tmp_path / "history.jsonl"
    for number in (1, 2):
        files.append_line(path, {"n": number})
    with path.open("ab") as file:
        file.write(torn if isinstance(torn, bytes) else torn.encode())
    assert files.read_lines(path) == [{"n": 1}, {"n": 2}]
    files.append_line(path, {"n": 4})
    assert files.read_lines(path) == [{"n": 1}, {"n": 2}, {"n": 4}]


def test_a_journal_of_one_torn_line_is_empty(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_bytes(b'{"n":' + b" " * 200_000)
    assert files.read_lines(path) == []
    files.append_line(path, 1)
    assert path.read_bytes() == b"1\n"
    assert files.read_lines(tmp_path / "none.jsonl") == []


def test_damage_in_the_middle_of_a_journal_is_said(tmp_path):
    (tmp_path / "h.jsonl").write_text('{"n": 1}\n{"n": \n{"n": 3}\n')
    with pytest.raises(BundleError, match="line 2"):
        files.read_lines(tmp_path / "h.jsonl")


# --- arrays, tensors, tables


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, 127), max_size=5), max_size=4), st.sampled_from(["i1", "u1", "i4", "i8", "f4", "f8", "u8"]))
def test_pieces_written_one_by_one_equal_one_array(tmp_path_factory, pieces, kind):
    path = tmp_path_factory.mktemp("arrays") / "a.npy"
    writer = files.ArrayWriter(path, kind)
    for piece in pieces:
        writer.append(np.array(piece, "i2"))
    writer.close()
    whole = np.array([value for piece in pieces for value in piece], kind)
    saved = io.BytesIO()
    np.save(saved, whole)
    read = np.load(path, allow_pickle=False)
    assert read.dtype == whole.dtype and np.array_equal(read, whole)
    assert path.stat().st_size == len(saved.getvalue())


def test_large_arrays_are_mapped_and_small_ones_read(tmp_path):
    for name, n in {"small": 10, "large": 100_000}.items():
        files.write_array(tmp_path / name, np.arange(n))
        assert np.array_equal(files.read_array(tmp_path / name), np.arange(n))
    assert isinstance(files.read_array(tmp_path / "large"), np.memmap)
    assert not isinstance(files.read_array(tmp_path / "small"), np.memmap)


def test_a_pickled_or_truncated_array_is_refused(tmp_path):
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object))
    files.write_array(tmp_path / "cut.npy", np.arange(1000))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-3])
    for name in ("pickled.npy", "cut.npy", "none.npy"):
        with pytest.raises(BundleError, match="damaged or missing"):
            files.read_array(tmp_path / name)


def test_tensors_are_read_back_and_lie_where_they_are_said_to(tmp_path):
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([], np.int64), "c": np.arange(3, dtype=np.uint64)[::-1]}
    path = tmp_path / "t.safetensors"
    files.write_tensors(path, tensors, {"made": "here"})
    assert files.tensor_metadata(path) == {"made": "here"}
    for name, array in files.read_tensors(path).items():
        assert array.dtype == tensors[name].dtype and np.array_equal(array, tensors[name])
        start, size = files.tensor_places(path)[name]
        assert path.read_bytes()[start : start + size] == np.ascontiguousarray(tensors[name]).tobytes()


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{]"])
def test_damaged_tensors_are_refused(tmp_path, content):
    path = tmp_path / "t.safetensors"
    path.write_bytes(content)
    for reader in (files.read_tensors, files.tensor_places, files.tensor_metadata):
        with pytest.raises(BundleError, match="damaged or missing"):
            reader(path)


def test_tables_are_read_back_and_damage_is_refused(tmp_path):
    table = pa.table({"a": [1, 2, None], "b": ["x", None, "z"]})
    files.write_table(tmp_path / "t.arrow", table)
    assert files.read_table(tmp_path / "t.arrow").equals(table)
    (tmp_path / "t.arrow").write_bytes((tmp_path / "t.arrow").read_bytes()[:50])
    with pytest.raises(BundleError, match="damaged or missing"):
        files.read_table(tmp_path / "t.arrow")


# --- folders


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with files.new_folder(tmp_path / "a") as building:
        files.write_text(building / "x", "1")
        assert not (tmp_path / "a").exists()
    assert names(tmp_path / "a") == ["x"]
    with contextlib.suppress(KeyboardInterrupt), files.new_folder(tmp_path / "b") as building:
        files.write_text(building / "x", "1")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["a"]


def test_of_two_equal_folders_the_first_stays_only_where_that_is_meant(tmp_path):
    def make(content, **options):
        with files.new_folder(tmp_path / "a", **options) as building:
            files.write_text(building / "x", content)

    make("1")
    make("2", yielding=True)
    assert (tmp_path / "a" / "x").read_text() == "1"
    with pytest.raises(OutputError):
        make("3")
    assert names(tmp_path) == ["a"]


def test_a_renamed_folder_gives_way_to_one_of_its_name(tmp_path):
    for name in ("new", "old", "other"):
        files.write_text(tmp_path / name / "x", name)
    files.rename_folder(tmp_path / "new", tmp_path / "old")
    files.rename_folder(tmp_path / "other", tmp_path / "free")
    assert names(tmp_path) == ["free", "old"] and (tmp_path / "old" / "x").read_text() == "old"


def test_a_folder_is_claimed_if_it_is_empty_or_holds_only_ours(tmp_path):
    ours = {"config.toml", "bundle"}
    files.claim_folder(tmp_path / "new")
    files.claim_folder(tmp_path / "new")
    (tmp_path / "new" / "config.toml").write_text("")
    (tmp_path / "new" / "bundle").mkdir()
    with pytest.raises(OutputError, match="not empty"):
        files.claim_folder(tmp_path / "new", ours=ours)
    files.claim_folder(tmp_path / "new", overwrite=True, ours=ours)
    assert names(tmp_path / "new") == ["bundle", "config.toml"], "claiming removes nothing"
    (tmp_path / "new" / "thesis.tex").write_text("precious")
    with pytest.raises(OutputError, match=r"thesis\.tex, so it is not ours"):
        files.claim_folder(tmp_path / "new", overwrite=True, ours=ours)
    files.empty_folder(tmp_path / "new", ours)
    assert names(tmp_path / "new") == ["thesis.tex"]


def test_a_folder_cannot_be_a_file_nor_lack_room(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        files.claim_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="cannot write"):
        files.claim_folder(tmp_path / "file" / "below")
    with pytest.raises(OutputError, match="Make room"):
        files.claim_folder(tmp_path / "a", room=1 << 60)


HOLDER = """
import sys
from pathlib import Path
from twotower import files
with files.held(Path(sys.argv[1])):
    print(flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_held_by_one_at_a_time(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(OutputError, match="another process is writing"), files.held(tmp_path / "run"):
            pass
        other.kill()
    with files.held(tmp_path / "run"):  # a killed process holds nothing
        files.claim_folder(tmp_path / "run")
        files.write_text(tmp_path / "run" / "made", "x")
    assert names(tmp_path / "run") == ["made"]


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("there", "new"):
        with pytest.raises(ZeroDivisionError), files.held(tmp_path / name):
            raise ZeroDivisionError
    assert names(tmp_path) == ["there"] and names(tmp_path / "there") == []


def test_what_a_link_points_at_is_emptied(tmp_path):
    files.write_text(tmp_path / "real" / "config.toml", "")
    os.symlink(tmp_path / "real", tmp_path / "link")
    files.claim_folder(tmp_path / "link", overwrite=True, ours={"config.toml"})
    files.empty_folder(tmp_path / "link", {"config.toml"})
    assert names(tmp_path / "link") == []
    assert (tmp_path / "real").is_dir()


# --- manifests


@pytest.fixture
def folder(tmp_path):
    files.write_bytes(tmp_path / "f" / "a.bin", bytes(range(200)))
    files.write_bytes(tmp_path / "f" / "sub" / "b.bin", b"")
    manifests.write_manifest(tmp_path / "f", "thing", 3, note="x")
    return tmp_path / "f"


def read(folder, **options):
    return manifests.read_manifest(folder, "thing", 3, **options)


def test_an_untouched_folder_is_read(folder):
    content = read(folder)
    assert content["note"] == "x" and content["format"] == 3 and sorted(content["files"]) == ["a.bin", "sub/b.bin"]


@pytest.mark.parametrize("place", [0, 100, 199])
def test_a_flipped_byte_is_seen(folder, place):
    content = bytearray((folder / "a.bin").read_bytes())
    content[place] ^= 1
    (folder / "a.bin").write_bytes(content)
    with pytest.raises(BundleError, match="sha256"):
        read(folder, everything=True)


def test_a_truncated_or_missing_file_is_seen(folder):
    (folder / "a.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match="1 bytes, not 200"):
        read(folder)
    (folder / "a.bin").unlink()
    with pytest.raises(BundleError, match="is missing"):
        read(folder)


def rewrite(folder, **changes):
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(content | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 4}, "Upgrade"),
        ({"format": "x"}, "Upgrade|format"),
        ({"kind": "other"}, "not a thing"),
        ({"files": {"../a": {"bytes": 1, "sha256": ""}}}, "outside|manifest"),
        ({"files": {"a.bin": {}}}, "damaged|manifest"),
        ({"files": [1]}, "not a thing"),
    ],
)
def test_a_manifest_that_cannot_be_meant_is_refused(folder, changes, said):
    rewrite(folder, **changes)
    with pytest.raises(BundleError, match=said):
        read(folder)


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(BundleError, match="missing"):
        read(tmp_path)
