import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from gristmill.training.auc import midranks, paired_difference, roc_auc

Z95 = stats.norm.ppf(0.975)

# Two labels of each and few distinct scores, so that ties are common.
CASES = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(0, 6)), min_size=6, max_size=40
).filter(lambda rows: 2 <= sum(label for label, _, _ in rows) <= len(rows) - 2)


def arrays(rows):
    labels, first, second = (np.array(column) for column in zip(*rows, strict=True))
    return labels, first / 6, second / 6


def kernel(positive, negative):
    """1 where the positive scores above the negative, one half where equal."""
    return np.greater.outer(positive, negative) + np.equal.outer(positive, negative) / 2


def by_definition(labels, *models):
    """DeLong's covariance of the areas straight from its definition, over all pairs."""
    kernels = [kernel(scores[labels == 1], scores[labels == 0]) for scores in models]
    of_positives = np.cov([pairs.mean(axis=1) for pairs in kernels])
    of_negatives = np.cov([pairs.mean(axis=0) for pairs in kernels])
    positives, negatives = kernels[0].shape
    return of_positives / positives + of_negatives / negatives


def test_hand_worked_case():
    """Positives 3, 2 against negatives 2, 1: pairs 1, 1, ½, 1, so 3.5 of 4.

    Placements of positives 1 and ¾, of negatives ¾ and 1: each has variance 1/32, halved twice.
    """
    area = roc_auc(np.array([1, 1, 0, 0]), np.array([0.3, 0.2, 0.2, 0.1]))

    assert area.value == 0.875
    assert area.low == pytest.approx(0.875 - 1.959964 * np.sqrt(1 / 32))
    assert area.high == 1.0


@given(CASES)
def test_area_agrees_with_scikit_learn_and_interval_with_the_definition(rows):
    labels, scores, _ = arrays(rows)

    area = roc_auc(labels, scores)

    assert area.value == pytest.approx(roc_auc_score(labels, scores))
    variance = float(by_definition(labels, scores, scores)[0, 0])
    if variance > 1e-12:
        assert area.low == pytest.approx(max(0, area.value - Z95 * np.sqrt(variance)))
        assert area.high == pytest.approx(min(1, area.value + Z95 * np.sqrt(variance)))


@given(CASES)
def test_difference_agrees_with_the_definition(rows):
    labels, first, second = arrays(rows)

    difference = paired_difference(labels, first, second)

    covariance = by_definition(labels, first, second)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert difference.value == pytest.approx(
        roc_auc_score(labels, first) - roc_auc_score(labels, second)
    )
    assert difference.standard_error == pytest.approx(np.sqrt(max(0, variance)), abs=1e-7)


@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_midranks_agree_with_scipy(scores):
    np.testing.assert_array_equal(midranks(np.array(scores)), stats.rankdata(scores))


def test_perfect_order_is_no_certainty():
    few = roc_auc(np.array([0] * 50 + [1] * 3), np.arange(53.0))
    many = roc_auc(np.array([0] * 50 + [1] * 50), np.arange(100.0))
    inverted = roc_auc(np.array([1] * 3 + [0] * 50), np.arange(53.0))

    # Three successes of three: Clopper and Pearson's bound is 0.025 ** (1/3).
    assert (few.low, few.high) == (pytest.approx(0.2924, abs=1e-4), 1.0)
    assert few.low < many.low < many.high == 1.0
    assert (inverted.value, inverted.high) == (0.0, pytest.approx(1 - few.low))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """Normal scores one apart: the true area is Φ(1/√2)."""
    truth = stats.norm.cdf(1 / np.sqrt(2))
    random = np.random.default_rng(3)
    labels = np.repeat([0, 1], 60)

    covered = sum(
        area.low <= truth <= area.high
        for area in (
            roc_auc(labels, random.normal(size=120) + labels) for _ in itertools.repeat(None, 1000)
        )
    )

    assert 920 <= covered <= 975
