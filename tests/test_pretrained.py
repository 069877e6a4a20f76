"""Pretrained encoders: the graph says what the library says, each text is encoded once, and a bundle needs no folder."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from twotower import files
from twotower.data import pretrained, vectors
from twotower.data.columns import Ragged, lengths_of, row_count, take_rows
from twotower.data.encoder import Encoder
from twotower.data.features import Id, Pretrained
from twotower.data.inference import infer
from twotower.data.schema import ItemSide, QuerySide, Schema
from twotower.data.sources import open_source
from twotower.data.vectors import Workplace
from twotower.errors import ConfigError

transformers = pytest.importorskip("transformers", reason='the extra "text" is not installed')
sentence_transformers = pytest.importorskip("sentence_transformers", reason='the extra "text" is not installed')
torch = pytest.importorskip("torch")

from twotower.exports import towers  # noqa: E402
from twotower.learning.options import TrainOptions  # noqa: E402
from twotower.learning.training import dense_rates  # noqa: E402
from twotower.model.optimizers import dense_optimizer  # noqa: E402
from twotower.model.options import ModelOptions  # noqa: E402
from twotower.model.towers import build, distinct  # noqa: E402

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    *["red", "blue", "green", "big", "small", "box", "ball", "car", "house", "tree", "show", "list", "the", "a", "of"],
]
TEXTS = ["red ball", "show the big house of a tree", None, "the", "", "red ball", "a list of blue car and nothing known"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A small random encoder as Hugging Face saves it, whose tokeniser file pads every text to 16 tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    place = tmp_path_factory.mktemp("encoder")
    tokeniser = Tokenizer(models.WordPiece({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokeniser.normalizer, tokeniser.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    tokeniser.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokeniser.enable_padding(length=16)
    tokeniser.save(str(place / "tokenizer.json"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 32}
    transformers.BertModel(transformers.BertConfig(vocab_size=len(WORDS), **sizes)).save_pretrained(place)
    return place


@pytest.fixture(scope="session")
def fitted(folder):
    feature = Pretrained(column="t", folder=str(folder))
    return feature, feature.fit(())


def encoder_of(query, item):
    schema = Schema(query=QuerySide(features=tuple(query)), item=ItemSide(features=tuple(item)))
    batch = pa.RecordBatch.from_pydict({"t": pa.array(TEXTS, pa.string())})
    return Encoder.fit(schema, lambda side: [(batch, np.ones(len(TEXTS), np.int64))]), batch


def reference(folder, texts):
    model = sentence_transformers.SentenceTransformer(str(folder), local_files_only=True)
    return model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)


# --- vectors ------------------------------------------------------------------------------------------------------


def test_vectors_are_the_librarys_and_what_is_missing_is_said(folder, fitted):
    feature, state = fitted
    encoded = feature.encode(pa.array(TEXTS), state)
    there = [n for n, text in enumerate(TEXTS) if text]
    assert encoded.dtype == np.float32 and encoded.shape == (len(TEXTS), 17)
    np.testing.assert_allclose(encoded[there, :-1], reference(folder, [TEXTS[n] for n in there]), atol=1e-5)
    assert encoded[:, -1].tolist() == [0, 0, 1, 0, 1, 0, 0] and feature.missing(encoded) == 2
    assert not encoded[[2, 4], :-1].any()


@pytest.mark.parametrize("pooling", ["cls", "max", "mean_sqrt_len_tokens", "lasttoken"])
def test_pooling_and_dense_layers_of_the_folder_are_used(folder, tmp_path, pooling):
    from sentence_transformers.sentence_transformer import modules as kinds

    torch.manual_seed(1)
    transformer = kinds.Transformer(str(folder))
    parts = [transformer, kinds.Pooling(16, pooling_mode=pooling), kinds.Dense(16, 8)]
    sentence_transformers.SentenceTransformer(modules=parts).save(str(tmp_path / "made"))
    feature = Pretrained(column="t", folder=str(tmp_path / "made"))
    found = feature.encode(pa.array(["red ball", "the big house"]), feature.fit(()))
    np.testing.assert_allclose(found[:, :-1], reference(tmp_path / "made", ["red ball", "the big house"]), atol=1e-5)
    assert pretrained.width_of(tmp_path / "made") == 8


def test_a_text_is_not_padded_to_what_its_file_asks_for(folder):
    feature = Pretrained(column="t", folder=str(folder), tune=True)
    encoded = feature.encode(pa.array(TEXTS), feature.fit(()))
    assert isinstance(encoded, Ragged) and encoded.values.dtype == np.int32 and encoded.values.min() >= 1
    assert lengths_of(encoded).tolist() == [4, 9, 0, 3, 0, 4, 10]


def test_prefix_and_window_are_read(folder, fitted):
    feature, state = fitted
    plain = feature.encode(pa.array(["red ball", "the big house of a tree"]), state)
    prefixed = replace(feature, prefix="show ")
    np.testing.assert_allclose(
        prefixed.encode(pa.array(["red ball"]), prefixed.fit(())), feature.encode(pa.array(["show red ball"]), state), atol=1e-6
    )
    short = replace(feature, window=5)
    cut = short.encode(pa.array(["red ball", "the big house of a tree"]), short.fit(()))
    np.testing.assert_allclose(cut[0], plain[0], atol=1e-6)
    np.testing.assert_allclose(cut[1], feature.encode(pa.array(["the big house"]), state)[0], atol=1e-6)


def test_look_up_needs_no_torch(folder, fitted, tmp_path):
    feature, state = fitted
    files.write_tensors(tmp_path / "state", state)
    np.save(tmp_path / "expected.npy", feature.encode(pa.array(["red ball"]), state))
    code = f"""
