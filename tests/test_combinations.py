"""Losses x candidates x towers: whatever is chosen together solves one small world, or is refused with the reason.

All pairs of choices are tried each time, the whole product in the slow step.
"""

import itertools

import numpy as np
import pytest

from twotower.config import from_values
from twotower.data.preparation import prepare
from twotower.data.sources import open_source
from twotower.errors import ConfigError
from twotower.learning import training
from twotower.model.losses import LOSSES
from twotower.model.negatives import NEGATIVES
from twotower.model.towers import build

GROUPS, LIKED = 6, 4
CANDIDATES = {
    **{name: {"negatives": name} for name in NEGATIVES},
    "in_batch, memory": {"memory": 64},
    "drawn, memory": {"negatives": "drawn", "memory": 48},
    "in_batch, mined": {"mined": 3, "mine_from": 1},
    "mixed, mined, streaming": {"negatives": "mixed", "mined": 3, "mine_from": 1, "probabilities": "streaming"},
    "mixed, memory, mined": {"negatives": "mixed", "memory": 160, "mined": 2, "mine_from": 1},
}
EPOCHS = {"pointwise": 30, "sigmoid": 20, "triplet": 20}  # what learns of fewer negatives, or ever less of each
MARGINS = {"triplet": 0.2}  # the hardest of few items is as near as that
ITEM = {"features": [{"column": "item", "type": "id"}]}
TITLE = {"features": [{"column": "title", "type": "text", "buckets": 1024}]}
ASKED = {"features": [{"column": "asked", "type": "text", "buckets": 1024}]}
TOWERS = {
    "ids": ({"features": [{"column": "user", "type": "id"}, {"column": "sort", "type": "id"}]}, ITEM, {}),
    "text": (ASKED, TITLE, {}),
    "history": ({"features": [{"type": "history", "last": 8, "dropout": 0.0}]}, ITEM, {}),
    "mlp": (ASKED, {"features": [*TITLE["features"], *ITEM["features"]]}, {"body": "mlp", "hidden": [16]}),
}


def covering(*choices):
    """Few rows that hold every pair of choices: each row begins with one that is missing and takes what covers most more."""
    missing = {((i, one), (j, two)) for i, j in itertools.combinations(range(len(choices)), 2) for one in choices[i] for two in choices[j]}
    rows = []
    while missing:
        row = dict(min(missing))
        for i in (i for i in range(len(choices)) if i not in row):
            gain = {one: sum(tuple(sorted(((i, one), (j, row[j])))) in missing for j in row) for one in choices[i]}
            row[i] = max(gain, key=gain.get)
        missing -= set(itertools.combinations(sorted(row.items()), 2))
        rows.append(tuple(row[i] for i in range(len(choices))))
    return rows


ALL = list(itertools.product(LOSSES, CANDIDATES, TOWERS))
PAIRS = covering(list(LOSSES), list(CANDIDATES), list(TOWERS))


def test_every_pair_of_choices_is_covered():
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert {(row[i], row[j]) for row in PAIRS} == {(row[i], row[j]) for row in ALL}
    assert len(PAIRS) < len(ALL) / 3


def rows():
    """Whoever is of a group likes its four items, and is known to dislike two of others."""
    generator = np.random.default_rng(0)
    made = []
    for user in range(60):
        group, others = user % GROUPS, generator.choice(np.arange(1, GROUPS), 2, replace=False).tolist()
        liked = [group * LIKED + k for k in generator.permutation(LIKED).tolist()]
        for label, item in [*((1, one) for one in liked), *((0, (group + other) % GROUPS * LIKED + user % LIKED) for other in others)]:
            words = {"asked": f"seeks sort{group} person{user}", "title": f"tovar{item // LIKED} number{item}"}
            made.append({"user": f"u{user}", "sort": f"s{group}", "item": f"i{item}", "like": label, **words})
    return made


def config_of(loss, candidates, tower):
    query, item, model = TOWERS[tower]
    options = {"draws": 16, **CANDIDATES[candidates]} if CANDIDATES[candidates].get("negatives") in ("drawn", "mixed") else CANDIDATES[candidates]
    return from_values(
        {
            "pairs": {"label": "like"},
            "query": {"key": "user", **query},
            "item": {"id": "item", **item},
            "split": {"by": "random", "test": 0.05, "validation": 0.15},
            "model": {"dimensions": 16, **model},
            "train": {"loss": loss, "epochs": EPOCHS.get(loss, 12), "batch_size": 32, "learning_rate": 0.02, "patience": 0, **options}
            | ({"margin": MARGINS[loss]} if loss in MARGINS else {}),
            "evaluate": {"metrics": ["mrr"]},
        }
    )


def refused(loss, candidates):
    """Why these two make no sense together, if they do not."""
    options = CANDIDATES[candidates]
    if loss == "pointwise" and options != {"negatives": "in_batch"}:
        return "learns from labels alone"
    return "correction, which is off" if "probabilities" in options and loss in ("pointwise", "triplet") else ""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The world prepared for each of the towers, once."""
    place, kept = tmp_path_factory.mktemp("world"), {}

    def of(config, tower):
        if tower not in kept:
            kept[tower] = prepare(open_source(rows()), None, config.schema, config.split, place)
        return kept[tower]

    return of


def solve(prepared, loss, candidates, tower):
    why = refused(loss, candidates)
    if why:
        with pytest.raises(ConfigError, match=why):
            config_of(loss, candidates, tower)
        return
    config = config_of(loss, candidates, tower)
    made = prepared(config, tower)
    data = training.data_of(made, config.train, config.evaluate)._replace(validate_every=config.train.epochs)
    state = training.start(build(made.encoder, config.model), data, config.train)
    begun = training.validate(state.model, data, config.evaluate)[0]["mrr"]
    training.fit(state, data, config.train, config.evaluate)
    found = training.validate(state.model, data, config.evaluate)[0]["mrr"]
    # From labels alone, of two groups in five, less can be told.
    assert begun < 0.65 and found > max(begun + 0.1, 0.6 if loss == "pointwise" else 0.75), (begun, found)


@pytest.mark.parametrize(("loss", "candidates", "tower"), PAIRS)
def test_any_two_choices_solve_the_world_or_are_refused(prepared, loss, candidates, tower):
    solve(prepared, loss, candidates, tower)


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "candidates", "tower"), [row for row in ALL if row not in PAIRS])
def test_any_three_choices_solve_the_world_or_are_refused(prepared, loss, candidates, tower):
    solve(prepared, loss, candidates, tower)
