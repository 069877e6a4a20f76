"""Word pieces: learnt of the training texts, read in their order, pooled to nothing where there is nothing."""

import numpy as np
import pyarrow as pa
import pytest

from twotower.data.columns import Ragged, lengths_of, take_rows
from twotower.data.encoder import Encoder
from twotower.data.features import Pieces
from twotower.data.schema import ItemSide, QuerySide, Schema
from twotower.errors import ConfigError

torch = pytest.importorskip("torch")

from twotower.exports import towers  # noqa: E402
from twotower.model.layers import Bag, tensors  # noqa: E402
from twotower.model.layers.inputs import cropped  # noqa: E402
from twotower.model.layers.names import new_table  # noqa: E402
from twotower.model.layers.pieces import PieceNetwork  # noqa: E402
from twotower.model.optimizers import Rows, adagrad_moments, rowwise_adagrad  # noqa: E402
from twotower.model.options import ModelOptions  # noqa: E402
from twotower.model.towers import build  # noqa: E402

GENERATOR = np.random.default_rng(0)
WORDS = ["red", "blue", "green", "box", "ball", "house", "show", "list", "folders", "folder"]
TEXTS = [" ".join(GENERATOR.choice(WORDS, GENERATOR.integers(1, 12))) for _ in range(60)] + [None, "", "red"]
NETWORKS = [
    {"network": "cnn", "pool": "mean"},
    {"network": "cnn", "pool": "max", "layers": 2},
    {"network": "transformer", "pool": "mean", "layers": 2},
    {"network": "transformer", "pool": "max", "heads": 1},
]


def encoder_of(query, item):
    schema = Schema(query=QuerySide(features=tuple(query)), item=ItemSide(features=tuple(item)))
    batch = pa.RecordBatch.from_pydict({"t": pa.array(TEXTS, pa.string()), "u": pa.array(TEXTS[::-1], pa.string())})
    return Encoder.fit(schema, lambda side: [(batch, np.ones(len(TEXTS), np.int64))]), batch


def model_of(options, dimensions=16):
    feature = Pieces(column="t", vocabulary=64, width=16, length=8, **options)
    encoder, batch = encoder_of([feature], [feature])
    model = build(encoder, ModelOptions(dimensions=dimensions)).eval()
    with torch.no_grad():  # what starts at zero would hide a fault
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model, encoder, batch


def test_pieces_spell_every_word_they_were_learnt_of():
    feature = Pieces(column="t", vocabulary=64, length=8)
    state = feature.fit([(pa.array(TEXTS, pa.string()), None)])
    encoded = feature.encode(pa.array(["red folder", None, "", "Red  FOLDER", "red " * 50, "żółw"]), state)
    rows = [encoded.values[start:stop].tolist() for start, stop in zip(encoded.offsets[:-1], encoded.offsets[1:], strict=True)]
    assert rows[0] == rows[3] and rows[1] == rows[2] == [] and len(rows[4]) == 8 and rows[0][0] == rows[4][0]
    assert feature.missing(encoded) == 2 and feature.unknown(encoded) == 1
    assert encoded.values.min() >= 1 and encoded.values.max() < feature.form(state, 16).high


def test_the_same_texts_give_the_same_pieces():
    feature = Pieces(column="t", vocabulary=64)
    first, second = (feature.fit([(pa.array(TEXTS, pa.string()), None)]) for _ in range(2))
    np.testing.assert_array_equal(first["tokeniser"], second["tokeniser"])


def test_features_of_one_table_share_pieces_and_embeddings():
    features = [Pieces(column=column, vocabulary=64, width=16, table="words") for column in ("t", "u")]
    encoder, _ = encoder_of(features[:1], features[1:])
    assert encoder.states["query"]["t:pieces"] is encoder.states["item"]["u:pieces"]
    model = build(encoder, ModelOptions(dimensions=16))
    assert model.query.layers[0].table is model.item.layers[0].table
    alone, _ = encoder_of([Pieces(column="t", vocabulary=64, width=16)], [Pieces(column="u", vocabulary=64, width=16)])
    apart = build(alone, ModelOptions(dimensions=16))
    assert apart.query.layers[0].table is not apart.item.layers[0].table


@pytest.mark.parametrize("options", NETWORKS)
def test_a_row_does_not_depend_on_its_neighbours_and_nothing_gives_zeros(options):
    model, encoder, batch = model_of(options)
    columns = encoder.encode("query", batch)
    found = model.encode("query", columns)
    one_by_one = torch.cat([model.encode("query", take_rows(columns, np.array([n]))) for n in range(len(TEXTS))])
    torch.testing.assert_close(found, one_by_one, atol=2e-6, rtol=0)
    assert not found[[60, 61]].any() and found[62].norm() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("options", NETWORKS)