import sys
for name in ("torch", "transformers", "sentence_transformers", "onnx", "onnxscript"):
    sys.modules[name] = None
import numpy as np, pyarrow as pa
from twotower import files
from twotower.data.features import Pretrained
found = Pretrained(column="t", folder="gone").encode(pa.array(["red ball"]), files.read_tensors(files.Path({str(tmp_path / "state")!r})))
np.testing.assert_allclose(found, np.load({str(tmp_path / "expected.npy")!r}), atol=1e-6)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- kept vectors -------------------------------------------------------------------------------------------------


@pytest.fixture
def computed(monkeypatch):
    """How many texts each run of the graph was given."""
    counts = []
    run = pretrained.run

    def counting(graph, digest, codes, width):
        counts.append(row_count(codes))
        return run(graph, digest, codes, width)

    monkeypatch.setattr(pretrained, "run", counting)
    return counts


def test_each_text_is_encoded_once_and_kept(fitted, computed, tmp_path):
    feature, state = fitted
    told = []
    workplace = Workplace(tmp_path, told.append)
    first = feature.encode(pa.array(TEXTS), state, workplace)
    assert sum(computed) == 4 and sum(told) == 5  # five texts are there, two of them alike
    again = feature.encode(pa.array([*TEXTS[::-1], "green tree"]), state, workplace)
    assert sum(computed) == 5
    np.testing.assert_array_equal(again[:-1][::-1], first)
    replace(feature, prefix="big ").encode(pa.array(["red ball"]), state, workplace)  # another text for the encoder
    assert sum(computed) == 6


def test_what_is_read_differently_is_kept_apart(fitted, computed, tmp_path):
    feature, state = fitted
    short = replace(feature, window=4)
    for one, own in ((feature, state), (short, short.fit(()))):
        one.encode(pa.array(["the big house of a tree"]), own, Workplace(tmp_path))
    assert sum(computed) == 2 and len(list(tmp_path.iterdir())) == 2


def test_a_run_that_is_broken_off_goes_on_behind_its_last_part(fitted, computed, monkeypatch, tmp_path):
    feature, state = fitted
    monkeypatch.setattr(vectors, "AT_ONCE", 3)
    texts = [f"{size} {thing}" for size in ("big", "small", "red") for thing in ("box", "ball", "car", "house")]
    run = pretrained.run

    def breaking(*given):
        if len(computed) == 2:
            raise KeyboardInterrupt
        return run(*given)

    monkeypatch.setattr(pretrained, "run", breaking)
    with pytest.raises(KeyboardInterrupt):
        feature.encode(pa.array(texts), state, Workplace(tmp_path))
    monkeypatch.setattr(pretrained, "run", run)
    (part,) = tmp_path.iterdir()
    (part / ".000003-torn.npy.part").write_bytes(b"torn")
    found = feature.encode(pa.array(texts), state, Workplace(tmp_path))
    assert computed == [3, 3, 3, 3]
    np.testing.assert_allclose(found, feature.encode(pa.array(texts), state), atol=1e-6)


