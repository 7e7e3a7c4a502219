import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from gristmill.project.model import Costs
from gristmill.training.threshold import SMALLEST_GAP, best_threshold, midway

ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=4, max_size=30).filter(
    lambda rows: 0 < sum(label for label, _ in rows) < len(rows)
)


@given(ROWS, st.sampled_from(["balanced_accuracy", "f1"]))
def test_the_threshold_is_the_best_of_all_between_neighbours(rows, aim):
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    scores = scores / 8
    known = np.unique(scores)
    measure = metrics.f1_score if aim == "f1" else metrics.balanced_accuracy_score

    threshold = best_threshold(labels, scores, aim=aim)

    if len(known) > 1:
        between = (known[1:] + known[:-1]) / 2
        assert threshold in between
        assert measure(labels, scores >= threshold) == pytest.approx(
            max(measure(labels, scores >= each) for each in between)
        )


@given(ROWS, st.floats(0.01, 100), st.floats(0.01, 100))
def test_the_threshold_costs_least_of_all(rows, false_positive, false_negative):
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    scores = (1 + scores) / 10

    def cost(threshold):
        answers = scores >= threshold
        wrong = (answers & (labels == 0)).sum() * false_positive
        return wrong + (~answers & (labels == 1)).sum() * false_negative

    costs = Costs(false_positive=false_positive, false_negative=false_negative)
    threshold = best_threshold(labels, scores, aim=costs)

    assert cost(threshold) == pytest.approx(min(cost(each) for each in (0, *scores, 1)))
    assert np.abs(scores - threshold).min() > 0.04  # midway between neighbours, or beyond all


def test_costs_of_one_side_alone_answer_the_other_everywhere():
    """By hand: three rows 0, one row 1 in their midst; a missed 1 costs next to nothing."""
    labels, scores = np.array([0, 1, 0, 0]), np.array([0.2, 0.4, 0.6, 0.8])

    never = best_threshold(labels, scores, aim=Costs(false_positive=9.0, false_negative=1.0))
    always = best_threshold(1 - labels, scores, aim=Costs(false_positive=1.0, false_negative=9.0))

    assert (never, always) == (0.9, 0.1)


def test_midway_between_neighbours():
    scores = np.array([0.1, 0.4, 0.4, 0.6, 0.9])
    assert midway(scores, 0.45) == 0.5
    assert midway(scores, 0.4) == 0.25  # 0.4 itself is answered 1, so it stays above


def test_a_gap_too_narrow_for_rounding_is_passed_over():
    scores = np.array([0.1, 0.4, 0.4 + SMALLEST_GAP / 10, 0.6])

    assert midway(scores, 0.4 + SMALLEST_GAP / 20) == 0.25

    neighbours = np.array([0.4, np.nextafter(0.4, 1)])
    assert neighbours[0] <= midway(neighbours, neighbours[1]) <= neighbours[1]


def test_a_threshold_beyond_all_rows_stays_beyond_them():
    scores = np.array([0.1, 0.4, 0.9])
    assert midway(scores, 0.05) == 0.05
    assert midway(scores, 0.95) == 0.95


def test_one_score_for_all_is_answered_as_the_threshold_would():
    assert midway(np.full(3, 0.3), 0.5) == 0.65
    assert midway(np.full(3, 0.3), 0.2) == 0.15
