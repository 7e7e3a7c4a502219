"""The HTTP service: its endpoints, and the application that wires them to a bundle.

It refuses to answer what it could not put on record first, and no request makes it fail: what is
wrong with one is said in a problem document that names the field.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import re
import time
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from gristmill.errors import (
    BuildError,
    GristmillError,
    InvalidFeatures,
    PredictionError,
    SpoolError,
    WarehouseError,
)
from gristmill.predictions.log import PredictionLog
from gristmill.predictions.outcomes import record_outcomes
from gristmill.predictions.prediction import (
    Prediction,
    entity_key_from_text,
    json_value,
    new_prediction_id,
)
from gristmill.serving import metrics
from gristmill.serving.bodies import (
    idempotency_key,
    key_refused,
    large_body,
    read_asked,
    read_batch,
    read_body,
    read_outcomes,
    request_digest,
)
from gristmill.serving.fast_path import FAST_PATH, FastPath
from gristmill.serving.follow import follow
from gristmill.serving.guard import Entrance, Guard
from gristmill.serving.keys import KeyRing
from gristmill.serving.problems import Refused, as_refusal
from gristmill.serving.schema import (
    Answer,
    BatchAnswer,
    Health,
    OutcomesRecorded,
    Readiness,
    StoredAnswer,
)
from gristmill.serving.service import Served, Service, encode, load_served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    import msgspec
    from starlette.types import ASGIApp, Receive, Scope, Send

    from gristmill.registry.bundle import Bundle
    from gristmill.serving.bodies import Asked
    from gristmill.serving.follow import Find
    from gristmill.warehouse.kept import KeptWarehouse

Result = TypeVar("Result")

DATABASE_TIMEOUT = 5.0
"""Seconds that a request waits for its turn at the database."""
NOTE_EVERY = 1.0
"""Seconds between two notes of how the record stands, for `/metrics` of all workers."""
_REPORT_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


# Endpoints


async def predict(request: Request) -> Response:
    """`POST /predict`: the answer for the features that are sent."""
    started = time.perf_counter()
    service: Service = request.app.state.service
    served = service.served
    body = await read_body(request)

    async def make() -> Made:
        asked = read_asked(body, served.manifest.entity)
        prediction = _answer(served, asked.key, asked.features, started)
        answer = Answer(
            label=prediction.label,
            probability=prediction.probability,
            model_version=prediction.model_version,
            prediction_id=prediction.prediction_id,
            no_signal=served.manifest.no_signal,
        )
        return Made([prediction], encode(answer))

    return await _on_record(request, service, body, make)


async def predict_batch(request: Request) -> Response:
    """`POST /predict/batch`: the answers for many at once, all or none."""
    started = time.perf_counter()
    service: Service = request.app.state.service
    served = service.served
    async with large_body(request) as body:

        async def make() -> Made:
            # In a thread, or others would wait until thousands of rows are read and computed.
            return await anyio.to_thread.run_sync(
                _answer_batch, served, body, started, limiter=service.batches
            )

        return await _on_record(request, service, body, make)


async def predict_stored(request: Request) -> Response:
    """`GET /predict/{entity}`: the answer for the features that the feature store holds."""
    started = time.perf_counter()
    service: Service = request.app.state.service
    served = service.served
    if served.lookup is None:
        raise Refused("no-database", "It has no feature store.")
    with key_refused():
        key = entity_key_from_text(request.path_params["entity"], served.manifest.entity)
    latest = await _with_database(service, served.lookup, key)
    features = {name: json_value(value) for name, value in latest.features.items()}
    prediction = _answer(served, key, features, started)
    await _append(service, [prediction])
    return _document(
        StoredAnswer(
            label=prediction.label,
            probability=prediction.probability,
            model_version=prediction.model_version,
            prediction_id=prediction.prediction_id,
            no_signal=served.manifest.no_signal,
            features=features,
            features_as_of=latest.as_of.astimezone(UTC),
            features_age_seconds=(datetime.now(UTC) - latest.as_of).total_seconds(),
        )
    )


async def outcomes(request: Request) -> Response:
    """`POST /outcomes`: what turned out to be true, told once it is committed."""
    service: Service = request.app.state.service
    if service.warehouse is None:
        raise Refused("no-database", "Outcomes are recorded in a database.")
    async with large_body(request) as body:
        entity = service.served.manifest.entity
        read = partial(read_outcomes, body, entity, now=datetime.now(UTC))
        told = await anyio.to_thread.run_sync(read, limiter=service.batches)
        recorded = await _with_database(service, record_outcomes, service.warehouse, told)
    service.counters.add("outcomes", recorded.added + recorded.corrected)
    return _document(
        OutcomesRecorded(added=recorded.added, corrected=recorded.corrected, known=recorded.known)
    )


async def health(_: Request) -> Response:
    """`GET /health`: the process answers."""
    return _document(Health(status="alive"))


async def ready(request: Request) -> Response:
    """`GET /ready`: predictions can be given, and how their record stands."""
    service: Service = request.app.state.service
    with suppress(*([SpoolError] if service.best_effort else [])):
        await service.log.check()
    status = service.log.status
    return _document(
        Readiness(
            status="ready",
            model_version=service.served.manifest.version,
            log=status.state,
            shipping=status.shipping,
            waiting=status.depth,
            oldest_seconds=status.oldest_seconds,
            unlogged=status.unlogged,
            refused=service.refused,
        )
    )


async def model(request: Request) -> Response:
    """`GET /model`: which model answers."""
    return Response(request.app.state.service.served.card, media_type="application/json")


async def model_report(request: Request) -> Response:
    """`GET /model/report`: what is known of the model, as the page that its bundle carries.

    The page is the bundle's, which may be from elsewhere: it may show itself, and do nothing.
    """
    page = request.app.state.service.served.report
    if page is None:
        raise Refused("not-found", "The bundle of this model carries no report.")
    headers = {"content-security-policy": _REPORT_POLICY, "referrer-policy": "no-referrer"}
    return Response(page, media_type="text/html", headers=headers)


async def tell_metrics(request: Request) -> Response:
    """`GET /metrics`: what all workers counted, for Prometheus."""
    service: Service = request.app.state.service
    _note(service)
    return Response(service.counters.exposition(), headers={"content-type": metrics.MEDIA_TYPE})


async def openapi_document(request: Request) -> Response:
    """`GET /openapi.json`."""
    return Response(request.app.state.service.served.openapi, media_type="application/json")


async def docs(request: Request) -> Response:
    """`GET /docs`: a page that shows the operations and tries them; it needs no other site."""
    page: bytes = request.app.state.docs
    headers = {
        "content-security-policy": request.app.state.docs_policy,
        "referrer-policy": "no-referrer",
    }
    return Response(page, media_type="text/html", headers=headers)


async def to_docs(_: Request) -> Response:
    """`GET /`."""
    return RedirectResponse("/docs")


ROUTES = [
    Route("/", to_docs),
    Route("/predict", predict, methods=["POST"]),
    Route("/predict/batch", predict_batch, methods=["POST"]),
    Route("/predict/{entity:path}", predict_stored),
    Route("/outcomes", outcomes, methods=["POST"]),
    Route("/health", health),
    Route("/ready", ready),
    Route("/model", model),
    Route("/model/report", model_report),
    Route("/metrics", tell_metrics),
    Route("/openapi.json", openapi_document),
    Route("/docs", docs),
]


# What the endpoints share


class Made(NamedTuple):
    """What a request asked for, not yet given."""

    predictions: list[Prediction]
    answer: bytes
    """The body of the response."""


async def _on_record(
    request: Request, service: Service, body: bytes, make: Callable[[], Awaitable[Made]]
) -> Response:
    """The response with what is made, once that is durable; with a key, what was made first."""
    key = idempotency_key(request)
    if key is None:
        made = await make()
        await _append(service, made.predictions)
        return _json(made.answer)
    async with service.log.once(key, request_digest(request, body)) as once:
        if once.answer is None:
            made = await make()
            await once.append(made.predictions, made.answer)
            service.counters.add("predictions", len(made.predictions))
        return _json(once.answer or b"")


async def _append(service: Service, predictions: Sequence[Prediction]) -> None:
    """Return once predictions are durable, all of them."""
    await service.log.append(predictions)
    service.counters.add("predictions", len(predictions))


def _answer(
    served: Served, key: int | str, features: Mapping[str, Any], started: float
) -> Prediction:
    """The answer for an entity's features, not yet on record."""
    try:
        answer = served.predictor.answer(features)
    except InvalidFeatures as error:
        raise _invalid(error) from error
    return Prediction(
        prediction_id=new_prediction_id(),
        entity=str(key),
        features=features,
        probability=answer.probability,
        label=answer.label,
        model_version=served.manifest.version,
        predicted_at=datetime.now(UTC),
        latency_ms=(time.perf_counter() - started) * 1000,
    )


