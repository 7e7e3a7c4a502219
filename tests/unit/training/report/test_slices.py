"""Where a model is worse: planted faults are found, sound models are left alone."""

import numpy as np
import pyarrow as pa
import pytest

from gristmill.project.features import Feature
from gristmill.training.report.slices import promised_auc, slices

FEATURES = (
    Feature(name="shop", type="text"),
    Feature(name="income", type="number"),
    Feature(name="since", type="date"),
)


def made(rows, seed):
    """Features, and the true probability of label 1."""
    random = np.random.default_rng(seed)
    shop = random.choice(["north", "south", "<b>west</b>"], rows, p=[0.5, 0.3, 0.2])
    income = random.normal(size=rows)
    table = pa.table(
        {
            "shop": shop,
            "income": pa.array(income, mask=random.random(rows) < 0.05),
            "since": pa.array(random.integers(10_000, 20_000, rows).astype(np.int32)).cast(
                pa.date32()
            ),
        }
    )
    score = 1.5 * income + (shop == "north") - 1
    probability = 1 / (1 + np.exp(-score))
    labels = (random.random(rows) < probability).astype(np.int64)
    return table, labels, probability


def test_a_promise_by_all_pairs():
    probabilities = np.array([0.1, 0.4, 0.4, 0.8])
    kept = every = 0.0
    for p in probabilities:
        for q in probabilities:
            weight = p * (1 - q)
            every += weight
            kept += weight * (1.0 if p > q else 0.5 if p == q else 0.0)
    assert promised_auc(probabilities) == pytest.approx(kept / every, abs=1e-15)


def test_the_groups_hold_every_row():
    table, labels, probability = made(4000, 1)
    found = slices(FEATURES, table, table, labels, probability)
    for feature in FEATURES:
        own = [one for one in found if one.feature == feature.name]
        assert sum(one.rows for one in own) == 4000
        assert sum(one.rows * one.observed.value for one in own) == pytest.approx(labels.sum())


def test_a_group_with_wrong_probabilities_is_named_and_no_other_shop():
    table, labels, probability = made(12_000, 2)
    west = np.array(table.column("shop").to_pylist()) == "<b>west</b>"
    said = np.where(west, np.clip(probability + 0.15, 0, 0.999), probability)
    found = slices(FEATURES, table, table, labels, said)
    (wrong,) = [one for one in found if one.wrong_probability and one.feature == "shop"]
    assert (wrong.name, wrong.of_data) == ("<b>west</b>", True)
    assert wrong.predicted > wrong.observed.high


def test_a_group_in_disorder_is_named():
    table, labels, probability = made(12_000, 3)
    south = np.array(table.column("shop").to_pylist()) == "south"
    random = np.random.default_rng(4)
    said = probability.copy()
    said[south] = random.permutation(probability[south])
    found = slices(FEATURES, table, table, labels, said)
    (worse,) = [one for one in found if one.worse_order and one.feature == "shop"]
    assert worse.name == "south"
    assert worse.roc_auc.value == pytest.approx(0.5, abs=0.06)


def test_a_sound_model_is_seldom_blamed():
    """At 5% over all groups: of 60 sound models about 3 have any; more than 8 is 1 in 200."""
    blamed = 0
    for seed in range(60):
        table, labels, probability = made(2500, 100 + seed)
        found = slices(FEATURES, table, table, labels, probability)
        blamed += any(one.worse_order or one.wrong_probability for one in found)
    assert blamed <= 8


def test_too_few_rows_are_not_judged():
    table, labels, probability = made(60, 9)
    found = slices(FEATURES, table, table, labels, probability)
    assert all(one.roc_auc is None for one in found if one.rows < 40)
