import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from gristmill.training.improvement import Scored, improvement

SKLEARN = {
    "average_precision": lambda labels, one, _: metrics.average_precision_score(labels, one),
    "log_loss": lambda labels, one, _: -metrics.log_loss(labels, one),
    "brier": lambda labels, one, _: -metrics.brier_score_loss(labels, one),
    "f1": lambda labels, one, threshold: metrics.f1_score(labels, one >= threshold),
    "balanced_accuracy": lambda labels, one, threshold: metrics.balanced_accuracy_score(
        labels, one >= threshold
    ),
    "roc_auc": lambda labels, one, _: metrics.roc_auc_score(labels, one),
}


def pair(rows=300, *, seed=0, gain=0.5):
    random = np.random.default_rng(seed)
    labels = (random.random(rows) < 0.3).astype(np.int64)
    shared = random.normal(size=rows) + labels - 0.8
    scores = (shared + 0.5 * random.normal(size=rows) + more * labels for more in (gain, 0.0))
    first, second = (1 / (1 + np.exp(-np.round(one, 1))) for one in scores)
    return (
        labels,
        Scored(probabilities=first, threshold=0.45),
        Scored(probabilities=second, threshold=0.4),
    )


@pytest.mark.parametrize("metric", SKLEARN)
def test_the_improvement_is_the_difference_that_scikit_learn_sees(metric):
    labels, first, second = pair()
    found = improvement(metric, labels, first, second)

    expected = [
        SKLEARN[metric](labels, one.probabilities, one.threshold) for one in (first, second)
    ]
    assert found.value == pytest.approx(expected[0] - expected[1])
    assert (found.pairs, found.positives) == (300, int(labels.sum()))
    turned = improvement(metric, labels, second, first)
    assert turned.value == pytest.approx(-found.value)
    assert turned.p_value == pytest.approx(1 - found.p_value)


@pytest.mark.parametrize("metric", SKLEARN)
def test_the_standard_error_is_that_of_many_samples(metric):
    """Against truth: the spread of the improvement over samples drawn anew."""
    found = [improvement(metric, *pair(200, seed=seed)) for seed in range(60)]

    spread = np.std([one.value for one in found], ddof=1)
    # With 60 samples the spread itself is known to within 9%; the mean error lies near it.
    assert np.mean([one.standard_error for one in found]) == pytest.approx(spread, rel=0.3)


def test_hand_worked_case():
    """Candidate: one pair of four wrong; champion: two. DeLong by hand, Student's t from scipy.

    Placements of positives, candidate ½ 1, champion ½ ½: differences 0, ½, variance ⅛.
    Of negatives, candidate 1 ½, champion 1 0: differences 0, ½, variance ⅛.
    """
    labels = np.array([1, 1, 0, 0])
    candidate = Scored(probabilities=np.array([0.5, 0.9, 0.1, 0.6]), threshold=0.5)
    champion = Scored(probabilities=np.array([0.5, 0.55, 0.1, 0.6]), threshold=0.5)

    found = improvement("roc_auc", labels, candidate, champion)

    assert found.value == 0.25
    assert found.standard_error == pytest.approx(np.sqrt(1 / 8 / 2 + 1 / 8 / 2))
    assert found.degrees == pytest.approx((1 / 8) ** 2 / (2 * (1 / 16) ** 2))
    assert found.p_value == pytest.approx(stats.t.sf(0.25 / np.sqrt(1 / 8), 2))
    assert found.bound(0.975) == pytest.approx(0.25 + stats.t.ppf(0.975, 2) * np.sqrt(1 / 8))


def test_without_any_difference_nothing_is_shown():
    labels, first, _ = pair()
    found = improvement("roc_auc", labels, first, first)
    assert (found.value, found.standard_error, found.p_value) == (0.0, 0.0, 1.0)


def test_where_all_pairs_agree_that_is_worth_as_many_coins_as_share_no_row():
    labels = np.array([1, 1, 1, 0, 0, 0, 0])
    right = Scored(probabilities=labels.astype(float), threshold=0.5)
    wrong = Scored(probabilities=1.0 - labels, threshold=0.5)

    assert improvement("roc_auc", labels, right, wrong).p_value == pytest.approx(1 / 8)
    assert improvement("roc_auc", labels, wrong, right).p_value == 1.0


@pytest.mark.parametrize("positives", [20, 60])
def test_two_equal_models_are_told_apart_as_rarely_as_said(positives):
    random = np.random.default_rng(positives)
    labels = np.repeat([1, 0], [positives, 200])
    found = []
    for _ in range(1500):
        shared = random.normal(size=len(labels)) + labels
        models = (
            Scored(probabilities=shared + 0.5 * random.normal(size=len(labels)), threshold=0.5)
            for _ in range(2)
        )
        found.append(improvement("roc_auc", labels, *models).p_value)

    # 28 expected of 1500 at the level of a first attempt; five standard deviations above.
    assert 5 <= np.count_nonzero(np.array(found) <= 0.0185) <= 55


@pytest.mark.parametrize("metric", ["brier", "log_loss"])
def test_probabilities_too_high_and_as_much_too_low_are_equally_good(metric):
    """Which does better on a holdout is decided by how many positives it happens to hold.

    Each is off by 0.03 everywhere, so both have the same Brier score in truth, and nearly the same
    log loss. With as many positives in every draw, a third of such pairs passed at 5%.
    """
    random = np.random.default_rng(7)
    passed = 0
    for _ in range(200):
        truth = random.uniform(0.15, 0.6, size=600)
        labels = (random.random(600) < truth).astype(np.int64)
        high, low = (Scored(probabilities=truth + by, threshold=0.5) for by in (0.03, -0.03))
        passed += improvement(metric, labels, high, low).p_value <= 0.05

    # 10 expected; four and a half standard deviations above.
    assert passed <= 24
