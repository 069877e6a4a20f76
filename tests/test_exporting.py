"""Exports read by other libraries equal what the retriever holds; what cannot be exported is refused and leaves nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

import twotower
from twotower import files, load
from twotower.bundle import open_bundle, verify
from twotower.bundle.layout import Segment, write_segment, write_version
from twotower.errors import BundleError, ConfigError, OutputError
from twotower.exports import sentences
from twotower.exports.catalogue import write_ids
from twotower.exports.formats import FORMS, ExportOptions, export, is_store

FOLDERS = ["npy", "faiss", "query-encoder", "onnx"]


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def retriever(world_folder):
    return load(world_folder)


# --- vectors ------------------------------------------------------------------------------------------------------


def test_parquet_holds_each_item_with_its_columns_and_its_vector(typed, retriever, world_folder, desk, monkeypatch):
    monkeypatch.setattr("twotower.exports.catalogue.NUMBERS_AT_ONCE", 7 * 32)
    code, out, err = typed("export", world_folder, "--to", "parquet", "-o", "items.parquet")
    assert code == 0 and out == "" and "36 items" in err and "read_table" in err
    polars = pytest.importorskip("polars")
    for table in (pa.parquet.read_table("items.parquet"), polars.read_parquet("items.parquet").to_arrow()):
        assert table.column_names == ["id", *retriever.items.column_names[1:], "vector"]
        assert table["id"].to_pylist() == retriever.items["_id"].to_pylist() == list(range(1000, 1036))
        assert table["title"].to_pylist() == retriever.items["title"].to_pylist()
        assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), retriever.vectors)
    assert pa.parquet.ParquetFile("items.parquet").metadata.num_row_groups == 6


def test_columns_that_are_called_like_ours_keep_their_values(retriever, desk):
    class Made:
        vectors = retriever.vectors[:2]
        items = pa.table({"_id": ["a", "b"], "id": [7, 8], "vector": ["x", "y"]})

    from twotower.exports.catalogue import write_vectors_parquet

    assert write_vectors_parquet(Made, Path("made.parquet"), lambda rows: None) == 2
    table = pa.parquet.read_table("made.parquet")
    assert table.column_names == ["id", "item.id", "item.vector", "vector"]
    assert table["id"].to_pylist() == ["a", "b"] and table["item.id"].to_pylist() == [7, 8] and table["item.vector"].to_pylist() == ["x", "y"]


def test_numpy_reads_vectors_and_ids_as_the_folder_says(retriever, desk):
    written = export(retriever, "npy", "made")
    assert written.read in Path("made/README.md").read_text()
    assert np.array_equal(np.load("made/vectors.npy"), retriever.vectors) and np.load("made/vectors.npy").dtype == np.float32
    assert json.loads(Path("made/ids.json").read_text()) == list(range(1000, 1036))
    done = subprocess.run(
        [sys.executable, "-c", written.read + "\nprint(len(vectors), ids[3])"], cwd="made", capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["36", "1003"]


IDS = {
    "numbers": pa.array([1, 2**62, -3]),
    "texts": pa.array(["a\nb", 'q"uote', "ünïcode \ud7ff", ""]),
    "none": pa.array([], pa.string()),
    "dates": pa.array([1, 2], pa.date32()),
    "fractions": pa.array([0.5, 2.0]),
}


@pytest.mark.parametrize("kind", IDS)
def test_ids_come_back_in_their_own_type(kind, desk):
    ids = pa.chunked_array([IDS[kind]])
    read = write_ids(desk, ids)
    code = f"import json\n{read}\nprint(ascii(ids))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found == ascii(ids.to_pylist())


@pytest.mark.parametrize("kind", [None, "exact", "hnsw"])
def test_faiss_finds_what_the_retriever_finds(retriever, desk, kind):
    faiss = pytest.importorskip("faiss")
    export(retriever, "faiss", "made", ExportOptions(index=kind))
    index = faiss.read_index("made/index.faiss")
    ids = json.loads(Path("made/ids.json").read_text())
    queries = ["subject3 sort1", "subject7 sort2", "subject11 sort0"]
    scores, positions = index.search(retriever.embed_queries(queries), 5)
    expected = retriever.search(queries, k=5, mode="vectors")
    assert isinstance(index, faiss.IndexHNSWFlat) == (kind == "hnsw") and positions.dtype == np.int64
    assert [[ids[position] for position in row] for row in positions] == expected.ids.tolist()
    np.testing.assert_allclose(scores, expected.scores, atol=1e-5)


def test_vectors_that_are_no_numbers_are_not_written(retriever, desk, monkeypatch):
    broken = np.array(retriever.vectors)
    broken[3, 5] = np.nan
    monkeypatch.setattr(retriever.catalogue, "vectors", broken)
    for form, place in (("parquet", "v.parquet"), ("npy", "v"), ("faiss", "v")):
        with pytest.raises(twotower.DataError, match="no number"):
            export(retriever, form, place)
    assert list(desk.iterdir()) == []


# --- the query encoder --------------------------------------------------------------------------------------------


@pytest.fixture
def alone(retriever, desk) -> Path:
    export(retriever, "query-encoder", "encoder")
    return desk / "encoder"


def test_a_query_encoder_embeds_as_its_model_does(alone, retriever, world_folder, typed):
    encoder = load(alone)
    queries = ["subject3 sort1", "nothing known", "subject7"]
    assert np.array_equal(encoder.embed_queries(queries), retriever.embed_queries(queries))
    assert encoder.bundle.fingerprint == retriever.bundle.fingerprint
    verify(alone)
    told = json.loads(typed("info", alone, "--verify", "--json")[1])
    assert told["fingerprint"] == json.loads(typed("info", world_folder, "--json")[1])["fingerprint"] and told["verified"]
    assert told["holds"] == "a query encoder alone" and "item" not in told
    assert "query encoder" in repr(encoder)
    names = sorted(path.relative_to(alone).as_posix() for path in alone.rglob("*") if path.is_file())
    assert not any(word in name for name in names for word in ("item", "vectors", "segments", "catalogue"))
    Path("asked.csv").write_text("asked\nsubject3 sort1\n")
    assert typed("embed", alone, "asked.csv", "--side", "query", "-o", "v.parquet")[0] == 0
    np.testing.assert_allclose(pa.parquet.read_table("v.parquet")["vector"][0].as_py(), retriever.embed_queries(queries[:1])[0], atol=1e-6)


def test_a_query_encoder_holds_only_the_weights_of_its_side(alone, world_folder):
    whole, kept = (set(files.read_tensors(folder / "weights.safetensors")) for folder in (world_folder / "bundle" / "model", alone / "model"))
    assert kept < whole and not any(
        name.startswith("item.") and "table" not in name and "row_of" not in name and "scale" not in name for name in kept
    )
    item_states = [name for name in files.read_tensors(alone / "model" / "states.safetensors") if name.startswith("item")]
    assert item_states == []


ASKS = {
    "search": lambda r: r.search("subject3"),
    "score": lambda r: r.score("subject3", 1000),
    "similar": lambda r: r.similar(1000),
    "embed_items": lambda r: r.embed_items([{"name": 1000}]),
    "its length": len,
    "items": lambda r: r.items,
    "vectors": lambda r: r.vectors,
}


@pytest.mark.parametrize("what", ASKS)
def test_a_query_encoder_refuses_what_needs_items(alone, what):
    with pytest.raises(BundleError, match="holds a query encoder alone"):
        ASKS[what](load(alone))


@pytest.mark.parametrize(
    "command",
    [
        ["search", "ENCODER", "subject3"],
        ["search", "ENCODER", "--queries", "pairs.csv", "-o", "f.parquet"],
        ["score", "ENCODER", "--pairs", "pairs.csv"],
        ["embed", "ENCODER", "pairs.csv", "-o", "f.parquet"],
        ["evaluate", "ENCODER", "--pairs", "pairs.csv"],
        ["why", "ENCODER", "subject3", "1000"],
        *(["export", "ENCODER", "--to", form, "-o", "out.parquet"] for form in FORMS if form != "query-encoder"),
    ],
)
def test_verbs_refuse_a_query_encoder(alone, typed, command, world):
    pa.csv.write_csv(world[0].slice(0, 5), "pairs.csv")
    before = sorted(Path().rglob("*"))
    code, out, err = typed(*(alone if word == "ENCODER" else word for word in command))
    assert code == 2 and out == "" and "query encoder alone" in err and "Traceback" not in err
    assert sorted(Path().rglob("*")) == before


def test_a_query_encoder_can_be_exported_again_and_is_refused_where_it_was_changed(alone, retriever):
    export(load(alone), "query-encoder", "again")
    assert np.array_equal(load("again").embed_queries(["subject3"]), retriever.embed_queries(["subject3"]))
    assert load("again").bundle.fingerprint == retriever.bundle.fingerprint
    for path in sorted(path for path in Path("again").rglob("*") if path.is_file()):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :])
        with pytest.raises(BundleError):
            verify("again")
        path.write_bytes(content)
    verify("again")
    with pytest.raises(BundleError, match="query encoder alone"):
        open_bundle("again")


def test_a_whole_bundle_does_not_pass_for_an_encoder(world_folder, desk):
    shutil.copytree(world_folder / "bundle", "copy")
    Path("copy/CURRENT").write_text("encoder\n")
    with pytest.raises(BundleError, match="not a query encoder"):
        load("copy")


@pytest.mark.parametrize("items", ["tower", "ids"])
def test_a_query_encoder_reads_histories_by_what_it_keeps_of_the_items(desk, items):
    generator = np.random.default_rng(0)
    pairs = [{"user": f"u{n}", "thing": f"i{(int(generator.integers(8)) + step) % 8}", "at": 100 * n + step} for n in range(60) for step in range(5)]
    config = {
        "pairs": {"item": "thing", "time": "at", "repeats": "keep"},
        "query": {"key": "user", "features": [{"type": "history", "last": 4, "pool": "mean", "items": items}]},
        "item": {"id": "name", "features": [{"column": "name", "type": "id"}]},
        "model": {"dimensions": 16},
        "train": {"epochs": 2, "batch_size": 32, "correction": False},
    }
    run = twotower.train(pairs, [{"name": f"i{n}"} for n in range(8)], config=config, output="run")
    written = export(run.retriever, "query-encoder", "encoder")
    assert "8 items" in written.what
    encoder = load("encoder")
    histories = [["i1", "i2", "i3", "i4", "i5"], ["i7", "unknown"], ["unknown"]]
    assert np.array_equal(encoder.embed_queries(history=histories), run.retriever.embed_queries(history=histories))
    assert Path("encoder/model/history/vectors.npy").exists() == (items == "tower")
    export(load("run", width=8), "query-encoder", "of_narrow")
    assert np.array_equal(load("of_narrow").embed_queries(history=histories), encoder.embed_queries(history=histories))
    verify("encoder")
    with pytest.raises(BundleError, match="query encoder alone"):
        encoder.search(history=["i1"])
    # The history's column goes into the ONNX export as the graph takes it.
    export(run.retriever, "onnx", "graphs")
    subprocess.run([sys.executable, "graphs/example.py"], check=True, capture_output=True)
    shape = json.loads(Path("graphs/inputs.json").read_text())["query"]["inputs"][0]["shape"]
    assert shape == (["rows", "length", 16] if items == "tower" else ["rows", "length"])


# --- graphs -------------------------------------------------------------------------------------------------------


def test_the_example_runs_without_this_package(retriever, desk):
    export(retriever, "onnx", "graphs")
    code = "import sys, runpy; sys.modules['twotower'] = None; sys.modules['torch'] = None; runpy.run_path('graphs/example.py')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "query (8, 32)" in done.stdout and "item (8, 32)" in done.stdout, done.stderr
    told = json.loads(Path("graphs/inputs.json").read_text())
    assert [(each["column"], each["type"], each["dtype"]) for each in told["item"]["inputs"]] == [
        ("name", "id", "int64"),
        ("title", "text", "int64"),
        ("kind", "category", "int64"),
    ]
    import onnx

    for side, each in told.items():
        graph = onnx.load(f"graphs/{each['graph']}", load_external_data=False).graph
        assert [(value.name, len(value.type.tensor_type.shape.dim)) for value in graph.input] == [
            (i["name"], len(i["shape"])) for i in each["inputs"]
        ], side
    golden = np.load("graphs/golden/item-vectors.npy")
    np.testing.assert_allclose(golden, retriever.vectors[:8], atol=1e-5)
    # The example is a check: it fails where a golden vector is another.
    np.save("graphs/golden/query-vectors.npy", np.load("graphs/golden/query-vectors.npy") + 0.01)
    assert subprocess.run([sys.executable, "graphs/example.py"], capture_output=True).returncode != 0


# --- places and refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FOLDERS)
def test_a_taken_place_is_refused_unless_it_may_be_replaced(retriever, desk, form):
    export(retriever, form, "made")
    first = sorted(Path("made").rglob("*"))
    with pytest.raises(OutputError, match="--overwrite"):
        export(retriever, form, "made")
    export(retriever, form, "made", ExportOptions(overwrite=True))
    assert sorted(Path("made").rglob("*")) == first
    Path("made/diary.txt").write_text("dear diary")
    with pytest.raises(OutputError, match=r"diary\.txt.*not ours"):
        export(retriever, form, "made", ExportOptions(overwrite=True))
    assert Path("made/diary.txt").exists()
    Path("file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        export(retriever, form, "file", ExportOptions(overwrite=True))
    assert sorted(path.name for path in desk.iterdir()) == ["file", "made"]


REFUSED = {
    "no such form": (["--to", "parqet", "-o", "x"], ['did you mean "parquet"', "sentence-transformers", "postgresql://"]),
    "no place": (["--to", "npy"], ["-o"]),
    "a store with a place": (["--to", "qdrant://localhost", "-o", "x"], ["takes no -o"]),
    "a store with an index": (["--to", "qdrant://localhost", "--index", "hnsw"], ["--index"]),
    "an index that is none": (["--to", "faiss", "--index", "hsnw", "-o", "x"], ['"hsnw"', 'did you mean "hnsw"']),
    "an index for no index": (["--to", "npy", "--index", "hnsw", "-o", "x"], ['"faiss"']),
    "an encoder for none": (["--to", "npy", "--encoder", "somewhere", "-o", "x"], ['"sentence-transformers"']),
    "a folder for a file": (["--to", "parquet", "-o", "."], ["is a folder"]),
    "a name that does not say Parquet": (["--to", "parquet", "-o", "x.csv"], ["x.parquet"]),
    "a file that is there": (["--to", "parquet", "-o", "there.parquet"], ["is there already", "--overwrite"]),
    "below a file": (["--to", "npy", "-o", "there.parquet/x"], ["cannot write"]),
    "towers that are no sentence encoder": (["--to", "sentence-transformers", "-o", "x"], ["asked (text)", "title (text)", "onnx"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_gets_one_clear_error(typed, world_folder, desk, case):
    Path("there.parquet").write_text("something")
    arguments, said = REFUSED[case]
    before = sorted(desk.rglob("*"))
    code, out, err = typed("export", world_folder, *arguments)
    assert code == 2 and out == "" and err.startswith("twotower: ") and "Traceback" not in err
    assert all(part in err for part in said), err
    assert sorted(desk.rglob("*")) == before and Path("there.parquet").read_text() == "something"


@pytest.mark.parametrize("theirs", [True, False])
def test_an_encoder_of_somebody_elses_is_never_replaced(retriever, desk, monkeypatch, theirs):
    def written(part, source, folder, *, unit):
        files.write_json(folder / "modules.json", [])
        files.write_json(folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})

    # The extra is not needed to try what may be replaced.
    monkeypatch.setattr(sentences, "sides_of", lambda retriever: ({"query": None, "item": None}, {}))
    monkeypatch.setattr(sentences, "encoder_folder", lambda *given: desk)
    monkeypatch.setattr(sentences, "alike", lambda one, other: True)
    monkeypatch.setattr(sentences, "write_sentences", written)
    export(retriever, "sentence-transformers", "made")
    if not theirs:
        export(retriever, "sentence-transformers", "made", ExportOptions(overwrite=True))
        return
    # As the library saves one.
    Path("made/config_sentence_transformers.json").write_text('{"__version__": {"sentence_transformers": "5.1.0"}, "similarity_fn_name": "cosine"}')
    with pytest.raises(OutputError, match="not ours to overwrite"):
        export(retriever, "sentence-transformers", "made", ExportOptions(overwrite=True))
    assert Path("made/modules.json").exists()


def test_urls_are_stores_and_forms_are_none():
    assert all(map(is_store, ["postgresql://h/d", "lancedb://folder", "qdrant://h", "qdrant+http://h:6333", "env:STORE"]))
    assert not any(map(is_store, FORMS))


@pytest.mark.parametrize(("form", "module"), [("faiss", "faiss"), ("query-encoder", "onnx")])
def test_a_missing_library_names_its_extra(retriever, desk, monkeypatch, form, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(twotower.MissingExtra, match="pip install"):
        export(retriever, form, "made")
    assert list(desk.iterdir()) == []


def test_exports_load_no_torch(world_folder, desk):
    code = """
import sys, twotower
from twotower.exports.formats import export, FORMS
for form in ("parquet", "npy", "faiss", "query-encoder", "onnx"):
    export(twotower.load(sys.argv[1]), form, "a.parquet" if form == "parquet" else form)
print("torch" in sys.modules)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(twotower.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code, str(world_folder)], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "False", done.stderr


def test_a_grown_catalogue_is_exported_whole(world_folder, desk):
    shutil.copytree(world_folder / "bundle", "copy")
    bundle = open_bundle("copy")
    halves = [
        Segment(np.array(bundle.segments[0].vectors[rows]), bundle.segments[0].items.take(pa.array(range(36)[rows])), None)
        for rows in (slice(20), slice(20, 36))
    ]
    folder = Path("copy")
    names = [write_segment(folder, half, bundle.fingerprint) for half in halves]
    write_version(folder, bundle.fingerprint, names, 36, parent="000001")
    export(load("copy"), "npy", "made")
    assert np.array_equal(np.load("made/vectors.npy"), bundle.segments[0].vectors)
    with pytest.raises(ConfigError, match="no form"):
        export(load("copy"), "csv", "made2")
