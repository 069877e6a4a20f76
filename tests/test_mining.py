# ruff: noqa: F811 - its fixtures are those of the training tests
"""Hard negatives: who is mined and who never is, what they solve that drawn ones do not, and that nothing of it is lost."""

import tomllib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import twotower as tt
from conftest import WORLD_CONFIG
from test_training import begin, changed, config, prepared, run, weights_differ  # noqa: F401
from test_worlds import config_of, walks
from twotower.config import from_values, to_toml
from twotower.config import read as read_config
from twotower.data.batches import complete
from twotower.data.columns import Ragged, ragged
from twotower.data.preparation import prepare
from twotower.data.sources import open_source
from twotower.errors import BundleError, ConfigError
from twotower.files import read_json, write_json
from twotower.learning import mining, training
from twotower.learning.evaluation import Cases
from twotower.learning.material import Mined, drawn, of_views, some
from twotower.learning.options import MiningOptions, TrainOptions
from twotower.learning.reader import read
from twotower.model.losses import softmax
from twotower.model.options import LossOptions
from twotower.model.relations import relation

ITEMS = 40


class Still:
    """Towers whose vectors are given."""

    dimensions, device = 8, torch.device("cpu")

    def __init__(self, queries, items):
        self.vectors = {"query": queries, "item": items}

    def encode(self, side, columns):
        vectors = self.vectors[side]
        return torch.as_tensor(vectors if side == "item" else vectors[columns["row"]])


@pytest.fixture
def still(monkeypatch):
    """A model of ten queries and forty items, and the material of a log in which query n matched items n and n + 10."""
    generator = np.random.default_rng(0)
    queries, items = (generator.normal(size=(n, 8)).astype(np.float32) for n in (10, ITEMS))
    asked = Cases(np.arange(10), np.arange(10), ragged([[n, n + 10] for n in range(10)]), None)
    material = SimpleNamespace(
        epochs=SimpleNamespace(histories=None, log=SimpleNamespace(query_rows=np.arange(20))),
        known=ragged([[n, n + 10] for n in range(10)]),
        columns={"query": {"row": np.arange(10)}, "item": {}},
        reading=None,
        sampler=SimpleNamespace(trained=np.arange(35)),  # of the last five no pair is known
    )
    monkeypatch.setattr(mining, "views_of", lambda material, epoch: mining.Views(asked, Ragged(np.arange(20), np.arange(0, 21, 2))))
    monkeypatch.setattr(mining, "blocks", lambda encoder, columns, asked, *_: [(slice(0, len(asked.query_rows)), {"row": asked.query_rows})])
    return Still(queries, items), material


def mined_by(still, content=None, judge=None, **options):
    """The items mined for each of the ten queries, and the scores of all."""
    model, material = still
    given = TrainOptions(mined=options.pop("mined", 50), **options)
    found, told = mining.mine(model, material, None, given, 0, content, judge)
    assert told.of_views == 10 and told.found == len(found.items.values)
    lists = [found.items.values[found.items.offsets[n] : found.items.offsets[n + 1]].tolist() for n in range(len(found.items.offsets) - 1)]
    return lists, model.vectors["query"] @ model.vectors["item"].T


@pytest.mark.parametrize(("first", "last"), [(1, 3), (4, 9), (1, 1000)])
@pytest.mark.parametrize("cells", [1, 1 << 23])
def test_those_of_the_wanted_ranks_are_mined_and_known_matches_have_none(still, monkeypatch, first, last, cells):
    monkeypatch.setattr(mining, "SCORES_AT_ONCE", cells)
    lists, scores = mined_by(still, mine_ranks=(first, last))
    for query, found in enumerate(lists):
        order = [i for i in np.argsort(-scores[query]).tolist() if i < 35 and i not in (query, query + 10)]
        assert found == sorted(order[first - 1 : last])


def test_scores_are_bounded_by_the_match_and_by_themselves(still):
    everyone, scores = mined_by(still, mine_ranks=(1, 100))
    own = np.array([scores[n, [n, n + 10]].mean() for n in range(10)])

    def kept(limit):
        return [[i for i in found if scores[n, i] <= limit[n] + 1e-6] for n, found in enumerate(everyone)]

    assert mined_by(still, mine_margin=0.5)[0] == kept(own - 0.5)
    assert mined_by(still, mine_relative_margin=0.2)[0] == kept(own - 0.2 * np.abs(own))
    assert mined_by(still, mine_highest=0.3)[0] == kept(np.full(10, 0.3))
    assert kept(own - 0.5) != everyone != kept(own - 0.2 * np.abs(own))


