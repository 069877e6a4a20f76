"""Why an item was found or missed: ranks as a search has them, worths as they come out when a part is left out, pairs that are there."""

import numpy as np
import pytest

import twotower as tt
from twotower.app.reports.explained import explained
from twotower.app.reports.markdown import markdown
from twotower.data.splits import TRAIN
from twotower.errors import ConfigError, DataError
from twotower.runs.held import held_of


@pytest.fixture(scope="module")
def asked(world_run):
    """A validation query and the id of its item."""
    held = held_of(world_run, "look")
    query = held.prepared.queries.slice(int(held.asked.query_rows[0]), 1).to_pylist()[0]["asked"]
    return query, held.prepared.items.column("_id")[int(held.asked.relevant.values[0])].as_py()


@pytest.mark.parametrize("mode", ["vectors", "words", "hybrid"])
def test_ranks_and_scores_are_those_of_a_search(world_run, asked, mode):
    retriever = world_run.retriever
    found = retriever.search(asked[0], k=len(retriever), mode=mode)
    for place in (0, 4, 20):
        if found.rows[place] < 0:
            continue
        told = tt.why(world_run.folder, asked[0], found.ids[place], mode=mode, k=5)
        assert told.rank == place + 1 and told.found == (place < 5) and told.mode == mode and told.items == len(retriever)
        assert told.score == pytest.approx(found.scores[place], abs=1e-5) and told.first.startswith(str(found.ids[0]))
        assert (told.value >= told.needed) == told.found
        assert (told.words is None) == (mode == "vectors")
        document = explained(told)
        assert document.title == ("Why it was found" if told.found else "Why it was missed") and f"number {place + 1} of" in document.verdict


def test_what_a_search_does_not_find_has_no_rank(world_run, asked):
    retriever = world_run.retriever
    for query in ("zzqqx", asked[0]):
        found = retriever.search(query, k=len(retriever), mode="words")
        missed = next(row for row in range(len(retriever)) if row not in found.rows)
        told = tt.why(world_run.folder, query, retriever.items.column("_id")[missed].as_py(), mode="words")
        assert told.rank is None and not told.found and told.of == int((found.rows >= 0).sum()) and (told.first is None) == (told.of == 0)
        document = explained(told)
        assert document.title == "Why it was missed"
        assert ("nothing is found" if told.first is None else f"by which {told.of:,} other items are found") in document.verdict


def test_a_part_is_worth_what_is_lost_without_it(world_run, asked):
    told, retriever = tt.why(world_run.folder, *asked), world_run.retriever
    parts = {(part.side, part.name, part.word): part.worth for part in told.parts}
    words = asked[0].split()
    assert {word for side, _, word in parts if side == "query"} == set(words)  # the one feature of the query is never left out whole
    row = int(retriever.rows_of([asked[1]])[0])
    for n, word in enumerate(words):
        left = retriever.score(" ".join([*words[:n], *words[n + 1 :]]), [asked[1]])[0]
        assert parts["query", "asked", word] == pytest.approx(told.score - left, abs=1e-5)
    item = retriever.items.slice(row, 1).to_pylist()[0]
    vector = retriever.embed_queries([asked[0]])[0]
    for column in {name for side, name, word in parts if side == "item" and not word}:
        left = retriever.embed_items([item | {column: None}])[0] @ vector
        assert parts["item", column, ""] == pytest.approx(told.score - left, abs=1e-5)
    assert [abs(part.worth) for part in told.parts] == sorted((abs(part.worth) for part in told.parts), reverse=True)


def test_training_pairs_are_there_and_the_nearest(world_run, asked):
    told = tt.why(world_run.folder, *asked).training
    held = held_of(world_run, "look")
    log = held.prepared.part(TRAIN)
    item = held.prepared.items.column("_id").to_pylist().index(asked[1])
    assert told.matches == int((log.item_rows == item).sum()) and told.looked == told.of == len(np.unique(log.query_rows))
    texts = held.prepared.queries.column("asked").to_pylist()
    vector = world_run.retriever.embed_queries([asked[0]])[0]
    near = {texts[row]: float(world_run.retriever.embed_queries([texts[row]])[0] @ vector) for row in np.unique(log.query_rows).tolist()}
    assert [pair.similarity for pair in told.near] == pytest.approx(sorted(near.values(), reverse=True)[: len(told.near)], abs=1e-4)
    own = {texts[row] for row in log.query_rows[log.item_rows == item].tolist()}
    assert {pair.asked for pair in told.own} <= own and all(pair.item == str(asked[1]) for pair in told.own)
    assert all(pair.similarity == pytest.approx(near[pair.asked], abs=1e-4) for pair in (*told.own, *told.near))
    assert tt.why(world_run.folder / "bundle", *asked).training is None


def test_what_cannot_be_explained_is_refused(world_run, asked):
    with pytest.raises(DataError, match="no item 'nothing'"):
        tt.why(world_run.folder, asked[0], "nothing")
    with pytest.raises(ConfigError, match="vectors"):
        tt.why(world_run.folder, *asked, mode="vector")
    with pytest.raises(ConfigError, match="k is 0"):
        tt.why(world_run.folder, *asked, k=0)
    with pytest.raises(DataError, match="one query"):
        tt.why(world_run.folder, [asked[0], asked[0]], asked[1])


