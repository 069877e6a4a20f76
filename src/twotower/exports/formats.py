"""The forms that a bundle is exported to, by name. No torch.

To add one: a function (retriever, place, options, report) -> Written, which writes nothing before it is sure that it can, and its entry in `FORMS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from twotower import files
from twotower.bundle import Retriever
from twotower.bundle.layout import without_items
from twotower.errors import BundleError, ConfigError, choices
from twotower.exports import catalogue, encoders, graphs, sentences

Report = Callable[[int], None]  # is told how many rows are done, as they are
STORES = ("postgresql://", "postgres://", "lancedb://", "qdrant://", "qdrant+http://", "qdrant+https://", "env:")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How a bundle is exported.

    overwrite: whether an earlier export at that place is replaced. index: of the form `faiss`, `exact` or the graph `hnsw`. encoder: for
    the form `sentence-transformers`, the folder of the pretrained encoder where it is not found by itself.
    """

    overwrite: bool = False
    index: Literal["exact", "hnsw"] | None = None
    encoder: str | None = None


READERS_OF_OPTIONS = {"index": "faiss", "encoder": "sentence-transformers"}


class Written(NamedTuple):
    """What was written, and how it is read."""

    what: str
    read: str  # lines of Python
    left_out: str = ""  # what could not be, and why


def export(
    retriever: Retriever, form: str, place: Path | str, options: ExportOptions = ExportOptions(), report: Report = lambda rows: None
) -> Written:
    """Write a bundle in another form: a file or a folder that appears whole or not at all.

    Raises ConfigError for a form or an option that cannot be meant or a model that has no such form, OutputError for a place that is
    taken, BundleError for a bundle without items, MissingExtra for a library that is not installed.
    """
    if form not in FORMS:
        raise ConfigError(f'there is no form "{form}"; {choices(FORMS, form)}; or the URL of a store, such as {", ".join(STORES[:4])}')
    for option, reader in READERS_OF_OPTIONS.items():
        if getattr(options, option) is not None and form != reader:
            raise ConfigError(f'--{option} is for the form "{reader}", and says nothing to "{form}". Leave it out.')
    if options.index not in (None, "exact", "hnsw"):
        raise ConfigError(f'there is no index "{options.index}" to export; {choices(("exact", "hnsw"), str(options.index))}')
    if retriever.bundle.alone and form != "query-encoder":
        raise BundleError(without_items(retriever.bundle.folder))
    return FORMS[form](retriever, Path(place), options, report)


def is_store(form: str) -> bool:
    """Whether a form is the URL of a store, or a variable that holds one."""
    return form.startswith(STORES)


def _parquet(retriever: Retriever, place: Path, options: ExportOptions, report: Report) -> Written:
    files.check_parquet(place, options.overwrite)
    rows = catalogue.write_vectors_parquet(retriever, place, report)
    return Written(
        f"{rows:,} items with their vectors", f'import pyarrow.parquet as pq\nitems = pq.read_table("{place.as_posix()}")  # id, ..., vector'
    )


def _npy(retriever: Retriever, place: Path, options: ExportOptions, report: Report) -> Written:
    with files.taking(place, overwrite=options.overwrite, ours=("vectors.npy", "ids.json", "ids.arrow", "README.md")) as folder:
        read = catalogue.write_arrays(retriever, folder, report)
        files.write_text(folder / "README.md", _readme(f"The vectors of {len(retriever):,} items, and their ids in the same order.", read))
    return Written(f"{len(retriever):,} vectors", read)


def _faiss(retriever: Retriever, place: Path, options: ExportOptions, report: Report) -> Written:
    with files.taking(place, overwrite=options.overwrite, ours=("index.faiss", "ids.json", "ids.arrow", "README.md")) as folder:
        read = catalogue.write_index(retriever, folder, options.index or "exact", report)
        told = f"An index of FAISS over {len(retriever):,} items, by inner product. `ids[position]` is the item at a position of it."
        files.write_text(folder / "README.md", _readme(told, read))
    return Written(f"an index of {len(retriever):,} items", read)


def _query_encoder(retriever: Retriever, place: Path, options: ExportOptions, report: Report) -> Written:
    with files.taking(place, overwrite=options.overwrite, ours=("CURRENT", "model")) as folder:
        encoders.write_query_encoder(retriever, folder)
    kept = retriever.history
    told = (
        ""
        if kept is None
        else f", with {'the vectors' if kept.feature.items == 'tower' else 'the codes'} of {len(kept.hashes):,} items, by which it reads histories"
    )
    return Written(f"the query encoder{told}", f'import twotower as tt\nquery_vectors = tt.load("{place.as_posix()}").embed_queries(queries)')


def _onnx(retriever: Retriever, place: Path, options: ExportOptions, report: Report) -> Written:
    ours = ("query.onnx", "item.onnx", "weights.safetensors", "inputs.json", "golden", "example.py", "query-tokenizer.json", "item-tokenizer.json")
    encoders_there = tuple(path.name for path in place.glob("encoder-*.onnx")) if place.is_dir() else ()
    with files.taking(place, overwrite=options.overwrite, ours=(*ours, *encoders_there)) as folder:
        graphs.write_graphs(retriever, folder)
    return Written("both towers as ONNX", f"# see {place.as_posix()}/inputs.json\npython {place.as_posix()}/example.py")


def _sentence_transformers(retriever: Retriever, place: Path, options: ExportOptions, report: Report) -> Written:
    parts, reasons = sentences.sides_of(retriever)
    if not parts:
        raise ConfigError(f"no tower of this model is a folder of sentence-transformers: {'; '.join(reasons.values())}. Export it to onnx.")
    unit = retriever.bundle.model["similarity"] == "cosine"
    one = len(parts) == 2 and sentences.alike(parts["query"], parts["item"])
    sources = {side: sentences.encoder_folder(part, retriever, options.encoder) for side, part in parts.items()}
    with files.taking(place, overwrite=options.overwrite, ours=_folders_of_sentences(place)) as folder:
        for side, part in list(parts.items())[: 1 if one else None]:
            sentences.write_sentences(part, sources[side], folder if one else folder / side, unit=unit)
    where = place.as_posix() if one else f"{place.as_posix()}/{next(iter(parts))}"
    what = "both towers, which are one," if one else " and ".join(f"the {side} tower" for side in parts)
    read = f'from sentence_transformers import SentenceTransformer\nvectors = SentenceTransformer("{where}").encode(texts)'
    return Written(f"{what} as sentence-transformers", read, "; ".join(reasons.values()))


def _folders_of_sentences(place: Path) -> tuple[str, ...]:
    """What may be replaced there: query/ and item/, or all of a folder that is such an export itself."""
    kept = place / "config_sentence_transformers.json"
    # The library writes its versions into what it saves, an export does not.
    if (place / "modules.json").exists() and kept.exists() and "__version__" not in files.read_json(kept):
        return tuple(path.name for path in place.iterdir())
    return ("query", "item")


def _readme(told: str, read: str) -> str:
    return f"{told}\n\n```python\n{read}\n```\n"


FORMS: dict[str, Callable[[Retriever, Path, ExportOptions, Report], Written]] = {
    "parquet": _parquet,
    "npy": _npy,
    "faiss": _faiss,
    "query-encoder": _query_encoder,
    "onnx": _onnx,
    "sentence-transformers": _sentence_transformers,
}