def _answer_batch(served: Served, body: bytes, started: float) -> Made:
    """The answers for all that a body asks, in its order."""
    manifest = served.manifest
    asked = read_batch(body, manifest.entity)
    try:
        answers = served.predictor.answers([one.features for one in asked])
    except PredictionError as error:
        raise _first_wrong(served, asked, error) from error
    now, latency_ms = datetime.now(UTC), (time.perf_counter() - started) * 1000
    predictions = [
        Prediction(
            prediction_id=new_prediction_id(),
            entity=str(one.key),
            features=one.features,
            probability=answer.probability,
            label=answer.label,
            model_version=manifest.version,
            predicted_at=now,
            latency_ms=latency_ms,
        )
        for one, answer in zip(asked, answers, strict=True)
    ]
    name = manifest.entity.name
    answer = BatchAnswer(
        predictions=[
            {
                name: one.key,
                "label": prediction.label,
                "probability": prediction.probability,
                "prediction_id": prediction.prediction_id,
            }
            for one, prediction in zip(asked, predictions, strict=True)
        ],
        model_version=manifest.version,
        no_signal=manifest.no_signal,
    )
    return Made(predictions, encode(answer))


def _first_wrong(served: Served, asked: Sequence[Asked], error: PredictionError) -> Exception:
    """The refusal of the first row that has no answer."""
    for row, one in enumerate(asked):
        try:
            served.predictor.answer(one.features)
        except InvalidFeatures as wrong:
            return _invalid(wrong, row)
        except PredictionError as wrong:
            return Refused("invalid-feature", str(wrong), at=("rows", row), row=row)
    return error


