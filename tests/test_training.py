"""The loop: it solves a planted world, is a function of its seed, resumes exactly, and obeys every option."""

import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import twotower as tt
from conftest import WORLD_CONFIG
from twotower.config import from_values
from twotower.data.columns import ragged
from twotower.data.preparation import prepare
from twotower.data.sources import open_source
from twotower.errors import BundleError, DataError
from twotower.learning import health, training
from twotower.learning.evaluation import rank
from twotower.learning.health import likeness
from twotower.learning.metrics import mrr
from twotower.learning.moving import tables
from twotower.learning.options import MiningOptions
from twotower.learning.training import Step, Validation
from twotower.model.losses import LOSSES
from twotower.model.negatives import NEGATIVES
from twotower.model.options import LossOptions
from twotower.model.towers import TwoTower, build

OTHERS = itertools.count()


@pytest.fixture(scope="module")
def config():
    return from_values(WORLD_CONFIG | {"model": {"dimensions": 16, "body": "residual", "hidden": [16], "dropout": 0.2}})


@pytest.fixture(scope="module")
def prepared(world, config, tmp_path_factory):
    return prepare(open_source(world[0], "pairs"), open_source(world[1], "items"), config.schema, config.split, tmp_path_factory.mktemp("prepared"))


def begin(prepared, config):
    torch.manual_seed(next(OTHERS))  # what else drew random numbers must not matter
    model = build(prepared.encoder, config.model, config.train.seed)
    data = training.data_of(prepared, config.train, config.evaluate)
    return training.start(model, data, config.train), data


def run(prepared, config, **given):
    state, data = begin(prepared, config)
    finished = training.fit(state, data, config.train, config.evaluate, **given)
    return state, finished


def changed(config, **blocks):
    return replace(config, **{name: replace(getattr(config, name), **values) for name, values in blocks.items()})


def all_of(state):
    """Everything that a state holds, but its clock."""
    weights = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    moments = {f"{n}/{k}": v for n, entry in state.optimizer.state_dict()["state"].items() for k, v in entry.items()}
    numbers = (state.epoch, state.batch, state.step, state.best, state.best_epoch, state.since_best, state.losses, state.done)
    return (
        weights
        | negatives_of(state)
        | {f"a/{table}/{k}": v for table, kept in state.moments.items() for k, v in kept.items()}
        | {f"o/{k}": v for k, v in moments.items()},
        state.best_weights,
        numbers,
    )


def negatives_of(state):
    """The memory, the meetings and what was mined."""
    kept = {} if state.memory is None else {"memory": state.memory.vectors, **state.memory.entries._asdict()}
    kept |= {} if state.meetings is None else {f"meetings/{name}": array for name, array in state.meetings._asdict().items()}
    kept |= {} if state.mined is None else {"mined": state.mined.lists, "items": state.mined.items.values, "offsets": state.mined.items.offsets}
    return {name: torch.as_tensor(array).clone() for name, array in kept.items()}


def assert_same(one, other):
    for left, right in zip(all_of(one)[:2], all_of(other)[:2], strict=True):
        assert left.keys() == right.keys()
        assert [name for name in left if not torch.equal(left[name], right[name])] == []
    assert all_of(one)[2] == all_of(other)[2]


def weights_differ(one, other):
    return any(not torch.equal(tensor, other.model.state_dict()[name]) for name, tensor in one.model.state_dict().items())


