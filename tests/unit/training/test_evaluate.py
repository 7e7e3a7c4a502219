import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from gristmill.training.evaluate import average_precision, evaluate, measure, wilson

ROWS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 20).map(lambda twentieths: twentieths / 20)),
    min_size=4,
    max_size=60,
).filter(lambda rows: 2 <= sum(label for label, _ in rows) <= len(rows) - 2)


@given(ROWS, st.floats(0.01, 0.99))
def test_every_number_agrees_with_scikit_learn(rows, threshold):
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    answers = (scores >= threshold).astype(int)

    found = evaluate(labels, scores, threshold=threshold)

    assert found.rows == len(labels)
    assert found.base_rate == pytest.approx(labels.mean())
    assert found.roc_auc.value == pytest.approx(metrics.roc_auc_score(labels, scores))
    assert found.average_precision == pytest.approx(metrics.average_precision_score(labels, scores))
    assert found.log_loss.value == pytest.approx(metrics.log_loss(labels, scores))
    assert found.brier.value == pytest.approx(metrics.brier_score_loss(labels, scores))
    assert found.accuracy.value == pytest.approx(metrics.accuracy_score(labels, answers))
    assert found.balanced_accuracy.value == pytest.approx(
        metrics.balanced_accuracy_score(labels, answers)
    )
    assert found.sensitivity.value == pytest.approx(metrics.recall_score(labels, answers))
    assert found.f1 == pytest.approx(metrics.f1_score(labels, answers, zero_division=0))
    if answers.any():
        assert found.precision.value == pytest.approx(metrics.precision_score(labels, answers))
    else:
        assert found.precision is None
    table = metrics.confusion_matrix(labels, answers, labels=[0, 1]).ravel().tolist()
    counted = found.confusion
    assert table == [
        counted.true_negatives,
        counted.false_positives,
        counted.false_negatives,
        counted.true_positives,
    ]
    for name in ("roc_auc", "average_precision", "log_loss", "brier", "balanced_accuracy", "f1"):
        value = getattr(found, name)
        value = value if isinstance(value, float) else value.value
        assert measure(name, labels, scores, threshold=threshold) == pytest.approx(value)


@given(st.integers(0, 60), st.integers(1, 60))
def test_wilson_agrees_with_scipy(successes, more):
    trials = successes + more
    expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")

    found = wilson(successes, trials)

    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_a_balanced_accuracy_of_known_intervals():
    """40 of 50 and 90 of 100: by hand, Wilson (0.670, 0.888) and (0.826, 0.945)."""
    labels = np.repeat([1, 0], [50, 100])
    scores = np.concatenate([np.repeat([0.9, 0.1], [40, 10]), np.repeat([0.1, 0.9], [90, 10])])

    found = evaluate(labels, scores, threshold=0.5).balanced_accuracy

    assert found.value == pytest.approx(0.85)
    assert found.low == pytest.approx(0.85 - math.hypot(0.8 - 0.6696, 0.9 - 0.8256) / 2, abs=1e-4)
    assert found.high == pytest.approx(0.85 + math.hypot(0.8876 - 0.8, 0.9448 - 0.9) / 2, abs=1e-4)


def test_calibration_error_is_the_distance_of_promise_and_outcome():
    random = np.random.default_rng(0)
    promised = random.random(50_000)
    kept = (random.random(50_000) < promised).astype(np.int64)
    broken = (random.random(50_000) < promised / 2).astype(np.int64)

    # Off by half of each promise: a mean of 1/4.
    assert evaluate(kept, promised, threshold=0.5).calibration_error < 0.01
    assert evaluate(broken, promised, threshold=0.5).calibration_error == pytest.approx(
        0.25, abs=0.01
    )


def test_certain_and_wrong_is_bad_but_finite():
    labels = np.array([0, 1, 0, 1])
    found = evaluate(labels, np.array([1.0, 0.0, 0.0, 1.0]), threshold=0.5)

    assert pytest.approx(found.log_loss.value, abs=0.1) == 18
    assert average_precision(labels, np.zeros(4)) == 0.5


def test_it_can_be_written_as_json():
    found = evaluate(np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.4, 0.2]), threshold=0.99)

    written = json.loads(json.dumps(found.to_dict(), allow_nan=False))

    assert written["precision"] is None
    assert written["confusion"]["false_negatives"] == 2
    assert written["roc_auc"]["value"] == 0.75
