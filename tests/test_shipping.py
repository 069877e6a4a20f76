"""A run's vectors shipped to a store, and searched there as the run itself is searched."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower.bundle import load
from twotower.bundle.indexes import sample_queries
from twotower.bundle.layout import write_segment, write_version
from twotower.bundle.lineage import difference
from twotower.bundle.remote import Remote
from twotower.errors import BundleError, ConfigError, DataError
from twotower.exports.formats import export
from twotower.exports.shipping import batches, bring, facts_of
from twotower.search.filters import condition_of, mask
from twotower.stores import open_store

ASKED = ["subject1 sort0", "subject7 sort2 noise3", "subject3"]


@pytest.fixture(scope="module")
def retriever(world_folder):
    return load(world_folder)


def name_of(retriever):
    return f"items_{retriever.bundle.fingerprint[:12]}_{retriever.bundle.version}"


@pytest.fixture(scope="module", params=["lancedb", "qdrant"])
def url(request, retriever, tmp_path_factory):
    place = f"{request.param}://{tmp_path_factory.mktemp('shipped')}"
    told = []
    assert bring(retriever, place, report=told.append) == (name_of(retriever), True, len(retriever), 0)
    assert any("recall@10 1.000" in line for line in told)
    return place


@pytest.fixture
def remote(retriever, url):
    with open_store(url) as store:
        yield Remote(retriever, store)


def test_a_store_answers_as_the_bundle_does(retriever, remote):
    for queries in (ASKED[0], ASKED, {"asked": ASKED[1]}):
        own, far = retriever.search(queries, k=7, mode="vectors"), remote.search(queries, k=7)
        assert far.ids.shape == own.ids.shape and far.ids.tolist() == own.ids.tolist() and far.rows.tolist() == own.rows.tolist()
        np.testing.assert_allclose(far.scores, own.scores, atol=1e-5)
    assert {type(each) for each in remote.search(ASKED).ids.ravel()} == {int}
    assert remote.show(remote.search(ASKED[0], 2).ids) == retriever.show(retriever.search(ASKED[0], 2, mode="vectors").rows)


def test_a_filter_is_over_the_columns_in_the_store(retriever, remote):
    for where in ("price < 5", {"price": {"ge": 30}}, condition_of("title == 'tovar3 vid0' or price is null")):
        kept = retriever.items.filter(mask(condition_of(where), retriever.items)).column("_id").to_pylist()
        found = remote.search(ASKED, k=len(retriever), where=where)
        assert all({each for each in ids if each is not None} == set(kept) for ids in found.ids)
        assert ((found.rows < 0) == (found.scores == -np.inf)).all()


def test_thresholds_and_mistakes(retriever, remote):
    best = remote.search(ASKED[0], 5)
    assert remote.search(ASKED[0], 5, threshold=float(best.scores[1])).ids.tolist() == [*best.ids[:2], None, None, None]
    for ask, said in [({"k": 0}, "k is 0"), ({"threshold": "x"}, "threshold"), ({"where": "prices < 5"}, 'did you mean "price"')]:
        with pytest.raises(ConfigError, match=said):
            remote.search(ASKED[0], **ask)
    with pytest.raises(DataError, match="empty"):
        remote.search("")


def test_a_store_of_another_model_is_refused_when_it_is_opened_and_when_it_is_asked(retriever, tmp_path):
    place = f"lancedb://{tmp_path}/lance"
    with pytest.raises(DataError, match="holds nothing"), open_store(place) as store:
        Remote(retriever, store)
    bring(retriever, place)
    with open_store(place) as store:
        remote = Remote(retriever, store)
        facts = facts_of(retriever.catalogue)
        other = type(facts)(fingerprint="cd" * 32, version="000001", dimensions=facts.dimensions, rows=facts.rows)
        store.publish(batches(retriever.catalogue), other)
        for ask in (lambda: remote.search(ASKED), lambda: Remote(retriever, store)):
            with pytest.raises(BundleError, match=f"cdcdcdcdcdcd.*{facts.fingerprint[:12]}"):
                ask()
        store.rollback()
        assert remote.search(ASKED).ids.shape == (3, 10)


def test_a_query_encoder_alone_is_enough_to_search_a_store(retriever, url, tmp_path):
    export(retriever, "query-encoder", tmp_path / "encoder")
    far, own = load(tmp_path / "encoder", store=url).search(ASKED, k=5), retriever.search(ASKED, k=5, mode="vectors")
    assert far.ids.tolist() == own.ids.tolist() and (far.rows == -1).all()
    np.testing.assert_allclose(far.scores, own.scores, atol=1e-5)


def test_a_store_is_searched_by_a_command(retriever, url, tmp_path, world_folder, typed):
    place = export(retriever, "query-encoder", tmp_path / "encoder") and tmp_path / "encoder"
    own = retriever.search(ASKED[0], k=3, mode="vectors", where="price < 30")
    for model in (world_folder, place):
        code, out, _ = typed("search", model, *ASKED[0].split(), "--store", url, "-k", 3, "--where", "price < 30", "--json")
        found = json.loads(out)
        assert code == 0 and [each["id"] for each in found] == own.ids.tolist()
        assert [each["item"]["price"] for each in found] == [row["price"] for row in retriever.show(own.rows)]
    code, out, _ = typed("search", place, *ASKED[0].split(), "--store", url, "-k", 3)
    assert code == 0 and all(str(each) in out for each in retriever.search(ASKED[0], k=3, mode="vectors").ids)
    code, out, err = typed("search", world_folder, ASKED[0], "--store", url, "--threshold", 1.5)
    assert (code, out) == (0, "") and "nothing was found" in err
    code, out, err = typed("search", world_folder, ASKED[0], "--store", url, "--mode", "words", "--skip", 3)
    assert (code, out) == (2, "") and "leave out --mode, --skip" in err


def test_what_is_there_is_not_sent_again(retriever, url):
    assert bring(retriever, url) == (name_of(retriever), False, 0, 0)
    facts = facts_of(retriever.catalogue)
    assert facts.rows == len(retriever) and facts.similarity == "cosine"


def test_vectors_cut_short_are_brought_nowhere(world_folder, url):
    with pytest.raises(ConfigError, match="opened with fewer dimensions"):
        bring(load(world_folder, width=8), url)


def test_queries_to_measure_with(retriever, tmp_path):
    bundle = replace(retriever.bundle, folder=tmp_path)
    made = sample_queries(bundle)
    assert made.shape == (len(retriever), bundle.dimensions) and made.dtype == np.float32
    assert np.array_equal(made, sample_queries(bundle))
    near = made @ np.asarray(retriever.vectors).T
    assert (near.argmax(axis=1) == np.arange(len(retriever))).mean() > 0.5  # each still lies near the item that it was made of
    (tmp_path / "model").mkdir()
    np.save(tmp_path / "model" / "asked.npy", np.arange(3 * bundle.dimensions, dtype=np.float32).reshape(3, -1))
    assert sample_queries(bundle)[2, 0] == 2 * bundle.dimensions
    np.save(tmp_path / "model" / "asked.npy", np.zeros((3, 2), np.float32))
    with pytest.raises(BundleError, match=r"asked.npy holds an array \(3, 2\)"):
        sample_queries(bundle)


def test_a_store_follows_a_catalogue_by_what_differs(world_folder, tmp_path, typed):
    folder = shutil.copytree(world_folder / "bundle", tmp_path / "bundle")
    url = f"lancedb://{tmp_path / 'lance'}"
    code, out, err = typed("export", folder, "--to", url)
    assert (code, out) == (0, "") and "is live, with all 36 items" in err
    assert "is live already" in typed("export", folder, "--to", url)[2]
    grown = load(folder)
    grown.add_items([{"name": 2000, "title": "tovar3 vid1", "kind": "k0", "price": 7.0}])
    grown.update_items([{"name": 1000, "price": 99.5}])
    grown.remove_items([1035])
    assert bring(load(folder), url)[1:] == (False, 2, 1)
    remote = load(folder, store=url)
    assert remote.served().facts.version == "000004"
    for question in ASKED:
        assert remote.search(question, k=5).ids.tolist() == grown.search(question, k=5, mode="vectors").ids.tolist()
    assert remote.search(ASKED[0], k=40, where="price > 99").ids[0] == 1000
    assert 1035 not in remote.search(ASKED[0], k=40).ids.tolist()
    table = [row | {"price": row["price"] + 1} for row in grown.items.to_pylist()]
    pq.write_table(pa.Table.from_pylist(table).drop_columns("_id"), tmp_path / "items.parquet")
    code, out, err = typed("refresh", folder, "--items", tmp_path / "items.parquet", "--to", url)
    assert code == 0 and "36 shown otherwise" in " ".join(out.split()) and "with all 36 items" in err  # more than a third: as a whole
    code, _, err = typed("rollback", folder, "--store", url)
    assert code == 0 and "is live" in err
    assert load(folder, store=url).served().facts.version == "000004"
    rolled = ["rollback", folder, "--store"]
    for arguments in (["export", folder, "--to", "lance://x"], [*rolled, "nothing://x"], [*rolled, url, "--to", "1"]):
        code, out, err = typed(*arguments)
        assert (code, out) == (2, "") and "Traceback" not in err


def test_a_first_fraction_among_whole_numbers_sends_the_whole_catalogue(world_folder, tmp_path):
    folder = shutil.copytree(world_folder / "bundle", tmp_path / "bundle")
    bundle = load(folder).bundle
    first = bundle.segments[0]
    whole = first.items.column("price").cast(pa.int64(), safe=False)
    items = first.items.set_column(first.items.schema.get_field_index("price"), "price", whole)
    write_version(folder, bundle.fingerprint, [write_segment(folder, replace(first, items=items), bundle.fingerprint)], len(items), parent="000001")
    url, grown = f"lancedb://{tmp_path / 'lance'}", load(folder)
    assert bring(grown, url).whole
    grown.update_items([{"name": 1000, "price": 99}])
    assert bring(grown, url)[1:] == (False, 1, 0)
    grown.update_items([{"name": 1000, "price": 99.5}])
    assert bring(grown, url)[1:] == (True, len(grown), 0)
    assert load(folder, store=url).search(ASKED[0], k=40, where="price > 99").ids[0] == 1000
    grown.update_items([{"name": 1001, "price": 7.25}])
    assert bring(grown, url)[1:] == (False, 1, 0)


def test_what_differs_between_versions(world_folder, tmp_path):
    folder = shutil.copytree(world_folder / "bundle", tmp_path / "bundle")
    retriever = load(folder)
    retriever.update_items([{"name": 1000, "price": 99.5}])
    retriever.remove_items([1001])
    retriever.add_items([{"name": 1001, "title": "tovar3 vid1", "kind": "k0", "price": 7.0}])
    told = difference(retriever.catalogue, "000001")
    assert told is not None
    assert sorted(retriever.items.column("_id").take(pa.array(told.changed)).to_pylist()) == [1000, 1001] and told.removed == []
    told = difference(load(folder).catalogue, "000003")
    assert told is not None and len(told.changed) == 1 and told.removed == []
    assert difference(retriever.catalogue, "000009") is None


def test_what_was_touched_before_is_not_found_again(tmp_path):
    from twotower import train

    walks = [{"user": f"u{n}", "item": f"i{(n + 5 * step) % 12}", "at": 3600 * (n + step)} for n in range(40) for step in range(5)]
    config = {
        "pairs": {"time": "at", "repeats": "keep"},
        "query": {"key": "user", "features": [{"type": "history", "last": 2, "pool": "recency"}]},
        "item": {"id": "item", "features": [{"column": "item", "type": "id"}]},
        "split": {"by": "last", "test": 1, "validation": 1},
        "model": {"dimensions": 8},
        "train": {"epochs": 1, "batch_size": 64},
    }
    retriever = train(walks, config=config, output=tmp_path / "run").retriever
    url = f"lancedb://{tmp_path}/lance"
    bring(retriever, url)
    with open_store(url) as store:
        remote = Remote(retriever, store)
        for asked in (["i3"], [["i3", "i4", "never heard of"], ["i5"]]):
            for repeats in (False, True):
                own, far = retriever.search(history=asked, k=11, repeats=repeats, mode="vectors"), remote.search(history=asked, k=11, repeats=repeats)
                assert far.ids.tolist() == own.ids.tolist() and far.rows.tolist() == own.rows.tolist()
                np.testing.assert_allclose(far.scores, own.scores, atol=1e-5)
        assert "i3" not in remote.search(history=["i3"], k=12).ids and "i3" in remote.search(history=["i3"], k=12, repeats=True).ids
