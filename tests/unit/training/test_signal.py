import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gristmill.training import signal
from gristmill.training.signal import chance_p_value, detectable_auc


def test_hand_worked_case():
    """Two positives above three negatives: one of ten ways; next to best: two of ten."""
    assert chance_p_value(np.array([0, 0, 0, 1, 1]), np.arange(5.0)) == pytest.approx(0.1)
    assert chance_p_value(np.array([0, 0, 1, 0, 1]), np.arange(5.0)) == pytest.approx(0.2)
    assert chance_p_value(np.array([1, 1, 0, 0, 0]), np.arange(5.0)) == 1.0


def test_equal_scores_prove_nothing():
    assert chance_p_value(np.array([0, 1, 0, 1]), np.full(4, 0.5)) == 1.0
    assert chance_p_value(np.array([0, 1] * 5000), np.full(10_000, 0.5)) == 1.0


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4)), min_size=2, max_size=9).filter(
        lambda rows: 0 < sum(label for label, _ in rows) < len(rows)
    )
)
def test_with_ties_it_is_the_share_of_all_ways_to_give_out_the_labels(rows):
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    ranks = stats.rankdata(scores)
    sums = [
        sum(ranks[list(chosen)])
        for chosen in itertools.combinations(range(len(labels)), int(labels.sum()))
    ]

    expected = np.mean(np.array(sums) >= ranks[labels == 1].sum())

    assert chance_p_value(labels, scores.astype(float)) == pytest.approx(expected)


@pytest.mark.parametrize(("rows", "positives"), [(30, 4), (40, 33), (80, 25)])
def test_without_ties_it_agrees_with_scipys_exact_test(rows, positives):
    random = np.random.default_rng(rows)
    labels = np.repeat([0, 1], [rows - positives, positives])
    scores = random.normal(size=rows) + 0.5 * labels

    ours = chance_p_value(labels, scores)

    theirs = stats.mannwhitneyu(
        scores[labels == 1], scores[labels == 0], alternative="greater", method="exact"
    )
    assert ours == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_many_rows_agree_with_scipys_normal_approximation(share):
    random = np.random.default_rng(0)
    labels = (random.random(20_000) < share).astype(np.int64)
    scores = np.round(random.normal(size=20_000) + 0.02 * labels, 1)

    theirs = stats.mannwhitneyu(
        scores[labels == 1], scores[labels == 0], alternative="greater", method="asymptotic"
    )
    assert chance_p_value(labels, scores) == pytest.approx(theirs.pvalue)


def test_where_counting_ends_the_two_ways_meet(monkeypatch):
    random = np.random.default_rng(5)
    labels = np.repeat([0, 1], [100, 60])
    scores = np.round(random.normal(size=160), 1)
    shifts = (0.1, 0.2, 0.3)

    exact = np.array([chance_p_value(labels, scores + shift * labels) for shift in shifts])
    monkeypatch.setattr(signal, "MOST_EXACT_STEPS", 0)
    approximate = np.array([chance_p_value(labels, scores + shift * labels) for shift in shifts])

    assert exact.min() < 0.0001 < 0.001 < exact.max()
    assert (approximate >= exact * 0.99).all()
    assert (approximate <= exact * 1.25).all()


def test_a_detectable_area_is_detected_four_times_out_of_five():
    labels = np.repeat([0, 1], [150, 150])
    area = detectable_auc(150, 150, alpha=0.01)
    shift = stats.norm.ppf(area) * np.sqrt(2)
    random = np.random.default_rng(2)

    found = sum(
        chance_p_value(labels, random.normal(size=300) + shift * labels) <= 0.01 for _ in range(400)
    )

    # Five standard deviations of a binomial either side of 320.
    assert 280 <= found <= 360