def test_the_planted_world_is_solved_and_a_constant_is_at_chance(prepared, config):
    config = changed(config, model={"dimensions": 32, "dropout": 0.0})
    state, finished = run(prepared, config)
    data = training.data_of(prepared, config.train, config.evaluate)
    assert finished and state.done
    assert training.validate(state.model, data, config.evaluate)[0]["mrr"] > 0.9
    asked = data.validation
    same = rank(lambda block: np.zeros((block.stop - block.start, 36), np.float32), asked.relevant, asked.excluded, n_items=36)
    assert mrr(same, None).mean() == pytest.approx(sum(1 / n for n in range(1, 37)) / 36, abs=0.01)
    untrained = training.validate(build(prepared.encoder, config.model), data, config.evaluate)[0]["mrr"]
    assert untrained < 0.4


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "pointwise"])
def test_every_loss_solves_the_world_with_every_kind_of_negatives(prepared, config, loss, negatives):
    config = changed(config, model={"dimensions": 32, "dropout": 0.0}, train={"loss": loss, "negatives": negatives, "draws": 32})
    if loss == "sigmoid":  # learns more slowly: what is pushed apart pushes ever less
        config = changed(config, train={"epochs": 20})
    state, _ = run(prepared, config)
    assert training.validate(state.model, training.data_of(prepared, config.train, config.evaluate), config.evaluate)[0]["mrr"] > 0.8


@pytest.mark.parametrize(("name", "values"), [("draws", (4, 64)), ("power", (0.0, 3.0))])
def test_draws_and_their_power_change_what_is_learnt(prepared, config, name, values):
    one, other = (run(prepared, changed(config, train={"epochs": 1, "negatives": "drawn", name: value}))[0] for value in values)
    assert weights_differ(one, other)


def test_a_collapsed_model_is_noticed_and_named(prepared, config):
    """Every query is made the same: the items are still told apart, and only the queries are named."""
    told = []
    state, data = begin(prepared, changed(config, train={"epochs": 1, "learning_rate": 1e-9, "table_learning_rate": 1e-9}, model={"body": "mlp"}))
    training.fit(state, data, config.train, config.evaluate, report=told.append, stop=lambda: False)
    assert not [event.fault for event in told if isinstance(event, Validation) and event.fault]
    with torch.no_grad():
        last = [module for module in state.model.query.body.modules() if isinstance(module, torch.nn.Linear)][-1]
        last.weight.mul_(1e-4)
        last.bias.fill_(1.0)
    _, fault = training.validate(state.model, data, config.evaluate)
    assert fault.startswith("the query vectors are nearly all the same (mean cosine 1.000)") and "item vectors" not in fault


@pytest.mark.parametrize("block", [7, 1 << 16])
def test_likeness_is_the_mean_cosine(block, monkeypatch):
    monkeypatch.setattr(health, "BLOCK", block)
    vectors = np.random.default_rng(0).normal(size=(30, 4)) + 0.5
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (units @ units.T)[~np.eye(30, dtype=bool)]
    assert likeness(vectors) == pytest.approx(cosines.mean())
    assert likeness(vectors[:1]) == 0 and likeness(np.zeros((5, 3))) == 0


def test_the_same_seed_gives_the_same_bits(prepared, config):
    short = changed(config, train={"epochs": 2})
    (one, _), (same, _), (other, _) = (run(prepared, c) for c in (short, short, changed(short, train={"seed": 1})))
    assert_same(one, same)
    assert weights_differ(one, other)


def test_two_threads_give_the_same_bits_twice(prepared, config):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        big = changed(config, train={"epochs": 2, "batch_size": 256}, model={"dimensions": 128})
        assert_same(run(prepared, big)[0], run(prepared, big)[0])
    finally:
        torch.set_num_threads(threads)


def test_the_users_own_random_numbers_are_left_alone(prepared, config):
    short = changed(config, train={"epochs": 1})
    state, data = begin(prepared, short)
    before = torch.random.get_rng_state()
    training.fit(state, data, short.train, short.evaluate)
    assert torch.equal(before, torch.random.get_rng_state())


def histories(folder):
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


