"""The shapes of requests and responses, made from a bundle's manifest, and OpenAPI 3.1 from them.

What the schema admits is what the predictor answers; the one exception is that JSON Schema takes
3.0 for an integer and the predictor does not.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import msgspec

from gristmill.errors import ServingError
from gristmill.features.encode import LARGEST_INTEGER
from gristmill.predictions.prediction import LARGEST_KEY
from gristmill.serving import problems

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gristmill.registry.bundle import Bundle, Manifest

_TEXT = msgspec.Meta(pattern=r"^[^\x00]*$")
_FEATURE_TYPES: dict[str, Any] = {
    "integer": Annotated[
        int,
        msgspec.Meta(
            ge=-LARGEST_INTEGER,
            le=LARGEST_INTEGER,
            description="Written without a decimal point.",
        ),
    ],
    "number": float,
    "text": Annotated[str, _TEXT, msgspec.Meta(description="Categories never seen are answered.")],
    "boolean": bool,
    "date": date,
    "timestamp": Annotated[
        str,
        msgspec.Meta(
            extra_json_schema={"format": "date-time"}, description="UTC where no zone is said."
        ),
    ],
}


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the model says, once it is on record."""

    label: int
    probability: Annotated[
        float, msgspec.Meta(ge=0, le=1, description="Of label 1, by this model version.")
    ]
    model_version: str
    prediction_id: Annotated[
        UUID, msgspec.Meta(description="Its place in the record of all predictions.")
    ]
    no_signal: Annotated[
        bool,
        msgspec.Meta(description="Only there, as true, where the data shows nothing to learn."),
    ] = False


class StoredAnswer(Answer, frozen=True, kw_only=True, omit_defaults=True):
    """The same, from the features that the feature store holds."""

    features: dict[str, str | int | float | bool | None]
    features_as_of: Annotated[
        datetime, msgspec.Meta(tz=True, description="The moment that the features describe.")
    ]
    features_age_seconds: float


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The process answers."""

    status: str


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions can be given: the model is loaded and the record can be written."""

    status: str
    model_version: str
    shipping: Annotated[
        str,
        msgspec.Meta(
            description="`up to date` or `behind` on the way to the database; `off` without one.",
        ),
    ]
    waiting: Annotated[int, msgspec.Meta(description="Predictions that are not there yet.")]


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """Which model answers, what it was trained on and how it was judged."""

    project: str
    version: str
    created_at: datetime
    entity: dict[str, str]
    features: list[dict[str, str]]
    label: str
    threshold: float
    candidate: str
    metrics: dict[str, Any]
    no_signal: bool
    verdict: dict[str, Any]
    lineage: dict[str, Any]
    digest: Annotated[str, msgspec.Meta(description="The SHA-256 of the bundle's manifest.")]


def model_card(bundle: Bundle) -> ModelCard:
    """What a bundle says of its model."""
    manifest = bundle.manifest
    return ModelCard(
        project=manifest.project,
        version=manifest.version,
        created_at=manifest.created_at,
        entity={"name": manifest.entity.name, "type": manifest.entity.type},
        features=[{"name": feature.name, "type": feature.type} for feature in manifest.features],
        label=manifest.label,
        threshold=manifest.threshold,
        candidate=manifest.candidate,
        metrics=dict(manifest.metrics),
        no_signal=manifest.no_signal,
        verdict=dict(manifest.verdict),
        lineage=dict(manifest.lineage),
        digest=bundle.digest,
    )


def request_schemas(manifest: Manifest) -> dict[str, Any]:
    """The JSON Schemas of `POST /predict`: the entity's key by its own name, and every feature.

    Raises ServingError where the key's name leaves no room for the features.
    """
    if manifest.entity.name == "features":
        raise ServingError(
            "The entity's key is called 'features', as the features themselves are in a request. "
            "Rename its column."
        )
    names = {f"feature_{place}": each.name for place, each in enumerate(manifest.features)}
    features = msgspec.defstruct(
        "Features",
        [
            (field, _FEATURE_TYPES[feature.type] | None)
            for field, feature in zip(names, manifest.features, strict=True)
        ],
        forbid_unknown_fields=True,
    )
    request = msgspec.defstruct(
        "PredictRequest",
        [("entity", _key_type(manifest)), ("features", features)],
        forbid_unknown_fields=True,
    )
    schemas = _schemas([request])
    _rename(schemas["Features"], names)
    _rename(schemas["PredictRequest"], {"entity": manifest.entity.name})
    return schemas


