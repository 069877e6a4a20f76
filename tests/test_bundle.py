"""A bundle loads exactly or raises; it can be copied, moved and locked; it needs no torch."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from twotower import load
from twotower.bundle import open_bundle, verify
from twotower.bundle.layout import Segment, write_segment, write_version
from twotower.errors import BundleError


@pytest.fixture
def copied(world_folder, tmp_path):
    return Path(shutil.copytree(world_folder / "bundle", tmp_path / "bundle"))


def every_file(world_folder):
    return sorted(path.relative_to(world_folder / "bundle").as_posix() for path in (world_folder / "bundle").rglob("*") if path.is_file())


def test_the_files_of_a_bundle(world_folder):
    names = every_file(world_folder)
    segment = next(name for name in names if name.startswith("segments/")).split("/")[1]
    model = ["asked.npy", "card.md", "config.toml", "encoder.json", "golden.json", "item.onnx", "launch.json", "manifest.json", "metrics.json"]
    model += ["query.onnx", "states.safetensors", "weights.safetensors"]
    counts = ("counts.npy", "lengths.npy", "offsets.npy", "rows.npy", "vocabulary.json")
    words = [f"words/{part}/{name}" for part in ("own", "asked") for name in counts]
    expected = ["CURRENT", "catalogue/000001/manifest.json", *(f"model/{name}" for name in model)]
    assert names == sorted(expected + [f"segments/{segment}/{name}" for name in ["items.arrow", "manifest.json", "vectors.npy", *words]])


def test_a_flipped_byte_in_any_file_is_seen(world_folder, copied):
    for name in every_file(world_folder):
        path = copied / name
        content = path.read_bytes()
        for place in {0, len(content) // 3, len(content) // 2, max(0, len(content) - 2)}:
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            with pytest.raises(BundleError):
                open_bundle(copied)
            with pytest.raises(BundleError):
                verify(copied)
        path.write_bytes(content)
    open_bundle(copied)
    verify(copied)


def test_every_bit_of_a_manifest_counts(copied):
    """What a look-up must know stands in the manifest itself."""
    path = copied / "model" / "manifest.json"
    for name, value in {"dimensions": 31, "similarity": "dot", "search": {"mode": "words", "words_weight": 1.0}, "query_text": []}.items():
        told = json.loads(path.read_text())
        path.write_text(json.dumps(told | {name: value}))
        with pytest.raises(BundleError, match="manifest"):
            open_bundle(copied)
        path.write_text(json.dumps(told))
    open_bundle(copied)  # how it is written does not matter


def test_a_missing_file_is_named(world_folder, copied):
    for name in every_file(world_folder):
        path = copied / name
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(BundleError, match=re.escape(path.name)):
            open_bundle(copied)
        path.write_bytes(content)


def test_a_truncated_file_is_named(world_folder, copied):
    for name in every_file(world_folder):
        path = copied / name
        content = path.read_bytes()
        for size in (0, len(content) // 2):
            path.write_bytes(content[:size])
            named = "no catalogue version" if name == "CURRENT" and size else path.name  # half a version is another version
            with pytest.raises(BundleError, match=re.escape(named)):
                open_bundle(copied)
        path.write_bytes(content)


@pytest.mark.parametrize("part", ["model", "catalogue/000001", "segments"])
def test_a_newer_format_is_refused(copied, part):
    folder = next((copied / part).iterdir()) if part == "segments" else copied / part
    told = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(told | {"format": 99, "made_by": "twotower 9.9"}))
    with pytest.raises(BundleError, match=r"format 99.*twotower 9\.9.*(\n.*)?Upgrade"):
        open_bundle(copied)


@pytest.mark.parametrize("content", ["", "abc", "..", "../../etc", "000002", "٠٠٠٠٠١", "\x00"])
def test_a_bad_current_is_refused(copied, content):
    (copied / "CURRENT").write_text(content)
    with pytest.raises(BundleError):
        open_bundle(copied)


def test_the_model_of_another_run_is_refused(copied, world_folder):
    """A mix of two bundles, each whole."""
    from twotower.bundle.layout import seal_model

    told = json.loads((copied / "model" / "manifest.json").read_text())
    facts = {name: told[name] for name in ("dimensions", "similarity", "search", "query_text", "schema")}
    (copied / "model" / "card.md").write_text("another model")
    (copied / "model" / "manifest.json").unlink()
    seal_model(copied / "model", **facts)
    with pytest.raises(BundleError, match="another model"):
        open_bundle(copied)
    own = (copied / "catalogue" / "000001" / "manifest.json").read_bytes()
    shutil.rmtree(copied / "model")
    shutil.copytree(world_folder / "bundle" / "model", copied / "model")
    assert open_bundle(copied).version == "000001"
    assert (copied / "catalogue" / "000001" / "manifest.json").read_bytes() == own


def test_verify_reads_every_version(copied):
    bundle = open_bundle(copied)
    segment = Segment(np.array(bundle.segments[0].vectors[:3]), bundle.segments[0].items.slice(0, 3), None)
    write_version(copied, bundle.fingerprint, [write_segment(copied, segment, bundle.fingerprint)], 3, parent="000001")
    assert len(load(copied)) == 3
    verify(copied)
    old = next(path for path in (copied / "segments").iterdir() if (path / "words").exists())
    content = bytearray((old / "vectors.npy").read_bytes())
    content[-1] ^= 1
    (old / "vectors.npy").write_bytes(content)
    open_bundle(copied)  # the version in use is whole
    with pytest.raises(BundleError, match=r"vectors\.npy"):
        verify(copied)


def test_places_that_hold_no_bundle(tmp_path, world_folder):
    with pytest.raises(BundleError, match=r"there is no .*nowhere"):
        load(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=f'"{world_folder.name}"'):
        load(world_folder.parent / (world_folder.name + "x"))
    with pytest.raises(BundleError, match="CURRENT"):
        load(tmp_path)
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(BundleError, match="did not finish"):
        load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError):
        load(tmp_path / "file")


def test_a_run_or_its_bundle_are_the_same(world_folder):
    assert load(world_folder).bundle.fingerprint == load(str(world_folder / "bundle")).bundle.fingerprint


LOOK_UP = """
import sys
from twotower import load
retriever = load(sys.argv[1])
retriever.search(["subject1 sort2"], k=3)
retriever.search("subject1 sort2", mode="words")
retriever.score("subject1", 1000)
retriever.similar(1000)
print(sorted({name.split(".")[0] for name in sys.modules} & {"torch", "duckdb", "onnx", "onnxscript"}))
"""


def test_look_up_needs_no_torch_and_no_engine(copied):
    done = subprocess.run([sys.executable, "-c", LOOK_UP, str(copied)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_moved_and_locked_bundle_loads(copied, tmp_path, world_run):
    goal = tmp_path / "other place" / "büro"
    goal.parent.mkdir()
    shutil.move(copied, goal)
    places = [goal, *goal.rglob("*")]
    for path in places:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        before = sorted((str(path), path.stat().st_mtime_ns) for path in places)
        found = load(goal).search(["subject3 sort1"], k=4)
        assert sorted((str(path), path.stat().st_mtime_ns) for path in [goal, *goal.rglob("*")]) == before
    finally:
        for path in places:
            os.chmod(path, 0o755)
    expected = world_run.retriever.search(["subject3 sort1"], k=4)
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.scores.tolist() == expected.scores.tolist()


def test_a_bundle_does_not_say_where_the_data_lie(world_folder):
    told = tomllib.loads((world_folder / "bundle" / "model" / "config.toml").read_text())
    assert "data" not in told
    for name in every_file(world_folder):
        assert str(world_folder.parent).encode() not in (world_folder / "bundle" / name).read_bytes()


def test_golden_queries_reproduce(world_folder, world_run):
    kept = json.loads((world_folder / "bundle" / "model" / "golden.json").read_text())
    assert len(kept) == 8
    retriever = world_run.retriever
    for golden in kept:
        found = retriever.search(golden["query"], k=5, mode="vectors")
        assert found.rows.tolist() == golden["rows"]
        assert found.scores == pytest.approx(np.array(golden["scores"]), abs=1e-5)


def test_raw_rows_encode_to_what_training_read(world_folder, world_run):
    from twotower.data.columns import Ragged
    from twotower.data.prepared import open_prepared

    name = json.loads((world_folder / "prepared.json").read_text())["folder"]
    prepared = open_prepared(world_folder.parent / "prepared" / name)
    retriever = load(world_folder)
    for side, rows in (("query", prepared.queries), ("item", retriever.items)):
        assert isinstance(rows, pa.Table)
        for column, values in retriever.encoder.encode(side, rows).items():
            expected = prepared.columns[side][column]
            pairs = zip(values, expected, strict=True) if isinstance(values, Ragged) else [(values, expected)]
            for one, other in pairs:
                assert np.array_equal(one, other)
    np.testing.assert_allclose(retriever.embed_items(retriever.items), retriever.vectors, atol=1e-6)


def test_the_card_says_how_good_it_is(world_folder, world_run):
    card = (world_folder / "bundle" / "model" / "card.md").read_text()
    assert f"{world_run.metrics['model']['mrr']['value']:.3f}" in card
    assert "36 items" in card
