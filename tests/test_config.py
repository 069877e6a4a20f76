"""One TOML file <-> one object: all faults at once, strict types, overrides, and every option there and back."""

import re
import tomllib
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin, get_type_hints
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.config import Config, from_values, override, read, to_toml, to_values
from twotower.data.features import Text
from twotower.data.sources.databases import SqlOptions
from twotower.errors import ConfigError

LEAST = {"query": {"features": [{"column": "q", "type": "text"}]}, "item": {"features": [{"column": "a", "type": "text"}]}}


def made(**blocks):
    return from_values(LEAST | blocks)


def test_defaults_need_two_columns_and_nothing_else():
    config = made()
    assert config.train.epochs == 10
    assert config.model.similarity == "cosine"
    assert config.evaluate.select == "mrr"
    assert config.query.features == (Text(column="q"),)


def test_all_faults_are_named_at_once_with_the_choices():
    values = {
        "query": {"features": [{"column": "q", "type": "txt"}, {"column": "u", "type": "id", "dim": 3}]},
        "item": {"features": [{"type": "text"}], "idd": "x"},
        "train": {"epoch": 3, "batch_size": 1, "loss": "hing"},
        "model": {"similarity": "cosin"},
        "sprit": {},
    }
    with pytest.raises(ConfigError) as raised:
        from_values(values, "my.toml")
    message = str(raised.value)
    assert message.startswith("my.toml has 9 faults")
    for part in (
        'query.features[0].type: "txt" is no type of feature; did you mean "text"',
        "query.features[1].dim: there is no such option",
        "item.features[0].column: it is needed and missing",
        'item.idd: there is no such option; did you mean "id"',
        'train.epoch: there is no such option; did you mean "epochs"',
        "train.batch_size: 1",
        "train.loss: \"hing\" is none of 'softmax'",
        "model.similarity: \"cosin\" is none of 'cosine' or 'dot'",
        'sprit: there is no such option; did you mean "split"',
    ):
        assert part in message


def test_an_option_is_unknown_however_its_name_is_spelled():
    query = {"features": [*LEAST["query"]["features"], {"column": "u", "type": "id", "mini-mum": 3}]}
    with pytest.raises(ConfigError) as raised:
        made(query=query, train={"batch-size": 64}, **{"batch-size": 64, "my block": {}})
    for part in (
        'query.features[1].mini-mum: there is no such option; did you mean "minimum"',
        'train.batch-size: there is no such option; did you mean "batch_size"',
        "  batch-size: there is no such option; the choices are: data,",
        "  my block: there is no such option",
    ):
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("block", "values"),
    [
        ("train", {"epochs": "3"}),
        ("train", {"epochs": True}),
        ("train", {"epochs": 2.5}),
        ("train", {"epochs": 0}),
        ("train", {"correction": "yes"}),
        ("train", {"correction": 1}),
        ("train", {"learning_rate": "fast"}),
        ("train", {"learning_rate": 0}),
        ("train", {"warmup": 1.0}),
        ("model", {"hidden": 256}),
        ("model", {"hidden": [256, "x"]}),
        ("model", {"dropout": 1.0, "body": "mlp"}),
        ("evaluate", {"metrics": "mrr"}),
        ("evaluate", {"metrics": ["mmr"]}),
        ("evaluate", {"metrics": []}),
        ("evaluate", {"select": "hit"}),
        ("evaluate", {"baselines": ["bm26"]}),
        ("machine", {"threads": 0}),
        ("search", {"words_weight": -1.0}),
        ("data", {"pairs": 5}),
        ("item", {"features": [{"column": 3, "type": "text"}]}),
        ("item", {"features": []}),
        ("item", {"features": "title"}),
        ("query", {"features": [{"column": "q", "type": "text", "buckets": "many"}]}),
        ("pairs", {"event_weights": {"click": -1}, "event": "e"}),
        ("pairs", {"event": "e"}),
        ("split", {"test": 0.6, "validation": 0.5}),
        ("version", 0),
        ("version", "1"),
    ],
)
def test_wrong_values_are_refused(block, values):
    with pytest.raises(ConfigError):
        made(**{block: values})


def test_whole_numbers_may_stand_for_broken_ones():
    assert made(train={"learning_rate": 1}).train.learning_rate == 1


def test_a_newer_version_says_upgrade():
    with pytest.raises(ConfigError, match=r"version = 2.*[Uu]pgrade"):
        made(version=2)


