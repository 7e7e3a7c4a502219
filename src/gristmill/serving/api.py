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
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from gristmill.errors import (
    BuildError,
    EntityNotFound,
    InvalidFeatures,
    PredictionError,
    SpoolError,
    WarehouseError,
)
from gristmill.predictions.prediction import (
    Prediction,
    entity_key,
    entity_key_from_text,
    json_value,
    new_prediction_id,
)
from gristmill.predictions.predictor import Predictor, load_predictor
from gristmill.predictions.ship import Shipper
from gristmill.predictions.spool import Spool, open_spool
from gristmill.serving.problems import Refused
from gristmill.serving.schema import (
    Answer,
    Health,
    Readiness,
    StoredAnswer,
    model_card,
    openapi,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from pathlib import Path

    from starlette.requests import Request

    from gristmill.features.read import LatestFeatures
    from gristmill.registry.bundle import Bundle, Manifest
    from gristmill.warehouse.connection import Warehouse

    FeatureLookup = Callable[[int | str], LatestFeatures]
    """Finds an entity's latest features; raises EntityNotFound, WarehouseError or BuildError."""

LARGEST_BODY = 1 << 20
"""Bytes of a request's body."""
BODY_TIMEOUT = 10.0
"""Seconds in which a body arrives."""
CHECK_TIMEOUT = 5.0
"""Seconds in which a write of the spool goes through, or the service is not ready."""
LOOKUPS = 8
"""Lookups in the feature store at a time: each holds a connection to the database."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, kw_only=True)
class Service:
    """What the endpoints work with."""

    manifest: Manifest
    predictor: Predictor
    spool: Spool
    shipper: Shipper | None
    """Brings the record to the database; None where there is none."""
    lookup: FeatureLookup | None
    lookups: anyio.CapacityLimiter
    model: bytes
    """The answer of `/model`."""
    openapi: bytes
    docs: bytes
    docs_policy: str
    """The Content-Security-Policy under which the page of documentation works, and no more."""


# Endpoints


async def predict(request: Request) -> Response:
    """`POST /predict`: the answer for the features that are sent."""
    started = time.perf_counter()
    service: Service = request.app.state.service
    key, features = _read(await _body(request), service.manifest)
    prediction = await _answer(service, key, features, started)
    return _document(
        Answer(
            label=prediction.label,
            probability=prediction.probability,
            model_version=prediction.model_version,
            prediction_id=prediction.prediction_id,
            no_signal=service.manifest.no_signal,
        )
    )


async def predict_stored(request: Request) -> Response:
    """`GET /predict/{entity}`: the answer for the features that the feature store holds."""
    started = time.perf_counter()
    service: Service = request.app.state.service
    if service.lookup is None:
        raise Refused("no-feature-store", "This server runs without a database.")
    with _key_refused():
        key = entity_key_from_text(request.path_params["entity"], service.manifest.entity)
    latest = await anyio.to_thread.run_sync(service.lookup, key, limiter=service.lookups)
    features = {name: json_value(value) for name, value in latest.features.items()}
    prediction = await _answer(service, key, features, started)
    return _document(
        StoredAnswer(
            label=prediction.label,
            probability=prediction.probability,
            model_version=prediction.model_version,
            prediction_id=prediction.prediction_id,
            no_signal=service.manifest.no_signal,
            features=features,
            features_as_of=latest.as_of.astimezone(UTC),
            features_age_seconds=(datetime.now(UTC) - latest.as_of).total_seconds(),
        )
    )


async def health(_: Request) -> Response:
    """`GET /health`: the process answers."""
    return _document(Health(status="alive"))


async def ready(request: Request) -> Response:
    """`GET /ready`: predictions can be given, and how their shipping stands."""
    service: Service = request.app.state.service
    try:
        await asyncio.wait_for(service.spool.check(), CHECK_TIMEOUT)
    except TimeoutError:
        raise SpoolError("The disk does not answer.") from None
    shipping = service.shipper.shipping if service.shipper else None
    state = "off" if shipping is None else "behind" if shipping.behind else "up to date"
    return _document(
        Readiness(
            status="ready",
            model_version=service.manifest.version,
            shipping=state,
            waiting=shipping.waiting if shipping else service.spool.waiting().count,
        )
    )


async def model(request: Request) -> Response:
    """`GET /model`: which model answers."""
    return Response(request.app.state.service.model, media_type="application/json")


async def openapi_document(request: Request) -> Response:
    """`GET /openapi.json`."""
    return Response(request.app.state.service.openapi, media_type="application/json")


async def docs(request: Request) -> Response:
    """`GET /docs`: a page that shows the operations and tries them; it needs no other site."""
    service: Service = request.app.state.service
    headers = {"content-security-policy": service.docs_policy, "referrer-policy": "no-referrer"}
    return Response(service.docs, media_type="text/html", headers=headers)


async def to_docs(_: Request) -> Response:
    """`GET /`."""
    return RedirectResponse("/docs")


ROUTES = [
    Route("/", to_docs),
    Route("/predict", predict, methods=["POST"]),
    Route("/predict/{entity:path}", predict_stored),
    Route("/health", health),
    Route("/ready", ready),
    Route("/model", model),
    Route("/openapi.json", openapi_document),
    Route("/docs", docs),
]


# What the endpoints share


async def _answer(
    service: Service, key: int | str, features: Mapping[str, Any], started: float
) -> Prediction:
    """The answer for an entity's features, returned once it is on record."""
    answer = service.predictor.answer(features)
    prediction = Prediction(
        prediction_id=new_prediction_id(),
        entity=str(key),
        features=features,
        probability=answer.probability,
        label=answer.label,
        model_version=service.manifest.version,
        predicted_at=datetime.now(UTC),
        latency_ms=(time.perf_counter() - started) * 1000,
    )
    await service.spool.append_soon(prediction)
    return prediction


async def _body(request: Request) -> bytes:
    """The body of a request that says it is JSON, within limits of size and time."""
    headers = request.headers
    media_type, _, parameters = headers.get("content-type", "").partition(";")
    if media_type.strip().lower() != "application/json":
        raise Refused("unsupported-media-type", "Send Content-Type: application/json.")
    charset = parameters.strip().lower().replace('"', "")
    if charset not in {"", "charset=utf-8"} or "content-encoding" in headers:
        raise Refused("unsupported-media-type", "Send plain JSON in UTF-8.")
    if int(headers.get("content-length", 0)) > LARGEST_BODY:
        raise _too_large()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            body = bytearray()
            async for chunk in request.stream():
                body += chunk
                if len(body) > LARGEST_BODY:
                    raise _too_large()
    except TimeoutError:
        raise Refused("timeout", f"It took longer than {BODY_TIMEOUT:g} seconds.") from None
    return bytes(body)


def _read(body: bytes, manifest: Manifest) -> tuple[int | str, dict[str, Any]]:
    """The entity's key and the features that a body holds; what they may be is checked later."""
    try:
        document = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused("malformed-json", f"{error}.") from error
    except RecursionError:
        raise Refused("malformed-json", "It is nested too deeply.") from None
    if type(document) is not dict:
        raise Refused("invalid-request", "The body must be a JSON object.")
    entity = manifest.entity.name
    for name in (entity, "features"):
        if name not in document:
            raise Refused("invalid-request", f"{name!r} is missing.", field=name)
    if len(document) > 2:
        unknown = next(name for name in document if name not in {entity, "features"})
        raise Refused(
            "invalid-request",
            f"The body holds {entity!r} and 'features', and nothing else.",
            field=unknown,
        )
    features = document["features"]
    if type(features) is not dict:
        raise Refused("invalid-request", "'features' must be a JSON object.", field="features")
    with _key_refused():
        return entity_key(document[entity], manifest.entity), features


@contextmanager
def _key_refused() -> Iterator[None]:
    """A key that is none is a wrong request, not a wrong feature."""
    try:
        yield
    except InvalidFeatures as error:
        raise Refused("invalid-request", str(error), field=error.field) from error


def _document(content: msgspec.Struct) -> Response:
    return Response(
        _encode(content), media_type="application/json", headers={"cache-control": "no-store"}
    )


def _too_large() -> Refused:
    return Refused("too-large", f"The body is larger than {LARGEST_BODY} bytes.")


# What went wrong, as a problem document


async def _refused(_: Request, error: Exception) -> Response:
    return _as_refusal(error).response()


def _as_refusal(error: Exception) -> Refused:
    match error:
        case Refused():
            return error
        case EntityNotFound():
            return Refused("unknown-entity", str(error))
        case SpoolError():
            # The path of the spool is the server's affair.
            return Refused(
                "record-unavailable", "The disk does not take it.", headers={"retry-after": "5"}
            )
        case InvalidFeatures():
            return Refused("invalid-feature", str(error), field=error.field)
        case PredictionError():
            return Refused("invalid-feature", str(error))
        case WarehouseError() | BuildError():
            return Refused(
                "database-unavailable",
                "The feature store cannot be read.",
                headers={"retry-after": "5"},
            )
        case HTTPException(status_code=405):
            return Refused(
                "method-not-allowed", "See the header Allow.", headers=error.headers or {}
            )
        case HTTPException():
            return Refused("not-found", "GET /docs shows what there is.")
    return Refused("internal-error", "The answer could not be computed.")


async def _gone(_: Request, __: Exception) -> Response:
    """The client left before its request was whole: nobody reads this."""
    return Response(status_code=400)


# Wiring


def create_app(
    *,
    bundle: Bundle,
    spool: Path,
    warehouse: Warehouse | None = None,
    lookup: FeatureLookup | None = None,
) -> Starlette:
    """The application that serves a bundle.

    `spool` is the folder that holds the record until it is shipped to `warehouse`; without a
    warehouse it stays there. `lookup` finds the features of `GET /predict/{entity}`. Raises
    BundleError where the bundle answers otherwise than where it was made, SpoolError where the
    folder cannot be written.
    """
    predictor = load_predictor(bundle)
    page = files("gristmill.serving").joinpath("docs.html").read_bytes()
    own_spool = open_spool(spool)
    service = Service(
        manifest=bundle.manifest,
        predictor=predictor,
        spool=own_spool,
        shipper=Shipper(own_spool, warehouse) if warehouse else None,
        lookup=lookup,
        lookups=anyio.CapacityLimiter(LOOKUPS),
        model=_encode(model_card(bundle)),
        openapi=_encode(openapi(bundle)),
        docs=page,
        docs_policy=_policy(page),
    )
    kinds: list[type[Exception]] = [
        Refused,
        PredictionError,
        WarehouseError,
        BuildError,
        HTTPException,
        Exception,
    ]
    app = Starlette(
        routes=ROUTES,
        exception_handlers={**dict.fromkeys(kinds, _refused), ClientDisconnect: _gone},
        lifespan=_lifespan,
    )
    app.router.redirect_slashes = False
    app.state.service = service
    return app


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    """Ship while the application runs; at its end, once more."""
    service: Service = app.state.service
    if service.shipper:
        service.shipper.start()
    # What is loaded by now stays: walking it at every collection would cost the slowest answers.
    gc.collect()
    gc.freeze()
    yield
    if service.shipper:
        await asyncio.to_thread(service.shipper.stop)
    await asyncio.to_thread(service.spool.close)


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
