"""On a CUDA device: the losses, gradients, moves and models of the processor, to rounding."""

import pytest
import torch

from test_blockwise import OPTIONS, batch_of, vectors_of
from test_caching import assert_alike, gradients
from test_worlds import config_of, walks
from twotower import train
from twotower.config import from_values
from twotower.data.preparation import prepare
from twotower.data.sources import open_source
from twotower.learning import training
from twotower.learning.moving import tables
from twotower.model.blockwise import loss_of
from twotower.model.options import LossOptions
from twotower.model.towers import build

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
DEVICES = ("cpu", "cuda")
HISTORIES = [{"pool": "mean", "items": "tower"}, {"pool": "recency", "items": "ids"}, {"pool": "transformer", "items": "tower"}]


def differentiated(device, options, half=False):
    """The loss of a batch and the gradients of its vectors and scale, on the processor."""
    batch = batch_of()
    given = [one.detach().to(device).requires_grad_() for one in vectors_of(batch)]
    lost = loss_of(*given, batch, options, half=half)
    lost.mean.backward()
    return [one.cpu() for one in (lost.mean.detach(), lost.each, *(torch.zeros_like(v) if v.grad is None else v.grad for v in given))]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_losses_and_their_gradients(options):
    for expected, found in zip(*(differentiated(device, options) for device in DEVICES), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_half_precision_is_near_and_leaves_the_setting_alone():
    before = torch.backends.cuda.matmul.fp32_precision
    exact, near = (differentiated("cpu", LossOptions(), half) for half in (False, True))
    for expected, found in zip(exact, near, strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-3)
    assert torch.backends.cuda.matmul.fp32_precision == before


@pytest.mark.parametrize("size", [0, 7])
@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history["pool"])
def test_gradients_of_the_towers_at_once_and_in_parts(tmp_path, monkeypatch, history, size):
    expected = gradients(tmp_path, monkeypatch, {"last": 3, **history}, {})
    assert_alike(expected, gradients(tmp_path, monkeypatch, {"last": 3, **history}, {"chunk_size": size}, device="cuda"))


def started(folder, device, config):
    """(the settings, the data, the state before the first step)."""
    config = from_values(config)
    prepared = prepare(open_source(walks(), "pairs"), None, config.schema, config.split, folder / "prepared")
    data = training.data_of(prepared, config.train, config.evaluate)
    return config, data, training.start(build(prepared.encoder, config.model, 0).to(device), data, config.train)


@pytest.mark.parametrize("optimizer", ["adagrad", "adam"])
def test_moves(tmp_path, optimizer):
    outcomes = []
    for device in DEVICES:
        train_options = {"batch_size": 128, "learning_rate": 0.02, "table_optimizer": optimizer, "clip_norm": 1.0}
        config, data, state = started(tmp_path, device, config_of({"pool": "mean", "items": "ids"}, train=train_options))
        taken = training.steps(state, data, config.train)
        for _ in range(3):
            next(taken)
        # Of tables: to Adam the gradient of a gain, which changes no direction, is noise of length 1.
        outcomes.append([table.weight.detach().cpu() for table in tables(state.model).values()])
    for expected, found in zip(*outcomes, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def settings(device, **options):
    """A small run with everything that draws numbers."""
    blocks = {"model": {"dimensions": 16, "body": "mlp", "dropout": 0.2}, "train": {"epochs": 8, "batch_size": 64, "learning_rate": 0.02} | options}
    return config_of({"pool": "transformer", "last": 3, "dropout": 0.1}, **blocks) | {"machine": {"device": device}}


@pytest.mark.parametrize("options", [{}, {"precision": "bfloat16"}, {"memory": 1100, "negatives": "mixed"}, {"mined": 4}], ids=str)
def test_a_run_is_as_good_and_opens_without_the_device(tmp_path, options):
    found = {device: train(walks(), config=settings(device, **options), output=tmp_path / device) for device in DEVICES}
    metrics = {device: run.metrics["model"] for device, run in found.items()}
    assert metrics["cpu"]["hit@1"]["value"] > 0.8
    assert metrics["cpu"]["mrr"]["value"] == pytest.approx(metrics["cpu"]["mrr"]["value"], abs=0.1)
    assert found["cpu"].retriever.search(history=["i1"])


def test_a_stopped_run_goes_on(tmp_path):
    outcomes = []
    for stops in ((), (5, 20)):
        folder = tmp_path / f"{len(stops)} stops"
        folder.mkdir()
        for stop in (*stops, None):
            config, data, state = started(tmp_path, "cpu", settings("cpu"))
            if (folder / "checkpoint.safetensors").exists():
                training.resume(state, folder)
            asked = (lambda state=state, stop=stop: state.step >= stop) if stop else (lambda: False)
            assert training.fit(state, data, config.train, config.evaluate, folder=folder, stop=asked) == (stop is None)
        outcomes.append(training.validate(state.model, data, config.evaluate)[0]["mrr"])
    assert outcomes[0] == pytest.approx(outcomes[1], abs=0.02) and outcomes[0] > 0.8