def test_options_that_do_not_fit_together_are_refused():
    with pytest.raises(ConfigError, match="per"):
        made(evaluate={"per": "query"}, pairs={"repeats": "keep"})
    with pytest.raises(ConfigError, match=r"gain.*per = \"query\""):
        made(evaluate={"gain": "label"}, pairs={"label": "grade"})
    with pytest.raises(ConfigError, match=r"gain.*ndcg among"):
        made(evaluate={"gain": "label", "per": "query", "metrics": ["mrr"]}, pairs={"label": "grade"})
    with pytest.raises(ConfigError, match=r"gain.*name their column"):
        made(evaluate={"gain": "label", "per": "query"})
    with pytest.raises(ConfigError, match="weight_decay"):
        made(train={"weight_decay": 0.1})
    made(train={"weight_decay": 0.1}, model={"body": "mlp"})


def test_a_file_is_read_and_its_places_are_taken_from_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    path = tmp_path / "deep" / "x.toml"
    path.parent.mkdir()
    path.write_text(to_toml(made(data={"pairs": "a.csv", "items": ["b/*.csv", "/abs/c.csv"]})))
    config = read(path, ["train.epochs=3"])
    assert config.data.pairs == str(tmp_path / "deep" / "a.csv")
    assert config.data.items == (str(tmp_path / "deep" / "b/*.csv"), "/abs/c.csv")
    assert config.train.epochs == 3


@pytest.mark.parametrize("content", [b"x = ", b"\xff\xfe", b"version = 1\nversion = 1"])
def test_a_file_that_is_no_toml(tmp_path, content):
    (tmp_path / "x.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"x\.toml"):
        read(tmp_path / "x.toml")


def test_a_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(ConfigError, match=r'did you mean "config\.toml"'):
        read(tmp_path / "confg.toml")
    with pytest.raises(ConfigError, match="init"):
        read(tmp_path / "nowhere" / "x.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("train.epochs=3", 3),
        ("train.epochs = 3", 3),
        ("train.learning_rate=1e-2", 0.01),
        ("train.correction=false", False),
        ("search.mode=words", "words"),
        ('search.mode="words"', "words"),
        ("model.hidden=[8, 9]", [8, 9]),
        ("machine.memory=4GB", "4GB"),
        ("data.pairs=my pairs.csv", "my pairs.csv"),
        ("query.key=a=b", "a=b"),
    ],
)
def test_settings_are_toml_values_or_texts(setting, value):
    given = {"train": {"seed": 5}}
    changed = override(given, [setting])
    block, name = setting.partition("=")[0].strip().split(".")
    assert changed[block][name] == value
    assert given == {"train": {"seed": 5}}
    assert changed["train"]["seed"] == 5


@pytest.mark.parametrize("setting", ["train.epochs", "=3", "version.x=3", "train.=3"])
def test_settings_that_set_nothing(setting):
    with pytest.raises(ConfigError, match=re.escape(setting.partition("=")[0] or setting)):
        override({"version": 1}, [setting])


@pytest.mark.parametrize(
    ("settings", "said", "not_said"),
    [
        (["train.epoch=3"], ["--set train.epoch has 1 fault", '"epochs"'], ["x.toml"]),
        (["model.dimensions=8", "train.epochs=few"], ["--set train.epochs has 1 fault"], ["x.toml", "dimensions"]),
        (["model.dimensions=8", "split.test=1.5"], ["--set split.test: ", "test = 1.5"], ["x.toml", "dimensions"]),
        (["train.epoch=3", "train.seeed=3"], ["--set train.epoch --set train.seeed has 2 faults"], ["x.toml"]),
        (["train.epochs"], ['--set "train.epochs" sets nothing'], ["x.toml"]),
        ([".epochs=3"], ['--set ".epochs=3" sets nothing'], ["x.toml"]),
        (["data.pairs.sqll=hunter2"], ["--set data.pairs.sqll"], ["x.toml", "hunter2"]),
    ],
)
def test_a_fault_of_a_setting_is_none_of_the_file(tmp_path, settings, said, not_said):
    path = tmp_path / "x.toml"
    path.write_text(to_toml(from_values(LEAST)))
    with pytest.raises(ConfigError) as raised:
        read(path, settings)
    assert all(part in str(raised.value) for part in said) and not any(part in str(raised.value) for part in not_said)


