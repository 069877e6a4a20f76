"""Verbs that use a model: search, score, embed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twotower.app import exits
from twotower.app.cli.application import BundlePath, Json, app, check_name, examples, loading, print_json, show_parts, tell
from twotower.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from twotower.app.bulk import Wanted, Wrote
    from twotower.bundle import Found, Remote, Retriever

    Find = Callable[[Wanted], Found]


@app.command(
    epilog=examples(
        'twotower search runs/first "waterproof boots" -k 5',
        "twotower search runs/first country=DE user_id=42",
        "twotower search runs/readers --history 13,14,46",
        "twotower search runs/first --queries users.parquet -k 50 -o found.parquet",
        'twotower search runs/first "how tall is the moon" --threshold 0.45',
        "twotower search runs/first \"red sofa\" --where \"price < 50 and category in ['sofa', 'chair']\" --deny 13,14",
        'twotower search runs/first --like 13,14 --where "not discontinued" --diversity 0.3',
        'twotower search runs/first "red sofa" --store postgresql://ann@db/shop',
    )
)
def search(
    model: BundlePath,
    query: Annotated[list[str] | None, typer.Argument(help="A question, or columns like country=DE user_id=42.", show_default=False)] = None,
    history: Annotated[
        str | None, typer.Option(metavar="ID,ID,...", help="For a model that reads one: the items touched before, oldest first.")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many items.")] = 10,
    mode: Annotated[str | None, typer.Option(help="vectors, words or hybrid, instead of what validation chose.")] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Leave out results whose score is below. The score is the similarity of the vectors, in every mode; the report of a run has a table."
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(metavar="FILTER", help="Only items that meet it, like: price < 50 and not discontinued; or JSON, or @FILE with either."),
    ] = None,
    allow: Annotated[str | None, typer.Option(metavar="ID,ID,...", help="Only these items.")] = None,
    deny: Annotated[str | None, typer.Option(metavar="ID,ID,...", help="Never these items.")] = None,
    skip: Annotated[int, typer.Option(help="Pass over so many of the best, for a later page.")] = 0,
    diversity: Annotated[float | None, typer.Option(help="Above 0 and up to 1, how much unlikeness to those above counts beside the score.")] = None,
    like: Annotated[str | None, typer.Option(metavar="ID,ID,...", help="Instead of a question: items most like these, themselves left out.")] = None,
    queries: Annotated[str | None, typer.Option(help="A file of queries, one a row; the answers go to -o.")] = None,
    exclude_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="With --queries: its column of ids that the row's answer leaves out, as 13|14 or JSON.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="With --queries: the Parquet file to write. After a kill, the same command goes on.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(metavar="URL", help="Search the items as a store has them, where `export --to URL` brought them.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="For --store: what the items are called there; by default items.")] = None,
    json: Json = False,
) -> None:
    """Find the best items for a question, or for a file of them."""
    _check_forms(query, history, queries, output, like, exclude_column, mode)
    if queries is not None and json:
        raise ConfigError("--json prints the answers to one question; those of --queries go to -o alone")
    check_name(name, "--store", store)
    if store is not None:
        unused = {
            "--mode": mode,
            "--allow": allow,
            "--deny": deny,
            "--skip": skip or None,
            "--diversity": diversity,
            "--like": like,
            "--queries": queries,
        }
        _check_store([option for option, value in unused.items() if value is not None])
    with loading():
        from twotower.app.bulk import Wanted
        from twotower.app.questions import answers, filter_of, ids_of, shown_columns
        from twotower.bundle import load
        from twotower.bundle.found import check_threshold

        check_threshold(threshold)
        asked = Wanted(k, mode, threshold, None if where is None else filter_of(where), None, None, skip, diversity, exclude_column)
        remote = None if store is None else load(model, store=store, name=name or "items")
        retriever = load(model) if remote is None else remote.retriever
    if remote is not None:
        _search_store(remote, query, history, asked, json)
        return
    asked = asked._replace(allow=ids_of(retriever, allow, "--allow"), deny=ids_of(retriever, deny, "--deny"), k=min(k, len(retriever)))
    if queries is not None and output is not None:
        _search_file(retriever, queries, output, asked)
        return
    find = _similar(retriever, like) if like is not None else _question(retriever, query, history)
    found = answers(retriever, find(asked))
    if json:
        print_json(found)
        return
    from twotower.app import reports

    if not found:
        print(f"twotower: {_why_nothing(retriever, find, asked)}", file=sys.stderr)
        return
    by = "vectors" if like is not None else mode or retriever.bundle.model["search"]["mode"]
    show_parts(reports.found(found, shown_columns(retriever), by, diversity is not None))


def _check_forms(
    query: list[str] | None,
    history: str | None,
    queries: str | None,
    output: Path | None,
    like: str | None,
    exclude_column: str | None,
    mode: str | None,
) -> None:
    """Raise ConfigError for what is asked twice, or not at all."""
    if queries is not None and query:
        raise ConfigError(f'there are two questions, "{" ".join(query)}" and the file {queries}: leave out one of them')
    if like is not None and (query or history is not None or queries is not None):
        raise ConfigError("--like stands instead of a question, a history and a file of queries: leave out one of them")
    if like is not None and mode is not None:
        raise ConfigError("--like searches by vectors alone: leave out --mode")
    if queries is None and not query and history is None and like is None:
        raise ConfigError('give a question, like: twotower search RUN "waterproof boots"; or a file of them: --queries FILE -o FOUND.parquet')
    if queries is not None and history is not None:
        raise ConfigError("--history goes with one question; a file of queries holds histories in a column of its own")
    if queries is None and exclude_column is not None:
        raise ConfigError("--exclude-column names a column of --queries FILE; for one question write --deny ID,ID,...")
    if queries is None and output is not None:
        raise ConfigError("-o goes with --queries FILE; one question is answered on the screen, with --json for a program to read")
    if queries is not None and output is None:
        raise ConfigError("--queries needs -o FOUND.parquet for the answers")


def _check_store(unused: list[str]) -> None:
    """Raise ConfigError for options that a store cannot follow."""
    if unused:
        raise ConfigError(f"a store is asked one question, by vectors, with -k, --where, --threshold and --history: leave out {', '.join(unused)}")


def _search_store(remote: Remote, query: list[str] | None, history: str | None, wanted: Wanted, json: bool) -> None:
    """Show what a store has for one question."""
    from twotower.app import reports
    from twotower.app.questions import answer_of, question

    with remote.store:
        asked = question(remote.retriever, query) if query else None
        before = _before(remote.retriever, history)
        hits = remote.search(asked, wanted.k, history=before, where=wanted.where, threshold=wanted.threshold)
        found = [answer_of(row, score) for row, score in zip(remote.show(hits.ids), hits.scores, strict=False)]
    if json:
        print_json(found)
    elif found:
        show_parts(reports.found(found, list(found[0]["item"]), "vectors"))
    else:
        print("twotower: nothing was found: the filter and the threshold leave nothing, or the model knows nothing of this query", file=sys.stderr)


def _question(retriever: Retriever, query: list[str] | None, history: str | None) -> Find:
    """What finds the items for a question as it was typed."""
    from twotower.app.questions import question

    asked = question(retriever, query) if query else None
    before = _before(retriever, history)
    return lambda wanted: retriever.search(asked, history=before, **wanted.options())


def _before(retriever: Retriever, history: str | None) -> list[str] | None:
    """The ids of a history as it was typed; of those that the catalogue lacks it is told."""
    from twotower.app.questions import history_ids

    if history is None:
        return None
    ids, unknown = history_ids(retriever, history)
    if unknown:
        print(f"twotower: the catalogue lacks {', '.join(unknown[:5])}; the history is read without", file=sys.stderr)
    return ids


def _similar(retriever: Retriever, like: str) -> Find:
    """What finds the items most like some."""
    from twotower.app.questions import ids_of

    ids = ids_of(retriever, like, "--like", known=True)
    return lambda wanted: retriever.similar(ids, **{name: value for name, value in wanted.options().items() if name != "mode"})


@app.command(
    epilog=examples(
        'twotower why runs/first "show disk usage" du',
        "twotower why runs/first country=DE user_id=42 B07XYZ -o why.html",
        "twotower why runs/readers --history 13,14,46 2767052",
    )
)
def why(
    model: BundlePath,
    query: Annotated[list[str], typer.Argument(help="A question, or columns like country=DE; and last the id of the item.", show_default=False)],
    history: Annotated[
        str | None, typer.Option(metavar="ID,ID,...", help="For a model that reads one: the items touched before, oldest first.")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many items count as found.")] = 10,
    mode: Annotated[str | None, typer.Option(help="vectors, words or hybrid, instead of what validation chose.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write a page instead: why.html or why.md.")] = None,
    json: Json = False,
) -> None:
    """Say why an item was found for a question, or missed.

    Its rank, what each feature and each word does for it, and the nearest training pairs.
    """
    with loading():
        from twotower.app.questions import question
        from twotower.app.reports import suffix_of
        from twotower.app.reports.explained import explained
        from twotower.bundle import load
        from twotower.runs import why as explain

        if output is not None:
            suffix_of(output)
        retriever = load(model)
    *words, item = query
    if not words and history is None:
        raise ConfigError('give a question and then the id of an item, like: twotower why RUN "waterproof boots" B07XYZ')
    asked = question(retriever, words) if words else None
    before = _before(retriever, history)
    told = explain(model, asked, item, history=before, mode=mode, k=k, retriever=retriever)  # type: ignore[arg-type]
    tell(explained(told), told, output, json)


def _search_file(retriever: Retriever, queries: str, output: Path, wanted: Wanted) -> None:
    from twotower.app.bulk import search_file
    from twotower.runs.progress import counting

    try:
        with counting("searching") as report:
            wrote = search_file(retriever, queries, output, wanted, report)
    except KeyboardInterrupt:
        exits.fail("stopped. What is answered is kept; the same command goes on behind it.", exits.STOPPED)
    _wrote(wrote, "answers", output)
    if not _any_left(retriever, wanted):
        print("twotower: no item meets the filter", file=sys.stderr)


def _any_left(retriever: Retriever, wanted: Wanted) -> bool:
    return bool(retriever.matching(wanted.where, allow=wanted.allow, deny=wanted.deny).any())


def _why_nothing(retriever: Retriever, find: Find, wanted: Wanted) -> str:
    """Why nothing is shown for one question."""
    if not _any_left(retriever, wanted):
        return "no item meets the filter" if wanted.where is not None else "no item is left by --allow and --deny"
    first = find(wanted._replace(k=1, skip=0, threshold=None, diversity=None))
    if first.rows[0] < 0:
        return "nothing was found: the model knows nothing of what this query holds"
    if wanted.threshold is not None and not (find(wanted._replace(skip=0, diversity=None)).rows >= 0).any():
        best = find(wanted._replace(skip=0, threshold=None, diversity=None)).scores.max()
        return f"nothing fits: the best scores {best:.4g}, below the threshold {wanted.threshold:.4g}"
    return f"nothing is left behind the first {wanted.skip}"


def _wrote(wrote: Wrote, what: str, output: Path | None) -> None:
    without = f", {wrote.empty:,} of them empty since their rows hold nothing to look for" if wrote.empty else ""
    without += f", {wrote.remembered:,} of them from the cache" if wrote.remembered else ""
    if output is not None:
        print(f"wrote {wrote.rows:,} {what} to {output}{without}", file=sys.stderr)
    if wrote.strangers:
        print(f"twotower: {wrote.strangers}", file=sys.stderr)


@app.command(
    epilog=examples(
        "twotower score runs/first --pairs some.csv",
        "twotower score runs/first --pairs some.csv -o scores.parquet",
        "twotower score runs/first --pairs some.csv --probability --prior 0.1",
    )
)
def score(
    model: BundlePath,
    pairs: Annotated[str, typer.Option(help="A file with the query's columns and the item's id.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The Parquet file to write; without it, lines of JSON are printed.")] = None,
    likely: Annotated[bool, typer.Option("--probability", help="Also how likely each pair matches, by a curve fitted to validation pairs.")] = False,
    prior: Annotated[float | None, typer.Option(help="The share of matches among these pairs, for --probability; by default 0.5.")] = None,
) -> None:
    """Score pairs: the raw similarity of each query with its item."""
    if prior is not None and not likely:
        raise ConfigError("--prior is for probabilities: add --probability")
    with loading():
        from twotower.app.bulk import score_file
        from twotower.bundle import load
        from twotower.runs.progress import counting

        retriever = load(model)
    with counting("scoring") as report:
        wrote = score_file(retriever, pairs, output, report, (0.5 if prior is None else prior) if likely else None)
    _wrote(wrote, "scores", output)


@app.command(
    epilog=examples(
        "twotower embed runs/first new_items.jsonl -o vectors.parquet",
        "twotower embed runs/first questions.csv --side query -o asked.parquet",
        "twotower embed runs/first items.jsonl --shard 3/16 --cache vectors -o part3.parquet",
    )
)
def embed(
    model: BundlePath,
    rows: Annotated[str, typer.Argument(help="A file with the feature columns of that side.")],
    side: Annotated[str, typer.Option(help="query or item.")] = "item",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The Parquet file to write, by default vectors.parquet. After a kill, the same command goes on."),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="N/OF", help="One of several parts of the rows, for as many machines: 3/16 takes rows 3, 19, 35 ...")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="A folder of vectors that many may share: rows met before are not encoded again.")] = None,
) -> None:
    """Write the vectors of queries or items, in the catalogue or not."""
    with loading():
        from twotower.app.bulk import embed_file
        from twotower.app.jobs import shard_of
        from twotower.bundle import load
        from twotower.runs.progress import counting

    if side not in ("query", "item"):
        raise ConfigError(f'--side is "query" or "item", not "{side}"')
    part = None if shard is None else shard_of(shard)
    if part is not None and output is None:
        raise ConfigError(f"--shard writes one part of several: name its file, like -o part{part.number}.parquet")
    place = output or Path("vectors.parquet")
    retriever = load(model)
    try:
        with counting("embedding") as report:
            wrote = embed_file(retriever, rows, side, place, report, part, cache)  # type: ignore[arg-type]
    except KeyboardInterrupt:
        exits.fail("stopped. What is embedded is kept; the same command goes on behind it.", exits.STOPPED)
    _wrote(wrote, "vectors", place)
