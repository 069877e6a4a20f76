"""The verb that writes a bundle in the forms of others: export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twotower.app.cli.application import BundlePath, app, examples, loading
from twotower.errors import ConfigError

if TYPE_CHECKING:
    from twotower.bundle import Retriever


@app.command(
    epilog=examples(
        "twotower export runs/first --to parquet -o vectors.parquet",
        "twotower export runs/first --to faiss --index hnsw -o index",
        "twotower export runs/first --to query-encoder -o encoder",
        "twotower export runs/first --to onnx -o graphs",
        "twotower export runs/faq --to sentence-transformers -o model",
        "twotower export runs/first --to postgresql://ann@db/shop",
        "twotower export runs/first --to lancedb:///data/lance",
    )
)
def export(
    model: BundlePath,
    to: Annotated[str, typer.Option(help="parquet, npy, faiss, query-encoder, onnx or sentence-transformers; or the URL of a store.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The file or the folder to write.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the export that is there.")] = False,
    index: Annotated[str | None, typer.Option(help="For faiss: exact, which is the default, or hnsw.")] = None,
    name: Annotated[str | None, typer.Option(help="For a store: what the items are called there; by default items.")] = None,
    recall: Annotated[
        float | None, typer.Option(help="For a store: the share of the true ten nearest that it must find before it goes live; by default .95.")
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="For sentence-transformers: the folder of the encoder, if it is not found.")] = None,
) -> None:
    """Write a bundle in a form that others read.

    Vectors as Parquet, numpy or FAISS; the query encoder alone; both towers as ONNX; a folder of sentence-transformers (docs/exports.md). Or into a
    store that you run: PostgreSQL with pgvector, LanceDB, Qdrant (docs/stores.md); where it serves an earlier version, only what differs is sent.
    """
    with loading():
        from twotower.bundle import load
        from twotower.exports.formats import ExportOptions, is_store
        from twotower.exports.formats import export as write
        from twotower.runs.progress import counting

        store = is_store(to)
        if store == (output is not None):
            raise ConfigError("a store takes no -o: its URL says where" if store else f"--to {to} needs -o, the file or the folder to write")
        if store and (overwrite or index is not None or encoder is not None):
            raise ConfigError("--overwrite, --index and --encoder are for files and folders, not for a store")
        if not store and (name is not None or recall is not None):
            raise ConfigError("--name and --recall are for a store, not for files and folders")
        retriever = load(model)
    if output is None:
        bring_store(retriever, to, name or "items", recall)
        return
    with counting("exporting") as report:
        written = write(retriever, to, output, ExportOptions(overwrite=overwrite, index=index, encoder=encoder), report)  # type: ignore[arg-type]
    print(f"wrote {written.what} to {output}. Read it:\n{written.read}", file=sys.stderr)
    if written.left_out:
        print(f"twotower: left out: {written.left_out}", file=sys.stderr)


def bring_store(retriever: Retriever, url: str, name: str, recall: float | None = None) -> None:
    """Bring a store up to date, and say what went there."""
    from twotower.exports.shipping import bring
    from twotower.runs.progress import watching

    with watching() as progress:
        brought = bring(retriever, url, name=name, recall=recall, report=progress.stage)
    if brought.whole:
        print(f"{brought.table} is live, with all {brought.changed:,} items", file=sys.stderr)
    elif brought.changed or brought.removed:
        print(f"{brought.table} is live: {brought.changed:,} items sent, {brought.removed:,} removed", file=sys.stderr)
    else:
        print(f"{brought.table} is live already, at this version of the catalogue", file=sys.stderr)
