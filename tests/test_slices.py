"""Slices: ranks of a part equal those of a ranking made for it alone, and what is said of a part is sure."""

import json

import numpy as np
import pyarrow as pa
import pytest

from conftest import WORLD_CONFIG
from twotower.config import from_values
from twotower.data.columns import Ragged, offsets_of, ragged_rows
from twotower.data.features import Category, Number
from twotower.learning.evaluation import rank, summarise
from twotower.learning.metrics import Ranks
from twotower.learning.options import EvaluateOptions
from twotower.learning.slices import Facts, by_popularity, cuts, judged, restricted, slice_all, sliced, steps
from twotower.learning.statistics import holm


def relevant_of(generator, queries, items):
    lists = [np.sort(generator.permutation(items)[: 1 + generator.integers(5)]) for _ in range(queries)]
    return Ragged(np.concatenate(lists), offsets_of([len(each) for each in lists]))


@pytest.mark.parametrize("per", ["pair", "query"])
@pytest.mark.parametrize("seed", range(8))
def test_restricted_ranks_are_those_of_a_ranking_without_the_others(per, seed):
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 4, (40, 12)).astype(np.float32)  # full of ties
    relevant = relevant_of(generator, 40, 12)
    chosen = generator.random(len(relevant.values)) < 0.4
    query = ragged_rows(relevant)
    lists = [[relevant.values[(query == q) & part] for q in range(40)] for part in (chosen, ~chosen)]
    having = [q for q in range(40) if len(lists[0][q])]
    mine, others = (Ragged(np.concatenate([part[q] for q in having]), offsets_of([len(part[q]) for q in having])) for part in lists)
    wanted = rank(lambda block: scores[having][block], mine, others, per=per, n_items=12)
    gains = generator.random(len(chosen))
    wanted = wanted._replace(gains=gains[chosen])
    found, rows = restricted(rank(lambda block: scores[block], relevant, per=per, n_items=12)._replace(gains=gains), chosen)
    for name in Ranks._fields:
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)
    expected = np.flatnonzero(chosen) if per == "pair" else having
    assert rows.tolist() == list(expected)


@pytest.mark.parametrize(
    ("values", "whole", "names", "of"),
    [
        ([1, 1, 2, 3, 9, 9], True, ("missing", "1", "2 to 3", "4 or more"), [1, 1, 2, 2, 3, 3]),
        ([1, 2, 2, 3], True, ("missing", "up to 2", "3 or more"), [1, 1, 1, 2]),
        ([5, 5, np.nan], True, ("missing", "any"), [1, 1, 0]),
        ([0.5, 1.5, 2.5], False, ("missing", "0.5", "0.5 to 1.5", "above 1.5"), [1, 2, 3]),
        ([np.nan, np.nan], False, ("missing", "any"), [0, 0]),
    ],
)
def test_quantities_are_cut_where_equal_values_stay_together(values, whole, names, of):
    found = steps(np.array(values, np.float64), "missing", whole)
    assert found[0] == names
    assert found[1].tolist() == of


def facts(relevant, **known):
    config = from_values({"query": {"features": [{"column": "q", "type": "text"}]}, "item": {"features": [{"column": "kind", "type": "category"}]}})
    n = len(relevant.offsets) - 1
    queries = pa.table({"q": [f"word {'more ' * (q % 2)}" for q in range(n)]})
    items = pa.table({"kind": ["a", "b", None, "a", "c", "a"]})
    return Facts({"query": config.query.features, "item": config.item.features}, queries, items, relevant, **known)


def test_the_head_holds_half_of_what_was_matched():
    relevant = Ragged(np.arange(6), np.arange(7))
    (cut,) = by_popularity(facts(relevant, item_matches=np.array([5, 0, 3, 1, 1, 0])))
    assert cut.of.tolist() == [0, 2, 1, 1, 1, 2]
    assert cut.names[0] == "head: the 1 with half of the training matches"


