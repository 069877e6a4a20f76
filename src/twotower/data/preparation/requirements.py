"""What the sources must hold for a schema and a split: said before any work."""

from __future__ import annotations

from twotower.data.preparation.intake import Sources
from twotower.data.prepared import ID
from twotower.data.schema import Schema
from twotower.data.sources import Source
from twotower.data.splits import SplitOptions
from twotower.errors import ConfigError, DataError


def require(sources: Sources, schema: Schema, options: SplitOptions) -> None:
    """Every column that the schema names must be there: said before any work."""
    _require_tables(sources, schema, options)
    for _, log in sources.logs:
        for feature in schema.raw_features("query") if sources.queries is None else ():
            log.require(feature.column, "a feature of [query]", nested=feature.nested)
        named = {"query.key": schema.query.key, "split.column": options.column, "history.by": schema.history_by}
        named |= {f"pairs.{role}": getattr(schema.pairs, role) for role in ("time", "weight", "event", "label", "teacher")}
        named |= {"the id of the query, pairs.query": schema.query_column}
        if schema.item.id is not None:
            named["the id of the item, pairs.item"] = schema.pairs.item or schema.item.id
        for role, column in named.items():
            if column is not None:
                log.require(column, role)
    if sources.queries is not None:
        for feature in schema.raw_features("query"):
            sources.queries.require(feature.column, "a feature of [query]", nested=feature.nested)
        sources.queries.require(schema.query.id or "", "query.id")
    for listed in [sources.items] if sources.items else [log for _, log in sources.logs]:
        _require_items(listed, schema, from_pairs=sources.items is None)


def _require_items(listed: Source, schema: Schema, *, from_pairs: bool) -> None:
    if schema.item.id is not None and not from_pairs:
        listed.require(schema.item.id, "item.id")
    for feature in schema.item.features:
        named = schema.pairs.item or feature.column if from_pairs and feature.column == schema.item.id else feature.column
        listed.require(named, "a feature of [item]", nested=feature.nested)
    for column in schema.item.payload:
        listed.require(column, "item.payload", shown=True)
    if schema.item.id != ID and ID in (*schema.item.payload, *(feature.column for feature in schema.item.features)):
        raise DataError(f'{listed.name}: "{ID}" is the name under which the id of an item is shown. Set [item] id = "{ID}", or rename it.')
    if schema.item.id is None and not from_pairs:
        raise DataError(f"{listed.name} is a catalogue, so [item] id must name the column that identifies an item")


def _require_tables(sources: Sources, schema: Schema, options: SplitOptions) -> None:
    """What one option asks of another block."""
    if (sources.queries is None) != (schema.query.id is None):
        raise ConfigError("[data] queries, a table of queries, and [query] id, the column that names a query in it, go together")
    given = sources.validation is not None or sources.test is not None
    if given != (options.by == "files"):
        raise ConfigError('[data] test and validation, files of pairs of their own, and [split] by = "files" go together')
    if options.by == "time" and schema.pairs.time is None and not schema.pairs.ordered:
        raise ConfigError('[split] by = "time" needs [pairs] time = "...", or ordered = true where the log stands in order of time')
    digests = [source.digest() for _, source in sources.logs] if given else []
    if len(set(digests)) < len(digests):
        raise DataError(f"{' and '.join(source.name for _, source in sources.logs)}: the same pairs are given twice. Each part needs its own file.")
