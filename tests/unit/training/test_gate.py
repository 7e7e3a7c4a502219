import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gristmill.training.evaluate import evaluate
from gristmill.training.gate import Rival, judge
from gristmill.training.improvement import Scored
from gristmill.training.leak import Leak
from gristmill.training.spending import CHAMPION_ALPHA, CHANCE_ALPHA, Allowance, spend


def holdout(rows=4000, *, shift, seed=0, share=0.3):
    """Labels and probabilities: normal scores, those of positives higher by `shift`."""
    random = np.random.default_rng(seed)
    labels = (random.random(rows) < share).astype(np.int64)
    scores = 1 / (1 + np.exp(-random.normal(size=rows) - shift * labels))
    return labels, scores


def rival(scores, rows=None, **fields):
    places = np.arange(len(scores)) if rows is None else rows
    return Rival(
        version="3",
        rows=places,
        scored=Scored(probabilities=scores[places], threshold=0.5),
        **fields,
    )


def verdict(labels, scores, *, champion=None, **options):
    return judge(
        evaluate(labels, scores, threshold=0.5),
        labels=labels,
        scores=scores,
        champion=rival(champion) if isinstance(champion, np.ndarray) else champion,
        **options,
    )


# Against chance


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
    assert "no better than chance" in found.reasons[-1]
    assert f"{found.p_value:.2g}" in found.reasons[-1]
    assert found.evidence["signal"]["p_value"] == found.p_value


def test_the_refusal_in_the_documentation_is_a_real_one():
    page = (Path(__file__).parents[3] / "docs" / "verdict.md").read_text(encoding="utf-8")
    first = Allowance(chance=spend(CHANCE_ALPHA, renewal=1, attempt=1))
    (reason,) = verdict(*holdout(shift=0.0), allowance=first).reasons
    assert reason in page.replace("\n", " ")


def test_too_few_rows_cannot_tell():
    assert verdict(*holdout(60, shift=0.0, seed=1)).decision == "cannot tell"
    assert verdict(*holdout(60, shift=3.0, seed=1)).decision == "promote"


def test_what_cannot_be_told_from_chance_is_said_in_numbers():
    """Half of 2,000 positive: one standard deviation is √(2001 / (12·1000²)), α = 0.01 is 2.326."""
    labels = np.repeat([0, 1], 1000)
    scores = np.random.default_rng(1).random(2000)
    signal = verdict(labels, scores, allowance=Allowance(chance=0.01)).evidence["signal"]

    deviation = math.sqrt(2001 / 12e6)
    assert signal["smallest"] == pytest.approx(0.5 + 2.3263 * deviation, abs=1e-5)
    assert round(signal["smallest"], 2) == 0.53
    assert signal["detectable"] == pytest.approx(0.5 + (2.3263 + 0.8416) * deviation, abs=1e-5)


@pytest.mark.parametrize(("rows", "share"), [(1000, 0.3), (1000, 0.1), (300, 0.5)])
def test_a_model_worth_having_is_not_refused(rows, share):
    """A true area of 0.6, many times: promoted or not, it is hardly ever called noise."""
    shift = float(stats.norm.ppf(0.6) * np.sqrt(2))
    decisions = [
        verdict(*holdout(rows, shift=shift, seed=seed, share=share)).decision for seed in range(300)
    ]

    # One in a thousand is promised: three or more of 300 have a probability of 0.4%.
    assert decisions.count("refuse") <= 2
    if (rows, share) == (1000, 0.3):
        assert decisions.count("promote") >= 290


def test_noise_passes_about_as_often_as_allowed():
    decisions = [
        verdict(
            *holdout(300, shift=0.0, seed=seed, share=0.5), allowance=Allowance(chance=0.05)
        ).decision
        for seed in range(400)
    ]

    # 20 expected; five standard deviations of a binomial either side.
    assert 1 <= decisions.count("promote") <= 42


@pytest.mark.parametrize("alpha", [0.05, 0.0001])
def test_the_significance_that_may_be_spent_decides(alpha):
    labels, scores = holdout(1000, shift=0.2, seed=6)
    assert 0.0001 < verdict(labels, scores).p_value < 0.05

    found = verdict(labels, scores, allowance=Allowance(chance=alpha))
    assert (found.decision == "promote") is (alpha == 0.05)