def test_every_cut_holds_every_relevant_item_once():
    relevant = relevant_of(np.random.default_rng(0), 30, 6)
    known = {"item_matches": np.array([5, 0, 3, 1, 1, 0]), "key_matches": np.arange(30) % 7, "moments": np.arange(len(relevant.values))}
    found = {cut.by: cut for cut in cuts(facts(relevant, **known))}
    assert set(found) == {"item: how often it matched", "query: how often its key matched", "time", "query: words of q", "item: kind"}
    for cut in found.values():
        assert len(cut.of) == len(relevant.values)
        assert set(cut.of) <= set(range(len(cut.names)))
    kinds = [("a", "b", "missing", "a", "c", "a")[item] for item in relevant.values]
    assert [found["item: kind"].names[n] for n in found["item: kind"].of] == kinds
    assert {cut.by for cut in cuts(facts(relevant))} == {"query: words of q", "item: kind"}  # a bundle knows no log


def test_numbers_are_cut_as_their_feature_reads_them():
    """People write in words that a number is missing."""
    items = pa.table({"price": ["1", "n/a", "3", "", None, "3"]})
    relevant = Ragged(np.arange(6), np.arange(7))
    (cut,) = cuts(Facts({"query": (), "item": (Number(column="price"),)}, pa.table({"q": ["x"] * 6}), items, relevant))
    assert cut.by == "item: price" and [cut.names[n] for n in cut.of] == ["1", "missing", "above 1", "missing", "missing", "above 1"]