def test_progress_is_told_once_it_takes_long(monkeypatch):
    said = []
    clock = iter([0.0, 1.0, 3.0, 3.0, 4.0, 6.0, 6.0])
    monkeypatch.setattr(vectors.time, "monotonic", lambda: next(clock))
    report = vectors.counted(said.append, 27_413)
    for _ in range(4):
        report(6_000)
    assert said == ["encoding texts 12,000 of 27,413", "encoding texts 24,000 of 27,413"]


# --- state --------------------------------------------------------------------------------------------------------


def test_what_both_sides_hold_is_stored_and_loaded_once(folder):
    feature = Pretrained(column="t", folder=str(folder))
    encoder, batch = encoder_of([feature], [replace(feature, prefix="the "), Id(column="t")])
    arrays, told = encoder.arrays(), json.loads(files.json_text(encoder.describe()))
    assert sorted(name for name in arrays if name.endswith("graph")) == ["query/0/graph"]
    restored = Encoder.restore(told, arrays)
    assert restored.states["item"]["t:pretrained"]["graph"] is restored.states["query"]["t:pretrained"]["graph"]
    for side in ("query", "item"):
        for name, column in encoder.encode(side, batch).items():
            np.testing.assert_array_equal(restored.encode(side, batch)[name], column)
    assert str(folder.parent) not in json.dumps(encoder.describe(locations=False))


def test_names_of_encoders(folder, tmp_path):
    assert pretrained.placed("owner/name", tmp_path) == "owner/name" and pretrained.placed("shipped", tmp_path) == "shipped"
    (tmp_path / "own").mkdir()
    assert pretrained.placed("own", tmp_path) == str(tmp_path / "own") == pretrained.placed("./own", tmp_path)
    with pytest.raises(ConfigError, match=r"holds no sentence encoder: it has no config\.json"):
        pretrained.locate(str(tmp_path / "own"))
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert pretrained.digest_of(copy) == pretrained.digest_of(folder)
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text().replace("ball", "bill"))
    assert pretrained.digest_of(copy) != pretrained.digest_of(folder)
    (copy / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.LSTM", "path": ""}]))
    with pytest.raises(ConfigError, match="a part of the kind LSTM"):
        Pretrained(column="t", folder=str(copy)).fit(())


# --- towers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [16, 8])
def test_a_tuned_encoder_starts_as_it_was_and_says_nothing_of_nothing(folder, fitted, dimensions):
    encoder, batch = encoder_of([replace(fitted[0], tune=True)], [fitted[0]])
    model = build(encoder, ModelOptions(dimensions=dimensions)).eval()
    columns = encoder.encode("query", batch)
    found = model.encode("query", columns)
    assert not found[[2, 4]].any()
    one_by_one = torch.cat([model.encode("query", take_rows(columns, np.array([n]))) for n in range(len(TEXTS))])
    torch.testing.assert_close(found, one_by_one, atol=1e-6, rtol=0)
    there = [0, 1, 3, 5, 6]
    torch.testing.assert_close(found[there], model.encode("item", encoder.encode("item", batch))[there], atol=1e-5, rtol=0)


def test_sides_share_a_tuned_encoder_unless_tables_are_apart(folder):
    feature = Pretrained(column="t", folder=str(folder), tune=True)
    encoder, _ = encoder_of([feature], [feature])
    together, apart = build(encoder, ModelOptions(dimensions=16)), build(encoder, ModelOptions(dimensions=16, shared_tables=False))
    assert together.query.layers[0].network is together.item.layers[0].network
    assert apart.query.layers[0].network is not apart.item.layers[0].network
    weights = sum(p.numel() for p in together.query.layers[0].network.parameters())
    size = {name: sum(t.numel() for t in distinct(model)[0].values()) for name, model in (("together", together), ("apart", apart))}
    assert size["apart"] - size["together"] >= weights


def test_a_tuned_encoder_has_its_own_learning_rate_and_norms_do_not_decay(folder):
    feature = Pretrained(column="t", folder=str(folder), tune=True)
    encoder, _ = encoder_of([feature], [feature])
    model = build(encoder, ModelOptions(dimensions=16))
    optimizer = dense_optimizer(dense_rates(model, TrainOptions(learning_rate=1e-3, pretrained_learning_rate=3e-5)), 0.01)
    network = set(model.query.layers[0].network.parameters())
    for group in optimizer.param_groups:
        assert {p in network for p in group["params"]} == {group["peak"] == 3e-5}
        assert group["lr"] == group["peak"] and (group["weight_decay"] > 0) == (group["params"][0].ndim > 1)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len([p for p in model.parameters() if p.requires_grad])


def test_gradients_reach_every_weight_of_a_tuned_encoder_past_an_empty_row(folder):
    feature = Pretrained(column="t", folder=str(folder), tune=True)
    encoder, batch = encoder_of([feature], [feature])
    model = build(encoder, ModelOptions(dimensions=16)).eval()
    from twotower.model.layers import tensors

    column = {name: tensors(column) for name, column in encoder.encode("query", batch).items()}
    (model.query(column) * torch.randn(len(TEXTS), 16)).sum().backward()
    gradients = {name: p.grad for name, p in model.query.layers[0].network.named_parameters() if "pooler" not in name}
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients.values())
    assert all(gradient.abs().max() > 0 for name, gradient in gradients.items() if "key.bias" not in name)  # a key's bias changes no softmax