def _invalid(error: InvalidFeatures, row: int | None = None) -> Refused:
    """The refusal of a feature, which says where it stands."""
    at = ("features", error.field) if row is None else ("rows", row, "features", error.field)
    return Refused("invalid-feature", str(error), field=error.field, at=at, row=row)


async def _with_database(
    service: Service, work: Callable[..., Result], *arguments: object
) -> Result:
    """Work that waits for the database, in a thread; no more than a few at a time."""
    turn = object()
    try:
        async with asyncio.timeout(DATABASE_TIMEOUT):
            await service.at_database.acquire_on_behalf_of(turn)
    except TimeoutError:
        raise WarehouseError("Too many requests wait for it.") from None
    try:
        # Not within the timeout: a thread cannot be stopped, and gives its turn back when it ends.
        return await anyio.to_thread.run_sync(work, *arguments)
    finally:
        service.at_database.release_on_behalf_of(turn)


def _document(content: msgspec.Struct) -> Response:
    return _json(encode(content))


def _json(content: bytes) -> Answered:
    return Answered(content)


class Answered(Response):
    """A response of JSON that nobody keeps: as Starlette makes one, with less ado."""

    def __init__(self, content: bytes) -> None:
        self.status_code = 200
        self.body = content
        self.background = None
        self.raw_headers = [
            (b"content-length", str(len(content)).encode()),
            (b"content-type", b"application/json"),
            (b"cache-control", b"no-store"),
        ]


async def _refused(request: Request, error: Exception) -> Response:
    refusal = as_refusal(error)
    request.scope["problem"] = refusal
    request.scope["cause"] = error
    return refusal.response()


async def _gone(_: Request, __: Exception) -> Response:
    """The client left before its request was whole: nobody reads this."""
    return Response(status_code=400)


# Wiring


