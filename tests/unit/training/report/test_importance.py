"""What a model relies on, where that is known beforehand."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from gristmill.training.report import importance
from gristmill.training.report.importance import importances


class Known:
    """Uses `told` alone, and counts the rows that it scored."""

    def __init__(self):
        self.scored = 0

    def probabilities(self, table):
        self.scored += table.num_rows
        return 1 / (1 + np.exp(-table.column("told").to_numpy()))


def holdout(rows, seed=3):
    random = np.random.default_rng(seed)
    told = random.normal(size=rows)
    labels = (random.random(rows) < 1 / (1 + np.exp(-2 * told))).astype(np.int64)
    return pa.table({"idle": random.normal(size=rows), "told": told}), labels


def test_all_is_lost_without_the_only_feature_and_nothing_without_an_idle_one():
    table, labels = holdout(4000)
    found = importances(Known(), ["idle", "told"], table, labels, seed=1)
    told, idle = found.features
    gained = roc_auc_score(labels, table.column("told").to_numpy()) - 0.5
    assert (told.feature, idle.feature) == ("told", "idle")
    assert told.loss.low < gained < told.loss.high
    assert 0.02 < told.loss.high - told.loss.low < 0.08
    assert (idle.loss.value, idle.loss.low, idle.loss.high) == (0.0, 0.0, 0.0)


def test_the_same_seed_gives_the_same():
    table, labels = holdout(1000)
    one = importances(Known(), ["idle", "told"], table, labels, seed=1)
    assert one == importances(Known(), ["idle", "told"], table, labels, seed=1)
    assert one != importances(Known(), ["idle", "told"], table, labels, seed=2)


def test_no_more_rows_are_scored_than_allowed(monkeypatch):
    monkeypatch.setattr(importance, "MOST_ROWS_SCORED", 25_000)
    table, labels = holdout(20_000)
    model = Known()
    found = importances(model, ["idle", "told"], table, labels, seed=1)
    assert found.rows == 2500
    assert model.scored == 2500 * 11
    rare = np.zeros(20_000, np.int64)
    rare[[9_000, 11_000]] = 1
    assert importances(Known(), ["told"], table, rare, seed=1).rows == pytest.approx(11_001)
