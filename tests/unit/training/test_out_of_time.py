from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from gristmill.features.read import TrainingSet
from gristmill.project.features import Feature
from gristmill.project.model import Model
from gristmill.training.auc import Estimate
from gristmill.training.out_of_time import out_of_time
from gristmill.training.split import split

MODEL = Model(candidates=("logistic",))
FEATURES = (Feature(name="x", type="number"),)
BEGIN = datetime(2025, 1, 1, tzinfo=UTC)


def parts(*, turns_on=None, rows=3000, days=100, moments=None):
    """Labels follow x, and from a day on its opposite; one label a day after the other."""
    random = np.random.default_rng(4)
    day = np.arange(rows) * days // rows
    x = random.normal(size=rows)
    direction = np.ones(rows) if turns_on is None else np.where(day < turns_on, 1, -1)
    labels = (random.random(rows) < 1 / (1 + np.exp(-2 * direction * x))).astype(np.int64)
    when = moments or [BEGIN + timedelta(days=int(one)) for one in day]
    kind = pa.date32() if not isinstance(when[0], datetime) else pa.timestamp("us", tz="UTC")
    table = pa.table(
        {"id": np.arange(rows), "x": x, "label": labels, "as_of": pa.array(when, kind)}
    )
    known = TrainingSet(entity="id", features=FEATURES, label="label", table=table, build=1)
    return split(known, salt="shop", share=0.2)


def test_the_latest_fifth_is_predicted_from_what_came_before():
    found = out_of_time(parts(), FEATURES, MODEL, "logistic")

    assert found.since == "2025-03-22T00:00:00+00:00"  # day 80 of 100
    held_out = parts().holdout.table
    cut = BEGIN + timedelta(days=80)
    assert found.rows == sum(one >= cut for one in held_out.column("as_of").to_pylist())
    assert found.roc_auc.low > 0.7


def test_what_turned_lately_is_seen_out_of_time_alone():
    """Until day 80 x speaks for label 1, since then against it: what is old teaches wrong."""
    found = out_of_time(parts(turns_on=80), FEATURES, MODEL, "logistic")

    assert found.roc_auc.high < 0.3
    in_time = Estimate(value=0.7, low=0.65, high=0.75)
    assert "it learned ages" in found.sentence(in_time)
    assert "it learned ages" not in found.sentence(Estimate(value=0.2, low=0.1, high=0.3))


def test_dates_count_as_their_midnight():
    moments = [(BEGIN + timedelta(days=one * 100 // 3000)).date() for one in range(3000)]
    found = out_of_time(parts(moments=moments), FEATURES, MODEL, "logistic")
    assert found == out_of_time(parts(), FEATURES, MODEL, "logistic")


def test_a_label_without_a_moment_counts_as_old():
    moments = [None if one % 10 == 0 else BEGIN + timedelta(days=one // 30) for one in range(3000)]
    moments[0] = BEGIN
    assert out_of_time(parts(moments=moments), FEATURES, MODEL, "logistic").rows > 50


def test_without_moments_or_with_one_there_is_nothing_to_tell():
    same = parts(moments=[BEGIN] * 3000)
    assert out_of_time(same, FEATURES, MODEL, "logistic") is None
    timeless = replace(
        same, training=replace(same.training, table=same.training.table.drop_columns(["as_of"]))
    )
    assert out_of_time(timeless, FEATURES, MODEL, "logistic") is None


@pytest.mark.parametrize("rows", [160])
def test_too_few_labels_are_said_to_be_so(rows):
    found = out_of_time(parts(rows=rows), FEATURES, MODEL, "logistic")

    assert found.roc_auc is None
    assert "too few labels" in found.sentence(Estimate(value=0.7, low=0.6, high=0.8))
    assert found.to_dict()["roc_auc"] is None
