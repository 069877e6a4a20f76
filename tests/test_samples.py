"""The data that ship with the package are whole, licensed and clean."""

from pathlib import Path

import pytest

from twotower import config, errors
from twotower.data import samples


@pytest.fixture(scope="module")
def tldr():
    return samples.load_sample("tldr")


def test_counts(tldr):
    assert tldr.items.num_rows == 7_424 and tldr.pairs.num_rows == 32_117
    assert tldr.pairs.column("split").to_pylist().count("test") == 2_997
    assert set(tldr.pairs.column("split").to_pylist()) == {"train", "test"}


def test_every_pair_has_its_page_and_every_page_one_name(tldr):
    ids = tldr.items.column("id").to_pylist()
    assert len(set(ids)) == len(ids) and None not in ids
    assert set(tldr.pairs.column("page").to_pylist()) <= set(ids)
    assert len(set(tldr.pairs.column("id").to_pylist())) == tldr.pairs.num_rows
    assert all(tldr.pairs.column("query").to_pylist())


def test_no_example_comes_from_the_test(tldr):
    train = {(row["page"], row["code"]) for row in tldr.pairs.to_pylist() if row["split"] == "train"}
    shown = {(row["id"], row["example"]) for row in tldr.items.to_pylist() if row["example"] is not None}
    assert shown <= train and len(shown) > 7_000


def test_strangers_are_many_and_can_be_answered(tldr):
    ids = set(tldr.items.column("id").to_pylist())
    assert len(tldr.strangers) >= 100
    assert len({stranger.query for stranger in tldr.strangers}) == len(tldr.strangers)
    assert all(stranger.accepted and set(stranger.accepted) <= ids for stranger in tldr.strangers)
    assert not {s.query.lower() for s in tldr.strangers} & {query.lower() for query in tldr.pairs.column("query").to_pylist()}


def test_the_licence_and_the_config_lie_beside_the_data(tldr):
    folder = Path(samples.__file__).parent / "tldr"
    licence = (folder / "LICENSE.md").read_text(encoding="utf-8")
    assert "CC BY 4.0" in tldr.licence and "tldr-pages" in licence and "Creative Commons" in licence
    chosen = config.read(tldr.config)
    for side, table in (("query", tldr.pairs), ("item", tldr.items)):
        assert {feature.column for feature in chosen.schema.features(side)} <= set(table.column_names)


def test_a_sample_that_does_not_ship_is_said():
    with pytest.raises(errors.ConfigError, match='did you mean "tldr"'):
        samples.load_sample("tdlr")
