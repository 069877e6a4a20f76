"""Models are published to a folder that servers follow: whole or not at all, and what was in use before can be gone back to."""

import errno
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import twotower as tt
from conftest import WORLD_CONFIG, planted_world
from twotower import files
from twotower.bundle import load, publish, versions, withdraw
from twotower.bundle.layout import find_bundle
from twotower.errors import BundleError, ConfigError, OutputError
from twotower.exports.encoders import write_query_encoder


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """Another model of the same world."""
    return tt.train(
        *planted_world(), config={**WORLD_CONFIG, "train": {**WORLD_CONFIG["train"], "seed": 5}}, output=tmp_path_factory.mktemp("second") / "run"
    ).folder


@pytest.fixture
def served(world_folder, tmp_path):
    publish(world_folder, tmp_path / "served")
    return tmp_path / "served"


def test_a_published_folder_passes_for_the_bundle_in_use(served, world_folder, second):
    first = load(world_folder).bundle.fingerprint
    assert load(served).bundle.fingerprint == first
    done = publish(second, served)
    assert done.before == first[:16] and done.copied
    assert load(served).bundle.fingerprint == load(second).bundle.fingerprint != first
    load(served).remove_items([1000])
    assert [each.version for each in versions(served)] == ["000001", "000002"] and len(versions(second)) == 1
    assert withdraw(served).name == first[:16]
    assert load(served).bundle.fingerprint == first
    again = publish(second, served)
    assert not again.copied and len(load(served)) == len(load(second)) - 1  # with the catalogue that it has there


def test_the_figures_of_a_published_folder_are_those_of_the_model_in_use(served, world_folder, typed):
    told, ours = typed("evaluate", served), typed("evaluate", world_folder)
    assert told == ours and told[0] == 0


def test_only_the_last_models_stay(served, world_folder, second):
    publish(second, served, keep=1)
    assert [each.name for each in (served / "bundles").iterdir()] == [load(second).bundle.fingerprint[:16]]
    with pytest.raises(ConfigError, match="none to go back to"):
        withdraw(served)


def test_a_retriever_goes_on_while_the_newest_is_another(served, world_folder, second):
    old = load(served)
    assert old.newest() is old
    load(served).remove_items([1000])
    grown = old.newest()
    assert len(grown) == len(old) - 1 and old.search("subject3").ids.shape == (10,)
    assert grown._graphs is old._graphs  # what has not changed is shared
    publish(second, served)
    other = grown.newest()
    assert other.bundle.fingerprint == load(second).bundle.fingerprint
    assert 1000 in old.search("subject0", k=36).ids and 1000 not in grown.search("subject0", k=36).ids
    np.testing.assert_array_equal(other.search("subject3").ids, load(second).search("subject3").ids)


def test_a_link_that_leads_elsewhere_is_followed(world_folder, second, tmp_path):
    (tmp_path / "live").symlink_to(world_folder)
    old = load(tmp_path / "live")
    (tmp_path / "next").symlink_to(second)
    (tmp_path / "next").rename(tmp_path / "live")
    assert old.newest().bundle.fingerprint == load(second).bundle.fingerprint


@pytest.mark.parametrize("at", ["copy_file", "write_text"])
def test_one_that_is_cut_short_leaves_what_was_in_use(served, world_folder, second, monkeypatch, at):
    calls, real = [], getattr(files, at)
    for fails in (1, 3, 8):
        calls.clear()

        def dying(*arguments, fails=fails):
            calls.append(1)
            if len(calls) == fails:
                raise KeyboardInterrupt
            return real(*arguments)

        monkeypatch.setattr(files, at, dying)
        try:
            publish(second, served)
        except KeyboardInterrupt:
            assert load(served).bundle.fingerprint == load(world_folder).bundle.fingerprint
            assert all(not each.name.startswith(".") for each in (served / "bundles").iterdir())
        monkeypatch.undo()
    publish(second, served)
    assert load(served).bundle.fingerprint == load(second).bundle.fingerprint


KILLED = """
import os, sys
from twotower.bundle import publish
place, into, last = sys.argv[1:]
real = os.replace
def dying(source, goal, **options):
    if os.path.basename(goal) == last:
        os._exit(9)
    return real(source, goal, **options)
os.replace = dying
publish(place, into)
"""


