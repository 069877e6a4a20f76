"""What the name of a column says about it."""

from __future__ import annotations

import re

QUERY_WORDS = ("query", "question", "search", "utterance", "prompt", "claim", "anchor", "task", "text", "q")
PERSON_WORDS = ("user", "customer", "visitor", "member", "account", "client", "buyer", "viewer", "reader", "player", "person", "visit", "session")
ITEM_WORDS = (
    "item",
    "product",
    "answer",
    "passage",
    "document",
    "doc",
    "corpus",
    "page",
    "book",
    "movie",
    "film",
    "track",
    "song",
    "video",
    "article",
    "sku",
    "asin",
    "category",
    "intent",
    "positive",
)
ID_WORDS = ("id", "uid", "uuid", "guid", "key", "code", "sku", "asin", "isbn", "ean", "upc", "zip", "postcode", "no", "nr", "phone", "barcode")
TIME_WORDS = ("time", "timestamp", "ts", "date", "datetime", "at", "epoch", "unixtime", "when", "watched", "created", "updated")
# With one of these, a time that is a number is how long something took, or a time of day: `watch_time`, `time_on_page`, `minutes_watched`.
SPAN_WORDS = (
    "spent",
    "dwell",
    "watch",
    "play",
    "reading",
    "listening",
    "response",
    "load",
    "elapsed",
    "taken",
    "total",
    "on",
    "of",
    "to",
    "until",
    "seconds",
    "minutes",
    "hours",
    "percent",
)
EVENT_WORDS = ("event", "action", "type", "kind")
GRADE_WORDS = ("label", "rating", "ratings", "stars", "score", "relevance", "relevant", "grade")
WEIGHT_WORDS = ("weight", "count", "counts", "quantity", "qty", "plays", "playcount", "listens", "clicks", "views", "frequency")
PRICE_WORDS = ("price", "amount", "cost", "revenue")
SPLIT_WORDS = ("split", "set", "fold", "part", "partition", "subset")
# What is written or known only after the choice; never what was asked.
AFTER_WORDS = ("review", "comment", "feedback", "summary", "note", "reply")
# What a request carries before anything is chosen.
CONTEXT_WORDS = (
    "device",
    "platform",
    "os",
    "browser",
    "app",
    "country",
    "region",
    "state",
    "city",
    "language",
    "lang",
    "locale",
    "market",
    "channel",
    "referrer",
    "source",
    "age",
    "gender",
    "sex",
    "occupation",
    "segment",
    "season",
    "hour",
    "weekday",
    "domain",
    "topic",
)


def named(name: str, words: tuple[str, ...]) -> bool:
    """Whether one of the words is a part of the name: of `movie_id`, `movieId` or `Movie ID`."""
    found = parts_of(name)
    return any(word in found or name.lower() == word for word in words)


def parts_of(name: str) -> list[str]:
    """The words of a name, in small letters."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return re.split(r"[\W_]+", apart.lower())
