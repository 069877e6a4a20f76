"""The verb that writes a bundle in the forms of others: export."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from twotower.app.cli.application import BundlePath, app, examples, loading
from twotower.errors import ConfigError

SHIPPING = "twotower.shipping"  # whatever ships vectors to a store is loaded for that alone


@app.command(
    epilog=examples(
        "twotower export runs/first --to parquet -o vectors.parquet",
        "twotower export runs/first --to faiss --index hnsw -o index",
        "twotower export runs/first --to query-encoder -o encoder",
        "twotower export runs/first --to onnx -o graphs",
        "twotower export runs/faq --to sentence-transformers -o model",
    )
)
def export(
    model: BundlePath,
    to: Annotated[str, typer.Option(help="parquet, npy, faiss, query-encoder, onnx or sentence-transformers; or the URL of a store.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The file or the folder to write.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the export that is there.")] = False,
    index: Annotated[str | None, typer.Option(help="For faiss: exact, which is the default, or hnsw.")] = None,
    encoder: Annotated[str | None, typer.Option(help="For sentence-transformers: the folder of the encoder, if it is not found.")] = None,
) -> None:
    """Write a bundle in a form that others read.

    Vectors as Parquet, numpy or FAISS; the query encoder alone; both towers as ONNX; a folder of sentence-transformers. See docs/exports.md.
    """
    with loading():
        from twotower.bundle import load
        from twotower.exports.formats import ExportOptions, is_store
        from twotower.exports.formats import export as write
        from twotower.runs.progress import counting, watching

        store = is_store(to)
        if store == (output is not None):
            raise ConfigError("a store takes no -o: its URL says where" if store else f"--to {to} needs -o, the file or the folder to write")
        if store and (overwrite or index is not None or encoder is not None):
            raise ConfigError("--overwrite, --index and --encoder are for files and folders, not for a store")
        retriever = load(model)
    if output is None:
        ship = _shipping()
        with watching() as progress:
            ship(retriever, to, report=progress.stage)
        return
    with counting("exporting") as report:
        written = write(retriever, to, output, ExportOptions(overwrite=overwrite, index=index, encoder=encoder), report)  # type: ignore[arg-type]
    print(f"wrote {written.what} to {output}. Read it:\n{written.read}", file=sys.stderr)
    if written.left_out:
        print(f"twotower: left out: {written.left_out}", file=sys.stderr)


def _shipping() -> Any:
    """What ships vectors to a store: (retriever, URL, report) -> None."""
    try:
        return import_module(SHIPPING).ship
    except ModuleNotFoundError as error:
        if error.name != SHIPPING:
            raise
        raise ConfigError("this version writes files and folders, and ships to no store. Export to parquet, which any store can load.") from None