def test_what_holds_the_same_as_a_match_is_never_mined(still):
    """A planted false negative: item 20 says what item 0 says, which query 0 matched, and the towers rank it first."""
    model, _ = still
    content = np.eye(ITEMS, dtype=np.float32)
    content[20] = np.float32(0.97) * content[0] + np.float32((1 - 0.97**2) ** 0.5) * content[20]
    model.vectors["item"][20] = 10 * model.vectors["query"][0]
    guarded = [mined_by(still, content, mine_duplicates=cosine)[0] for cosine in (0.95, 0.99)]
    assert 20 not in guarded[0][0] and 20 in guarded[1][0] and 20 in mined_by(still)[0][0]
    assert sum(20 in found for found in guarded[0]) == sum(20 in found for found in guarded[1]) - 1  # it stays a negative of the others


def test_a_teacher_has_the_last_word(still):
    """It knows that item 21 is as good for query 1 as a match, and nothing of item 22."""
    items = np.zeros((ITEMS, 10), np.float32)
    for query in range(10):
        items[[query, query + 10], query] = 1.0
    items[21, 1], items[22] = 0.9, np.nan
    judge = mining.Judge(items, lambda rows, history: np.eye(10, dtype=np.float32)[rows])
    free, _ = mined_by(still, mine_ranks=(1, 100))
    strict, lenient = (mined_by(still, judge=judge, mine_ranks=(1, 100), mine_teacher_margin=margin)[0] for margin in (0.2, 0.05))
    assert 21 in free[1] and 21 in lenient[1] and 21 not in strict[1] and 21 in strict[2]
    assert all(22 in found for found in free) and not any(22 in found for found in strict)


def test_some_are_drawn_for_each_epoch_until_the_next_time(still):
    lists, _ = mined_by(still, mined=2, mine_every=3, mine_ranks=(1, 20))
    assert {len(found) for found in lists} == {6}
    assert (
        lists
        == mined_by(still, mined=2, mine_every=3, mine_ranks=(1, 20))[0]
        != mined_by(still, mined=2, mine_every=3, mine_ranks=(1, 20), seed=1)[0]
    )
    few, _ = mined_by(still, mine_views=4)
    assert len(few) == 4


def test_the_negatives_of_a_view_are_those_of_its_pairs():
    mined = Mined(0, np.array([0, -1, 1, 1, 0]), ragged([[5, 9], [7, 9]]))
    part = SimpleNamespace(query_rows=np.arange(3), offsets=np.array([0, 2, 4, 5]), pair_rows=np.array([0, 2, 1, 1, 4]))
    found = of_views(mined, part)
    assert found.values.tolist() == [5, 7, 9, 5, 9] and found.offsets.tolist() == [0, 3, 3, 5]
    few = some(found, 2, np.random.default_rng(0))
    assert few.offsets.tolist() == [0, 2, 2, 4] and set(few.values[:2]) <= {5, 7, 9}
    assert drawn(ragged([[1, 2], [3]]), np.array([1, 0]), 1, np.random.default_rng(0)).offsets.tolist() == [0, 1, 2]


def test_an_own_negative_counts_once_whether_others_met_it_or_not():
    """It is there for certain: over chance, the sum of candidates stays that of the catalogue, where it would be counted twice."""
    part = SimpleNamespace(
        query_rows=np.zeros(1, np.int64), query_keys=np.zeros(1, np.int64), history_keys=None, cuts=None, item_rows=np.array([0]),
        offsets=np.array([0, 1]), pair_rows=np.array([0]), weights=np.ones(1, np.float32), grades=np.ones(1, np.float32),
    )  # fmt: skip
    options, sums = LossOptions(correct_positive=False), {}
    for shared in (True, False):
        rows = np.array([0, 1]) if shared else np.array([0])
        log_prob = np.log(np.array([0.5, 0.25])[: len(rows)]).astype(np.float32)
        batch = complete(part, rows, log_prob, ragged([[0]]), ragged([[1]]))
        loss = softmax(torch.tensor([[0.0, 1.0]]), relation(batch, torch.device("cpu")), options)
        sums[shared] = np.expm1(loss.item())
    assert sums[True] == pytest.approx(np.e, rel=1e-5) == sums[False]


