"""From what is asked to what is answered: batches of requests go through the towers and the index together.

Requests of one version that differ in nothing but the values of the query are one search. Where one of a batch cannot be answered - a query with
nothing in it, an id that is not there - each is tried alone, so that nobody is refused for another's mistake.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from twotower.app.server.gathering import Job
from twotower.app.server.problems import Fault, Problem, failed, traced
from twotower.app.server.shown import to_json
from twotower.app.server.versions import Served
from twotower.app.server.wire import EmbedBody, ScoreBody, SearchBody, SimilarBody
from twotower.bundle.found import Found
from twotower.bundle.reasons import reasons
from twotower.data.columns import Array
from twotower.errors import ConfigError, DataError, TwotowerError
from twotower.search.filters import condition_of
from twotower.search.filters.kinds import check, kind_of

logger = logging.getLogger("twotower.server")

PLACE = re.compile(r"cannot be read at (character [0-9]+|its end)")


def answer(jobs: Sequence[Job]) -> list[bytes | Problem]:
    """The answer to each of them, as JSON."""
    answers: dict[int, bytes | Problem] = {}
    for places in _alike(jobs):
        answers |= zip(places, _group([jobs[place] for place in places]), strict=True)
    return [answers[place] for place in range(len(jobs))]


def _alike(jobs: Sequence[Job]) -> Iterable[list[int]]:
    """The places of jobs that are one search."""
    groups: dict[Any, list[int]] = {}
    for place, job in enumerate(jobs):
        groups.setdefault(_kind(job) or place, []).append(place)
    return groups.values()


def _kind(job: Job) -> tuple[Any, ...] | None:
    """What two searches have alike that go together; None for what is answered alone."""
    asked = job.asked
    if not isinstance(asked, SearchBody) or asked.query is None or asked.exclude is not None:
        return None
    narrowing = (asked.where, asked.allow, asked.deny)
    narrowed = "" if narrowing == (None, None, None) else repr(narrowing)
    columns = frozenset(asked.query) if isinstance(asked.query, dict) else None  # in one table, a query that lacks one would have it empty
    options = (asked.k, asked.skip, asked.threshold, asked.diversity, asked.mode, asked.repeats, asked.explain)
    return (id(job.served), columns, asked.history is None, narrowed, *options)


def _group(jobs: Sequence[Job]) -> Sequence[bytes | Problem]:
    if len(jobs) > 1:
        try:
            return _searched(jobs)
        except Exception:  # whatever it is, and whoever's: each alone says it again, to whom it concerns
            return [_alone(job) for job in jobs]
    return [_alone(jobs[0])]


def _alone(job: Job) -> bytes | Problem:
    try:
        return ANSWERS[type(job.asked)](job)
    except Problem as problem:
        return problem
    except TwotowerError as error:
        return public(error, job)
    except Exception as error:  # a fault of ours is told to the log, and to the caller only that there is one
        logger.error("a request could not be answered: %s", traced(error))
        return failed()


# Answers.


def _searched(jobs: Sequence[Job]) -> list[bytes | Problem]:
    """One query of each of several searches."""
    first, retriever = jobs[0].asked, jobs[0].served.retriever
    queries = [job.asked.query for job in jobs]
    history = None if first.history is None else [job.asked.history for job in jobs]
    found = retriever.search(queries, history=history, mode=first.mode, repeats=first.repeats, **_narrowing(jobs[0]))
    why = reasons(retriever, queries, found.rows, history=history, mode=first.mode) if first.explain else None
    answered = _results(jobs[0].served, found, why)
    return [told(job.served, results=results) for job, results in zip(jobs, answered, strict=True)]


def _search(job: Job) -> bytes:
    asked: SearchBody = job.asked
    one = asked.queries is None
    queries: Any = ([asked.query] if asked.query is not None else None) if one else asked.queries
    history = _histories(asked, one)
    exclude = None if asked.exclude is None else [asked.exclude] if one else asked.exclude
    retriever = job.served.retriever
    found = retriever.search(queries, history=history, exclude=exclude, mode=asked.mode, repeats=asked.repeats, **_narrowing(job))
    why = reasons(retriever, queries, found.rows, history=history, mode=asked.mode) if asked.explain else None
    answered = _results(job.served, found, why)
    return told(job.served, results=answered[0] if one else answered)


def _similar(job: Job) -> bytes:
    asked: SimilarBody = job.asked
    found = job.served.retriever.similar(asked.items if asked.items is not None else [asked.item], **_narrowing(job))
    return told(job.served, results=_results(job.served, Found(*(part[None] for part in found)), None)[0])


def _score(job: Job) -> bytes:
    asked: ScoreBody = job.asked
    if asked.pairs is not None:
        queries, items = [pair.query for pair in asked.pairs], [pair.item for pair in asked.pairs]
    else:
        items = asked.items or []
        queries = [asked.query for _ in items]  # type: ignore[misc]
    rows = [isinstance(item, dict) for item in items]
    if any(rows) != all(rows):
        raise Problem(
            422, "items are ids or rows of columns, and not both in one request", [Fault("pairs" if asked.pairs else "items", "of two kinds")]
        )
    scores = job.served.retriever.score(queries, items)
    return told(job.served, scores=_finite(scores))


def _embed(job: Job) -> bytes:
    asked: EmbedBody = job.asked
    retriever = job.served.retriever
    if asked.item is not None or asked.items is not None:
        vectors = retriever.embed_items([asked.item] if asked.items is None else asked.items)
        one = asked.items is None
    else:
        one = asked.queries is None
        queries: Any = ([asked.query] if asked.query is not None else None) if one else asked.queries
        vectors = retriever.embed_queries(queries, _histories(asked, one))
    return told(job.served, vector=_finite(vectors[0])) if one else told(job.served, vectors=_finite(vectors))


ANSWERS: dict[type, Callable[[Job], bytes]] = {SearchBody: _search, SimilarBody: _similar, ScoreBody: _score, EmbedBody: _embed}


def told(served: Served, **answer: Any) -> bytes:
    """An answer as JSON, with the model and the version that gave it."""
    return to_json({"model": served.model, "version": served.version, "variant": served.variant, **answer})


def _results(served: Served, found: Found, why: Sequence[Sequence[Any]] | None) -> list[list[dict[str, Any]]]:
    """What was found for each query, without pads."""
    there = found.rows >= 0
    shown = served.shown.of(found.rows[there].tolist())
    results = []
    for query, rows in enumerate(found.rows.tolist()):
        one = []
        for place, row in enumerate(rows):
            if row < 0:
                continue
            name, item = shown[row]
            result = {"id": name, "score": found.scores[query, place], "item": item}
            if why is not None:
                result["why"] = why[query][place]._asdict()
            one.append(result)
        results.append(one)
    return results


def _histories(asked: SearchBody | EmbedBody, one: bool) -> Any:
    if asked.history is None:
        return None
    lists = [isinstance(each, list) for each in asked.history]
    if any(lists) != all(lists) or (lists and all(lists) == one):
        raise Problem(422, "a history is a list of ids for one query, and a list of such lists for several", [Fault("history", "of another form")])
    return [asked.history] if one else asked.history


def _narrowing(job: Job) -> dict[str, Any]:
    """The options of a search, its filter read and found to fit. Raises Problem."""
    options = dict(job.asked.narrowing())
    if options["where"] is not None:
        options["where"] = _filter(options["where"], job.served)
    return options


def _filter(where: Any, served: Served) -> Any:
    schema = served.retriever.items.schema
    columns = [field.name for field in schema if kind_of(field.type) is not None]
    try:
        condition = condition_of(where)
    except ConfigError as error:
        place = PLACE.search(str(error))
        at = f"; it cannot be read at {place[1]}" if place else ""
        raise Problem(
            422, f"the filter says nothing that can be meant{at}", [Fault("where", f"columns to filter by: {', '.join(columns)}")]
        ) from None
    try:
        check(condition, schema)
    except ConfigError:
        raise Problem(422, "the filter does not fit the columns of the items", [Fault("where", _fitting(schema))]) from None
    return condition


def _fitting(schema: Any) -> str:
    kinds = ((field.name, kind_of(field.type)) for field in schema)
    return "; ".join(f"{name} is {kind.words}, as in {kind.example.format(name)}" for name, kind in kinds if kind is not None)


def _finite(values: Array) -> Array:
    return np.ascontiguousarray(values, np.float32)


def public(error: TwotowerError, job: Job) -> Problem:
    """What a caller is told of an error: which of its parts do not fit this model, in words of ours."""
    encoder, asked = job.served.retriever.encoder, job.asked
    reads = {side: ", ".join(encoder.columns(side)) or "nothing but a history" for side in ("query", "item")}
    if isinstance(error, DataError) and isinstance(asked, (SimilarBody, ScoreBody)) and "catalogue has no item" in str(error):
        return Problem(404, "the catalogue has no such item")
    if isinstance(asked, SearchBody) and asked.mode not in (None, "vectors") and not job.served.retriever.catalogue.worded:
        return Problem(422, "this model holds no words", [Fault("mode", "the choice is: vectors")])
    if getattr(asked, "history", None) is not None and job.served.retriever.history is None:
        return Problem(422, "this model reads no history", [Fault("history", "leave it out")])
    detail = f"what is asked does not fit this model: a query is to have {reads['query']}, an item {reads['item']}, and not be empty"
    return Problem(422, detail)
