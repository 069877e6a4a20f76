"""What is asked, what is right and what is left out; figures; and the baselines, on data made by hand."""

import numpy as np
import pyarrow as pa
import pytest

from twotower.config import from_values
from twotower.data.columns import ragged
from twotower.data.preparation import prepare
from twotower.data.prepared import Log
from twotower.data.sources import open_source
from twotower.errors import DataError
from twotower.learning.baselines import asked_words, lexical, own_words, popularity
from twotower.learning.baselines import texts as texts_of
from twotower.learning.evaluation import Cases, cases, dot_scorer, evaluate, left_out, list_keys, macro, rank, sample, with_gains
from twotower.learning.options import EvaluateOptions


def random_log(generator, n=60):
    columns = [generator.integers(0, high, n) for high in (9, 4, 12)]
    return Log(*columns, np.ones(n, np.float32), np.ones(n, np.float32))


def rows_of(ragged_column):
    return [ragged_column.values[a:b].tolist() for a, b in zip(ragged_column.offsets[:-1], ragged_column.offsets[1:], strict=True)]


@pytest.mark.parametrize("per", ["pair", "query"])
@pytest.mark.parametrize("seed", range(4))
def test_cases_equal_brute_force(per, seed):
    log = random_log(np.random.default_rng(seed))
    known = ragged([[0, 1], [], [5], [2, 7, 11]])
    asked = cases(log, known, per)
    expected = {}
    for query, key, item in zip(log.query_rows.tolist(), log.query_keys.tolist(), log.item_rows.tolist(), strict=True):
        expected.setdefault((query, key), []).append(item)
    found = {
        (query, key): (items, excluded)
        for query, key, items, excluded in zip(
            asked.query_rows.tolist(), asked.query_keys.tolist(), rows_of(asked.relevant), rows_of(asked.excluded), strict=True
        )
    }
    assert set(found) == set(expected)
    for view, items in expected.items():
        assert sorted(found[view][0]) == sorted(items if per == "pair" else set(items))
        assert found[view][1] == rows_of(known)[view[1]]
    assert cases(log, None, per).excluded is None


def test_gains_are_those_of_the_labels_whatever_is_taken():
    log = random_log(np.random.default_rng(3))
    labels = np.random.default_rng(4).integers(1, 6, len(log.item_rows)).astype(np.float32)
    log = log._replace(labels=labels)
    plain = cases(log, None, "query")
    assert with_gains(plain, labels, "equal") is plain and plain.gains is None
    told = {}  # the label of the first pair of a view with an item
    for query, key, item, label in zip(log.query_rows.tolist(), log.query_keys.tolist(), log.item_rows.tolist(), labels.tolist(), strict=True):
        told.setdefault((query, key, item), label)
    for gain, of in (("label", lambda label: label), ("exponential", lambda label: 2**label - 1)):
        asked = with_gains(plain, labels, gain).take(np.arange(len(plain.query_rows))[::-2])
        views = zip(asked.query_rows.tolist(), asked.query_keys.tolist(), rows_of(asked.relevant), strict=True)
        assert asked.gains.tolist() == [of(told[query, key, item]) for query, key, items in views for item in items]
    with pytest.raises(DataError, match=r"go up to 31.*label"):
        with_gains(plain, labels + 26, "exponential")


def test_macro_figures_are_means_of_means():
    log = random_log(np.random.default_rng(5))
    asked, options = cases(log, None, "pair"), EvaluateOptions(metrics=("hit@3",), select="mrr", per="pair")
    scores = np.random.default_rng(6).normal(size=(len(asked.query_rows), 12)).astype(np.float32)
    evaluated = evaluate(lambda block: scores[block], asked, 12, options)
    found = macro(evaluated, asked, options)
    for of, groups in (("item", asked.relevant.values), ("key", list_keys(asked, "pair"))):
        for metric, values in evaluated.values.items():
            figure = found[of][metric]
            assert figure.value == pytest.approx(np.mean([values[groups == group].mean() for group in np.unique(groups)]))
            assert figure.low < figure.value < figure.high and abs(figure.value - values.mean()) > 1e-6
    once = Cases(np.arange(3), np.arange(3), ragged([[0], [1], [2]]), None)
    assert macro(evaluate(lambda block: scores[block], once, 12, options), once, options) == {}
    per_query = EvaluateOptions(per="query")
    views = cases(log, None, "query")
    assert macro(evaluate(lambda block: scores[block], views, 12, per_query), views, per_query) == {}