# --- in training --------------------------------------------------------------------------------------------------


def events(prepared, config, **train):
    told = []
    state, _ = run(prepared, changed(config, train=train), report=told.append)
    return state, [event for event in told if isinstance(event, mining.Mining)]


def test_it_is_mined_when_it_is_due_and_told(prepared, config):
    assert [told.epoch for told in events(prepared, config, mined=1, epochs=4, patience=0)[1]] == [0, 1, 2, 3]  # words rank from the start
    _, told = events(prepared, config, mined=1, epochs=4, patience=0, mine_from=1, mine_every=2, mine_views=50)
    assert [each.epoch for each in told] == [1, 3] and all(each.views == 50 < each.of_views and each.found == 100 for each in told)


def test_ids_are_mined_after_an_epoch(prepared, config):
    apart = changed(config, model={"shared_tables": False}, train={"mined": 1})
    assert begin(prepared, apart)[0].mine_first == 1 and begin(prepared, changed(apart, train={"mine_from": 0}))[0].mine_first == 0
    assert begin(prepared, changed(apart, model={"shared_tables": True}))[0].mine_first == 0


@pytest.mark.parametrize("options", [{"mine_ranks": (3, 9)}, {"mine_margin": 0.3}, {"mine_relative_margin": 0.5}, {"mine_highest": 0.1},
                                     {"mine_duplicates": 0.3}, {"mine_from": 1}, {"mine_every": 2}, {"mine_views": 40}, {"mined": 3}])  # fmt: skip
def test_every_option_of_mining_changes_what_is_learnt(prepared, config, options):
    short = {"epochs": 2, "patience": 0, "mined": 2}
    assert weights_differ(run(prepared, changed(config, train=short))[0], run(prepared, changed(config, train=short | options))[0])


def test_batches_are_read_alike_from_anywhere(prepared, config):
    """A batch is a function of seed, epoch, number, what was mined and what is remembered."""
    short = changed(config, train={"mined": 2, "memory": 128, "negatives": "mixed", "draws": 8})
    state, data = begin(prepared, short)
    training.renew(state, data, short.train)
    from twotower.learning.material import Past

    straight = list(read(data.material, short.train, 1, 0, Past(state.mined, state.memory.entries)))
    later = next(read(data.material, short.train, 1, 3, Past(state.mined, straight[2].recall.entries)))
    for one, other in zip(straight[3].batch, later.batch, strict=True):
        for left, right in zip(*((part if isinstance(part, tuple) else (part,)) for part in (one, other)), strict=True):
            assert (left == right).all() if left is not None else right is None
    assert torch.equal(straight[3].candidates, later.candidates)


@pytest.mark.parametrize("pool", ["mean", "transformer"])
def test_histories_are_mined_with(tmp_path, pool):
    """Of a walk the item that comes next is no negative; all others are, and with few steps they help."""
    config = from_values(config_of({"pool": pool, "last": 3, "layers": 1}))
    config = replace(config, train=replace(config.train, epochs=2, mined=2, memory=64))
    prepared = prepare(open_source(walks()), None, config.schema, config.split, tmp_path)
    state, told = events(prepared, config)
    assert [each.epoch for each in told] == [1] and told[0].found > 0 and len(state.memory.entries.item_rows)


def test_without_times_a_history_is_shown_as_the_epoch_shows_it(tmp_path):
    generator = np.random.default_rng(0)
    rows = [{"user": f"u{n}", "item": f"i{4 * (n % 3) + k}"} for n in range(60) for k in generator.permutation(4)]
    values = config_of({"last": 10}, pairs={}, split={"by": "random", "test": 0.1, "validation": 0.15})
    values["train"] |= {"epochs": 3, "mined": 2, "together": 2, "mine_every": 2}
    config = from_values(values)
    prepared = prepare(open_source(rows), None, config.schema, config.split, tmp_path)
    state, told = events(prepared, config)
    data = training.data_of(prepared, config.train, config.evaluate)
    assert told[0].of_views == sum(len(part.query_rows) for part in data.material.epochs.drafts(1))
    assert (state.mined.lists >= 0).all()