def test_among_many_slices_something_can_still_be_sure():
    """Each of 135 slices is worse than the baseline in every ranking, and is said to be."""
    n, per = 15, 40
    relevant = Ragged(np.tile(np.arange(10), n * per // 10), np.arange(n * per + 1))
    queries = pa.table({f"x{c}": [f"v{row % 10}" for row in range(n * per)] for c in range(n)})
    features = tuple(Category(column=name) for name in queries.column_names)
    asked = Facts({"query": features, "item": ()}, queries, pa.table({"i": range(10)}), relevant)
    right = np.eye(10, dtype=np.float32)[relevant.values]
    options = EvaluateOptions(metrics=("hit@1",), select="hit@1")
    model, other = (summarise(rank(lambda block, s=s: s[block], relevant, n_items=10), np.arange(n * per), options) for s in (-right, right))
    told = slice_all(asked, model, np.arange(n * per), options, {"popularity": other})
    slices = [part for cut in told["cuts"] for part in cut["slices"]]
    assert len(slices) == 135 and {part["verdict"] for part in slices} == {"worse"}


def test_slices_of_pairs_have_the_mean_of_all():
    generator = np.random.default_rng(3)
    relevant, scores = relevant_of(generator, 200, 6), generator.random((200, 6)).astype(np.float32)
    options = EvaluateOptions(metrics=("hit@2",), select="mrr")
    evaluated = summarise(rank(lambda block: scores[block], relevant, n_items=6), ragged_rows(relevant), options)
    told = slice_all(facts(relevant), evaluated, ragged_rows(relevant), options, {})
    for cut in told["cuts"]:
        total = sum(row["rankings"] for row in cut["slices"])
        assert total == len(relevant.values)
        for metric in ("hit@2", "mrr"):
            mean = sum(row["rankings"] * row["figures"][metric]["value"] for row in cut["slices"]) / total
            assert mean == pytest.approx(float(evaluated.figures[metric].value))


def test_a_part_that_is_worse_than_the_baseline_is_said_to_be_and_a_small_one_is_not():
    """A model that is right for items of kind a alone, beside a baseline that is right for all others."""
    relevant = Ragged(np.arange(300) % 6, np.arange(301))
    asked, kinds = facts(relevant), np.array([0, 1, 2, 0, 3, 0])
    right = np.eye(6, dtype=np.float32)[relevant.values]
    ours = np.where((kinds[relevant.values] == 0)[:, None], right, -right)
    options = EvaluateOptions(metrics=("hit@1",), select="hit@1")
    model, other = (summarise(rank(lambda block, s=s: s[block], relevant, n_items=6), np.arange(300), options) for s in (ours, -ours))
    told = slice_all(asked, model, np.arange(300), options, {"popularity": other})
    assert told["against"] == "popularity"
    (kind,) = [cut for cut in told["cuts"] if cut["by"] == "item: kind"]
    assert {row["name"]: row["verdict"] for row in kind["slices"]} == {"a": "better", "b": "worse", "c": "worse", "missing": "worse"}
    few = slice_all(asked, model, np.arange(300) % 12, options, {"popularity": other})
    assert {row["verdict"] for cut in few["cuts"] for row in cut["slices"]} == {"too few"}


def test_many_tests_together_are_held_to_more():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]
    assert holm(np.empty(0)).tolist() == []
    relevant = Ragged(np.arange(120) % 6, np.arange(121))
    cut = cuts(facts(relevant))[-1]
    ranks = rank(lambda block: np.eye(6, dtype=np.float32)[relevant.values[block]], relevant, n_items=6)
    options = EvaluateOptions(metrics=("mrr",), select="mrr")
    part = sliced(cut, ranks, np.arange(120), options, ranks)[0]._replace(p_value=0.04, baseline=0.1, keys=30)
    assert [each.verdict for each in judged([part], "mrr")] == ["better"]
    assert [each.verdict for each in judged([part, part], "mrr")] == ["unclear", "unclear"]
    assert [each.verdict for each in judged([part, part._replace(keys=5)], "mrr")] == ["better", "too few"]  # what is not tested raises nothing


# --- a run ------------------------------------------------------------------------------------------------------------


def test_a_run_tells_its_slices(world_run):
    told = world_run.metrics["slices"]
    assert told["against"] in world_run.metrics["baselines"]
    assert {cut["by"] for cut in told["cuts"]} == {"item: how often it matched", "item: kind"}  # all questions are of four words, and new
    for cut in told["cuts"]:
        assert sum(row["rankings"] for row in cut["slices"]) == world_run.metrics["evaluation"]["rankings"]


def test_slices_are_shown(world_run, world, typed, tmp_path):
    code, out, _ = typed("evaluate", str(world_run.folder), "--slices")
    assert code == 0
    assert "item: kind" in out and "k0" in out and "head: the" in out
    assert "item: kind" not in typed("evaluate", str(world_run.folder))[1]
    import pyarrow.parquet as pq

    pq.write_table(world[0], tmp_path / "pairs.parquet")
    code, out, _ = typed("evaluate", str(world_run.folder), "--pairs", str(tmp_path / "pairs.parquet"), "--slices", "--json")
    assert code == 0
    assert {cut["by"] for cut in json.loads(out)["slices"]["cuts"]} == {"item: kind"}
    code, out, err = typed("evaluate", str(world_run.folder), "--pairs", "x", "--against", "y", "--slices")
    assert code == 2 and "--against" in err


def test_time_cuts_a_log_with_times(world, tmp_path):
    import twotower as tt

    pairs = world[0].append_column("when", pa.array(np.arange(world[0].num_rows) * 3600))
    config = WORLD_CONFIG | {"pairs": {"item": "thing", "time": "when"}, "split": {"by": "time", "test": 0.2, "validation": 0.1}}
    run = tt.train(pairs, world[1], config=config | {"train": {"epochs": 1, "correction": False}}, output=tmp_path / "run")
    (cut,) = [cut for cut in run.metrics["slices"]["cuts"] if cut["by"] == "time"]
    assert [row["name"] for row in cut["slices"]] == ["the first third", "the second", "the last"]
    assert [row["rankings"] for row in cut["slices"]] == pytest.approx([27, 27, 26], abs=2)