def test_a_sample_is_a_part_and_the_same_for_a_seed():
    asked = cases(random_log(np.random.default_rng(0)), ragged([[0], [1], [2], [3]]), "pair")
    n = len(asked.query_rows)
    some, same, other = (sample(asked, 10, seed) for seed in (1, 1, 2))
    assert len(some.query_rows) == 10
    assert some.query_rows.tolist() == same.query_rows.tolist()
    assert rows_of(some.relevant) == rows_of(same.relevant)
    views = list(zip(asked.query_rows, asked.query_keys, map(str, rows_of(asked.relevant)), map(str, rows_of(asked.excluded)), strict=True))
    for view in zip(some.query_rows, some.query_keys, map(str, rows_of(some.relevant)), map(str, rows_of(some.excluded)), strict=True):
        assert view in views
    assert rows_of(other.relevant) != rows_of(some.relevant)
    assert sample(asked, n, 0) is asked


SCORES = np.array([[5.0, 4, 3, 2, 1], [1, 2, 3, 4, 5]], np.float32)  # two queries, five items


def by_hand(per, excluded, **options):
    asked = Cases(np.array([0, 1]), np.array([7, 8]), ragged([[1, 3], [4]]), excluded)
    return evaluate(lambda block: SCORES[block], asked, 5, EvaluateOptions(per=per, metrics=("hit@1", "mrr"), **options))


def test_figures_per_pair_by_hand():
    # Item 1 ranks second; item 3, with item 1 out of its list, third; item 4 first.
    found = by_hand("pair", None)
    assert found.values["mrr"].tolist() == pytest.approx([1 / 2, 1 / 3, 1])
    assert found.figures["mrr"].value == pytest.approx((1 / 2 + 1 / 3 + 1) / 3)
    assert found.values["hit@1"].tolist() == [0, 0, 1]
    # Without item 0, which the key is known to have matched, both rise by one.
    assert by_hand("pair", ragged([[0, 1], []])).values["mrr"].tolist() == pytest.approx([1, 1 / 2, 1])


def test_figures_per_query_by_hand():
    assert by_hand("query", None).values["mrr"].tolist() == pytest.approx([1 / 2, 1])
    # An item that is right stays in its ranking, seen or not.
    assert by_hand("query", ragged([[0, 1], [4]])).values["mrr"].tolist() == pytest.approx([1, 1])
    assert list(by_hand("query", None).figures) == ["hit@1", "mrr"]


def test_the_selecting_metric_is_always_measured():
    assert set(by_hand("pair", None, select="ndcg@3").figures) == {"hit@1", "mrr", "ndcg@3"}


def test_keys_name_what_is_drawn_as_a_whole():
    asked = Cases(np.array([0, 1]), np.array([7, 8]), ragged([[1, 3], [4]]), None)
    assert list_keys(asked, "pair").tolist() == [7, 7, 8]
    assert list_keys(asked, "query").tolist() == [7, 8]


def test_intervals_hold_the_mean_and_follow_the_seed():
    one, same, other = (by_hand("pair", None, seed=seed).figures["mrr"] for seed in (0, 0, 1))
    assert one == same
    assert one.low <= one.value <= one.high
    assert other.value == one.value


def test_what_is_seen_is_left_out_as_the_options_say():
    train, validation, test = 0, 1, 2
    pair = EvaluateOptions()
    assert set(left_out(pair, validation)) == {train, validation}  # the test pairs stay unknown until they are asked
    assert set(left_out(pair, test)) == {train, validation, test}
    assert set(left_out(EvaluateOptions(exclude_seen=False), test)) == {validation, test}
    assert set(left_out(EvaluateOptions(per="query", exclude_seen=True), validation)) == {train}
    assert set(left_out(EvaluateOptions(per="query", exclude_seen=True), test)) == {train, validation}
    assert set(left_out(EvaluateOptions(per="query", exclude_seen=False), test)) == set()


def test_a_dot_scorer_gives_inner_products():
    q, i = np.random.default_rng(0).normal(size=(3, 4)), np.random.default_rng(1).normal(size=(6, 4))
    assert dot_scorer(q, i)(slice(1, 3)) == pytest.approx(q[1:3] @ i.T, abs=1e-5)


# --- baselines ----------------------------------------------------------------------------------------------------

