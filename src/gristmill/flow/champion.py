"""The champion at work."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gristmill.errors import BuildError
from gristmill.features.read import latest_of
from gristmill.predictions.prediction import (
    Prediction,
    entity_key_from_text,
    json_value,
    new_prediction_id,
)
from gristmill.predictions.predictor import load_predictor
from gristmill.predictions.ship import record
from gristmill.registry.bundle import copy_bundle, verify_bundle
from gristmill.serving.server import Deployment, serve

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gristmill.flow.context import Context
    from gristmill.registry.bundle import Bundle


def champion_bundle(context: Context) -> Bundle:
    """The champion's bundle, verified. Raises NoChampion, BundleError."""
    return context.registry.require_champion().open_bundle()


def export_champion(context: Context, folder: Path) -> str:
    """Copy the champion's bundle to a folder that does not exist yet; the version it is."""
    champion = context.registry.require_champion()
    copied = copy_bundle(champion.bundle, folder, digest=champion.bundle_digest)
    return copied.manifest.version


def serve_champion(context: Context, *, host: str, port: int, workers: int) -> None:
    """Answer over HTTP with the champion's bundle, until stopped.

    Raises NoChampion, BundleError, PortTaken before anything is answered, and ServingError where
    others could reach it and there is no API key.
    """
    champion = context.registry.require_champion()
    verify_bundle(champion.bundle, digest=champion.bundle_digest)
    serve(
        Deployment(
            bundle=champion.bundle,
            spool=context.home.spool,
            database_url=context.warehouse.url,
            bundles=context.home.bundles,
            log=context.project.serving.log,
            keys=context.home.keys,
            counters=context.home.counters,
        ),
        host=host,
        port=port,
        workers=workers,
    )


def predict(context: Context, entities: Sequence[str]) -> list[Prediction]:
    """Answer for entities by their features in the feature store, and put the answers on record.

    Raises NoChampion, InvalidFeatures, EntityNotFound; then none of them is answered.
    """
    bundle = champion_bundle(context)
    features = bundle.manifest.stored_features
    if features is None:
        raise BuildError(f"Version {bundle.manifest.version} was trained without a feature store.")
    predictor = load_predictor(bundle)
    started = time.monotonic()
    keys = [entity_key_from_text(text, bundle.manifest.entity) for text in entities]
    found = latest_of(features, context.warehouse, keys)
    rows = [{name: json_value(value) for name, value in one.features.items()} for one in found]
    answers = predictor.answers(rows)
    now, latency_ms = datetime.now(UTC), (time.monotonic() - started) * 1000
    made = [
        Prediction(
            prediction_id=new_prediction_id(),
            entity=str(key),
            features=row,
            probability=answer.probability,
            label=answer.label,
            model_version=bundle.manifest.version,
            predicted_at=now,
            latency_ms=latency_ms,
        )
        for key, row, answer in zip(keys, rows, answers, strict=True)
    ]
    record(context.warehouse, made)
    return made
