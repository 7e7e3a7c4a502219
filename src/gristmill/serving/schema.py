"""The shapes of requests and responses, made from a bundle's manifest.

What the schema admits is what the predictor answers; the one exception is that JSON Schema takes
3.0 for an integer and the predictor does not.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

import msgspec

from gristmill.errors import ServingError
from gristmill.features.encode import LARGEST_INTEGER
from gristmill.predictions.prediction import LARGEST_KEY, LONGEST_TEXT_KEY
from gristmill.serving.bodies import MOST_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gristmill.registry.bundle import Bundle, Manifest

RESERVED = frozenset(
    {"features", "label", "probability", "prediction_id", "outcome", "observed_at", "outcomes"}
)
"""Names that stand beside the entity's key in a request or an answer."""

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


class BatchAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the model says of each row, in their order, once all of it is on record."""

    predictions: list[dict[str, Any]]
    model_version: str
    no_signal: Annotated[
        bool,
        msgspec.Meta(description="Only there, as true, where the data shows nothing to learn."),
    ] = False


class OutcomesRecorded(msgspec.Struct, frozen=True, kw_only=True):
    """What was told is on record in the database."""

    added: int
    corrected: Annotated[int, msgspec.Meta(description="They were there with the other outcome.")]
    known: Annotated[int, msgspec.Meta(description="They were there already.")]


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The process answers."""

    status: str


class Readiness(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Predictions can be given: the model is loaded and the record can be written."""

    status: str
    model_version: str
    log: Annotated[
        str, msgspec.Meta(description="`writing`, or `failing` where the disk takes no record.")
    ]
    shipping: Annotated[
        str,
        msgspec.Meta(
            description="`up to date` or `behind` on the way to the database; `off` without one.",
        ),
    ]
    waiting: Annotated[int, msgspec.Meta(description="Predictions that are not there yet.")]
    oldest_seconds: Annotated[float, msgspec.Meta(description="The age of the oldest of them.")]
    unlogged: Annotated[
        int,
        msgspec.Meta(description="Answers without a record, where the project prefers them."),
    ]
    refused: Annotated[
        str | None,
        msgspec.Meta(description="Only there as the version that should answer, and is spoilt."),
    ] = None


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
    report: Annotated[
        str | None, msgspec.Meta(description="Where all that is known of it is shown as a page.")
    ]


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
        report="/model/report" if bundle.report else None,
    )


def request_schemas(manifest: Manifest) -> dict[str, Any]:
    """The JSON Schemas of what is sent and answered by the entity's and the features' own names.

    Raises ServingError where the key's name leaves no room for what stands beside it.
    """
    entity = manifest.entity.name
    if entity in RESERVED:
        raise ServingError(
            f"The entity's key is called {entity!r}, as is something that stands beside it in a "
            "request or an answer. Rename its column."
        )
    names = {f"feature_{place}": each.name for place, each in enumerate(manifest.features)}
    key = ("entity", _key_type(manifest))
    features = msgspec.defstruct(
        "Features",
        [
            (field, _FEATURE_TYPES[feature.type] | None)
            for field, feature in zip(names, manifest.features, strict=True)
        ],
        forbid_unknown_fields=True,
    )
    request = msgspec.defstruct(
        "PredictRequest", [key, ("features", features)], forbid_unknown_fields=True
    )
    outcome = msgspec.defstruct(
        "Outcome",
        [key, ("outcome", Literal[0, 1]), ("observed_at", _OBSERVED_AT)],
        forbid_unknown_fields=True,
    )
    types = [
        request,
        outcome,
        msgspec.defstruct("BatchRequest", [("rows", _many(request))], forbid_unknown_fields=True),
        msgspec.defstruct("Outcomes", [("outcomes", _many(outcome))], forbid_unknown_fields=True),
        msgspec.defstruct(
            "BatchPrediction",
            [key, ("label", int), ("probability", float), ("prediction_id", UUID)],
        ),
    ]
    schemas = component_schemas(types)
    _rename(schemas["Features"], names)
    for name in ("PredictRequest", "Outcome", "BatchPrediction"):
        _rename(schemas[name], {"entity": entity})
    return schemas


def component_schemas(types: Sequence[type[msgspec.Struct]]) -> dict[str, Any]:
    """The JSON Schemas of types, by their names."""
    return msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")[1]


_OBSERVED_AT = Annotated[
    str,
    msgspec.Meta(
        description="Since when it is known, not in the future; UTC where no zone is said.",
        extra_json_schema={"anyOf": [{"format": "date-time"}, {"format": "date"}]},
    ),
]


def _many(one: type[msgspec.Struct]) -> Any:
    return Annotated[list[one], msgspec.Meta(min_length=1, max_length=MOST_ROWS)]  # type: ignore[valid-type]  # made at run time


def _rename(schema: dict[str, Any], names: Mapping[str, str]) -> None:
    """Give properties their real names, which may hold what a Python field cannot."""
    properties = schema["properties"]
    schema["properties"] = {names.get(name, name): value for name, value in properties.items()}
    schema["required"] = [names.get(name, name) for name in schema["required"]]


def _key_type(manifest: Manifest) -> Any:
    if manifest.entity.type == "integer":
        return Annotated[int, msgspec.Meta(ge=-LARGEST_KEY, le=LARGEST_KEY)]
    return Annotated[
        str, msgspec.Meta(min_length=1, max_length=LONGEST_TEXT_KEY, pattern=r"^[^\x00]*$")
    ]
