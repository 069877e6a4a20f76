"""Encoding in parts: the same gradients in less memory, with the same random numbers both times."""

import numpy as np
import pytest
import torch

from test_worlds import config_of, walks
from twotower.config import from_values
from twotower.data.preparation import prepare
from twotower.data.sources import open_source
from twotower.learning import caching, training
from twotower.learning.caching import part
from twotower.model.layers import Bag, Prefixes
from twotower.model.towers import build


class Whole(caching.Encoded):
    """Every part with all that its gradients need, as if memory were endless: what the parts that forget are held against."""

    def __init__(self, *given):
        super().__init__(*given)
        self.parts = torch.cat([self._part(number) for number in range(len(self._spans))])
        assert torch.equal(self.parts.detach(), self.vectors.detach())

    def backward(self):
        self.parts.backward(self.vectors.grad)


def gradients(folder, monkeypatch, history, train, encoded=caching.Encoded, model=None, device="cpu"):
    """The gradients of the first move, of everything, on the processor."""
    given = {}

    def look(state, gathered, weight, options, rate):
        given.update({f"table {n}": rows.gradient.cpu() for n, rows in enumerate(gathered.rows.values())})
        given.update({name: p.grad.cpu() for name, p in state.model.named_parameters() if p.grad is not None})

    with monkeypatch.context() as patch:
        patch.setattr(training, "move", look)
        patch.setattr(training, "Encoded", encoded)
        config = from_values(config_of(history, model={"dimensions": 16, **(model or {})}, train={"batch_size": 128, "learning_rate": 0.02, **train}))
        prepared = prepare(open_source(walks(), "pairs"), None, config.schema, config.split, folder / "prepared")
        data = training.data_of(prepared, config.train, config.evaluate)
        state = training.start(build(prepared.encoder, config.model, 0).to(device), data, config.train)
        next(training.steps(state, data, config.train))
    return given


def assert_alike(one, other):
    assert one.keys() == other.keys() and len(one) > 2
    most = max(float(gradient.abs().max()) for gradient in one.values())
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name], rtol=1e-4, atol=1e-6 * most, msg=lambda told, name=name: f"{name}: {told}")


@pytest.mark.parametrize("size", [1, 7, 127])
@pytest.mark.parametrize(("pool", "items"), [("mean", "tower"), ("recency", "ids"), ("attention", "tower"), ("transformer", "tower")])
def test_gradients_of_parts_are_those_of_the_whole(tmp_path, monkeypatch, pool, items, size):
    history = {"pool": pool, "items": items, "last": 3}
    whole, parts = (gradients(tmp_path, monkeypatch, history, {"chunk_size": chunk}) for chunk in (0, size))
    assert_alike(whole, parts)


def test_what_is_dropped_is_dropped_both_times(tmp_path, monkeypatch):
    history = {"pool": "transformer", "items": "tower", "last": 3, "dropout": 0.4, "forget": 0.3}
    model = {"body": "mlp", "dropout": 0.5}
    whole, parts = (gradients(tmp_path, monkeypatch, history, {"chunk_size": 7}, one, model) for one in (Whole, caching.Encoded))
    assert_alike(whole, parts)
    dropless = gradients(tmp_path, monkeypatch, history | {"dropout": 0.0, "forget": 0.0}, {"chunk_size": 7})
    assert any(not torch.allclose(dropless[name], parts[name]) for name in parts if name in dropless)


def test_parts_in_half_precision_have_gradients_too(tmp_path, monkeypatch):
    """Weights that autocast had cast without gradients would give none the second time."""
    history = {"pool": "attention", "items": "ids", "last": 3}
    whole, parts = (gradients(tmp_path, monkeypatch, history, {"chunk_size": 7, "precision": precision}) for precision in ("float32", "bfloat16"))
    assert whole.keys() == parts.keys()
    for name in whole:
        assert torch.nn.functional.cosine_similarity(whole[name].reshape(-1), parts[name].reshape(-1), dim=0) > 0.95 or whole[name].norm() < 1e-3


def test_rows_of_every_kind_of_column():
    generator = np.random.default_rng(0)
    lengths = generator.integers(0, 4, 9)
    bag = Bag(torch.arange(int(lengths.sum())), torch.as_tensor(np.append(0, lengths.cumsum())))
    rows = [bag.values[bag.offsets[i] : bag.offsets[i + 1]].tolist() for i in range(9)]
    some = part(bag, 3, 7)
    assert [some.values[some.offsets[i] : some.offsets[i + 1]].tolist() for i in range(4)] == rows[3:7]
    which, cuts = torch.tensor([0, 5, 5, 2, 8, 5]), torch.tensor([0, 1, 0, 1, 2, 1])
    some = part(Prefixes(bag, which, cuts), 1, 5)
    assert len(some.bag.offsets) - 1 == 3 and torch.equal(some.cuts, cuts[1:5])  # the longer rows that none of these begins stay away
    assert [some.bag.values[some.bag.offsets[i] : some.bag.offsets[i + 1]].tolist() for i in some.rows] == [rows[i] for i in which[1:5]]
    assert torch.equal(part(torch.arange(9), 3, 7), torch.arange(3, 7))
