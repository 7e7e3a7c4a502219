"""The OpenAPI 3.1 document of a bundle's service, from the types that it answers with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gristmill.serving import problems, schema
from gristmill.serving.bodies import LONGEST_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

    import msgspec

    from gristmill.registry.bundle import Bundle

_EVERYWHERE = (
    *("malformed-http", "headers-too-large", "timeout", "internal-error"),
    *("another-site", "misdirected"),
)
_OPEN: dict[str, Any] = {"security": []}
"""What is answered without an API key."""
_ONCE = ("key-in-use", "key-reused", "record-unavailable")
_BODY = ("malformed-json", "too-large", "unsupported-media-type", "invalid-request", "busy")
_DATABASE = ("no-database", "database-unavailable")
_KEY_HEADER = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Sent again with the same key, a request gets its first answer, for a day.",
    "schema": {"type": "string", "pattern": "^[!-~]+$", "maxLength": LONGEST_KEY},
}


def openapi(bundle: Bundle) -> dict[str, Any]:
    """The document. Raises ServingError where the key's name leaves no room in a request."""
    manifest = bundle.manifest
    entity = manifest.entity.name
    components = schema.request_schemas(manifest) | schema.component_schemas(
        [
            schema.Answer,
            schema.StoredAnswer,
            schema.BatchAnswer,
            schema.OutcomesRecorded,
            schema.Health,
            schema.Readiness,
            schema.ModelCard,
            problems.Problem,
        ]
    )
    components["BatchAnswer"]["properties"]["predictions"]["items"] = _reference("BatchPrediction")
    key = components["PredictRequest"]["properties"][entity]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": manifest.project,
            "version": manifest.version,
            "description": f"Predicts {manifest.label} for each {entity}. "
            "Every answer is on record before it is given.",
        },
        "paths": {
            "/predict": {"post": _predict(bundle)},
            "/predict/batch": {"post": _predict_batch(bundle)},
            f"/predict/{{{entity}}}": {"get": _predict_stored(entity, key)},
            "/outcomes": {"post": _outcomes(bundle)},
            "/model": {"get": _operation("model", "Which model answers", schema.ModelCard)},
            "/model/report": {"get": _report()},
            "/ready": {"get": _ready()},
            "/health": {"get": _health()},
            "/metrics": {"get": _metrics()},
        },
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
        "x-problems": [
            {"name": kind.name, "status": kind.status, "title": kind.title, "meaning": kind.meaning}
            for kind in problems.KINDS.values()
        ],
    }


def _predict(bundle: Bundle) -> dict[str, Any]:
    operation = _operation(
        "predict",
        "Predict from features",
        schema.Answer,
        *_BODY,
        "invalid-feature",
        *_ONCE,
    )
    operation["description"] = (
        "Null and categories never seen are answered; a feature that is missing, unknown or of "
        "another type is refused by name."
    )
    operation["parameters"] = [_KEY_HEADER]
    operation["requestBody"] = _json(_reference("PredictRequest"), _request(bundle))
    return operation


def _predict_batch(bundle: Bundle) -> dict[str, Any]:
    operation = _operation(
        "predict_batch",
        "Predict for many at once",
        schema.BatchAnswer,
        *_BODY,
        "invalid-feature",
        *_ONCE,
    )
    operation["description"] = (
        "All rows are answered, or none: where one is wrong, `row` and `pointer` name it. Each "
        "has a record of its own."
    )
    operation["parameters"] = [_KEY_HEADER]
    operation["requestBody"] = _json(_reference("BatchRequest"), {"rows": [_request(bundle)]})
    return operation


def _predict_stored(entity: str, key: Mapping[str, Any]) -> dict[str, Any]:
    operation = _operation(
        "predict_stored",
        "Predict from the feature store",
        schema.StoredAnswer,
        "unknown-entity",
        "invalid-request",
        *_DATABASE,
        "record-unavailable",
    )
    operation["description"] = "The answer says how old the features are."
    operation["parameters"] = [{"name": entity, "in": "path", "required": True, "schema": key}]
    return operation


def _outcomes(bundle: Bundle) -> dict[str, Any]:
    operation = _operation(
        "outcomes",
        "Tell what turned out to be true",
        schema.OutcomesRecorded,
        *_BODY,
        "contradiction",
        *_DATABASE,
    )
    operation["description"] = (
        "Told twice is recorded once. Told otherwise for the same entity and time, it corrects "
        "what was there. All of a list is recorded, or none."
    )
    one = {
        bundle.manifest.entity.name: _key(bundle),
        "outcome": 1,
        "observed_at": "2026-01-31T12:00:00Z",
    }
    either = {"anyOf": [_reference("Outcome"), _reference("Outcomes")]}
    operation["requestBody"] = _json(either, {"outcomes": [one]})
    return operation


def _ready() -> dict[str, Any]:
    summary = "Can predictions be given?"
    return _operation("ready", summary, schema.Readiness, "record-unavailable") | _OPEN


def _report() -> dict[str, Any]:
    operation = _operation("report", "What is known of it", schema.Health, "not-found")
    operation["responses"]["200"] = {
        "description": "A page to look at: the verdict first, then what bears it out.",
        "content": {"text/html": {"schema": {"type": "string"}}},
    }
    return operation


def _health() -> dict[str, Any]:
    return _operation("health", "Is the process alive?", schema.Health) | _OPEN


def _metrics() -> dict[str, Any]:
    operation = _operation("metrics", "What was counted, for Prometheus", schema.Health)
    operation["responses"]["200"] = {
        "description": "The sum over all worker processes.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
    return operation


def _request(bundle: Bundle) -> dict[str, Any]:
    """A request that is answered: the sample that knows most."""
    known = max(
        bundle.samples, key=lambda one: sum(value is not None for value in one.features.values())
    )
    return {bundle.manifest.entity.name: _key(bundle), "features": dict(known.features)}


def _key(bundle: Bundle) -> int | str:
    return 150000 if bundle.manifest.entity.type == "integer" else "a key"


def _json(content: Mapping[str, Any], example: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "required": True,
        "content": {"application/json": {"schema": content, "example": example}},
    }


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _operation(
    name: str, summary: str, answer: type[msgspec.Struct], *kinds: str
) -> dict[str, Any]:
    """An operation with its answer and the kinds of problem that it may have instead."""
    titles: dict[int, list[str]] = {}
    for kind in ("unauthorized", *kinds, *_EVERYWHERE):
        titles.setdefault(problems.KINDS[kind].status, []).append(problems.KINDS[kind].title)
    refused = {
        str(status): {
            "description": "; or: ".join(titles[status]),
            "content": {problems.MEDIA_TYPE: {"schema": _reference("Problem")}},
        }
        for status in sorted(titles)
    }
    answered = {
        "description": (answer.__doc__ or "").strip(),
        "content": {"application/json": {"schema": _reference(answer.__name__)}},
        "headers": {
            "x-request-id": {
                "description": "The request's own, or one that was made: it is in the log.",
                "schema": {"type": "string"},
            }
        },
    }
    return {"operationId": name, "summary": summary, "responses": {"200": answered, **refused}}
