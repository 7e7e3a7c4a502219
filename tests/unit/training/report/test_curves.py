"""The curves' points, against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.metrics import auc, average_precision_score, f1_score, roc_auc_score, roc_curve

from gristmill.training.report import curves


@pytest.fixture(scope="module")
def scored():
    random = np.random.default_rng(5)
    scores = np.round(random.random(4000), 2)  # with many ties
    return (random.random(4000) < scores).astype(np.int64), scores


def test_the_roc_curve_is_scikit_learns(scored):
    labels, scores = scored
    points = curves.ranking(labels, scores).roc
    rates = roc_curve(labels, scores, drop_intermediate=False)[:2]
    theirs = {(round(x, 12), round(y, 12)) for x, y in zip(*rates, strict=True)}
    assert (points[0], points[-1]) == ((0.0, 0.0), (1.0, 1.0))
    assert {(round(x, 12), round(y, 12)) for x, y in points} == theirs
    x, y = zip(*points, strict=True)
    assert auc(x, y) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_a_curve_of_many_points_is_thinned_without_being_changed():
    random = np.random.default_rng(6)
    scores = random.random(50_000)
    labels = (random.random(50_000) < scores).astype(np.int64)
    points = curves.ranking(labels, scores).roc
    assert len(points) <= curves.MOST_POINTS + 1
    x, y = zip(*points, strict=True)
    assert auc(x, y) == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)


def test_what_is_taken_by_hand():
    scores = np.arange(100, 0, -1) / 100
    labels = np.zeros(100, np.int64)
    labels[[0, 1, 3, 50]] = 1
    first, fifth, *_ = curves.taken(curves.ranking(labels, scores))
    assert (first.rows, first.precision.value, first.recall, first.lift) == (1, 1.0, 0.25, 25.0)
    assert (fifth.rows, fifth.precision.value, fifth.threshold) == (5, 0.6, 0.96)
    assert fifth.lift == pytest.approx(15)


def test_equal_probabilities_are_taken_together():
    labels = np.array([1, 0, 1, 0] * 25)
    assert curves.taken(curves.ranking(labels, np.full(100, 0.5))) == []


def test_calibration_bins_hold_every_row(scored):
    labels, scores = scored
    bins = curves.calibration(labels, scores)
    assert sum(one.rows for one in bins) == len(labels)
    assert sum(one.rows * one.observed.value for one in bins) == pytest.approx(labels.sum())
    assert sum(one.rows * one.probability for one in bins) == pytest.approx(scores.sum())
    assert all(one.observed.low <= one.observed.value <= one.observed.high for one in bins)


def test_a_bootstrap_interval_covers_as_often_as_it_says():
    random = np.random.default_rng(7)
    pool = random.random(200_000)
    truth = (random.random(200_000) < pool**2).astype(np.int64)
    wanted = average_precision_score(truth, pool)
    covered = 0
    for seed in range(40):
        rows = random.integers(0, len(pool), 800)
        rank = curves.ranking(truth[rows], pool[rows])
        low, high = curves.average_precision_interval(rank, seed=seed)
        covered += low <= wanted <= high
    assert covered >= 33  # 95% of 40 is 38; fewer than 33 has a chance below 1 in 1,000


def test_the_interval_of_f1_holds_its_value():
    confusion = {
        "true_positives": 40, "false_positives": 10, "false_negatives": 30, "true_negatives": 120,
    }  # fmt: skip
    labels = np.repeat([1, 0, 1, 0], [40, 10, 30, 120])
    answers = np.repeat([1, 1, 0, 0], [40, 10, 30, 120])
    low, high = curves.f1_interval(confusion, seed=0)
    assert low < f1_score(labels, answers) < high
    assert 0.1 < high - low < 0.3


def test_perfect_probabilities_stay_below_the_error_by_chance():
    from gristmill.training.evaluate import calibration_error

    random = np.random.default_rng(8)
    scores = random.beta(2, 5, 3000)
    limit = curves.calibration_error_by_chance(scores, seed=0)
    errors = [
        calibration_error((random.random(3000) < scores).astype(np.int64), scores)
        for _ in range(300)
    ]
    assert 0.9 <= np.mean(np.array(errors) <= limit) <= 0.985
