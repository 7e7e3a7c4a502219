"""A project whose champion is a boosting, and the same model as its makers have it."""

from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import joblib
import numpy as np
import pandas as pd

from gristmill.bucket.sample import write_sample
from gristmill.features.encode import NULL_TEXT
from gristmill.features.read import feature_store_build, latest_batches
from gristmill.flow import steps, train
from gristmill.flow.context import Context, open_context
from gristmill.flow.report import Silence
from gristmill.predictions.prediction import json_value
from gristmill.project.read import read_project

PROJECT = """
[project]
name = "benchmark"
source = "bucket"
[tables.customer_profiles]
path = "customer_profiles.csv"
key = ["idx"]
columns = { idx = "integer", attr_a = "integer", attr_b = "text" }
[tables.customer_activity]
path = "customer_activity.csv"
key = ["idx", "valid_from"]
valid = ["valid_from", "valid_to"]
[tables.customer_activity.columns]
idx = "integer"
valid_from = "date"
valid_to = "date?"
scd_a = "number"
scd_b = "integer"
[tables.labels]
path = "labels.csv"
key = ["idx"]
columns = { idx = "integer", label = { type = "integer", in = [0, 1] } }
[features]
entity = "customer_profiles.idx"
features = ["customer_profiles.attr_a", "customer_profiles.attr_b",
            "customer_activity.scd_a", "customer_activity.scd_b"]
label = "labels.label"
[model]
candidates = ["gradient_boosting"]
"""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What the servers are made of."""

    context: Context
    folder: Path
    """The project's."""
    bundle: Path
    model: Path
    """The scikit-learn model, by joblib; see `servers.model`."""


def train_champion(folder: Path, home: Path, *, customers: int) -> Trained:
    """Load, build and train on a sample, and keep the fitted pipeline that became the champion."""
    (folder / "gristmill.toml").write_text(PROJECT)
    write_sample(folder / "bucket", customers=customers, months=1, labels="signal", seed=42)
    context = open_context(read_project(folder), home=home)
    steps.load(context, Silence())
    steps.build(context, Silence())
    kept = []

    def fit_and_keep(*given, **named):
        kept.append(fit(*given, **named))
        return kept[-1]

    fit = train.fit
    with mock.patch.object(train, "fit", fit_and_keep):
        version = steps.train(context, Silence())
    [fitted] = kept
    saved = {
        "pipeline": fitted.pipeline,
        "slope": fitted.calibration.slope,
        "intercept": fitted.calibration.intercept,
        "threshold": fitted.threshold,
        "texts": [feature.name for feature in fitted.features if feature.type == "text"],
        "null": NULL_TEXT,
    }
    joblib.dump(saved, folder / "model.joblib")
    return Trained(
        context=context, folder=folder, bundle=version.bundle, model=folder / "model.joblib"
    )


def some_rows(trained: Trained, count: int) -> list[tuple[int, dict]]:
    """Entities with their features, as requests send them: those of the feature store, in turn."""
    features = trained.context.project.features
    with trained.context.warehouse.transaction() as transaction:
        build = feature_store_build(features, transaction).build
        batch = next(latest_batches(features, transaction, build, size=count))
    keys = [int(key) for key in batch.keys.to_pylist()]
    rows = [
        {name: json_value(value) for name, value in row.items()}
        for row in batch.features.to_pylist()
    ]
    places = [place % len(rows) for place in range(count)]
    return [(keys[place], rows[place]) for place in places]


def as_frame(rows: list[dict], texts: set[str]) -> pd.DataFrame:
    """Many rows as the pipeline takes them."""
    frame = pd.DataFrame(rows)
    for name in frame.columns:
        frame[name] = (
            frame[name].astype(object).fillna(NULL_TEXT)
            if name in texts
            else frame[name].astype(np.float64)
        )
    return frame
