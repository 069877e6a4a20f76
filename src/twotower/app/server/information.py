"""What a caller can know of what is served: the model, its queries, the columns that filters can name, and the card. No path is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twotower import files
from twotower.app.server.shown import to_json
from twotower.app.server.versions import Served
from twotower.bundle import Version, describe, versions
from twotower.bundle.ranking import MODES
from twotower.data.prepared import ID
from twotower.errors import TwotowerError
from twotower.search.facets import facets


def information(served: Served) -> bytes:
    """What /info says of one variant, as JSON."""
    retriever, told = served.retriever, describe(served.retriever.bundle)
    return to_json(
        {
            "variant": served.variant,
            "model": served.model,
            "version": served.version,
            "items": len(retriever),
            **{name: told[name] for name in ("dimensions", "similarity", "search")},
            "modes": list(MODES) if retriever.catalogue.worded else ["vectors"],
            "query": {"columns": list(retriever.encoder.columns("query")), "history": retriever.history is not None},
            "item_id": retriever.bundle.model["schema"]["item"]["id"],
            "columns": _columns(served),
            "figures": told["figures"],
        }
    )


def _columns(served: Served) -> list[dict[str, Any]]:
    return [column for column in facets(served.retriever.items) if column["name"] != ID]


def card(served: Served) -> bytes:
    """The model card as a page."""
    from twotower.app.reports.card import card as document  # which brings all reports with it: not for a start
    from twotower.app.reports.webpage import webpage

    bundle = served.retriever.bundle
    model = bundle.folder / "model"
    written = (model / "card.md").read_text(encoding="utf-8") if (model / "card.md").is_file() else ""
    return webpage(document(describe(bundle), files.read_json(model / "metrics.json"), written, _versions(bundle.folder))).encode()


def _versions(folder: Path) -> list[Version]:
    try:
        return versions(folder)
    except (OSError, TwotowerError):  # a writer may be clearing old ones away
        return []