@pytest.mark.parametrize("stops", [[1], [4], [5], [6], [3, 5, 11]])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"table_optimizer": "adam", "table_learning_rate": 0.01, "accumulate": 2, "batch_size": 33, "clip_norm": 0.5},
        {"memory": 200, "negatives": "mixed", "draws": 16, "correction": True, "probabilities": "streaming", "mined": 2, "mine_every": 2},
    ],
)
def test_resume_is_exact(prepared, config, tmp_path, stops, options):
    """Five moves make an epoch: stopped within one, at its end, at its start, and again and again."""
    short = changed(config, train={"epochs": 3, "patience": 0, **options})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    expected, finished = run(prepared, short, folder=whole)
    assert finished and expected.step == 15
    for stop in stops:
        state, data = begin(prepared, short)
        if (broken / "checkpoint.safetensors").exists():
            training.resume(state, broken)
        assert not training.fit(state, data, short.train, short.evaluate, folder=broken, stop=lambda s=state, n=stop: s.step >= n)
        assert state.step == stop
    state, data = begin(prepared, short)
    training.resume(state, broken)
    assert training.fit(state, data, short.train, short.evaluate, folder=broken)
    assert_same(expected, state)
    assert histories(broken) == histories(whole)


def gradients(prepared, config, monkeypatch, **options):
    """What the first move of a run is given: the length of the gradient, and the rows of every table with theirs."""
    given = {}

    def look(state, gathered, weight, options, rate):
        given.update({training_tables(state)[table]: rows for table, rows in gathered.rows.items()}, weight=weight)

    monkeypatch.setattr(training, "move", look)
    config = changed(config, model={"dropout": 0.0}, train={"negatives": "full", "precision": "float32", **options})
    state, data = begin(prepared, config)
    next(training.steps(state, data, config.train))
    dense = [p.grad for group in state.optimizer.param_groups for p in group["params"] if p.grad is not None]
    return given, dense


def training_tables(state):
    return {table: name for name, table in tables(state.model).items()}