# --- a world that only hard negatives solve in time ---------------------------------------------------------------


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """Items come in twos that share four words and differ in one, and queries say these words in another language."""
    generator = np.random.default_rng(0)
    items = [{"name": f"n{n}", "title": " ".join([f"w{n // 2 * 4 + k}" for k in range(4)] + [f"only{n}"])} for n in range(120)]
    pairs = [
        {"asked": " ".join([f"v{n // 2 * 4 + k}" for k in generator.permutation(4)] + [f"solo{n}"]), "thing": f"n{n}"}
        for n in range(120)
        for _ in range(6)
    ]
    words = {"type": "text", "pieces": [], "pairs": False}
    values = {
        "pairs": {"item": "thing"},
        "query": {"features": [{"column": "asked", **words}]},
        "item": {"id": "name", "features": [{"column": "title", **words}]},
        "split": {"by": "random", "test": 0.1, "validation": 0.2},
        "model": {"dimensions": 16},
        "train": {"epochs": 4, "batch_size": 32, "correction": False, "patience": 0, "negatives": "drawn"},
        "evaluate": {"metrics": ["hit@1"], "select": "hit@1"},
    }
    config = from_values(values)
    return prepare(open_source(pairs), open_source(items), config.schema, config.split, tmp_path_factory.mktemp("twins")), config


def found_of(twins, **train):
    prepared, config = twins
    config = changed(config, train=train)
    state, _ = run(prepared, config)
    return training.validate(state.model, training.data_of(prepared, config.train, config.evaluate), config.evaluate)[0]["hit@1"]


def test_twins_are_told_apart_by_mined_negatives(twins):
    """With six negatives a step each way: a twin is hardly ever drawn, and always mined."""
    drawn, mined = found_of(twins, draws=6), found_of(twins, draws=4, mined=2, mine_ranks=(1, 3))
    assert mined > 0.85 > 0.75 > drawn, (mined, drawn)


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"memory": 5000, "negatives": "full"}, "scores every item already"),
        ({"memory": 10}, "one brings up to 1,024 items"),
        ({"memory": 5000, "loss": "pointwise"}, "labels alone"),
        ({"mined": 2, "loss": "pointwise"}, "labels alone"),
        ({"mined": 2, "negatives": "full"}, "scores every item already"),
        ({"mined": 2, "mine_from": 10}, "past the last of 10 epochs"),
        ({"mine_every": 2, "mine_margin": 0.1}, "mine_every, mine_margin: nothing is mined"),
        ({"mined": 2, "mine_ranks": (9, 3)}, "ends before it begins"),
        ({"mined": 2, "mine_teacher_margin": 0.1}, "names none"),
        ({"probabilities": "streaming", "correction": False}, "correction, which is off"),
        ({"probabilities": "streaming", "loss": "triplet"}, "correction, which is off"),
        ({"probabilities": "streaming", "negatives": "drawn"}, "known"),
        ({"probabilities": "streaming", "negatives": "full"}, "known"),
    ],
)
def test_what_makes_no_sense_together_is_refused(options, told):
    with pytest.raises(ConfigError, match=told):
        TrainOptions(**options).check()
    TrainOptions(mined=2, memory=5000, negatives="mixed", probabilities="streaming", mine_ranks=(3, 9), mine_from=0).check()


def test_towers_that_know_nothing_are_not_mined_by_in_their_only_epoch(tmp_path):
    rows = [{"user": f"u{n % 9}", "item": f"x{n % 7}"} for n in range(60)]
    ids = {"query": {"features": [{"column": "user", "type": "id"}]}, "item": {"id": "item", "features": [{"column": "item", "type": "id"}]}}
    for epochs, mine_from in ((1, None), (2, None), (1, 0)):
        chosen = from_values(ids | {"train": {"epochs": epochs, "mined": 2} | ({} if mine_from is None else {"mine_from": mine_from})})
        made = prepare(open_source(rows, "pairs"), None, chosen.schema, chosen.split, tmp_path)
        if (epochs, mine_from) == (1, None):
            with pytest.raises(ConfigError, match="mine from their second epoch on, and there is one"):
                begin(made, chosen)
            continue
        state, data = begin(made, chosen)
        training.fit(state, data, chosen.train, chosen.evaluate)
        assert state.mined is not None and state.mined.epoch == epochs - 1