PAIRS = [
    ("how to list files", "ls", 1, "train"),
    ("show a directory", "ls", 1, "train"),
    ("print text of a file", "cat", 5, "train"),
    ("remove things", "rm", 1, "train"),
    ("list a directory", "ls", 1, "validation"),
    ("print files", "cat", 1, "test"),
    ("zebra", "rm", 9, "test"),
]
ITEMS = {"name": ["ls", "cat", "rm", "cp"], "about": ["list directory contents", "concatenate and print files", "remove files", "copy"]}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    pairs = pa.table({name: [row[n] for row in PAIRS * 2] for n, name in enumerate(("asked", "name", "count", "part"))})
    config = from_values(
        {
            "pairs": {"weight": "count"},
            "query": {"features": [{"column": "asked", "type": "text"}]},
            "item": {"id": "name", "features": [{"column": "name", "type": "id"}, {"column": "about", "type": "text"}]},
            "split": {"by": "column", "column": "part"},
        }
    )
    items = open_source(ITEMS, "items")
    many = pairs.set_column(0, "asked", [[f"{text}{' again' * (n >= len(PAIRS))}" for n, text in enumerate(pairs.column("asked").to_pylist())]])
    return prepare(open_source(many, "pairs"), items, config.schema, config.split, tmp_path_factory.mktemp("prepared"))


def test_popularity_counts_training_weight_alone(prepared):
    asked = cases(prepared.part(2), None, "pair").take(np.array([0, 1]))
    scores = popularity(prepared, asked)(slice(0, 2))
    assert scores.tolist() == [[4.0, 10.0, 2.0, 0.0]] * 2


def test_late_popularity_counts_the_last_tenth_first(tmp_path):
    """What was in demand long ago stands behind what is in demand now, and among what is not, the old order stays."""
    from twotower.config import from_values
    from twotower.data.preparation import prepare
    from twotower.data.sources import open_source
    from twotower.learning.baselines import BASELINES

    old = [{"u": f"u{n}", "i": "old" if n % 3 else "odd", "at": n} for n in range(90)]
    rows = [*old, *({"u": f"u{n}", "i": "new", "at": n} for n in range(90, 130))]
    sides = {"query": {"key": "u", "features": [{"column": "u", "type": "id"}]}, "item": {"id": "i", "features": [{"column": "i", "type": "id"}]}}
    for pairs, answer in (({"time": "at"}, ["new", "old", "odd"]), ({}, None)):
        chosen = from_values({**sides, "pairs": pairs, "split": {"by": "random", "test": 0.1, "validation": 0.1}})
        made = prepare(open_source(rows, "pairs"), None, chosen.schema, chosen.split, tmp_path)
        asked = cases(made.part(2), None, "pair")
        scorer = BASELINES["recent_popularity"](made, asked)
        if answer is None:
            assert scorer is None
            continue
        names = made.items.column("_id").to_pylist()
        assert [names[n] for n in np.argsort(-scorer(slice(0, 1))[0])] == answer
        assert names[int(popularity(made, asked)(slice(0, 1))[0].argmax())] == "old"


def counts_of(words, word, item):
    entries = slice(*words.offsets[[words.vocabulary.index(word), words.vocabulary.index(word) + 1]])
    return int(words.counts[entries][words.rows[entries] == item].sum())


def test_the_words_of_an_item_are_its_own_and_those_that_led_to_it_in_training(prepared):
    def words(counts):
        return [sorted(np.repeat(counts.vocabulary, [counts_of(counts, word, row) for word in counts.vocabulary])) for row in range(prepared.n_items)]

    assert words(own_words(prepared)) == [sorted(about.split()) for about in ITEMS["about"]]
    asked = asked_words(prepared)
    found = words(asked)
    assert found[1] == sorted(["print", "text", "of", "a", "file", "print", "text", "of", "a", "file", "again"])
    assert "zebra" not in asked.vocabulary  # a test query
    assert found[0] == sorted(["how", "to", "list", "files", "show", "a", "directory"] * 2 + ["again"] * 2)  # and no validation query
    assert found[3] == []
    assert set(texts_of(prepared, "query")) >= {"zebra", "remove things"}


def test_bm25_finds_by_words(prepared):
    own, asked = lexical(prepared, False), lexical(prepared, True)
    assert own.search(["contents of a directory"], 1).rows.tolist() == [[0]]
    assert own.search(["things"], 1).rows.tolist() == [[-1]]
    assert asked.search(["things"], 1).rows.tolist() == [[2]]


def test_a_constant_ranks_at_chance(prepared):
    asked = cases(prepared.part(2), prepared.known(0, 1, 2), "pair")
    ranks = rank(lambda block: np.ones((block.stop - block.start, 4), np.float32), asked.relevant, asked.excluded, n_items=4)
    assert (ranks.tied == ranks.n_candidates).all()
