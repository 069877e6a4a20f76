"""A memory of item vectors: which items it holds, with what probability they are met, and that they are constants scored once."""

import numpy as np
import pytest
import torch

import test_training
from test_training import begin, changed, run
from twotower.data.batches import Epochs
from twotower.data.columns import ragged
from twotower.data.prepared import Log
from twotower.learning import training
from twotower.learning.material import Material, Past
from twotower.learning.memory import Entries, Memory, kept_batches, memory, recall, standing
from twotower.learning.options import TrainOptions
from twotower.learning.reader import read
from twotower.model.negatives import sampler_state

config, prepared = test_training.config, test_training.prepared

LOG = np.repeat(np.arange(7), [40, 30, 15, 10, 4, 1, 0])  # nobody chose the last
LOGITS = np.array([0.3, -0.2, 1.0, 0.1, -1.0, 2.0, 9.0])
EMPTY = Entries(*np.empty((2, 0), np.int64))


def material_of(options):
    """A log of a hundred people with an item each; nothing is encoded."""
    people = np.arange(100)
    log = Log(people, people, LOG, *np.ones((2, 100), np.float32))
    sampler = sampler_state(LOG, 7, options, batch_size=options.batch_size)
    epochs = Epochs(log, options.batch_size, options.seed)
    return Material(epochs, ragged([[int(item)] for item in LOG]), None, {"query": {}, "item": {}}, None, sampler)


def batches(options, epochs):
    """Every batch as training would read it, with what is remembered."""
    material, entries = material_of(options), EMPTY
    for epoch in range(epochs):
        for ready in read(material, options, epoch, 0, Past(None, entries)):
            yield epoch, entries, ready
            entries = ready.recall.entries


SAMPLERS = [
    {"memory": 24},
    {"memory": 200},
    {"negatives": "drawn", "draws": 3, "memory": 9, "power": 0.5},
    {"negatives": "mixed", "draws": 3, "memory": 33},
]


@pytest.mark.parametrize("given", SAMPLERS, ids=str)
def test_the_corrected_sum_over_batch_and_memory_is_that_of_the_catalogue(given):
    options, sums = TrainOptions(batch_size=8, **given), {1: [], -1: []}
    for epoch, _, ready in batches(options, 80):
        shared = ~ready.batch.alone
        for sign, found in sums.items():
            found.append((epoch, np.exp(LOGITS[ready.batch.item_rows] - sign * ready.batch.log_prob)[shared].sum()))
    whole = np.exp(LOGITS[:6]).sum()
    means = {sign: np.array([np.mean([value for at, value in found if at == epoch]) for epoch in range(80)]) for sign, found in sums.items()}
    error = means[1].std() / np.sqrt(80)
    assert abs(means[1].mean() - whole) < 4 * error + 0.01 * whole and error < 0.05 * whole
    if given["memory"] < 100:
        assert abs(means[-1].mean() - whole) > 6 * error + 0.01 * whole  # the sign that others shipped


@pytest.mark.parametrize("given", SAMPLERS, ids=str)
def test_it_holds_what_the_last_batches_met_each_item_once(given):
    options = TrainOptions(batch_size=8, **given)
    last, kept = [], kept_batches(options)
    assert kept == given["memory"] // {"in_batch": 8, "drawn": 3, "mixed": 11}[options.negatives]
    for _, entries, ready in batches(options, 3):
        assert sorted(entries.item_rows.tolist()) == sorted(set().union(*last)) and len(entries.item_rows) <= given["memory"]
        batch = ready.batch
        assert (np.diff(batch.item_rows) > 0).all() and set(entries.item_rows) <= set(batch.item_rows[~batch.alone])
        for view, mask in enumerate(batch.mask_rows):  # the match of each key is masked, in the memory too
            masked = batch.masks.values[batch.masks.offsets[mask] : batch.masks.offsets[mask + 1]]
            assert batch.item_rows[masked].tolist() == [LOG[batch.query_keys[view]]]
        last = [*last, set(ready.met.tolist())][-kept:]