@pytest.mark.parametrize("at", ["manifest.json", "the folder", "LIVE"])
@pytest.mark.parametrize("before", [False, True])
def test_one_that_is_killed_leaves_a_folder_that_can_be_published_to(world_folder, second, tmp_path, at, before):
    into, first = tmp_path / "served", load(world_folder).bundle.fingerprint
    if before:
        publish(world_folder, into)
    name = load(second).bundle.fingerprint[:16]
    done = subprocess.run([sys.executable, "-c", KILLED, second, into, name if at == "the folder" else at], check=False)
    assert done.returncode == 9
    if before:
        assert load(into).bundle.fingerprint == first
    else:
        with pytest.raises(BundleError):
            load(into)
    publish(second, into)
    assert load(into).bundle.fingerprint[:16] == name
    assert not [path for path in into.rglob("*") if path.name.endswith(".part")]


def test_a_full_disk_is_one_clear_error(served, world_folder, second, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="make room"):
        publish(second, served)
    monkeypatch.undo()
    assert load(served).bundle.fingerprint == load(world_folder).bundle.fingerprint
    assert len(list((served / "bundles").iterdir())) == 1


def test_a_model_that_was_damaged_where_it_is_kept_is_not_put_in_use(served, world_folder, second):
    first = load(world_folder).bundle.fingerprint
    publish(second, served)
    path = served / "bundles" / first[:16] / "model" / "states.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError, match="there already and cannot serve"):
        publish(world_folder, served)
    assert load(served).bundle.fingerprint == load(second).bundle.fingerprint


def test_a_copy_that_has_grown_otherwise_is_another_version_of_the_same_name(world_folder, tmp_path):
    for name in ("one", "other"):
        shutil.copytree(world_folder / "bundle", tmp_path / name)
    gone, left = load(world_folder).catalogue.ids.to_pylist()[:2]
    load(tmp_path / "one").remove_items([gone])
    load(tmp_path / "other").remove_items([left])
    (tmp_path / "live").symlink_to(tmp_path / "one")
    old = load(tmp_path / "live")
    (tmp_path / "next").symlink_to(tmp_path / "other")
    (tmp_path / "next").rename(tmp_path / "live")
    now = old.newest()
    assert now.bundle.version == old.bundle.version and now._graphs is old._graphs
    assert gone in now.catalogue.ids.to_pylist() and left not in now.catalogue.ids.to_pylist()
    assert left in old.catalogue.ids.to_pylist()
    assert now.newest() is now


def test_the_newest_of_a_query_encoder_alone_is_itself(world_folder, tmp_path):
    write_query_encoder(load(world_folder), tmp_path / "encoder")
    alone = load(tmp_path / "encoder")
    assert alone.newest() is alone


def test_what_cannot_serve_is_not_published(served, world_folder, tmp_path):
    damaged = shutil.copytree(world_folder / "bundle", tmp_path / "damaged")
    path = damaged / "model" / "states.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    before = sorted(served.rglob("*"))
    with pytest.raises(BundleError):
        publish(damaged, served)
    assert sorted(served.rglob("*")) == before


def test_places_that_cannot_be_published_to(served, world_folder, tmp_path, typed):
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("x")
    for place, error in [("file", OutputError), ("other", ConfigError), (str(world_folder), ConfigError)]:
        with pytest.raises(error):
            publish(world_folder, tmp_path / place)
    with pytest.raises(ConfigError, match="already"):
        publish(served, served)
    with pytest.raises(ConfigError, match="inside"):
        publish(served, served / "bundles" / load(served).bundle.fingerprint[:16] / "served")
    for text in ("", "nothing\n", "../../etc\n", "0123456789abcdef\n"):
        (served / "LIVE").write_text(text)
        with pytest.raises(BundleError, match="publish one again"):
            find_bundle(served)
    for arguments in (["rollback", served, "--model", "--to", "1"], ["rollback", world_folder, "--model"], ["publish", tmp_path / "no", served]):
        code, out, err = typed(*arguments)
        assert (code, out) == (2, "") and "Traceback" not in err


def test_verbs_publish_and_go_back(served, second, typed):
    code, out, err = typed("publish", second, served)
    assert (code, out) == (0, "") and "is in use in" in err and "rollback" in err
    code, out, err = typed("rollback", served, "--model")
    assert (code, out) == (0, "") and "is in use again" in err
    code, out, err = typed("publish", second, served)
    assert code == 0 and "was there already" in err
    code, out, err = typed("versions", served)
    assert code == 0 and f"{load(second).bundle.fingerprint[:16]} (in use), " in out