def test_the_order_of_pieces_counts(options):
    model, encoder, _ = model_of(options)
    table = pa.table({"t": ["red box blue ball", "blue box red ball"]})
    first, second = model.encode("query", encoder.encode("query", table))
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("options", [NETWORKS[0], NETWORKS[2]])
@pytest.mark.parametrize("dimensions", [16, 8])
def test_the_exported_tower_is_torchs(options, dimensions, tmp_path):
    model, encoder, _ = model_of(options, dimensions)
    towers.write_model(tmp_path, model, encoder)  # raises unless they agree


def test_a_step_moves_the_rows_of_its_pieces_alone():
    model, encoder, _ = model_of(NETWORKS[0])
    columns = {name: tensors(column) for name, column in encoder.encode("query", pa.table({"t": ["red box", "box"]})).items()}
    before = model.query.layers[0].table.weight.clone()
    (table,) = model.gather(columns, {"t:pieces": tensors(Ragged(np.empty(0, np.int32), np.zeros(1, np.int64)))})[:1]
    (model.query(columns) * torch.randn(2, 16)).sum().backward()
    rowwise_adagrad(table.weight, Rows(table.touched, table.leaf.detach(), table.leaf.grad), adagrad_moments(table.weight), 0.1)
    moved = (table.weight != before).any(1).nonzero().squeeze(1).tolist()
    assert moved == sorted(set(columns["t:pieces"].values.tolist()))


def test_a_width_that_its_heads_do_not_divide_is_refused():
    with pytest.raises(ConfigError, match="heads = 3 do not divide"):
        Pieces(column="t", network="transformer", width=16, heads=3).fit([(pa.array(["a"]), None)])


def test_pieces_learn_what_no_word_shares(world, tmp_path):
    """The planted world: a query and its item share no word, so what is found was learnt."""
    from twotower import train

    config = {
        "pairs": {"item": "thing"},
        "query": {"features": [{"column": "asked", "type": "pieces", "vocabulary": 512, "width": 32, "length": 24}]},
        "item": {"id": "name", "features": [{"column": "title", "type": "pieces", "vocabulary": 256, "width": 32, "length": 16}]},
        "split": {"by": "random", "test": 0.15, "validation": 0.15},
        "model": {"dimensions": 32},
        "train": {"epochs": 20, "batch_size": 64, "correction": False, "learning_rate": 0.003},
        "search": {"mode": "vectors"},
    }
    run = train(*world, config=config, output=tmp_path / "run")
    assert run.metrics["model"]["hit@10"]["value"] > 0.9  # of 36 items
    assert lengths_of(run.retriever.encoder.encode("query", pa.table({"asked": ["subject1 sort2"]}))["asked:pieces"]).tolist() > [1]


def test_a_cropped_row_is_a_part_in_one_piece():
    """Every row of distinct values: a run of them, no shorter than said, beginning and ending anywhere."""
    lengths = torch.tensor([0, 1, 2, 5, 40] * 50)
    bag = Bag(torch.cat([torch.arange(n) for n in lengths.tolist()]), torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))
    torch.manual_seed(0)
    found = cropped(bag, 0.5)
    rows = [found.values[first:last].tolist() for first, last in zip(found.offsets[:-1].tolist(), found.offsets[1:].tolist(), strict=True)]
    assert all(row == list(range(row[0], row[0] + len(row))) and row[-1] < n for row, n in zip(rows, lengths.tolist(), strict=True) if n)
    assert all(n / 2 <= len(row) <= n for row, n in zip(rows, lengths.tolist(), strict=True))
    long = [row for row in rows if len(row) >= 20]
    assert len({len(row) for row in long}) > 5 and any(row[0] == 0 for row in long) and any(row[-1] < 39 for row in long)
    assert any(row[0] > 0 for row in long) and any(row[0] > 0 and row[-1] < 39 for row in long)


@pytest.mark.parametrize("option", ["crop", "forget"])
def test_parts_are_left_out_in_training_alone(option):
    bag = Bag(torch.randint(1, 50, (400,)), torch.arange(0, 401, 20))
    layers = []
    for value in (0.0, 0.5):
        torch.manual_seed(0)
        feature = Pieces(column="words", width=8, dropout=0.0, **{option: value})
        layers.append(PieceNetwork(feature, new_table(60, 8, 1, 0.3), 8))
    whole, some = layers
    assert not torch.equal(whole(bag), some(bag))
    assert torch.equal(whole.eval()(bag), some.eval()(bag))
