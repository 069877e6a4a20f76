"""The routes: what may be asked, of what, and how it is told in /openapi.json.

No route takes a path, an address, the name of a model or a tensor, and none loads a model. To add one: its `Route`, and its function below.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import unquote

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field

from twotower import __version__
from twotower.app.page import FILES, read
from twotower.app.server.answering import told
from twotower.app.server.gate import Ask, Route
from twotower.app.server.gathering import Gatherer
from twotower.app.server.information import card, information
from twotower.app.server.metrics import MEDIA, Metrics
from twotower.app.server.problems import MEDIA as PROBLEM
from twotower.app.server.problems import Fault, Problem, busy, failed
from twotower.app.server.shown import to_json
from twotower.app.server.versions import Served, Variants
from twotower.app.server.wire import EmbedBody, ScoreBody, SearchBody, SimilarBody, read_body
from twotower.data.values import to_array

CARD = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
MOST_ID = 2048  # characters of an id in a path


class _Answer(BaseModel):
    model: Annotated[str, Field(description="The beginning of the model's fingerprint.")]
    version: Annotated[str, Field(description="The version of the catalogue.")]
    variant: str


class Why(BaseModel):
    """What found an item."""

    vectors: Annotated[float, Field(description="The similarity of the vectors.")]
    words: Annotated[float | None, Field(description="What words add to it, or all that counts where only words do.")]
    shared: Annotated[list[str], Field(description="Words of the query that stand in the item's texts.")]


class Result(BaseModel):
    """An item that was found."""

    id: Any
    score: Annotated[float, Field(description="The similarity of the vectors, however it was found.")]
    item: Annotated[dict[str, Any], Field(description="Its columns.")]
    why: Why | None = None


class SearchAnswer(_Answer):
    """Best first; of several queries a list each."""

    results: list[Result] | list[list[Result]]


class ScoreAnswer(_Answer):
    """A similarity for each pair."""

    scores: list[float]


class EmbedAnswer(_Answer):
    """One vector, or one for each row."""

    vector: list[float] | None = None
    vectors: list[list[float]] | None = None


class ItemAnswer(_Answer):
    """An item of the catalogue."""

    id: Any
    item: dict[str, Any]


class InfoAnswer(BaseModel):
    """What is served."""

    variants: list[dict[str, Any]]


class StatusAnswer(BaseModel):
    """Whether this server lives, or is ready."""

    status: Literal["live", "ready"]


class ProblemAnswer(BaseModel):
    """Why there is no answer (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[dict[str, str]] | None = None


class Queued(NamedTuple):
    """A route whose requests stand in the queue: what it takes, what it gives, and what it is for."""

    body: type[SearchBody | SimilarBody | ScoreBody | EmbedBody]
    answers: type[BaseModel]
    says: str


QUEUED = {
    "/search": Queued(SearchBody, SearchAnswer, "Find the best items"),
    "/similar": Queued(SimilarBody, SearchAnswer, "Find items like these"),
    "/score": Queued(ScoreBody, ScoreAnswer, "Score pairs"),
    "/embed": Queued(EmbedBody, EmbedAnswer, "Embed queries or items"),
}
ROUTES = [
    *(Route("POST", path, queued=True) for path in QUEUED),
    Route("GET", "/items/{id}", frozenset({"variant"})),
    Route("GET", "/info"),
    Route("GET", "/livez", open=True),
    Route("GET", "/readyz"),
    Route("GET", "/metrics"),
    Route("GET", "/openapi.json"),
    Route("GET", "/", None),
    Route("GET", "/page/{name}"),
    Route("GET", "/card", frozenset({"variant"})),
]
WRONG = {
    400: "No JSON, or no body.",
    401: "No key, or none that fits.",
    404: "No such item, or no such route.",
    405: "Another method.",
    408: "Too slow.",
    413: "Too large.",
    415: "Not declared as JSON.",
    421: "A foreign Host.",
    422: "What does not fit this route or this model; `errors` says where.",
    429: "Too often; Retry-After says when.",
    431: "Too large a head.",
    500: "A fault of the server.",
    503: "More is asked than can be answered, or the server ends; Retry-After says when.",
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "/search": {"one": {"query": "waterproof boots", "k": 5}, "narrowed": {"query": "red sofa", "where": {"price": {"lt": 500}}, "explain": True}},
    "/similar": {"one": {"item": "13", "k": 5}},
    "/score": {"one": {"query": "waterproof boots", "items": ["13", "14"]}, "pairs": {"pairs": [{"query": "red sofa", "item": "13"}]}},
    "/embed": {"one": {"query": "waterproof boots"}, "several": {"queries": ["waterproof boots", "red sofa"]}},
}


def application(variants: Variants, ask: Ask, metrics: Metrics, ready: Callable[[], bool]) -> FastAPI:
    """The routes of a server."""
    app = FastAPI(title="twotower", version=__version__, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_exception_handler(Problem, _refused)
    app.add_exception_handler(Exception, _failed)
    _asking(app, ask)
    _telling(app, variants)
    _watching(app, metrics, ready)
    _showing(app, variants)
    return app


async def _refused(request: Request, problem: Exception) -> Response:
    """The answer that is none."""
    assert isinstance(problem, Problem)
    return Response(problem.body(request.state.request_id), problem.status, problem.headers, PROBLEM)


async def _failed(request: Request, _: Exception) -> Response:
    """The same for a fault of ours; the gate tells the log."""
    return await _refused(request, failed())


def asking(variants: Variants, gatherer: Gatherer) -> Ask:
    """What answers the bodies of queued routes."""

    async def ask(path: str, body: bytes) -> bytes:
        asked = read_body(QUEUED[path].body, body)
        return await gatherer.ask(variants.chosen(asked.variant, asked.key), asked)

    return ask


def _asking(app: FastAPI, ask: Ask) -> None:
    """What goes through the queue. The gate answers these routes itself, by the same function: the layers between cost a third of a request."""
    for path, (body, answers, says) in QUEUED.items():
        told = _told(answers)
        app.add_api_route(path, _asked(path, ask), methods=["POST"], name=path[1:], summary=says, description=body.__doc__, responses=told)


def _asked(path: str, ask: Ask) -> Callable[[Request], Awaitable[Response]]:
    async def asked(request: Request) -> Response:
        return _json(await ask(path, await request.body()))

    return asked


def _telling(app: FastAPI, variants: Variants) -> None:
    """What is served, and its items."""

    @app.get("/items/{id}", summary="One item", responses=_told(ItemAnswer), response_model=None)
    async def item(request: Request) -> Response:
        served = variants.chosen(request.query_params.get("variant"), None)
        row = int(served.retriever.find(to_array([_id(request.scope["rest"])]))[0])
        if row < 0:
            raise Problem(404, "the catalogue has no such item")
        name, shown = served.shown.of([row])[row]
        return _json(told(served, id=name, item=shown))

    @app.get("/info", summary="What is served", responses=_told(InfoAnswer), response_model=None)
    async def info() -> Response:
        told = [await _once(served, "information", information) for served in variants.now.values()]
        return _json(b'{"variants":[' + b",".join(told) + b"]}")

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return _json(to_json(schema(app)))


def _watching(app: FastAPI, metrics: Metrics, ready: Callable[[], bool]) -> None:
    """What is asked by those who look after it."""

    @app.get("/livez", summary="Whether it lives", responses=_told(StatusAnswer), response_model=None)
    async def livez() -> Response:
        return _json(b'{"status":"live"}')

    @app.get("/readyz", summary="Whether it answers", responses=_told(StatusAnswer), response_model=None)
    async def readyz() -> Response:
        if not ready():
            raise busy()
        return _json(b'{"status":"ready"}')

    @app.get("/metrics", summary="Counts for Prometheus", responses=_told(None, "text/plain"), response_model=None)
    async def counts() -> Response:
        return Response(metrics.text(), media_type=MEDIA)


def _showing(app: FastAPI, variants: Variants) -> None:
    """What people look at."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return _file("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def part(request: Request) -> Response:
        return _file(request.scope["rest"])

    @app.get("/card", summary="The model card, as a page", responses=_told(None, "text/html"), response_model=None)
    async def model_card(request: Request) -> Response:
        served = variants.chosen(request.query_params.get("variant"), None)
        # Its style stands within it, so that it can be kept as a file.
        return Response(await _once(served, "card", card), media_type="text/html; charset=utf-8", headers={"content-security-policy": CARD})


async def _once(served: Served, name: str, make: Callable[[Served], bytes]) -> bytes:
    """What is made of a version once, beside the loop."""
    if name not in served.kept:
        served.kept[name] = await asyncio.to_thread(make, served)
    return served.kept[name]


def schema(app: FastAPI) -> dict[str, Any]:
    """What /openapi.json holds."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    found = get_openapi(title=app.title, version=app.version, summary="From a query to the items that answer it.", routes=app.routes)
    components = found.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for path, (model, _, _) in QUEUED.items():
        own = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= own.pop("$defs", {}) | {model.__name__: own}
        examples = {name: {"value": value} for name, value in EXAMPLES[path].items()}
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}, "examples": examples}}
        found["paths"][path]["post"]["requestBody"] = {"required": True, "content": content}
    variant = {"name": "variant", "in": "query", "required": False, "schema": {"type": "string", "maxLength": 64}}
    name = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1, "maxLength": MOST_ID}}
    found["paths"]["/items/{id}"]["get"]["parameters"] = [name, variant]
    found["paths"]["/card"]["get"]["parameters"] = [variant]
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    found["security"] = [{"key": []}, {}]
    app.openapi_schema = found
    return found


def _told(answers: type[BaseModel] | None, media: str = "application/json") -> dict[int | str, dict[str, Any]]:
    """The answers of a route, for its description."""
    good: dict[str, Any] = {"model": answers} if answers is not None else {"content": {media: {"schema": {"type": "string"}}}}
    problem = {"application/problem+json": {"schema": ProblemAnswer.model_json_schema()}}
    wrong: dict[int | str, dict[str, Any]] = {status: {"description": says, "content": problem} for status, says in WRONG.items()}
    return {200: {"description": "The answer.", **good}, **wrong}


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _file(name: str) -> Response:
    if name not in FILES:
        raise Problem(404, "there is no such part of the page")
    body, media = read(name)
    return Response(body, media_type=media)


def _id(raw: str) -> str:
    try:
        found = unquote(raw, errors="strict")
    except UnicodeDecodeError:
        raise Problem(422, "the id is no text in UTF-8", [Fault("id", "percent-encoded UTF-8")]) from None
    if len(found) > MOST_ID:
        raise Problem(422, "the id is too long", [Fault("id", f"at most {MOST_ID} characters")])
    return found