@pytest.mark.parametrize("items", ["ids", "tower"])
def test_a_history_may_ask(items, tmp_path, typed):
    rows = [{"user": u, "item": f"i{(u + n) % 20}"} for u in range(80) for n in range(4)]
    config = {
        "pairs": {"ordered": True},
        "query": {"key": "user", "features": [{"type": "history", "last": 4, "items": items}]},
        "item": {"id": "item", "features": [{"column": "item", "type": "id"}]},
        "split": {"by": "last"},
        "model": {"dimensions": 16},
        "train": {"epochs": 2, "batch_size": 64},
        "evaluate": {"baselines": []},
    }
    run = tt.train(rows, config=config, output=tmp_path / "run")
    told = tt.why(run.folder, item="i7", history=["i4", "i5"])
    found = run.retriever.search(history=["i4", "i5"], k=18)
    assert told.rank == found.ids.tolist().index("i7") + 1
    # The first two items of each user are for training: of i7 those of the 4 users whose second it is, after i6, and of the 4 who began with it.
    trained = told.training
    assert trained.matches == 8 and trained.looked == trained.of == 160
    assert {(pair.asked, pair.item) for pair in trained.own} == {("after i6", "i7"), ("after nothing", "i7")}
    assert len(trained.near) == 5 and {pair.asked[:5] for pair in trained.near} == {"after"}
    before, now = (run.retriever.embed_queries(history=history)[0] for history in (["i6"], ["i4", "i5"]))
    assert next(pair.similarity for pair in trained.own if pair.asked == "after i6") == pytest.approx(before @ now, abs=1e-5)
    assert told.parts and {part.word for part in told.parts if part.side == "query"} == {"i4", "i5"}
    # Of a longer one those count that the tower reads, and none comes from before them in the place of what is left out.
    told = tt.why(run.folder, item="i7", history=["i0", "nowhere", "i1", "i2", "i4", "i5"])
    worths = {part.word: part.worth for part in told.parts if part.side == "query"}
    assert set(worths) == {"i1", "i2", "i4", "i5"}
    vector = run.retriever.vectors[int(run.retriever.rows_of(["i7"])[0])]
    for left in worths:
        history = [name for name in ("i1", "i2", "i4", "i5") if name != left]
        assert worths[left] == pytest.approx(told.score - run.retriever.embed_queries(history=history)[0] @ vector, abs=1e-5)
    assert "word or item" in markdown(explained(told))
    assert not [part for part in tt.why(run.folder, item="i7", history=["i4"]).parts if part.side == "query"]
    code, _, err = typed("why", run.folder, "--history", "i4,nowhere", "i7")
    assert code == 0 and "the catalogue lacks nowhere; the history is read without" in err
    with pytest.raises(DataError, match="in the history"):
        tt.why(run.folder, item="i4", history=["i4", "i5"])


def test_without_times_a_training_query_is_shown_what_is_asked_of_others(tmp_path):
    """Each pair asks with all that its user touched beside, and not with nothing."""
    rows = [{"user": u, "item": f"i{(u + 3 * n) % 20}"} for u in range(60) for n in range(5)]
    config = {
        "query": {"key": "user", "features": [{"type": "history", "last": 4, "pool": "mean"}]},
        "item": {"id": "item", "features": [{"column": "item", "type": "id"}]},
        "model": {"dimensions": 8},
        "train": {"epochs": 1, "batch_size": 64},
        "evaluate": {"baselines": []},
    }
    run = tt.train(rows, config=config, output=tmp_path / "run")
    trained = tt.why(run.folder, item="i7", history=["i4"]).training
    assert trained.of > 200 and len({pair.asked for pair in trained.near}) > 1
    assert not any("nothing" in pair.asked or pair.item in pair.asked.split()[1:] for pair in (*trained.own, *trained.near))
    assert tt.why(run.folder, item="i7", history=["i4"], retriever=tt.load(run.folder, width=4)).training is None


def test_the_verb(world_run, asked, typed, tmp_path):
    code, out, _ = typed("why", world_run.folder, asked[0], asked[1])
    assert code == 0 and "What training knew" in out and "number 1 of" in out
    assert typed("why", world_run.folder, asked[0], asked[1], "--json")[1].startswith("{")
    assert typed("why", world_run.folder, asked[0], asked[1], "-o", tmp_path / "w.html")[0] == 0
    assert "<script" not in (tmp_path / "w.html").read_text(encoding="utf-8")
    for words, told in (
        ([asked[1]], "give a question"),
        ([asked[0], "nothing"], "no item"),
        ([asked[0], asked[1], "-o", tmp_path / "w.pdf"], "html"),
    ):
        code, _, err = typed("why", world_run.folder, *words)
        assert code == 2 and told in err and "Traceback" not in err
    far = explained(tt.why(world_run.folder, asked[0], world_run.retriever.search(asked[0], k=20).ids[19]))
    assert "Missed" in far.verdict and "training pairs the nearest asked" in far.verdict and far.verdict in markdown(far)