def test_a_project_may_serve_noise_but_never_unmarked():
    found = verdict(*holdout(shift=0.0), no_signal="serve")

    assert found.decision == "promote"
    assert found.no_signal
    assert any("no_signal" in reason for reason in found.reasons)


# Against the champion


def test_noise_never_replaces_a_champion_that_knows_something():
    labels, champion = holdout(shift=1.0)
    noise = np.random.default_rng(9).random(len(labels))

    found = verdict(labels, noise, champion=champion, no_signal="serve")

    assert found.decision == "refuse"
    assert "version 3" in found.reasons[-1]


def test_a_model_is_never_compared_with_itself():
    labels, scores = holdout(shift=0.5)
    found = verdict(labels, scores, champion=scores.copy())

    assert found.decision == "refuse"
    assert "exactly as the champion" in found.reasons[-1]


def test_better_and_worse_than_the_champion():
    labels, weak = holdout(shift=0.4)
    strong = weak + 0.3 * labels

    better = verdict(labels, strong, champion=weak)
    assert better.decision == "promote"
    assert better.evidence["champion"]["advantage"] > 0
    refused = verdict(labels, weak, champion=strong)
    assert refused.decision == "refuse"
    assert not refused.no_signal
    assert "worse than the champion" in refused.reasons[-1]


def test_an_equal_one_that_is_sure_to_be_equal_is_refused():
    labels, champion = holdout(20_000, shift=1.0)
    nearly = champion + 0.001 * np.random.default_rng(3).normal(size=len(labels))

    found = verdict(labels, nearly, champion=champion)

    assert found.decision == "refuse"
    assert "no better than the champion by as much as 0.01" in found.reasons[-1]


def test_a_small_holdout_cannot_tell_two_models_apart():
    labels, first, second = planted("nobody", seed=1, rows=150)

    found = verdict(labels, first, champion=second)

    assert found.decision == "cannot tell"
    assert "95% interval" in found.reasons[-1]


def test_too_few_pairs_compare_nothing():
    labels, champion = holdout(shift=0.2)
    better = champion + labels
    positives, negatives = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)

    few = np.concatenate([positives[:19], negatives])
    found = verdict(labels, better, champion=rival(champion, few))
    assert found.decision == "cannot tell"
    assert "20 of each label" in found.reasons[-1]

    enough = np.concatenate([positives[:20], negatives])
    assert verdict(labels, better, champion=rival(champion, enough)).decision == "promote"


def test_only_the_shared_rows_count():
    """Better on the rows that trained the champion, worse on those that trained neither."""
    labels, champion = holdout(shift=0.5)
    shared = np.arange(2000)
    scores = champion + np.where(np.arange(len(labels)) < 2000, -0.2, 0.2) * labels

    assert verdict(labels, scores, champion=rival(champion, shared)).decision == "refuse"
    assert verdict(labels, scores, champion=rival(champion, shared + 2000)).decision == "promote"


def test_who_cannot_be_compared_is_said_to_be_so():
    labels, scores = holdout(shift=0.5)
    found = verdict(labels, scores, champion=rival(scores, obstacle="It predicts something else."))

    assert found.decision == "cannot tell"
    assert found.reasons[-1].startswith("It predicts something else.")


def test_a_champion_that_cannot_answer_any_more_yields_to_one_that_is_no_worse():
    labels, champion = holdout(20_000, shift=1.0)
    nearly = champion + 0.001 * np.random.default_rng(3).normal(size=len(labels))

    assert verdict(labels, nearly, champion=rival(champion, lost=("age",))).decision == "promote"
    worse = champion - 0.1 * labels
    found = verdict(labels, worse, champion=rival(champion, lost=("age",)))
    assert found.decision == "refuse"
    assert "it needs age, which is gone" in found.reasons[-1]
    spoilt = verdict(labels, worse, champion=rival(champion, bundle_lost=True))
    assert spoilt.decision == "refuse"
    assert "its bundle is missing or damaged" in spoilt.reasons[-1]