class Shortcut:
    """The way to endpoints whose address is fixed: a look-up, where the router tries each in turn.

    All else goes on to the router, and so does what is wrong with an address or a method.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._endpoints = {
            (method, route.path): route.endpoint
            for route in ROUTES
            for method in route.methods or ()
            if "{" not in route.path
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        endpoint = None
        if scope["type"] == "http":
            endpoint = self._endpoints.get((scope["method"], scope["path"]))
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        scope["endpoint"] = endpoint
        request = Request(scope, receive, send)
        try:
            response: Response = await endpoint(request)
        except (Refused, GristmillError) as error:
            response = await _refused(request, error)
        except ClientDisconnect as error:
            response = await _gone(request, error)
        await response(scope, receive, send)


class Application(Starlette):
    """The endpoints, with the guard around all that there is."""

    guard: Callable[[ASGIApp], ASGIApp]

    def build_middleware_stack(self) -> ASGIApp:
        """The guard is outermost: it sees also what fails inside."""
        return self.guard(super().build_middleware_stack())


def create_app(
    *,
    bundle: Bundle,
    spool: Path,
    warehouse: KeptWarehouse | None = None,
    keys: Path | None = None,
    counters: Path | None = None,
    best_effort: bool = False,
    find: Find | None = None,
) -> Application:
    """The application that serves a bundle.

    `spool` is the folder that holds the record until it is shipped to `warehouse`; without a
    warehouse it stays there. `keys` is the file of API keys, `counters` the folder where the
    workers of one service count. `find` says which bundle should answer, while the application
    runs; without it, this one does for ever. Raises BundleError where the bundle answers otherwise
    than where it was made, SpoolError where the folder cannot be written.
    """
    served = load_served(bundle, warehouse)
    service = Service(
        served=served,
        log=PredictionLog(spool, warehouse, best_effort=best_effort),
        warehouse=warehouse,
        counters=metrics.Counters(counters),
        best_effort=best_effort,
    )
    service.replace(served)
    kinds: list[type[Exception]] = [
        Refused,
        PredictionError,
        WarehouseError,
        BuildError,
        HTTPException,
        Exception,
    ]
    app = Application(
        routes=ROUTES,
        middleware=[Middleware(Shortcut)],
        exception_handlers={**dict.fromkeys(kinds, _refused), ClientDisconnect: _gone},
        lifespan=_lifespan,
    )
    app.router.redirect_slashes = False
    app.state.service = service
    app.state.follow = partial(follow, service, find, bundle.digest) if find else None
    app.state.docs = files("gristmill.serving").joinpath("docs.html").read_bytes()
    app.state.docs_policy = _policy(app.state.docs)
    entrance = Entrance(KeyRing(keys))
    app.state.fast_path = FastPath(service, entrance)
    app.guard = partial(
        Guard,
        entrance=entrance,
        counters=service.counters,
        routes={route.endpoint: route.path.replace(":path", "") for route in ROUTES},
    )
    return app


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[Mapping[str, Any]]:
    """Ship while the application runs; at its end, once more.

    The server's connections get the counters and the fast path; one may do without either.
    """
    service: Service = app.state.service
    service.log.start()
    # What is loaded by now stays: walking it at every collection would cost the slowest answers.
    gc.collect()
    gc.freeze()
    tasks = [asyncio.create_task(_keep_noting(service))]
    if app.state.follow:
        tasks.append(asyncio.create_task(app.state.follow()))
    yield {"counters": service.counters, FAST_PATH: app.state.fast_path}
    for task in tasks:
        task.cancel()
    await asyncio.to_thread(service.log.close)
    if service.warehouse:
        service.warehouse.close()
    service.counters.close()


async def _keep_noting(service: Service) -> None:
    while True:
        _note(service)
        await asyncio.sleep(NOTE_EVERY)


def _note(service: Service) -> None:
    """Tell whichever worker is asked how the record of this one stands."""
    status = service.log.status
    service.counters.log(
        waiting=status.depth,
        oldest_seconds=status.oldest_seconds,
        state=status.state,
        unlogged=status.unlogged,
    )


def _policy(page: bytes) -> str:
    """A policy that lets a page run its own script and style, and reach its own server only."""
    sources = {}
    for element in (b"script", b"style"):
        found = re.findall(rb"<%b>(.*?)</%b>" % (element, element), page, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(content).digest()).decode() for content in found)
        sources[element] = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {sources[b'script']}; style-src {sources[b'style']}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
