"""Small training sets with a known truth behind the labels."""

import numpy as np
import pyarrow as pa
import pytest

from gristmill.features.read import TrainingSet
from gristmill.project.features import Feature

FEATURES = (
    Feature(name="attr_a", type="integer"),
    Feature(name="attr_b", type="text"),
    Feature(name="scd_a", type="number"),
    Feature(name="since", type="date"),
    Feature(name="seen", type="timestamp"),
    Feature(name="active", type="boolean"),
)


def make_training_set(rows=1500, *, seed=1, signal=True, features=FEATURES):
    """Labels follow scd_a (not where null), attr_b and whether attr_a is null; or nothing."""
    random = np.random.default_rng(seed)
    scd_a = random.normal(size=rows)
    scd_a_null = random.random(rows) < 0.1
    attr_a_null = random.random(rows) < 0.3
    texts = np.array(["a", "b", "", "ö", "rare", "null"])
    attr_b = random.choice(texts, rows, p=[0.4, 0.3, 0.1, 0.1, 0.005, 0.095])
    score = 2 * np.where(scd_a_null, 0, scd_a) + 2 * (attr_b == "b") - 2 * (attr_b == "")
    score += 1.5 * attr_a_null - 0.8
    likely = 1 / (1 + np.exp(-score)) if signal else np.full(rows, 0.3)
    table = pa.table(
        {
            "idx": np.arange(rows),
            "attr_a": pa.array(random.integers(-5, 5, rows), mask=attr_a_null),
            "attr_b": pa.array([None if text == "null" else text for text in attr_b.tolist()]),
            "scd_a": pa.array(scd_a, mask=scd_a_null),
            "since": pa.array(random.integers(10_000, 20_000, rows).astype(np.int32)).cast(
                pa.date32()
            ),
            "seen": pa.array(1_500_000_000_000_000 + random.integers(0, 10**15, rows)).cast(
                pa.timestamp("us", tz="UTC")
            ),
            "active": pa.array(random.random(rows) < 0.5),
            "label": (random.random(rows) < likely).astype(np.int64),
        }
    )
    return TrainingSet(entity="idx", features=features, label="label", table=table, build=7)


@pytest.fixture(scope="session")
def training_set():
    return make_training_set()