def test_a_fault_of_the_file_stays_its_own(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(to_toml(from_values(LEAST)).replace("\nepochs =", "\nepoch ="))
    with pytest.raises(ConfigError, match=r"x\.toml has 1 fault"):
        read(path, ["model.dimensions=8"])


def test_features_may_be_objects():
    """From Python, with overrides too."""
    values = {"query": {"features": [Text(column="q", words=7)]}, "item": LEAST["item"]}
    assert from_values(override(values, ["train.epochs=2"])).query.features == (Text(column="q", words=7),)


def test_a_bundle_is_told_no_locations():
    config = made(data={"pairs": "/home/somebody/secret.csv"})
    assert "secret" in to_toml(config)
    text = to_toml(config, locations=False)
    assert "secret" not in text and "data" not in tomllib.loads(text)


# Every option of every block, whatever it is set to, comes back from TOML as it was.

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


PLAIN = {str: NAMES, bool: st.booleans(), int: st.integers(1, 1 << 40), float: st.floats(1e-9, 1e9), type(None): st.none()}


def values_of(hint):
    """Values of an option's type, from the type itself."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = {name: value for bound in arguments[1:] for name, value in asdict(bound).items()}
        low, high = bounds.get("ge", bounds.get("gt", 0)), bounds.get("le", bounds.get("lt", 1 << 40))
        letters = st.characters(exclude_categories=["Cs"])
        return {
            int: lambda: st.integers(low, high),
            str: lambda: st.text(letters, min_size=bounds.get("min_length", 1), max_size=bounds.get("max_length") or 8),
            float: lambda: st.floats(low, high, exclude_min="gt" in bounds, exclude_max="lt" in bounds),
        }[arguments[0]]()
    if hint in PLAIN:
        return PLAIN[hint]
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple and arguments[-1] is not Ellipsis:
        return st.tuples(*map(values_of, arguments)).map(list)
    if origin is tuple:
        return st.lists(values_of(arguments[0]), min_size=1, max_size=3)
    if isinstance(hint, type) and is_dataclass(hint):
        return blocks_of(hint)
    if "Mapping" in str(hint):
        return st.dictionaries(NAMES, st.floats(0, 1e6), max_size=3)
    return st.one_of([values_of(each) for each in arguments])


def blocks_of(kind):
    hints = get_type_hints(kind, include_extras=True)
    names = [field.name for field in fields(kind)]
    some = st.fixed_dictionaries({name: st.just("Europe/Berlin") if name == "zone" else values_of(hints[name]) for name in names})
    return some.map(lambda values: {name: value for name, value in values.items() if value is not None})


@settings(max_examples=60)
@given(blocks_of(Config))
def test_every_option_survives_toml(values):
    """What fits together or not is another matter: here only what is written must be what is read."""
    with patch.object(Config, "check"):
        config = from_values(values)
        assert from_values(tomllib.loads(to_toml(config))) == config
        assert from_values(to_values(config)) == config


@pytest.mark.parametrize("block", [field.name for field in fields(Config)])
def test_every_block_is_written(block):
    config = made(data={"pairs": "a.csv"}, pairs={"item": "i"}, item=LEAST["item"] | {"id": "x"})
    assert block in tomllib.loads(to_toml(config))


def test_a_file_written_is_a_file_read(tmp_path: Path):
    config = made(
        query={"features": [{"column": 'a "b"\\\n\x7f', "type": "text", "pieces": []}, {"column": "é", "type": "category"}], "key": "k"},
        pairs={"event": "e", "event_weights": {"add to cart": 2.0, "buy": 1e-07}, "repeats": "first"},
    )
    (tmp_path / "x.toml").write_text(to_toml(config), encoding="utf-8")
    assert read(tmp_path / "x.toml") == config


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"search": {"words_weight": 0.5, "mode": "vectors"}}, "words_weight"),
        ({"search": {"words_of": "items"}, "query": {"features": [{"column": "user", "type": "id"}]}}, "words_of"),
        ({"search": {"words_of": "items"}, "item": {"id": "i", "features": [{"column": "i", "type": "id"}]}}, "one in \\[item\\]"),
        ({"train": {"correct_positive": False, "correction": False}}, "correct_positive"),
        ({"train": {"pretrained_learning_rate": 1e-4}}, "no feature has tune"),
        ({"model": {"depth": 2}}, "does not read depth"),
        ({"model": {"body": "mlp", "depth": 2}}, "does not read depth"),
        ({"model": {"shared_body": True}}, "does not read shared_body"),
        ({"train": {"draws": 64}}, 'negatives = "in_batch" draws nothing'),
        ({"train": {"negatives": "full", "power": 1.0}}, "power say how"),
        ({"train": {"margin": 0.1}}, 'loss = "softmax" does not read margin'),
        ({"train": {"loss": "triplet", "correction": False}}, "does not read correction"),
        ({"train": {"loss": "bpr", "smoothing": 0.1, "positives": "among"}}, "does not read positives, smoothing"),
        ({"train": {"loss": "pointwise"}}, "name their column"),
        ({"train": {"loss": "pointwise", "negatives": "full"}, "pairs": {"label": "l"}}, "negatives would add items without any"),
        ({"train": {"loss": "pointwise", "non_matches": 0}, "pairs": {"label": "l"}}, "non_matches = 0 shows none"),
        ({"train": {"non_matches": 8}}, "non_matches are told by labels"),
        ({"train": {"teacher_weight": 1.0, "negatives": "mixed"}, "pairs": {"teacher": "s"}}, "so negatives would say nothing"),
        ({"train": {"loss": "hinge"}, "model": {"temperature": 0.05}}, "no temperature divides them"),
        ({"train": {"loss": "cosine_contrastive"}, "model": {"similarity": "dot"}}, "needs .*cosine"),
        ({"train": {"widths": [64, 128]}}, r"below \[model\] dimensions = 128"),
        ({"train": {"together": 2}, "query": {"features": [{"type": "history", "pool": "transformer"}], "key": "u"}}, "together already"),
        ({"search": {"mode": "hybrid"}, "query": {"features": [{"column": "user", "type": "id"}]}}, "needs a text feature"),
        ({"evaluate": {"pretrained": "x"}, "query": {"features": [{"column": "user", "type": "id"}]}}, "both sides need a text"),
    ],
)
def test_what_could_have_no_effect_is_refused(changes, said):
    values = {"query": {"features": [{"column": "q", "type": "text"}]}, "item": {"features": [{"column": "t", "type": "text"}]}}
    from_values(values)
    with pytest.raises(ConfigError, match=said):
        from_values(values | changes)


def test_the_docs_name_every_option():
    page = (Path(__file__).parent.parent / "docs" / "config.md").read_text(encoding="utf-8")
    values = to_values(
        from_values({"query": {"features": [{"column": "q", "type": "text"}]}, "item": {"features": [{"column": "t", "type": "text"}]}})
    )
    blocks = [kind for kind in get_type_hints(Config).values() if is_dataclass(kind)]
    options = {option.name for block in blocks for option in fields(block)}
    assert len(options) > 40
    assert options >= values["train"].keys()
    assert [name for name in sorted(options) if f"`{name}`" not in page and f".{name}`" not in page] == []


# --- queries ------------------------------------------------------------------------------------------------------

SQL = "SELECT q, a FROM 'log.parquet' WHERE n > 3"


def test_a_query_comes_back_from_toml_and_takes_settings():
    config = made(data={"pairs": {"sql": SQL, "database": "env:SHOP_DB"}})
    assert config.data.pairs == SqlOptions(sql=SQL, database="env:SHOP_DB")
    assert from_values(tomllib.loads(to_toml(config))) == from_values(to_values(config)) == config
    other = from_values(override(to_values(config), ["data.pairs.database=env:OTHER"]))
    assert other.data.pairs == SqlOptions(sql=SQL, database="env:OTHER")
    assert from_values(override(LEAST, ["data.items={ sql = 'SELECT 1' }"])).data.items == SqlOptions(sql="SELECT 1")


def test_the_files_of_a_query_are_looked_for_beside_the_config(tmp_path):
    (tmp_path / "x.toml").write_text(to_toml(made(data={"pairs": {"sql": SQL}})))
    assert read(tmp_path / "x.toml").data.pairs == SqlOptions(sql=SQL, folder=str(tmp_path))
    named = read(tmp_path / "x.toml", ["data.pairs.folder=logs/../may"]).data.pairs
    assert named == SqlOptions(sql=SQL, folder=str(tmp_path / "may"))  # as all that is relative, from the config on


SECRET = "postgresql://me:hunter2@shop/db"


@pytest.mark.parametrize(
    "data",
    [
        {"pairs": {"sql": SQL, "databse": SECRET}},
        {"pairs": {"sql": SQL, "database": SECRET}},
        {"pairs": {"sql": SQL, "password": "hunter2"}},
        {"pairs": {"database": SECRET}},
        {"pairs": {"sql": SQL, "database": ["hunter2"]}},
        {"pairs": [{"sql": SQL, "database": SECRET}]},
        {"pairs": {"sql": {"text": "hunter2"}}},
        {"url": SECRET},
        {"items": {"q": SECRET}},
        SECRET,
        [SECRET],
    ],
    ids=str,
)
def test_no_password_is_ever_repeated(data):
    with pytest.raises(ConfigError) as raised:
        made(data=data)
    assert "hunter2" not in str(raised.value)
    assert "data" in str(raised.value)


@pytest.mark.parametrize("setting", [f"data.pairs.database={SECRET}", f"data.pairs.sql.x={SECRET}"])
def test_no_password_of_a_setting_is_ever_repeated(setting):
    with pytest.raises(ConfigError) as raised:
        from_values(override(LEAST | {"data": {"pairs": "log.csv"}}, [setting]))
    assert "hunter2" not in str(raised.value)
