"""What an approximate index loses: counted by hand, nothing where it is as good as exact, and seen where it is not."""

import numpy as np
import pytest

from twotower.data.splits import VALIDATION
from twotower.errors import ConfigError
from twotower.learning.evaluation import cases_of
from twotower.runs import approximation as measured
from twotower.runs.approximation import approximation
from twotower.runs.held import held_of
from twotower.search.index import INDEXES, Exact


class Forgetful(Exact):
    """Never finds the first third of the rows."""

    def search(self, queries, k, allow=None):
        return super().search(queries, k, np.arange(len(self.vectors)) >= len(self.vectors) // 3)


def test_what_is_lost_is_what_was_not_found(world_run, monkeypatch):
    monkeypatch.setitem(INDEXES, "forgetful", Forgetful)
    found = approximation(world_run, "forgetful")
    held = held_of(world_run, "look")
    scores = held.queries() @ held.items.T
    best = np.argsort(-scores, axis=1, kind="stable")[:, : measured.K]
    kept = best >= len(held.items) // 3
    assert found.recall == pytest.approx(kept.mean())
    right = [int(np.isin(item, row)) for row, item in zip(best, held.asked.relevant.values, strict=True)]
    assert found.exact_hit == pytest.approx(np.mean(right)) and found.queries == len(scores) and found.items == len(held.items)
    assert float(found.lost.difference) == pytest.approx(found.exact_hit - found.hit) and found.hit < found.exact_hit
    assert held.asked.query_rows.tolist() == cases_of(held.prepared, VALIDATION, held.chosen.evaluate).query_rows.tolist()
    monkeypatch.setitem(INDEXES, "same", Exact)
    same = approximation(world_run, "same")
    assert same.recall == 1 and same.hit == same.exact_hit == found.exact_hit and same.lost.p_value == 1


def test_the_verb_says_what_is_lost(world_folder, typed, monkeypatch):
    pytest.importorskip("faiss", reason="the extra ann is not installed")
    code, out, _ = typed("evaluate", world_folder, "--index", "hnsw")
    assert code == 0 and "hnsw" in out and "Recall: the share of the exact first 10 that it finds" in " ".join(out.split())
    code, out, _ = typed("evaluate", world_folder, "--index", "hnsw", "--json")
    assert code == 0 and '"recall"' in out
    for words in (["--index", "hnsw", "--features"], ["--index", "hnsw", "--slices"], ["--features", "--pairs", "some.csv"]):
        code, _, err = typed("evaluate", world_folder, *words)
        assert code == 2 and "nothing beside it" in err
    for name in ("exact", "annoy"):
        code, _, err = typed("evaluate", world_folder, "--index", name)
        assert code == 2 and "hnsw" in err and "Traceback" not in err


def test_an_index_that_is_exact_has_nothing_to_lose(world_run):
    with pytest.raises(ConfigError, match="no approximate index"):
        approximation(world_run, "exact")