def _rename(schema: dict[str, Any], names: Mapping[str, str]) -> None:
    """Give properties their real names, which may hold what a Python field cannot."""
    properties = schema["properties"]
    schema["properties"] = {names.get(name, name): value for name, value in properties.items()}
    schema["required"] = [names.get(name, name) for name in schema["required"]]


def _schemas(types: Sequence[type[msgspec.Struct]]) -> dict[str, Any]:
    return msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")[1]


def _key_type(manifest: Manifest) -> Any:
    if manifest.entity.type == "integer":
        return Annotated[int, msgspec.Meta(ge=-LARGEST_KEY, le=LARGEST_KEY)]
    return Annotated[str, msgspec.Meta(min_length=1, pattern=r"^[^\x00]*$")]


# OpenAPI


def openapi(bundle: Bundle) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a bundle's service."""
    manifest = bundle.manifest
    answers: list[type[msgspec.Struct]] = [
        Answer,
        StoredAnswer,
        Health,
        Readiness,
        ModelCard,
        problems.Problem,
    ]
    components = request_schemas(manifest) | _schemas(answers)
    entity = manifest.entity.name
    return {
        "openapi": "3.1.0",
        "info": {
            "title": manifest.project,
            "version": manifest.version,
            "description": f"Predicts {manifest.label} for each {entity}. "
            "Every answer is on record before it is given.",
        },
        "paths": {
            "/predict": {"post": _post_predict(bundle)},
            f"/predict/{{{entity}}}": {"get": _get_predict(components, entity)},
            "/model": {"get": _operation("model", "Which model answers", ModelCard)},
            "/ready": {
                "get": _operation(
                    "ready", "Can predictions be given?", Readiness, "record-unavailable"
                )
            },
            "/health": {"get": _operation("health", "Is the process alive?", Health)},
        },
        "components": {"schemas": components},
        "x-problems": [
            {"name": kind.name, "status": kind.status, "title": kind.title, "meaning": kind.meaning}
            for kind in problems.KINDS.values()
        ],
    }


def _post_predict(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    key: int | str = 150000 if manifest.entity.type == "integer" else "a key"
    known = max(bundle.samples, key=lambda sample: _count_known(sample.features))
    example = {manifest.entity.name: key, "features": dict(known.features)}
    operation = _operation(
        "predict",
        "Predict from features",
        Answer,
        "malformed-json",
        "timeout",
        "too-large",
        "unsupported-media-type",
        "invalid-request",
        "invalid-feature",
        "record-unavailable",
    )
    operation["description"] = (
        "Null and categories never seen are answered; a feature that is missing, unknown or of "
        "another type is refused by name."
    )
    schema = {"$ref": "#/components/schemas/PredictRequest"}
    operation["requestBody"] = {
        "required": True,
        "content": {"application/json": {"schema": schema, "example": example}},
    }
    return operation


def _get_predict(components: dict[str, Any], entity: str) -> dict[str, Any]:
    operation = _operation(
        "predict_stored",
        "Predict from the feature store",
        StoredAnswer,
        "unknown-entity",
        "invalid-request",
        "no-feature-store",
        "database-unavailable",
        "record-unavailable",
    )
    operation["description"] = "The answer says how old the features are."
    operation["parameters"] = [
        {
            "name": entity,
            "in": "path",
            "required": True,
            "schema": components["PredictRequest"]["properties"][entity],
        }
    ]
    return operation


def _get_ready() -> dict[str, Any]:
    return _operation("ready", "Can predictions be given?", Readiness, "record-unavailable")


def _operation(
    name: str, summary: str, answer: type[msgspec.Struct], *kinds: str
) -> dict[str, Any]:
    """An operation with its answer and the kinds of problem that it may have instead."""
    titles: dict[int, list[str]] = {}
    for kind in kinds:
        titles.setdefault(problems.KINDS[kind].status, []).append(problems.KINDS[kind].title)
    refused = {
        str(status): {
            "description": "; or: ".join(titles[status]),
            "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in sorted(titles)
    }
    schema = {"$ref": f"#/components/schemas/{answer.__name__}"}
    answered = {
        "description": (answer.__doc__ or "").strip(),
        "content": {"application/json": {"schema": schema}},
    }
    return {"operationId": name, "summary": summary, "responses": {"200": answered, **refused}}


def _count_known(features: Any) -> int:
    return sum(value is not None for value in features.values())
