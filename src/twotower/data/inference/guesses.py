"""The whole guess: a schema, a split, and what suits this kind of data."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from twotower.data import pretrained
from twotower.data.features import FeatureOptions, History, Id, Pretrained, Text
from twotower.data.inference.links import Link, item_column, linked
from twotower.data.inference.looks import LOOK, Look, look
from twotower.data.inference.roles import Roles, moments, roles
from twotower.data.inference.sides import HISTORY_FROM, Found, item_side, query_side, query_table, told_of_item
from twotower.data.prepared import ID
from twotower.data.schema import SIDES, ItemSide, PairColumns, QuerySide, Schema, feature_name
from twotower.data.sources import Source
from twotower.data.splits import SplitOptions
from twotower.errors import DataError

FEW_PAIRS = LOOK  # of texts: with fewer, what an encoder learnt elsewhere is worth more than what they teach (benchmarks/rows/few_pairs.py)
FEWEST_PAIRS_OF_ID = 5  # beside a pretrained encoder
FEWEST_ROWS = 10
USUAL_BATCH, STEPS = 1024, 20  # pairs; steps an epoch, at least
ADVICE = f"few pairs of texts: a pretrained encoder would know words that these do not hold, and ranks better from the start: {pretrained.INSTALL}"


class Guess(NamedTuple):
    """A schema, a split, what suits this kind of data, and a reason for each choice.

    reasons: by option, such as "query.key"; by side and feature, such as "item.price:number". left: by side, the columns that are no
    feature, and why.
    """

    schema: Schema
    split: SplitOptions
    reasons: dict[str, str]
    left: dict[str, dict[str, str]]
    dimensions: int
    epochs: int
    batch_size: int
    correction: bool  # whether the sampling correction suits
    metrics: tuple[str, ...]
    select: str
    per: str
    baselines: tuple[str, ...]
    advice: str | None = None  # what would do better and is not installed


def infer(pairs: Source, items: Source | None, encoder: str | None = None, *, queries: Source | None = None) -> Guess:
    """Guess from the first rows. Raises DataError where there is nothing to tell the sides apart, or to train on.

    encoder: the pretrained one that few pairs of texts are given to; by default that of an installed package, if there is one.
    queries: the table of what is known of each query, if there is one.
    """
    log = look(pairs)
    if len(log) < 2:
        raise DataError(f"{pairs.name} has {len(pairs.columns)} column; pairs need at least two, one for the query and one for the item")
    reasons: dict[str, str] = {}
    catalogue, asked = _listed(items), _listed(queries)
    times = set(moments(log))
    link = None if items is None else linked(log, catalogue, pairs, items, times, asking=False)
    rows = next(iter(log.values())).rows
    if rows < FEWEST_ROWS:
        raise DataError(f"{pairs.name} has {rows} row{'s' * (rows != 1)}; at least {FEWEST_ROWS} are needed to train on some and measure on others")
    column = item_column(log, pairs, times) if link is None else link.column
    asking = None if queries is None else linked(log, asked, pairs, queries, times | {column}, asking=True)
    found = roles(log, {column} | ({asking.column} if asking else set()))
    free = [name for name in log if name not in found.columns and name != column and name not in (link.repeated if link else ())]
    if link is None:
        item, described = _items_of_log(log, column, free, reasons)
        free = [name for name in free if name not in described]
    else:
        item = _items_of_catalogue(catalogue, link, reasons)
    query, asks = _queries(log, asked, asking, free, column, pairs, reasons)
    if found.time is not None:
        query, asks = _in_order(query, asks, item[0])
    schema = Schema(query=query, item=item[0], pairs=_pairs(link, asking, column, found, reasons))
    schema = replace(schema, pairs=replace(schema.pairs, repeats=schema.repeats))
    left = {"query": _left(log, asks, found, link), "item": item[1].left}
    for side, one in (("query", asks), ("item", item[1])):
        reasons |= {f"{side}.{name}": why for name, why in one.why.items()}
    _check_several(schema, log, pairs)
    labels = None if found.label is None else log[found.label].grades
    guess = _suited(schema, asks, found, rows if labels is None else int((labels > 0).sum()), rows, reasons, left)
    worded = all(any(f.worded for f in side) for side in (schema.query.features, schema.item.features))
    return _few_pairs(guess, encoder) if worded and rows < FEW_PAIRS else guess


def _check_several(schema: Schema, log: dict[str, Look], pairs: Source) -> None:
    """Raise DataError where all pairs are of one and the same query."""
    declared = schema.query_column or schema.query.key
    columns = [declared] if declared else [feature.column for feature in schema.query.features]
    if all(name in log and log[name].rows < LOOK and log[name].distinct == 1 for name in columns):
        told = ", ".join(f'"{name}" is {log[name].texts[0].as_py()!r}' for name in columns)
        raise DataError(f"{pairs.name}: all pairs are of one query ({told}), so there is nothing to tell queries apart by. Bring pairs of several.")


def _listed(source: Source | None) -> dict[str, Look]:
    return {} if source is None else look(source)


def _items_of_catalogue(catalogue: dict[str, Look], link: Link, reasons: dict[str, str]) -> tuple[ItemSide, Found]:
    # A column called `_id` that is not the id would take the place of the id that is shown.
    listed = {name: look for name, look in catalogue.items() if name == link.own or name != ID}
    reasons["item.id"] = link.reason
    found = item_side(listed, link.own)
    return ItemSide(features=found.features, id=link.own, payload=tuple(name for name in listed if name != link.own)), found


def _items_of_log(log: dict[str, Look], column: str, free: list[str], reasons: dict[str, str]) -> tuple[tuple[ItemSide, Found], list[str]]:
    """The item side where there is no catalogue, and the columns of the log that tell of items alone."""
    if log[column].is_text and column != ID:
        found = Found((Text(column=column),), {f"{column}:text": f"words: {log[column].words:.0f} on average"}, {})
        reasons["item.id"] = f'there is no catalogue: the words of "{column}" are the item'
        return (ItemSide(features=found.features), found), []
    described = [name for name in told_of_item(log, column, free) if name != ID]
    described = described if len(described) < len(free) else []
    told = f", and {len(described)} more of its columns tell{'s' * (len(described) == 1)} of it" if described else ""
    reasons["item.id"] = f'there is no catalogue: the column "{column}" of the pairs is the item{told}'
    found = item_side({name: log[name] for name in [column, *described]}, column)
    return (ItemSide(features=found.features, id=column, payload=tuple(described)), found), described


def _queries(
    log: dict[str, Look], asked: dict[str, Look], asking: Link | None, free: list[str], column: str, pairs: Source, reasons: dict[str, str]
) -> tuple[QuerySide, Found]:
    if asking is None:
        found = query_side(log, free, column, pairs)
        if found.key is not None:
            reasons["query.key"] = f"{found.each:.1f} items each on average; its other matches are never counted against it"
        return QuerySide(features=found.features, key=found.key), found
    found = query_table(asked, asking.own, asking.column, log, column, pairs)
    reasons["query.id"] = asking.reason
    if _is_asked(found.features):
        return QuerySide(features=found.features, id=asking.own), found
    reasons["query.key"] = f"{found.each:.1f} items each on average; its other matches are never counted against it"
    return QuerySide(features=found.features, id=asking.own, key=asking.column), found._replace(key=asking.column)


def _in_order(query: QuerySide, asks: Found, item: ItemSide) -> tuple[QuerySide, Found]:
    """A history of a log with times is read in its order (benchmarks/rows/histories.py compares)."""
    ids = all(isinstance(feature, Id) for feature in item.features)
    told = "by their ids, all that is known of them" if ids else "as the item tower sees them, so that new items count at once"
    why, features = dict(asks.why), []
    for feature in query.features:
        if isinstance(feature, History):
            feature = replace(feature, pool="transformer", items="ids" if ids else "tower")
            why[feature_name(feature)] = (
                f"what was chosen before, in its order: a small transformer over the items {told}; {asks.each:.0f} each on average"
            )
        features.append(feature)
    return replace(query, features=tuple(features)), asks._replace(why=why)


def _pairs(link: Link | None, asking: Link | None, column: str, found: Roles, reasons: dict[str, str]) -> PairColumns:
    reasons |= found.reasons
    return PairColumns(
        item=column if link is not None and link.own != column else None,
        query=asking.column if asking is not None and asking.own != asking.column else None,
        time=found.time,
        label=found.label,
        weight=found.weight,
    )


def _left(log: dict[str, Look], asks: Found, found: Roles, link: Link | None) -> dict[str, str]:
    """The columns of the log that nothing reads, and why."""
    repeated = {name: "repeats what the catalogue says of the item" for name in log if link is not None and name in link.repeated}
    return repeated | {name: why for name, why in asks.left.items() if name not in found.columns} | found.spoilt


def _is_asked(features: tuple[FeatureOptions, ...]) -> bool:
    """Whether words are asked, rather than somebody recommended to."""
    return any(feature.worded for feature in features)


def _suited(schema: Schema, asks: Found, found: Roles, matches: int, rows: int, reasons: dict[str, str], left: dict[str, dict[str, str]]) -> Guess:
    """The split, the dials and the measures that suit. matches: how many of the rows looked at are pairs to train on."""
    words = {side: any(f.worded for f in schema.features(side)) for side in SIDES}
    split = _split(schema, asks, found, reasons)
    worded = all(words.values())
    reasons["train.correction"] = (
        "both sides have words, so what is asked says more than what is popular" if worded else "ids learn popularity rightly only with it"
    )
    several = not words["query"] and split.by != "last"
    if several:
        reasons["evaluate.per"] = "somebody may have several held-out items: all of them are looked for at once"
    linear = () if words["query"] else ("ease", "item_knn")
    lexical = (("bm25_queries", "bm25") if words["item"] else ("bm25_queries",)) if words["query"] else ()
    batch = min(USUAL_BATCH, 1 << max(4, (int(matches * 0.8) // STEPS).bit_length() - 1)) if rows < LOOK else USUAL_BATCH
    what = "pairs" if found.label is None else "matches"
    few = f"; {matches:,} {what} give some {max(1, int(matches * 0.8) // batch)} of them an epoch" if batch < USUAL_BATCH else ""
    reasons["train.batch_size"] = f"pairs; every other item of the batch is a negative{few}"
    usual = ("hit@1", "hit@10", "ndcg@10", "mrr")
    return Guess(
        schema,
        split,
        reasons,
        left,
        dimensions=256 if words["query"] else 128,
        epochs=5 if words["query"] else 20,
        batch_size=batch,
        correction=not worded,
        metrics=("recall@20", "ndcg@10", "hit@10") if several else usual,
        select="mrr" if words["query"] else "ndcg@10",
        per="query" if several else "pair",
        baselines=(*lexical, *linear, "popularity"),
    )


def _split(schema: Schema, asks: Found, found: Roles, reasons: dict[str, str]) -> SplitOptions:
    if found.part is not None:
        reasons["split.by"] = f'"{found.part}" says which part each row is'
        return SplitOptions(by="column", column=found.part)
    if _is_asked(schema.query.features):
        reasons["split.by"] = "whole questions are held out, with those of the same words, as new ones will come"
        return SplitOptions(by="group")
    if found.time is not None and asks.each >= HISTORY_FROM:
        reasons["split.by"] = "the latest items of each are held out: what is asked is what comes next, and everybody is measured"
        return SplitOptions(by="last")
    why = "without times there is no next" if found.time is None else f"with {asks.each:.1f} items each, few have a latest one to spare"
    reasons["split.by"] = f"some items of each are held out at random: {why}"
    return SplitOptions(by="random")


def _few_pairs(guess: Guess, encoder: str | None) -> Guess:
    """The guess for few pairs of texts: a pretrained encoder reads them where one is there; else what it would bring is said."""
    named = encoder or (pretrained.SHIPPED if pretrained.shipped() else None)
    if named is None:
        return guess._replace(advice=ADVICE)
    schema, reasons = guess.schema, guess.reasons
    query, item = (tuple(_read_by(feature, named) for feature in schema.features(side)) for side in SIDES)
    width = pretrained.width_of(pretrained.locate(named))
    for side, features in zip(SIDES, (query, item), strict=True):
        for before, after in zip(schema.features(side), features, strict=True):
            why = reasons.pop(f"{side}.{feature_name(before)}")
            more = f"; fewer than {FEW_PAIRS:,} pairs, so a pretrained encoder reads them" if isinstance(after, Pretrained) else ""
            reasons[f"{side}.{feature_name(after)}"] = why + more
    reasons["train.batch_size"] = "pairs; every other item of the batch is a negative"
    schema = replace(schema, query=replace(schema.query, features=query), item=replace(schema.item, features=item))
    return guess._replace(schema=schema, dimensions=width, epochs=20, batch_size=USUAL_BATCH)


def _read_by(feature: FeatureOptions, encoder: str) -> FeatureOptions:
    """Texts by the encoder; an id only where some pairs name it: with one or two it would learn them by heart (.06 mrr on InsuranceQA)."""
    if isinstance(feature, Text):
        return Pretrained(column=feature.column, folder=encoder)
    return replace(feature, minimum=FEWEST_PAIRS_OF_ID) if type(feature) is Id else feature
