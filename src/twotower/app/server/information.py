"""What a caller can know of what is served: the model, its queries, and the columns that filters can name."""

from __future__ import annotations

from typing import Any

from twotower.app.server.versions import Served
from twotower.bundle import describe
from twotower.bundle.ranking import MODES
from twotower.data.prepared import ID
from twotower.search.facets import facets


def information(served: Served) -> dict[str, Any]:
    """What /info says of one variant. No path of this machine is in it."""
    retriever = served.retriever
    told = describe(retriever.bundle)
    query = {"columns": list(retriever.encoder.columns("query")), "history": retriever.history is not None}
    return {
        "variant": served.variant,
        "model": served.model,
        "version": served.version,
        "items": len(retriever),
        "dimensions": told["dimensions"],
        "similarity": told["similarity"],
        "search": told["search"],
        "modes": list(MODES) if retriever.catalogue.worded else ["vectors"],
        "query": query,
        "item_id": retriever.bundle.model["schema"]["item"]["id"],
        "columns": [column for column in _columns(served) if column["name"] != ID],
        "figures": told["figures"],
    }


def _columns(served: Served) -> list[dict[str, Any]]:
    return facets(served.retriever.items)
