"""Answers for everyone in the feature store, put on record together: all of them, or none.

It answers a build of the feature store once per model version; asked again, it says what it said.
"""

from __future__ import annotations

import io
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.csv as arrow_csv

from gristmill.errors import BuildError, PredictionError
from gristmill.features.read import feature_store_build, latest_batches
from gristmill.predictions.prediction import new_prediction_ids
from gristmill.predictions.predictor import CHUNK, load_predictor
from gristmill.warehouse.queries import load_queries

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from gristmill.features.read import LatestBatch
    from gristmill.project.features import Features
    from gristmill.registry.bundle import Bundle
    from gristmill.warehouse.connection import Transaction, Warehouse

_queries = load_queries("gristmill.predictions", "score.sql")
_AS_LINES = arrow_csv.WriteOptions(include_header=False)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a scoring came to."""

    model_version: str
    build: int
    """The build of the feature store."""
    entities: int
    positives: int
    """How many of them are answered with label 1."""
    seconds: float
    scored_at: datetime
    """When it began: the `predicted_at` of all its predictions."""


def score(
    bundle: Bundle,
    warehouse: Warehouse,
    *,
    again: bool = False,
    begin: Callable[[int], None],
    progress: Callable[[int], None],
) -> tuple[Scored, bool]:
    """Answer for everyone in the current feature store, in one transaction; whether it did now.

    Where this version has answered this build already, that scoring is returned and nothing is
    done, unless `again`. `begin` is told how many entities there are, `progress` how many more are
    answered. No more than a batch of 65,536 is held in memory. Raises BuildError where there is no
    feature store or it lacks a feature, BundleError where the bundle answers otherwise here.
    """
    features = bundle.manifest.stored_features
    if features is None:
        raise BuildError(f"Version {bundle.manifest.version} was trained without a feature store.")
    with warehouse.transaction() as transaction:
        transaction.execute(_queries.lock)
        build = feature_store_build(features, transaction)
        wanted = {"model_version": bundle.manifest.version, "build": build.build}
        found = transaction.row(_queries.scored, wanted)
        if found and not again:
            return Scored(**found), False
        begin(build.rows)
        scored = _score(bundle, features, build.build, transaction, progress)
        if scored.entities != build.rows:
            raise PredictionError(
                f"{scored.entities:,} of {build.rows:,} entities were answered, so nothing was put "
                "on record. This is an error of Gristmill's own: please report it."
            )
        transaction.execute(_queries.record, asdict(scored))
    return scored, True


def _score(
    bundle: Bundle,
    features: Features,
    build: int,
    transaction: Transaction,
    progress: Callable[[int], None],
) -> Scored:
    predictor = load_predictor(bundle)
    scored_at, started = datetime.now(UTC), time.monotonic()
    entities = positives = 0
    began = started
    for batch in latest_batches(features, transaction, build, size=CHUNK):
        probabilities = predictor.probabilities(batch.features)
        labels = predictor.labels(probabilities)
        lines = _lines(
            batch,
            probabilities,
            labels,
            model_version=bundle.manifest.version,
            predicted_at=scored_at,
            latency_ms=(time.monotonic() - began) * 1000,
        )
        with transaction.copy_in(_queries.copy_predictions) as copy:
            copy.write(lines)
        entities += len(labels)
        positives += int(labels.sum())
        progress(len(labels))
        began = time.monotonic()
    return Scored(
        model_version=bundle.manifest.version,
        build=build,
        entities=entities,
        positives=positives,
        seconds=time.monotonic() - started,
        scored_at=scored_at,
    )


def _lines(
    batch: LatestBatch,
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    *,
    model_version: str,
    predicted_at: datetime,
    latency_ms: float,
) -> memoryview:
    """A batch's predictions as COPY takes them: floats survive the way, to the last bit."""
    rows = len(labels)
    table = pa.table(
        {
            "prediction_id": new_prediction_ids(rows),
            "entity": batch.keys,
            "features": batch.records,
            "probability": probabilities,
            "label": labels,
            "model_version": pa.repeat(model_version, rows),
            "predicted_at": pa.repeat(predicted_at.isoformat(), rows),
            "latency_ms": pa.repeat(latency_ms, rows),
        }
    )
    buffer = io.BytesIO()
    arrow_csv.write_csv(table, buffer, _AS_LINES)
    return buffer.getbuffer()
