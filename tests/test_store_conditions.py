"""A filter selects the same items in every store: those that the mask over the table selects."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.stored import KINDS, catalogue, nearest, publish, running
from twotower.errors import ConfigError
from twotower.search.filters import Compare, Every, Flag, Has, Missing, Not, OneOf, Some, mask, terms

TABLE = catalogue()
QUERIES = np.random.default_rng(1).standard_normal((2, 8)).astype(np.float32)
NUMBERS = [
    0,
    -0.0,
    1,
    1.5,
    0.1,
    0.3,
    2.5,
    50,
    -7,
    7.25,
    19.99,
    0.10,
    127,
    128,
    -128,
    1 << 40,
    -(1 << 53),
    (1 << 53) - 1,
    1e308,
    -1e300,
    10**30,
    2.0000001,
]
TEXTS = [
    "sofa",
    "chair",
    "",
    "Straße",
    "it's",
    'a "b"',
    "'; DROP TABLE x; --",
    "\\",
    "%",
    "🦊",
    "a\nb",
    "s",
    "\0",
    "it\0s",
    "wood",
    "' OR true --",
    "p",
    "x",
]
DATES = [
    "2024-01-03",
    "2024-01-03 17:30:00",
    "2024-01-02T04:00:00.000004",
    "2024-01-05T00:00:00+02:00",
    "0001-01-01",
    "9999-12-31",
    "2024-01-01T07:00:00.0000015",
]
COLUMNS = {
    "price": NUMBERS,
    "weight": NUMBERS,
    "stock": NUMBERS,
    "few": NUMBERS,
    "select": TEXTS,
    'odd "name" `x`; --': TEXTS,
    "Price": NUMBERS,
    "ctid": TEXTS,
    "day": DATES,
    "seen": DATES,
    "sold": DATES,
    "cost": NUMBERS,
    "_id": ["item 3", "item 299", "item", "'"],
}
LISTS = {"materials": TEXTS, "sizes": NUMBERS, "rates": NUMBERS, "flags": [True, False]}
FLAG = "a b.c[0]"


@st.composite
def compared(draw):
    column = draw(st.sampled_from(list(COLUMNS)))
    return Compare(column, draw(st.sampled_from(["lt", "le", "gt", "ge", "eq", "ne"])), draw(st.sampled_from(COLUMNS[column])))


@st.composite
def listed(draw):
    column = draw(st.sampled_from(list(COLUMNS)))
    return OneOf(column, tuple(draw(st.lists(st.sampled_from(COLUMNS[column]), max_size=4))))


@st.composite
def holding(draw):
    column = draw(st.sampled_from(list(LISTS)))
    return Has(column, draw(st.sampled_from(LISTS[column])))


TERMS = st.one_of(
    compared(),
    compared(),
    listed(),
    holding(),
    st.sampled_from([name for name in TABLE.column_names if name != "_vector"]).map(Missing),
    st.sampled_from([Flag(FLAG), Compare(FLAG, "eq", False), Compare(FLAG, "ne", True), OneOf(FLAG, (True,)), Compare("nothing", "eq", "x")]),
)
CONDITIONS = st.recursive(
    TERMS,
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: Every(tuple(parts))),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: Some(tuple(parts))),
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def places():
    yield from running()


@pytest.fixture(scope="module", params=KINDS)
def store(request, places):
    with places.open(request.param) as opened:
        publish(opened, TABLE)
        opened.kind = request.param
        yield opened


def unordered(term):
    """Whether a term asks for an order that Qdrant does not know: of texts, and of whole numbers past 2^53."""
    if not isinstance(term, Compare) or term.operator in ("eq", "ne"):
        return False
    return isinstance(term.value, str) and pa.types.is_string(TABLE.schema.field(term.column).type)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(condition=CONDITIONS)
@example(condition=Not(Compare("price", "lt", 50)))
@example(condition=Compare("price", "gt", 1))
@example(condition=Compare("price", "ge", 0))
@example(condition=Compare("price", "lt", -0.0))
@example(condition=OneOf("price", (0,)))
@example(condition=Has("rates", 0))
@example(condition=Not(Compare("weight", "ne", 0.1)))
@example(condition=Every((Missing("price"), Not(Missing("stock")))))
@example(condition=Compare("select", "eq", "'; DROP TABLE x; --"))
@example(condition=Compare("select", "eq", "' OR true --"))
@example(condition=OneOf("select", ()))
@example(condition=Not(OneOf("select", ("it's", "\0"))))
@example(condition=Compare("sold", "gt", "2024-01-03"))
@example(condition=Compare("few", "lt", 1000))
def test_a_condition_selects_what_the_mask_selects(store, condition):
    allowed = mask(condition, TABLE)
    if store.kind in ("qdrant", "served") and any(unordered(term) for term in terms(condition)):
        with pytest.raises(ConfigError, match="Qdrant orders"):
            store.search(QUERIES, 3, condition)
        return
    near = store.search(QUERIES, TABLE.num_rows, condition)
    wanted, scores = nearest(TABLE, QUERIES, TABLE.num_rows, allowed)
    for found, right in zip(near.ids, wanted, strict=True):
        assert {each for each in found if each is not None} == {each for each in right if each is not None}
    np.testing.assert_allclose(near.scores, scores, atol=1e-5)


def test_a_condition_that_fits_no_column_is_refused_before_the_store_is_asked(store):
    for condition, said in [
        (Compare("prices", "lt", 1), 'did you mean "price"'),
        (Compare("price", "lt", "x"), "a number"),
        (Flag("select"), "text"),
    ]:
        with pytest.raises(ConfigError, match=said):
            store.search(QUERIES, 3, condition)


def test_nothing_of_a_filter_is_run(store):
    name = store.live().table
    for text in [f"'; DROP TABLE twotower.{name}; --", f"x'); DROP TABLE {name}; --", "`; --", "\\'; --", "$$; --", "%s", "{0}", "?"]:
        assert set(store.search(QUERIES, 3, Compare("select", "eq", text)).ids.ravel()) == {None} or text in TABLE.column("select").to_pylist()
        with pytest.raises(ConfigError, match="there is no column"):
            store.search(QUERIES, 3, Compare(text, "eq", "x"))
    assert store.live().table == name and store.engine.count(store.live()) == TABLE.num_rows
