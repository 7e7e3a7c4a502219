import numpy as np
import pytest

from gristmill.training.evaluate import evaluate
from gristmill.training.gate import Rival, judge


def holdout(rows=4000, *, shift, seed=0, share=0.3):
    """Labels and probabilities: normal scores, those of positives higher by `shift`."""
    random = np.random.default_rng(seed)
    labels = (random.random(rows) < share).astype(np.int64)
    scores = 1 / (1 + np.exp(-random.normal(size=rows) - shift * labels))
    return labels, scores


def verdict(labels, scores, *, champion=None, **options):
    rival = None if champion is None else Rival(version="3", scores=champion)
    evaluation = evaluate(labels, scores, threshold=0.5)
    return judge(evaluation, labels=labels, scores=scores, champion=rival, **options)


def test_signal_is_promoted():
    found = verdict(*holdout(shift=0.5))

    assert found.decision == "promote"
    assert not found.no_signal
    assert "4,000 held-out rows" in found.reasons[0]
    assert found.reasons[-1] == "There is no champion to compare with."


def test_noise_is_refused_with_its_numbers():
    found = verdict(*holdout(shift=0.0))

    assert found.decision == "refuse"
    assert found.no_signal
    assert "no better than chance" in found.reasons[0]
    assert f"{found.p_value:.2g}" in found.reasons[0]


def test_too_few_rows_cannot_tell():
    assert verdict(*holdout(60, shift=0.0, seed=1)).decision == "cannot tell"
    assert verdict(*holdout(60, shift=3.0, seed=1)).decision == "promote"


def test_noise_passes_about_as_often_as_allowed():
    decisions = [
        verdict(*holdout(300, shift=0.0, seed=seed, share=0.5), alpha=0.05).decision
        for seed in range(400)
    ]

    # 20 expected; five standard deviations of a binomial either side.
    assert 1 <= decisions.count("promote") <= 42


def test_a_project_may_serve_noise_but_never_unmarked():
    found = verdict(*holdout(shift=0.0), no_signal="serve")

    assert found.decision == "promote"
    assert found.no_signal
    assert any("no_signal" in reason for reason in found.reasons)


def test_noise_never_replaces_a_champion_that_knows_something():
    labels, champion = holdout(shift=1.0)
    noise = np.random.default_rng(9).random(len(labels))

    found = verdict(labels, noise, champion=champion, no_signal="serve")

    assert found.decision == "refuse"
    assert "version 3" in found.reasons[-1]


def test_the_champion_itself_is_not_worse_than_the_champion():
    labels, scores = holdout(shift=0.5)
    assert verdict(labels, scores, champion=scores).decision == "promote"


def test_better_and_worse_than_the_champion():
    labels, weak = holdout(shift=0.4)
    strong = weak + 0.3 * labels

    assert verdict(labels, strong, champion=weak).decision == "promote"
    refused = verdict(labels, weak, champion=strong)
    assert refused.decision == "refuse"
    assert not refused.no_signal
    assert "worse than the champion" in refused.reasons[-1]


def test_a_small_holdout_cannot_tell_two_models_apart():
    labels, first = holdout(120, shift=1.5, share=0.5)
    _, noise = holdout(120, shift=0.0, seed=1)
    second = first + 0.5 * noise

    found = verdict(labels, second, champion=first)

    assert found.decision == "cannot tell"
    assert "90% interval" in found.reasons[-1]


@pytest.mark.parametrize("alpha", [0.05, 0.0001])
def test_the_significance_that_may_be_spent_decides(alpha):
    labels, scores = holdout(1000, shift=0.2, seed=6)
    assert 0.0001 < verdict(labels, scores).p_value < 0.05

    assert (verdict(labels, scores, alpha=alpha).decision == "promote") is (alpha == 0.05)