def test_two_batches_together_are_one_of_all_their_pairs(prepared, config, monkeypatch):
    """Against the full catalogue, where a batch brings no negatives of its own: equal gradients, row by row."""
    (two, dense_two), (one, dense_one) = (
        gradients(prepared, config, monkeypatch, batch_size=size, accumulate=number) for size, number in ((32, 2), (64, 1))
    )
    assert two.pop("weight") == one.pop("weight") and two.keys() == one.keys()
    for name, rows in one.items():
        torch.testing.assert_close(two[name].touched, rows.touched)
        torch.testing.assert_close(two[name].gradient, rows.gradient, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(dense_two, dense_one, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_move_of_several_batches_counts_as_one(prepared, config):
    short = changed(config, train={"accumulate": 2, "epochs": 1})
    state, data = begin(prepared, short)
    told = list(training.steps(state, data, short.train))
    assert [step.step for step in told] == [1, 2, 3] and [step.batch for step in told] == [2, 4, 5]
    assert sum(step.pairs for step in told) == len(prepared.part(0).query_rows)


def test_the_gradient_is_clipped_as_a_whole(prepared, config):
    """With Adagrad from nothing a table's step does not depend on the gradient's length, but its memory does."""
    free, tight = (run(prepared, changed(config, train={"epochs": 1, "batch_size": 512, "clip_norm": norm}))[0] for norm in (0.0, 1e-3))
    squares = [torch.cat([kept["squares"] for kept in state.moments.values()]).sum().item() for state in (free, tight)]
    width = config.model.dimensions
    assert squares[1] * width <= 1.001e-6 < 1e-4 < squares[0] * width


def test_a_gradient_that_is_no_number_moves_nothing(prepared, config):
    state, data = begin(prepared, config)
    before = all_of(state)
    with torch.no_grad():
        state.model.query.gains.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(DataError, match=r"a gradient is (inf|nan) at step 1; nothing was changed"):
        next(training.steps(state, data, config.train))
    assert all(torch.equal(one, other) for one, other in zip(before[0].values(), all_of(state)[0].values(), strict=True))


def test_what_came_after_the_checkpoint_is_told_once(prepared, config, tmp_path):
    """Killed after the checkpoint, in the middle of a line."""
    short = changed(config, train={"epochs": 3, "patience": 0})
    (tmp_path / "whole").mkdir()
    run(prepared, short, folder=tmp_path / "whole")
    state, data = begin(prepared, short)
    training.fit(state, data, short.train, short.evaluate, folder=tmp_path, stop=lambda: state.step >= 6)
    checkpoint = (tmp_path / "checkpoint.safetensors").read_bytes()
    training.fit(state, data, short.train, short.evaluate, folder=tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(checkpoint)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"epoch": 4, "st')
    state, data = begin(prepared, short)
    training.resume(state, tmp_path)
    training.fit(state, data, short.train, short.evaluate, folder=tmp_path)
    assert histories(tmp_path) == histories(tmp_path / "whole")


def test_a_checkpoint_is_the_whole_state(prepared, config, tmp_path):
    short = changed(config, train={"epochs": 3})
    state, data = begin(prepared, short)
    training.fit(state, data, short.train, short.evaluate, folder=tmp_path, stop=lambda: state.step >= 7)
    assert state.best_weights and state.losses > 0
    again, _ = begin(prepared, short)
    training.resume(again, tmp_path)
    assert_same(state, again)


def test_the_history_tells_the_mean_loss_of_an_epoch(prepared, config, tmp_path):
    short, losses = changed(config, train={"epochs": 2}), []
    run(prepared, short, folder=tmp_path, report=lambda event: losses.append(event.loss) if isinstance(event, Step) else None)
    assert [line["loss"] for line in histories(tmp_path)] == pytest.approx([np.mean(losses[:5]), np.mean(losses[5:])])


def test_a_finished_run_resumes_to_its_end(prepared, config, tmp_path):
    short = changed(config, train={"epochs": 2})
    expected, _ = run(prepared, short, folder=tmp_path)
    state, data = begin(prepared, short)
    training.resume(state, tmp_path)
    seen = []
    assert training.fit(state, data, short.train, short.evaluate, folder=tmp_path, report=seen.append)
    assert seen == []
    assert_same(expected, state)


def test_early_stopping_keeps_the_best_epoch(prepared, config):
    """With rates far too high at the end of a long plan, the best epoch is not the last one."""
    wild = changed(config, train={"epochs": 30, "patience": 2, "learning_rate": 1.0, "warmup": 0.9})
    seen, weights = [], {}
    state, data = begin(prepared, wild)

    def report(event):
        if isinstance(event, Validation):
            seen.append(event)
            weights[event.epoch] = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}

    assert training.fit(state, data, wild.train, wild.evaluate, report=report)
    values = [event.metrics["mrr"] for event in seen]
    best = int(np.argmax(values))
    assert len(values) == best + 3 < 30  # two validations without a better one
    assert state.best_epoch == seen[best].epoch
    assert [event.best for event in seen] == [value > max(values[:n], default=-1) for n, value in enumerate(values)]
    assert all(torch.equal(tensor, weights[state.best_epoch][name]) for name, tensor in state.model.state_dict().items())
    assert training.validate(state.model, data, wild.evaluate)[0]["mrr"] == values[best]


def test_a_loss_that_is_no_number_moves_nothing(prepared, config):
    state, data = begin(prepared, config)
    for _, _step in zip(range(2), training.steps(state, data, config.train), strict=False):
        pass
    with torch.no_grad():
        state.model.log_scale.fill_(torch.inf)
    before = all_of(state)
    with pytest.raises(DataError, match=r"step 3\b.*temperature"):
        next(training.steps(state, data, config.train))
    after = all_of(state)
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[2] == after[2]
    with torch.no_grad():
        state.model.log_scale.fill_(0.0)
    assert np.isfinite(training.validate(state.model, data, config.evaluate)[0]["mrr"])  # no table is left half gathered
    assert np.isfinite(next(training.steps(state, data, config.train)).loss)


def test_pairs_whose_loss_is_no_number_are_named_by_what_they_hold(world, tmp_path, monkeypatch):
    from twotower.model.blockwise import Lost

    honest = TwoTower.loss

    def lost(*given, **options):
        one = honest(*given, **options)
        each = one.each.clone()
        each[3] = torch.nan
        return Lost(one.mean * torch.nan, each)

    monkeypatch.setattr(TwoTower, "loss", lost)
    pairs, items = world
    with pytest.raises(DataError, match=r"step 1 is no number at 1 of its \d+ pairs; .* Look at asked '[\w ]+' -> \d+\.$") as error:
        tt.train(pairs, items, config=WORLD_CONFIG, output=tmp_path / "run")
    assert not isinstance(error.value, training.NoNumber)
    told = re.search(r"Look at (.*)\.$", str(error.value))[1]
    known = {f"asked {row['asked']!r} -> {row['thing']}" for row in pairs.to_pylist()}
    assert told in known


def test_the_best_weights_are_kept_in_the_same_memory(prepared, config):
    """However often a validation is the best so far: three copies of the tables might not fit."""
    places = []

    def note(event):
        if isinstance(event, Validation):
            places.append((event.best, {name: tensor.data_ptr() for name, tensor in state.best_weights.items()}))

    state, data = begin(prepared, changed(config, train={"epochs": 3}))
    training.fit(state, data, changed(config, train={"epochs": 3}).train, config.evaluate, report=note)
    assert [best for best, _ in places][:2] == [True, True]
    assert places[0][1] == places[1][1] and len(set(places[0][1].values())) == len(places[0][1])


def test_a_loss_of_labels_needs_some_of_zero(tmp_path):
    rows = [{"user": f"u{n % 9}", "item": f"x{n % 7}", "like": 1} for n in range(60)]
    chosen = from_values(
        {
            "pairs": {"label": "like"},
            "query": {"features": [{"column": "user", "type": "id"}]},
            "item": {"id": "item", "features": [{"column": "item", "type": "id"}]},
            "train": {"loss": "pointwise"},
        }
    )
    with pytest.raises(DataError, match="among the training pairs there is none"):
        training.data_of(prepare(open_source(rows, "pairs"), None, chosen.schema, chosen.split, tmp_path), chosen.train, chosen.evaluate)


def rates(prepared, config):
    """What the learning rates are multiplied by, step by step, read off the optimiser."""
    state, data = begin(prepared, config)
    found = []
    for _ in range(config.train.epochs):
        found += [state.optimizer.param_groups[0]["lr"] / config.train.learning_rate for _ in training.steps(state, data, config.train)]
    return np.array(found)


def test_the_rates_rise_to_one_and_fall_in_a_line_to_a_fiftieth(prepared, config):
    found = rates(prepared, changed(config, train={"epochs": 8, "warmup": 0.25}))
    assert len(found) == 40
    assert (np.diff(found[:11]) > 0).all()
    assert found[10] == pytest.approx(1.0)
    assert np.diff(found[10:]) == pytest.approx(np.diff(found[10:])[0])
    assert 0.02 < found[-1] < 0.06
    assert rates(prepared, changed(config, train={"epochs": 8, "warmup": 0.0}))[0] == pytest.approx(1.0)


OTHER = {
    "model": {
        "dimensions": 8, "similarity": "dot", "temperature": 0.2, "learn_temperature": False, "body": "none", "hidden": (8,), "depth": 2,
        "norm": "none", "dropout": 0.0,
        "shared_tables": False, "shared_body": True, "feature_dropout": 0.5,
    },
    "train": {
        "epochs": 1, "batch_size": 32, "together": 2, "correction": True, "learning_rate": 1e-2, "table_learning_rate": 0.01,
        "query_rate": 0.5, "item_rate": 2.0, "weight_decay": 0.5, "warmup": 0.5, "seed": 3,
        "table_optimizer": "adam", "schedule": "constant", "accumulate": 2, "clip_norm": 0.01,
        "precision": "bfloat16", "memory": 128, "probabilities": "streaming", "mined": 2,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def plain(prepared, config):
    return run(prepared, changed(config, train={"epochs": 2, "patience": 0}))[0]


@pytest.mark.parametrize(("block", "name"), [(block, name) for block, values in OTHER.items() for name in values])
def test_every_option_changes_what_is_learnt(prepared, config, plain, block, name):
    short = changed(config, train={"epochs": 2, "patience": 0})
    if name == "probabilities":
        short = changed(short, train={"correction": True})
        plain = run(prepared, short)[0]
    other = changed(short, **{block: {name: OTHER[block][name]}})
    state, _ = run(prepared, other)
    one, two = plain.model.state_dict(), state.model.state_dict()
    assert one.keys() != two.keys() or any(one[n].shape != two[n].shape or not torch.equal(one[n], two[n]) for n in one)


@pytest.mark.parametrize("name", ["non_matches", "pretrained_learning_rate"])
def test_an_option_of_what_is_not_there_changes_nothing(prepared, config, plain, name):
    """There is no label in this world, and no encoder to tune."""
    short = changed(config, train={"epochs": 2, "patience": 0, name: 1})
    assert_same(run(prepared, short)[0], plain)


@pytest.mark.parametrize(("name", "side", "other"), [("query_rate", "query", "item"), ("item_rate", "item", "query")])
def test_a_rate_of_one_side_is_that_of_its_tower_alone(prepared, config, name, side, other):
    """With as good as no rate a tower stays where it began; what both own moves as before."""
    apart = changed(config, model={"shared_tables": False})
    still = changed(apart, train={"epochs": 1, name: 1e-12})
    begun = begin(prepared, apart)[0].model.state_dict()
    moved = run(prepared, still)[0].model.state_dict()
    learnt = {part: max(float((moved[n] - begun[n]).abs().max()) for n in begun if n.startswith(f"{part}.")) for part in (side, other)}
    assert learnt[side] < 1e-6 < 1e-3 < learnt[other]


def test_in_half_precision_as_much_is_learnt_and_weights_stay_whole(prepared, config):
    data = training.data_of(prepared, config.train, config.evaluate)
    half, _ = run(prepared, changed(config, train={"precision": "bfloat16"}))
    found = [training.validate(state.model, data, config.evaluate)[0]["mrr"] for state in (half, run(prepared, config)[0])]
    assert found[0] > found[1] - 0.02 > 0.8
    assert {tensor.dtype for tensor in half.model.state_dict().values() if tensor.is_floating_point()} == {torch.float32}


def test_correcting_the_positive_changes_what_is_learnt(prepared, config):
    corrected = changed(config, train={"epochs": 1, "correction": True})
    assert weights_differ(run(prepared, corrected)[0], run(prepared, changed(corrected, train={"correct_positive": False}))[0])


def test_no_option_is_forgotten_here(config):
    """Patience and the rest have tests of their own: test_again.py, test_blockwise.py, test_caching.py, test_lessons.py, and more."""
    elsewhere = {
        "again",
        "checkpoint_minutes",
        "chunk_size",
        "correct_positive",
        "patience",
        "non_matches",
        "pretrained_learning_rate",
        "teacher",
        "negatives",
        "draws",
        "power",
        "warm_start",
        "warm_epochs",
        *(name for name in vars(MiningOptions()) if name not in OTHER["train"]),
    } | set(vars(LossOptions()))
    told = {"model": set(), "train": elsewhere}
    for block, elsewhere in told.items():
        assert set(vars(getattr(config, block))) == elsewhere | set(OTHER[block])


def test_patience_zero_never_stops(prepared, config):
    wild = changed(config, train={"epochs": 8, "patience": 0, "learning_rate": 1.0})
    assert run(prepared, wild)[0].epoch == 8
    assert run(prepared, changed(wild, train={"patience": 1}))[0].epoch < 8


def test_steps_say_what_happened(prepared, config):
    state, data = begin(prepared, config)
    told = list(training.steps(state, data, config.train))
    assert all(isinstance(step, Step) for step in told)
    assert [step.batch for step in told] == [1, 2, 3, 4, 5]
    assert sum(step.pairs for step in told) == len(prepared.part(0).query_rows)
    assert all(np.isfinite(step.loss) for step in told)
    assert (state.epoch, state.batch, state.step) == (1, 0, 5)


def test_validation_leaves_out_what_the_options_say(prepared, config):
    def left_out(**options):
        found = training.data_of(prepared, config.train, replace(config.evaluate, **options)).validation.excluded
        return len(found.values)

    assert left_out() >= left_out(exclude_seen=False) >= len(prepared.part(1).query_rows)
    assert left_out(per="query", exclude_seen=True) == 0  # no query of this world is asked twice
    assert left_out(per="query", exclude_seen=False) == 0
    some = training.data_of(prepared, config.train, replace(config.evaluate, queries=7)).validation
    assert len(some.query_rows) == 7


def work(items, queries):
    """Of a validation, in rows encoded; four thousand scores take about as long as one row."""
    return items + queries + items * queries / 4000


def test_a_validation_takes_a_tenth_of_the_work_where_it_can():
    for pairs, items in ((1_000_000, 10_000), (1_000_000, 100_000), (100_000, 30_000)):
        queries, every = training.plan(pairs, items, 10_000, 10)
        assert every == 1 and 500 <= queries <= 10_000
        assert work(items, queries) <= 0.1 * 6 * pairs
    assert training.plan(10_000_000, 10_000, 10_000, 10) == (10_000, 1)
    assert training.plan(1_000_000, 100_000, 10_000, 10)[0] > 500  # no fewer than it takes


def test_a_dear_validation_ranks_fewer_queries_then_comes_less_often():
    assert training.plan(20_000, 1_000_000, 2_000, 10) == (500, 3)  # three in ten epochs, however dear
    assert training.plan(20_000, 1_000_000, 2_000, 2) == (500, 1)
    assert training.plan(20_000, 1_000_000, 80, 30) == (80, 10)
    queries, every = training.plan(200_000, 100_000, 10_000, 30)
    assert every == 1 < queries < 10_000
    queries, every = training.plan(200_000, 200_000, 10_000, 30)
    assert every == 2 and queries >= 500 and work(200_000, queries) <= 2 * 0.1 * 6 * 200_000


def test_the_plan_is_followed_and_said_where_it_is_not_the_usual(prepared, config):
    data = training.data_of(prepared, config.train, config.evaluate)
    assert data.validate_every == 1
    assert training.described(data) == "training"
    rare = prepared.__class__(**{**vars(prepared), "parts": np.where(np.arange(len(prepared.parts)) < 20, 0, 1).astype(np.int8)})
    data = training.data_of(rare, config.train, config.evaluate)
    assert data.validate_every == 2  # of six epochs
    assert training.described(data) == "training, validated every 2 epochs on 380 queries"


def test_a_checkpoint_does_not_wait_for_the_end_of_an_epoch(prepared, config, tmp_path):
    short = changed(config, train={"epochs": 2, "patience": 0, "checkpoint_minutes": 1e-9})
    kept = []

    def report(event):
        path = tmp_path / "checkpoint.safetensors"
        kept.append(path.read_bytes() if path.exists() else b"")

    expected, _ = run(prepared, short, folder=tmp_path, report=report)
    assert not kept[0] and len(set(kept[1:5])) == 4  # one of every step of the first epoch
    (tmp_path / "checkpoint.safetensors").write_bytes(kept[3])
    state, data = begin(prepared, short)
    training.resume(state, tmp_path)
    assert (state.epoch, state.batch) == (0, 3)
    assert training.fit(state, data, short.train, short.evaluate, folder=tmp_path)
    assert_same(expected, state)


def test_a_stop_during_the_last_validation_is_heard(prepared, config, tmp_path):
    """All is learnt and saved; what comes after is left to the next time."""
    short = changed(config, train={"epochs": 2, "patience": 0})
    expected, _ = run(prepared, short)
    seen = []
    finished = run(prepared, short, folder=tmp_path, report=seen.append, stop=lambda: sum(isinstance(e, Validation) for e in seen) == 2)[1]
    assert not finished and isinstance(seen[-1], Validation)
    state, data = begin(prepared, short)
    training.resume(state, tmp_path)
    assert state.done
    assert training.fit(state, data, short.train, short.evaluate, folder=tmp_path)
    assert_same(expected, state)


@pytest.fixture(scope="module")
def checkpoint(prepared, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    short = changed(config, train={"epochs": 2})
    state, data = begin(prepared, short)
    training.fit(state, data, short.train, short.evaluate, folder=folder, stop=lambda: state.step >= 2)
    return (folder / "checkpoint.safetensors").read_bytes()


@pytest.mark.parametrize("fault", ["missing", "truncated", "garbage", "empty", "newer", "stateless", "foreign", "other model"])
def test_a_checkpoint_that_does_not_fit_is_refused(prepared, config, checkpoint, tmp_path, fault):
    from safetensors.numpy import save

    path = tmp_path / "checkpoint.safetensors"
    content = {
        "truncated": checkpoint[: len(checkpoint) // 2],
        "garbage": b"\xff" * 500,
        "empty": b"",
        "newer": checkpoint.replace(b'"format": "1"', b'"format": "9"'),
        "stateless": checkpoint.replace(b'"epoch', b'"epxch').replace(b"epoch", b"epxch"),
        "foreign": save({"x": np.zeros(3)}),
        "other model": checkpoint,
    }.get(fault)
    if content is not None:
        assert fault == "other model" or content != checkpoint
        path.write_bytes(content)
    other = changed(config, model={"dimensions": 8}) if fault == "other model" else config
    state, _ = begin(prepared, other)
    with pytest.raises(BundleError):
        training.resume(state, tmp_path)


def test_items_without_words_learn_too(prepared, config, world, tmp_path):
    """Half of the catalogue has nothing but its id: it is found by what led to it."""
    pairs, items = world
    titles = [None if n % 2 else title for n, title in enumerate(items.column("title").to_pylist())]
    bare = items.set_column(items.column_names.index("title"), "title", [titles])
    plain = changed(config, model={"dimensions": 32, "body": "none", "hidden": (256,), "dropout": 0.0}, train={"epochs": 8, "patience": 0})
    made = prepare(open_source(pairs, "pairs"), open_source(bare, "items"), plain.schema, plain.split, tmp_path)
    state, _ = run(made, plain)
    assert training.validate(state.model, training.data_of(made, plain.train, plain.evaluate), plain.evaluate)[0]["mrr"] > 0.88
    totals = state.moments["item.layers.0.table"]["squares"][2:]
    assert totals.max() < 1e4 * totals.median()  # no row is frozen by a first gradient without bound


def test_one_item_alone_teaches_nothing_and_breaks_nothing(prepared, config):
    data = training.data_of(prepared, config.train, config.evaluate)
    log = prepared.part(0).take(np.flatnonzero(prepared.part(0).item_rows == 3))
    material = data.material
    lone = data._replace(material=material._replace(epochs=material.epochs._replace(log=log), known=ragged([[3]] * prepared.report["keys"])))
    state = training.start(build(prepared.encoder, config.model), lone, config.train)
    assert [step.loss for step in training.steps(state, lone, config.train)] == [0.0]
    assert all(torch.isfinite(tensor).all() for tensor in state.model.state_dict().values() if tensor.is_floating_point())
