import numpy as np
import pytest
from scipy.special import expit
from sklearn import metrics

from gristmill.training.calibrate import Calibration, apply, calibrate, reliability


def made(*, slope=1.0, rows=4000, seed=0):
    """Labels drawn by the true log-odds; scores that are `slope` times as sure."""
    random = np.random.default_rng(seed)
    truth = random.normal(-0.5, 1.5, rows)
    labels = (random.random(rows) < expit(truth)).astype(np.int64)
    parts = [np.arange(part, rows, 3) for part in range(3)]
    return truth, slope * truth, labels, parts


def test_scores_that_are_too_sure_are_mended():
    truth, scores, labels, parts = made(slope=3.0)

    found = calibrate(scores.reshape(-1, 1), labels, parts)

    assert found.calibration.slope == pytest.approx(1 / 3, rel=0.1)
    assert found.after.log_loss < found.before.log_loss - 0.1
    assert found.after.calibration_error < 0.03 < found.before.calibration_error
    np.testing.assert_allclose(apply(scores, found.calibration), expit(truth), atol=0.05)


def test_scores_that_are_right_are_left_alone_or_nearly_so():
    _, scores, labels, parts = made()

    found = calibrate(scores.reshape(-1, 1), labels, parts)

    assert found.after.log_loss <= found.before.log_loss
    assert found.calibration.slope == pytest.approx(1.0, abs=0.08)


def test_what_is_measured_was_calibrated_by_other_rows():
    """Each part's probabilities follow from the other parts' labels alone."""
    _, scores, labels, parts = made(slope=3.0, rows=300)
    changed = labels.copy()
    changed[parts[0]] = 1 - changed[parts[0]]

    first = calibrate(scores.reshape(-1, 1), labels, parts).probabilities[parts[0]]
    second = calibrate(scores.reshape(-1, 1), changed, parts).probabilities[parts[0]]

    np.testing.assert_array_equal(first, second)


def test_scores_that_say_nothing_promise_the_base_rate():
    random = np.random.default_rng(1)
    labels = (random.random(600) < 0.3).astype(np.int64)
    against = -2.0 * labels + random.normal(size=600)

    found = calibrate(
        against.reshape(-1, 1), labels, [np.arange(part, 600, 3) for part in range(3)]
    )

    assert found.calibration.slope == 0.0
    assert expit(found.calibration.intercept) == pytest.approx(labels.mean())


def test_a_blend_weighs_what_says_more_and_drops_what_says_nothing():
    truth, _, labels, parts = made()
    random = np.random.default_rng(2)
    near, far = truth + random.normal(0, 0.7, 4000), truth + random.normal(0, 3, 4000)

    found = calibrate(np.column_stack([near, far]), labels, parts)
    without = calibrate(np.column_stack([near, -truth - near]), labels, parts)

    assert sum(found.shares) == pytest.approx(1.0)
    assert found.shares[0] > 3 * found.shares[1] > 0
    assert metrics.log_loss(labels, found.probabilities) < metrics.log_loss(labels, expit(near))
    assert without.shares == (1.0, 0.0)


def test_reliability_is_what_others_compute():
    _, scores, labels, _ = made(slope=2.0)
    probabilities = apply(scores, Calibration(slope=0.8, intercept=0.1))

    found = reliability(labels, probabilities)

    assert found.log_loss == pytest.approx(metrics.log_loss(labels, probabilities))
    assert found.brier == pytest.approx(metrics.brier_score_loss(labels, probabilities))