def test_what_chance_is_allowed_is_told_by_attempts_only_where_they_count():
    labels, scores = holdout(shift=1.0)
    counted = verdict(labels, scores, allowance=Allowance(chance=0.0009, attempt=2))
    beside = Allowance(chance=0.01, chance_spent=False, champion=0.002, attempt=4)
    reigning = verdict(labels, scores, champion=rival(scores), allowance=beside)

    assert counted.reasons[0].endswith("attempt 2 on this holdout allows 0.0009.")
    assert reigning.reasons[0].endswith("beside a champion with signal 0.01 is allowed each time.")


@pytest.mark.parametrize("metric", ["average_precision", "f1", "log_loss", "brier"])
def test_the_projects_metric_decides(metric):
    labels, champion = holdout(shift=1.0, share=0.5)
    better = champion + 0.2 * (labels - champion)

    assert verdict(labels, better, champion=champion, metric=metric).decision == "promote"
    assert verdict(labels, champion, champion=better, metric=metric).decision == "refuse"


def test_a_probability_too_sure_of_itself_is_worse_by_log_loss_alone():
    labels, champion = holdout(shift=1.0, share=0.5)
    surer = 1 / (1 + np.exp(-4 * np.log(champion / (1 - champion))))

    by_loss = verdict(labels, surer, champion=champion, metric="log_loss")
    assert by_loss.decision == "refuse"
    assert "log loss" in by_loss.reasons[-1]
    assert verdict(labels, surer, champion=champion).evidence["champion"]["advantage"] == 0.0


def planted(better, seed, rows=1500):
    """Candidate and champion of which one knows more, on the same rows."""
    random = np.random.default_rng(seed)
    labels = (random.random(rows) < 0.3).astype(np.int64)
    shared = random.normal(size=rows) + labels
    own = random.normal(size=(2, rows)) * 0.5
    first = shared + own[0] + (0.6 if better == "candidate" else 0) * labels
    second = shared + own[1] + (0.6 if better == "champion" else 0) * labels
    return labels, *(1 / (1 + np.exp(-scores)) for scores in (first, second))


def test_of_planted_pairs_the_right_ones_are_promoted():
    """Worse, equal, better: at most 5% wrong promotions, at the level of a first attempt."""
    allowance = Allowance(champion=spend(CHAMPION_ALPHA, renewal=1, attempt=1))

    def promoted(better):
        return sum(
            verdict(labels, scores, champion=champion, allowance=allowance).decision == "promote"
            for labels, scores, champion in (planted(better, seed) for seed in range(200))
        )

    assert promoted("champion") == 0
    assert promoted("nobody") <= 10
    assert promoted("candidate") >= 190


# Leaks, and what else is told


def test_a_leak_stops_a_version_unless_it_was_accepted():
    labels, scores = holdout(shift=1.0)
    leak = Leak(feature="refunded", kind="null", area=0.9997)

    found = verdict(labels, scores, leaks=[leak])
    assert found.decision == "refuse"
    assert "whether refunded is null" in found.reasons[-1]
    assert found.evidence["leaks"] == [{"feature": "refunded", "kind": "null", "area": 0.9997}]

    better = scores + 0.3 * labels
    champion = rival(scores, leaks=frozenset({"refunded"}))
    accepted = verdict(labels, better, leaks=[leak], champion=champion)
    assert accepted.decision == "promote"
    assert "refunded" in " ".join(accepted.reasons)


def test_an_objection_refuses():
    found = verdict(*holdout(shift=1.0), objection="It answers nonsense.")
    assert (found.decision, found.reasons[-1]) == ("refuse", "It answers nonsense.")


def test_a_note_decides_nothing_and_does_not_stand_last():
    found = verdict(*holdout(shift=0.5)).noting("replay", {"flips": 3}, "Three would flip.")

    assert found.decision == "promote"
    assert found.reasons[-2:] == ("Three would flip.", "There is no champion to compare with.")
    assert found.evidence["replay"] == {"flips": 3}
