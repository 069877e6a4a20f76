"""Verbs that keep a catalogue up to date and near at hand: refresh, versions, rollback, compact, index."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from twotower.app.cli.application import BundlePath, Json, app, check_name, examples, loading, print_json, show_parts
from twotower.errors import ConfigError


@app.command(
    epilog=examples(
        "twotower refresh runs/first --items catalogue.parquet",
        "twotower refresh runs/first --items new_today.jsonl --partial",
        "twotower refresh runs/first --remove 13,14",
        "twotower refresh runs/first --items catalogue.parquet --to postgresql://ann@db/shop",
    )
)
def refresh(
    model: BundlePath,
    items: Annotated[str | None, typer.Option(help="The catalogue as it is now: a file with the columns that it had in training.")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="The file holds some items alone: those that it does not name stay.")] = False,
    remove: Annotated[str | None, typer.Option(metavar="ID,ID,...", help="Remove these items instead.")] = None,
    to: Annotated[str | None, typer.Option(metavar="URL", help="A store to bring up to date as well, as by export --to.")] = None,
    name: Annotated[str | None, typer.Option(help="For --to: what the items are called in the store; by default items.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Go on where more than a tenth of the items would go.")] = False,
    json: Json = False,
) -> None:
    """Bring the catalogue up to date, without training.

    One new version of it: items that are new or read otherwise are embedded, and found from then on. Items that the file lacks go. The
    same file again changes nothing.
    """
    if (items is None) == (remove is None):
        raise ConfigError("give the catalogue, --items FILE, or the items to remove, --remove ID,ID,...")
    if remove is not None and (partial or yes):
        raise ConfigError("--remove says what goes: leave out --partial and --yes")
    check_name(name, "--to", to)
    with loading():
        from twotower.bundle import load
        from twotower.runs.progress import counting

        retriever = load(model)
    if remove is not None:
        change = retriever.remove_items([part.strip() for part in remove.split(",") if part.strip()])
    else:
        with counting("reading") as read, counting("embedding") as embedded:
            change = retriever.refresh(items, partial=partial, yes=yes, read=read, embedded=embedded)
    if json:
        print_json({**change._asdict(), "changed": not change.nothing})
    else:
        from twotower.app import reports

        show_parts(reports.grown(change))
    if to is not None:
        from twotower.app.cli.exporting import bring_store

        bring_store(retriever, to, name or "items")


@app.command(epilog=examples("twotower versions runs/first", "twotower versions runs/first --json"))
def versions(model: BundlePath, json: Json = False) -> None:
    """List the versions of a catalogue.

    When each was written, what changed, and what it takes to send it. Of a folder that models are published to, the models too.
    """
    from twotower.bundle import versions as all_of
    from twotower.bundle.layout import published

    found = all_of(model)
    if json:
        print_json([version._asdict() for version in found])
        return
    from twotower.app import reports

    models = ", ".join(f"{name} (in use)" if place == 0 else name for place, name in enumerate(published(Path(model))))
    show_parts(reports.versions(found), *([f"models, the last one first: {models}"] if models else []))


@app.command(epilog=examples("twotower rollback runs/first", "twotower rollback runs/first --to 2", "twotower rollback served --model"))
def rollback(
    model: BundlePath,
    to: Annotated[str | None, typer.Option(help="The version to go back to; by default the one before this.")] = None,
    store: Annotated[str | None, typer.Option(metavar="URL", help="Go back in a store instead, to the table that was live before.")] = None,
    name: Annotated[str | None, typer.Option(help="For --store: what the items are called there; by default items.")] = None,
    whole: Annotated[
        bool, typer.Option("--model", help="In a folder that models are published to: go back to the model before, catalogue and all.")
    ] = False,
) -> None:
    """Go back to an earlier version of the catalogue.

    Nothing is lost, so it can be undone.
    """
    check_name(name, "--store", store)
    undone = shlex.quote(str(model))
    if whole:
        if to is not None or store is not None:
            raise ConfigError("--model goes back to the model before: leave out --to and --store")
        from twotower.bundle import withdraw

        done = withdraw(model)
        print(f"model {done.name} is in use again, {done.before} is kept. Undo it: twotower rollback {undone} --model", file=sys.stderr)
        return
    if store is not None:
        if to is not None:
            raise ConfigError("a store goes back to the table before: leave out --to")
        from twotower.stores import open_store

        with open_store(store, name or "items") as opened:
            print(f"{opened.rollback()} is live", file=sys.stderr)
        return
    from twotower.bundle import rollback as go_back
    from twotower.bundle.layout import current, find_bundle

    before = current(find_bundle(model))
    version = go_back(model, to)
    print(f"version {version} is in use, {before} is kept. Undo it: twotower rollback {undone} --to {int(before)}", file=sys.stderr)


@app.command(epilog=examples("twotower compact runs/first", "twotower compact runs/first --keep 3"))
def compact(
    model: BundlePath,
    keep: Annotated[int | None, typer.Option(help="How many versions to keep, the newest; what only older ones need is deleted.")] = None,
) -> None:
    """Write the catalogue as one segment, which opens faster.

    Old versions are deleted where that is asked for.
    """
    from twotower.bundle import compact as compacted

    version = compacted(model, keep)
    print(f"version {version} is in use, in one segment" + (f"; the newest {keep} versions are kept" if keep is not None else ""), file=sys.stderr)


@app.command(epilog=examples("twotower index runs/first", "twotower index runs/first --recall 0.99", "twotower index runs/first --memory 200MB"))
def index(
    model: BundlePath,
    recall: Annotated[float, typer.Option(help="The share of the exact first ten that a search is to find.")] = 0.95,
    memory: Annotated[str | None, typer.Option(help="What the index may take beside the vectors, like 200MB.")] = None,
    json: Json = False,
) -> None:
    """Make search by vectors of a large catalogue faster.

    An index is built and kept in the bundle: its kind and breadth are chosen by the recall asked for, measured against exact search on
    held-out queries. Where exact search is as fast, none is kept. Every search by vectors uses it from then on; what the catalogue grows by is
    searched exactly beside it. Needs the extra "ann".
    """
    with loading():
        from twotower.bundle import build_index
        from twotower.data.quantities import size

        bound = None if memory is None else size(memory)
    if memory is not None and bound is None:
        raise ConfigError(f'--memory is a size like 200MB or 2GB, and not "{memory}"')
    chosen = build_index(model, recall, memory=bound, progress=lambda said: print(said, file=sys.stderr))
    if json:
        print_json(chosen._asdict())
        return
    from twotower.app import reports

    show_parts(reports.chosen_index(chosen))
