"""What the endpoints work with: the model that answers now, the record, and what counts requests.

The model is one immutable whole, replaced at once: a request takes it once, at its beginning, and
is answered by it to its end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import msgspec

from gristmill.features.read import LatestFeatures, latest
from gristmill.predictions.predictor import Predictor, load_predictor
from gristmill.serving.openapi import openapi
from gristmill.serving.room import Room
from gristmill.serving.schema import model_card

if TYPE_CHECKING:
    from collections.abc import Callable

    from gristmill.predictions.log import PredictionLog
    from gristmill.registry.bundle import Bundle, Manifest
    from gristmill.serving.metrics import Counters
    from gristmill.warehouse.connection import Warehouse
    from gristmill.warehouse.kept import KeptWarehouse

    FeatureLookup = Callable[[int | str], LatestFeatures]
    """Finds an entity's latest features; raises EntityNotFound, WarehouseError or BuildError."""

AT_DATABASE = 8
"""Requests that use the database at a time: each holds a thread and a connection."""
BATCHES = 1
"""Batches that are computed at a time: more would only take turns."""

encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, kw_only=True)
class Served:
    """One model version at work."""

    manifest: Manifest
    predictor: Predictor
    lookup: FeatureLookup | None
    """Finds the features of `GET /predict/{entity}`; None without a database."""
    card: bytes
    """The answer of `/model`."""
    report: bytes | None
    """The answer of `/model/report`; None where the bundle has no such page."""
    openapi: bytes
    """The answer of `/openapi.json`."""


@dataclass(kw_only=True)
class Service:
    """What one worker process works with."""

    served: Served
    """The model version that answers; it is replaced as a whole."""
    log: PredictionLog
    """Puts answers on record."""
    warehouse: KeptWarehouse | None
    """Where outcomes go; None without a database."""
    counters: Counters
    best_effort: bool
    """Whether answers are given also where they cannot be put on record."""
    refused: str | None = None
    """The version that should answer instead and was refused, as its bundle is spoilt."""
    at_database: anyio.CapacityLimiter = field(
        default_factory=lambda: anyio.CapacityLimiter(AT_DATABASE)
    )
    batches: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(BATCHES))
    room: Room = field(default_factory=Room)
    """Where large bodies are held."""

    def replace(self, served: Served) -> None:
        """Let another model version answer from the next request on."""
        self.served = served
        self.counters.serve(served.manifest.version)


def load_served(bundle: Bundle, warehouse: Warehouse | None) -> Served:
    """A bundle ready to answer, its samples recomputed; not for an event loop, as it takes a while.

    Raises BundleError where it answers otherwise than where it was made, ServingError where its
    names leave no room for a request.
    """
    predictor = load_predictor(bundle)
    return Served(
        manifest=bundle.manifest,
        predictor=predictor,
        lookup=_lookup(warehouse, bundle.manifest),
        card=encode(model_card(bundle)),
        report=bundle.report,
        openapi=encode(openapi(bundle)),
    )


def _lookup(warehouse: Warehouse | None, manifest: Manifest) -> FeatureLookup | None:
    """How the bundle's features are found in the feature store, where there is one."""
    features = manifest.stored_features
    if warehouse is None or features is None:
        return None

    def find(key: int | str) -> LatestFeatures:
        return latest(features, warehouse, key)

    return find