def test_what_is_encoded_anew_stands_there_as_it_is_now():
    entries = Entries(np.array([7, 2, 9]), np.array([3, 4, 4]))
    assert standing(entries, np.array([1, 2, 5]), np.array([1, 2, 5, 7, 9])).tolist() == [0, 1, 2, 3, 5]
    step = recall(entries, np.array([2, 5]), np.array([1, 2, 5]), 5, 2)
    assert step.kept.tolist() == [2] and step.added.tolist() == [1, 2]  # 7 was met too long ago
    assert step.entries.item_rows.tolist() == [9, 2, 5] and step.entries.met.tolist() == [4, 5, 5]
    vectors = torch.arange(3.0).unsqueeze(1)
    after = Memory(entries, vectors).after(step, (10 + torch.arange(3.0)).unsqueeze(1).requires_grad_())
    assert after.vectors[:, 0].tolist() == [2, 11, 12] and not after.vectors.requires_grad
    assert len(memory(4, torch.device("cpu")).vectors) == 0


@pytest.mark.parametrize("more", [{}, {"symmetric": True}, {"chunk_size": 7}, {"accumulate": 2}, {"precision": "bfloat16"}], ids=str)
def test_vectors_are_those_of_the_tower_when_they_were_met(prepared, config, more):
    """As good as nothing moves, so that every vector of the memory is still what the tower makes of its item."""
    still = {"learning_rate": 1e-12, "table_learning_rate": 1e-12, "epochs": 1, "memory": 200, "mined": 1, **more}
    state, _ = run(prepared, changed(config, model={"dropout": 0.0}, train=still))
    expected = state.model.encode("item", prepared.columns["item"])[state.memory.entries.item_rows]
    torch.testing.assert_close(state.memory.vectors, expected, atol=0.02 if "precision" in more else 1e-5, rtol=0)


def test_it_is_as_if_the_batches_before_were_there_without_gradients(prepared, config):
    """The loss of a second step by hand: its views against both batches' items."""
    short = changed(config, model={"dropout": 0.0}, train={"memory": 64, "epochs": 1, "learning_rate": 1e-12, "table_learning_rate": 1e-12})
    state, data = begin(prepared, short)
    readers = read(data.material, short.train, 0, 0, Past(None, state.memory.entries))
    first, second = next(readers), next(readers)
    told = [step.loss for step, _ in zip(training.steps(state, data, short.train), range(2), strict=False)]
    rows = np.union1d(first.met, second.met)
    queries, items = (state.model.encode(side, prepared.columns[side]).double() for side in ("query", "item"))
    logits = (queries[second.batch.query_rows] @ items[rows].T / state.model.temperature).numpy()
    losses = []
    known = data.material.known
    for view, row in enumerate(logits):
        key = second.batch.query_keys[view]
        masked = np.isin(rows, known.values[known.offsets[key] : known.offsets[key + 1]])
        span = slice(second.batch.positives.offsets[view], second.batch.positives.offsets[view + 1])
        for position, weight in zip(second.batch.positives.positions[span], second.batch.positives.weights[span], strict=True):
            own = row[np.searchsorted(rows, second.batch.item_rows[position])]
            losses.append((weight, np.log1p(np.exp(row[~masked] - own).sum())))
    weights, each = np.array(losses).T
    assert told[1] == pytest.approx((weights * each).sum() / weights.sum(), rel=1e-4)


def test_a_step_that_fails_leaves_the_memory_as_it_was(prepared, config):
    state, data = begin(prepared, changed(config, train={"memory": 64}))
    train = changed(config, train={"memory": 64}).train
    next(training.steps(state, data, train))
    before = state.memory
    state.model.query.gains.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(training.DataError):
        next(training.steps(state, data, train))
    assert state.memory is before