def test_duplicates_need_content():
    values = config_of({}, train={"mined": 1, "mine_duplicates": 0.5})
    with pytest.raises(ConfigError, match="mine_duplicates compares what items hold"):
        from_values(values)
    assert MiningOptions().mined == 0


# --- a run as the teacher -----------------------------------------------------------------------------------------


def test_a_run_judges_by_its_own_scores(prepared, config, world_run):
    """The planted run knows these queries and items, and scores them as its retriever does."""
    from twotower.runs.teachers import judge

    found = judge(str(world_run.folder), prepared)
    some_queries, ids = np.arange(5), prepared.items.column("_id").to_pylist()
    asked = prepared.queries.take(some_queries).to_pylist()
    scores = found.queries(some_queries, None) @ found.items.T
    for n, query in enumerate(asked):
        assert scores[n, :6] == pytest.approx(world_run.retriever.score([query] * 6, ids[:6]), abs=1e-5)
    data = training.data_of(prepared, config.train, config.evaluate)
    short = changed(config, train={"mined": 30, "mine_teacher": "given", "mine_teacher_margin": 0.1})
    state, _ = begin(prepared, short)
    training.renew(state, data._replace(judge=found), short.train)
    log, lists = data.material.epochs.log, state.mined.lists
    for pair in range(0, len(lists), 20):
        mine = state.mined.items.values[state.mined.items.offsets[lists[pair]] : state.mined.items.offsets[lists[pair] + 1]]
        told = found.items @ found.queries(log.query_rows[[pair]], None)[0]
        assert (told[mine] < told[log.item_rows[pair]] - 0.1 + 1e-6).all()


def test_a_run_goes_on_by_the_judge_it_began_with(world, world_folder, world_run, tmp_path):
    values = WORLD_CONFIG | {"train": WORLD_CONFIG["train"] | {"epochs": 2, "mined": 2, "mine_teacher": str(world_folder)}}
    run = tt.train(*world, config=values, output=tmp_path / "judged")
    begun = read_json(run.folder / "prepared.json")
    assert begun["mine_teacher"] == world_run.retriever.bundle.fingerprint
    (run.folder / "metrics.json").unlink()
    write_json(run.folder / "prepared.json", begun | {"mine_teacher": "another"})
    with pytest.raises(BundleError, match=r"the mine_teacher of .* has changed since it was begun"):
        tt.train(*world, config=run.folder / "config.toml", output=run.folder, resume=True)
    write_json(run.folder / "prepared.json", begun)
    assert tt.train(*world, config=run.folder / "config.toml", output=run.folder, resume=True).metrics["model"] == run.metrics["model"]


def test_a_teacher_of_something_else_is_refused(world_run, tmp_path):
    from twotower.runs.teachers import judge

    values = {
        "query": {"key": "user", "features": [{"column": "user", "type": "id"}]},
        "item": {"id": "item", "features": [{"column": "item", "type": "id"}]},
    }
    chosen = from_values(values)
    other = prepare(open_source([{"user": f"u{n % 9}", "item": f"x{n % 7}"} for n in range(60)]), None, chosen.schema, chosen.split, tmp_path)
    with pytest.raises(ConfigError, match="reads asked of a query"):
        judge(str(world_run.folder), other)
    with pytest.raises(BundleError):
        judge(str(tmp_path / "nothing"), other)


def test_a_teacher_is_found_beside_the_config_and_is_not_told(tmp_path):
    values = config_of({}, train={"mined": 1, "mine_teacher": "old/run", "mine_teacher_margin": 0.1})
    (tmp_path / "c.toml").write_text(to_toml(from_values(values)))
    chosen = read_config(tmp_path / "c.toml")
    assert chosen.train.mine_teacher == str(tmp_path / "old" / "run")
    told = to_toml(chosen, locations=False)
    assert "old" not in told and from_values(tomllib.loads(told)).train.mined == 1