@pytest.mark.parametrize("tune", [False, True])
def test_the_exported_tower_is_torchs(folder, tmp_path, tune):
    feature = Pretrained(column="t", folder=str(folder), tune=tune)
    encoder, _ = encoder_of([feature], [feature])
    model = build(encoder, ModelOptions(dimensions=8)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    towers.write_model(tmp_path, model, encoder)  # raises unless they agree


def test_a_folder_that_changed_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    feature = Pretrained(column="t", folder=str(tmp_path / "copy"), tune=True)
    encoder, _ = encoder_of([feature], [feature])
    described = json.loads((tmp_path / "copy" / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(json.dumps(described | {"layer_norm_eps": 1e-3}))
    with pytest.raises(ConfigError, match="is not the one that the data were prepared with"):
        build(encoder, ModelOptions(dimensions=16))


def trained(place, output, model, train=(), **by_side):
    """A run over boxes and balls whose towers read one text each. by_side: options of the feature of a side."""
    from twotower import train as train_run

    generator = np.random.default_rng(0)
    things, colours = ("box", "ball", "car", "house", "tree"), ("red", "blue", "green", "big", "small")
    items = pa.table({"name": [f"{c}-{t}" for c in colours for t in things], "title": [f"{c} {t}" for c in colours for t in things]})
    chosen = generator.integers(0, 25, 200)
    pairs = pa.table({"asked": [f"show the {items['title'][n]} {n // 25}" for n in chosen], "name": items["name"].take(chosen)})
    features = {
        side: [{"column": column, "type": "pretrained", "folder": str(place), **by_side.get(side, {})}]
        for side, column in (("query", "asked"), ("item", "title"))
    }
    config = {
        "query": {"features": features["query"]},
        "item": {"id": "name", "features": features["item"]},
        "split": {"by": "random", "test": 0.2, "validation": 0.2},
        "model": model,
        "train": {"patience": 0, "batch_size": 32, "learning_rate": 0.01, "correction": False, **dict(train)},
        "search": {"mode": "vectors"},
    }
    return train_run(pairs, items, config=config, output=output)


def test_a_run_and_its_bundle_which_needs_no_folder(folder, tmp_path):
    from twotower import load

    place = tmp_path / "encoder"
    shutil.copytree(folder, place)
    run = trained(place, tmp_path / "run", {"dimensions": 16}, {"epochs": 40})
    shutil.rmtree(place)
    retriever = load(tmp_path / "run")
    assert retriever.search("show the red ball", k=25).ids.tolist().index("red-ball") < 5
    assert run.metrics["model"]["hit@10"]["value"] > 0.6  # of 25 items; by chance .4
    assert str(place) not in (tmp_path / "run" / "bundle" / "model" / "encoder.json").read_text()


# --- exported -----------------------------------------------------------------------------------------------------

ASKED = ["show the red ball 1", "a big tree", "the", "nothing known of it " * 30]
KINDS = {
    "fixed and linear, sides apart": ({"dimensions": 8, "body": "linear"}, {"query": {"prefix": "show ", "window": 12}}, ("query", "item")),
    "tuned, dot product": (
        {"dimensions": 16, "similarity": "dot", "body": "none"},
        {"query": {"tune": True}, "item": {"tune": True}},
        ("query", "item"),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_the_library_gives_the_vectors_of_the_tower(folder, tmp_path, kind):
    from twotower.exports.formats import ExportOptions, export

    model, by_side, folders = KINDS[kind]
    retriever = trained(folder, tmp_path / "run", model, {"epochs": 2}, **by_side).retriever
    written = export(retriever, "sentence-transformers", tmp_path / "made")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == sorted(folders) and not written.left_out
    for side, embedded in (
        ("query", retriever.embed_queries(ASKED)),
        ("item", retriever.embed_items(pa.table({"title": ASKED, "name": ["a"] * len(ASKED)}))),
    ):
        loaded = sentence_transformers.SentenceTransformer(str(tmp_path / "made" / side), local_files_only=True)
        np.testing.assert_allclose(loaded.encode(ASKED, show_progress_bar=False), embedded, atol=1e-4)
    export(retriever, "sentence-transformers", tmp_path / "made", ExportOptions(overwrite=True))
    # The same texts by onnxruntime and tokenizers alone.
    export(retriever, "onnx", tmp_path / "graphs")
    assert json.loads((tmp_path / "graphs" / "inputs.json").read_text())["query"]["text"]["golden"]
    code = "import sys, runpy\nfor name in ('twotower', 'torch', 'transformers'): sys.modules[name] = None\nrunpy.run_path('graphs/example.py')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_towers_that_are_one_make_one_folder_and_others_are_refused(folder, tmp_path):
    from twotower.exports.formats import ExportOptions, export

    place = tmp_path / "encoder"
    shutil.copytree(folder, place)
    # Nothing is learnt in no step, so both sides stay as the encoder is.
    retriever = trained(place, tmp_path / "run", {"dimensions": 16, "body": "none"}, {"epochs": 1, "learning_rate": 1e-12}).retriever
    weights = tmp_path / "run" / "bundle" / "model" / "weights.safetensors"
    assert weights.exists()
    written = export(retriever, "sentence-transformers", tmp_path / "made")
    one = (tmp_path / "made" / "modules.json").exists()
    assert one == ("one" in written.what)
    where = tmp_path / "made" if one else tmp_path / "made" / "query"
    loaded = sentence_transformers.SentenceTransformer(str(where), local_files_only=True)
    np.testing.assert_allclose(loaded.encode(ASKED, show_progress_bar=False), retriever.embed_queries(ASKED), atol=1e-4)
    shutil.move(place, tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="--encoder"):
        export(retriever, "sentence-transformers", tmp_path / "other")
    export(retriever, "sentence-transformers", tmp_path / "other", ExportOptions(encoder=str(tmp_path / "elsewhere")))
    described = json.loads((tmp_path / "elsewhere" / "config.json").read_text())
    (tmp_path / "elsewhere" / "config.json").write_text(json.dumps(described | {"layer_norm_eps": 1e-3}))
    with pytest.raises(ConfigError, match="is not the one that this model was trained on"):
        export(retriever, "sentence-transformers", tmp_path / "third", ExportOptions(encoder=str(tmp_path / "elsewhere")))
    assert not (tmp_path / "third").exists()


def test_a_body_that_is_not_linear_is_no_such_folder(folder, tmp_path):
    from twotower.exports.formats import export

    retriever = trained(folder, tmp_path / "run", {"dimensions": 16, "body": "residual"}, {"epochs": 1}).retriever
    with pytest.raises(ConfigError, match=r'body "residual".*none or linear.*onnx'):
        export(retriever, "sentence-transformers", tmp_path / "made")


# --- the default --------------------------------------------------------------------------------------------------


@pytest.fixture
def faq():
    generator = np.random.default_rng(0)
    words = [f"word{n}" for n in range(300)]
    sentences = [" ".join(generator.choice(words, 8)) for _ in range(600)]
    return open_source(pa.table({"question": sentences[:300], "answer": sentences[300:]}), "pairs")


def test_few_pairs_of_texts_are_read_by_the_encoder_that_is_there(folder, faq, monkeypatch):
    monkeypatch.setattr(pretrained, "shipped", lambda: folder)
    guess = infer(faq, None)
    assert guess.schema.query.features == (Pretrained(column="question", folder="shipped"),)
    assert guess.schema.item.features == (Pretrained(column="answer", folder="shipped"),)
    assert guess.dimensions == 16 and guess.advice is None and any("fewer than 20,000 pairs" in reason for reason in guess.reasons.values())


def test_without_an_encoder_it_is_said_what_one_would_bring(faq, monkeypatch):
    monkeypatch.setattr(pretrained, "shipped", lambda: None)
    guess = infer(faq, None)
    assert {f.type for f in (*guess.schema.query.features, *guess.schema.item.features)} == {"text"}
    assert guess.advice is not None and "pip install 'twotower[text]'" in guess.advice and "\n" not in guess.advice


def test_users_are_not_read_by_an_encoder(folder, monkeypatch):
    monkeypatch.setattr(pretrained, "shipped", lambda: folder)
    generator = np.random.default_rng(0)
    guess = infer(open_source({"user_id": generator.integers(0, 200, 2000), "movie_id": generator.integers(0, 300, 2000)}), None)
    assert not {f.type for f in (*guess.schema.query.features, *guess.schema.item.features)} & {"text", "pretrained"} and guess.advice is None


# --- real weights -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_minilm_is_what_the_library_makes_of_it():
    place = pretrained.shipped()
    if place is None:
        pytest.skip("no package with weights is installed")
    feature = Pretrained(column="t")
    texts = ["Is disability insurance required by law?", "No.", "word " * 400]
    found = feature.encode(pa.array(texts), feature.fit(()))
    np.testing.assert_allclose(found[:, :-1], reference(place, texts), atol=1e-5)
    assert found[:2, :-1] @ found[0, :-1] == pytest.approx([1.0, 0.05], abs=0.25)


# --- training again -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tune", [False, True])
def test_the_encoder_goes_on_with_its_weights(folder, tmp_path, tune):
    """Its state stays, what was trained of it comes along, and another encoder in its folder is refused."""
    from twotower.learning.checkpoints import TrainState
    from twotower.learning.inheritance import inherit
    from twotower.learning.moving import dense_rates, moments_of

    place = tmp_path / "encoder"
    shutil.copytree(folder, place)
    feature = Pretrained(column="t", folder=str(place), tune=tune)
    encoder, batch = encoder_of([feature], [feature])
    states = []
    for seed in (0, 1):
        model = build(encoder, ModelOptions(dimensions=8, body="linear"), seed)
        states.append(TrainState(model, dense_optimizer(dense_rates(model, TrainOptions()), 0.0), moments_of(model, TrainOptions())))
    last, state = states
    with torch.no_grad():
        for parameter in last.model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    newer = feature.fit((), encoder.states["item"]["t:pretrained"])
    assert all(newer[name] is array for name, array in encoder.states["item"]["t:pretrained"].items())
    columns = encoder.encode("item", batch)
    before = last.model.encode("item", columns)
    assert not torch.allclose(before, state.model.encode("item", columns), atol=1e-3)
    inherit(state, encoder, last, encoder)
    assert torch.allclose(before, state.model.encode("item", columns), atol=1e-6)
    weights = next(place.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ConfigError, match=r"is not the one .* start anew"):
        feature.fit((), encoder.states["item"]["t:pretrained"])
