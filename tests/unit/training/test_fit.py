import sys
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit
from sklearn import metrics
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

from gristmill.errors import TrainingError
from gristmill.features.read import TrainingSet
from gristmill.project.features import Feature
from gristmill.project.model import BUILT_IN_CANDIDATES, Costs, Model
from gristmill.training.calibrate import Calibration
from gristmill.training.candidates import FURTHEST, Blend, frame
from gristmill.training.evaluate import evaluate
from gristmill.training.fit import fit
from gristmill.training.gate import judge
from gristmill.training.split import Sample, split
from gristmill.training.threshold import SMALLEST_GAP

from .conftest import FEATURES, make_training_set


@pytest.fixture
def own_module(monkeypatch):
    module = ModuleType("own_candidates")
    monkeypatch.setitem(sys.modules, "own_candidates", module)
    return module


def train(training_set, **options):
    model = Model(**options)
    parts = split(training_set, salt="clients", share=model.holdout)
    return parts, fit(parts.training, training_set.features, model)


def judged(training_set, **options):
    parts, model = train(training_set, **options)
    scores = model.probabilities(parts.holdout.inputs)
    evaluation = evaluate(parts.holdout.labels, scores, threshold=model.threshold)
    return evaluation, judge(evaluation, labels=parts.holdout.labels, scores=scores)


def test_planted_signal_is_found_and_promoted(training_set):
    evaluation, verdict = judged(training_set)

    assert verdict.decision == "promote"
    assert 0.75 < evaluation.roc_auc.value < 0.95


@pytest.mark.parametrize("seed", range(3))
def test_random_labels_are_not_promoted(seed):
    _, verdict = judged(make_training_set(4000, seed=seed, signal=False))

    assert verdict.decision == "refuse"


def test_the_best_by_the_metric_is_chosen_and_every_candidate_is_on_record(training_set):
    for metric in ("roc_auc", "log_loss", "f1"):
        _, model = train(training_set, metric=metric)

        best = min if metric == "log_loss" else max
        assert tuple(result.candidate for result in model.results) == BUILT_IN_CANDIDATES
        assert model.candidate == best(model.results, key=lambda result: result.mean).candidate
        assert all(len(result.folds) == 3 and result.deviation > 0 for result in model.results)


def test_the_same_rows_and_seed_give_the_same_model(training_set):
    backwards = TrainingSet(
        entity="idx",
        features=FEATURES,
        label="label",
        table=training_set.table.take(pa.array(range(len(training_set.table) - 1, -1, -1))),
        build=8,
    )

    _, first = train(training_set, candidates=("gradient_boosting",))
    parts, second = train(backwards, candidates=("gradient_boosting",))

    assert first.results == second.results
    assert (first.threshold, first.calibration) == (second.threshold, second.calibration)
    np.testing.assert_array_equal(
        first.probabilities(parts.holdout.inputs), second.probabilities(parts.holdout.inputs)
    )


def test_logistic_probabilities_are_scikit_learns_own(training_set):
    parts, model = train(training_set, candidates=("logistic",))

    theirs = model.pipeline.predict_proba(frame(parts.holdout.inputs))[:, 1]

    assert model.calibration == Calibration()
    np.testing.assert_allclose(model.probabilities(parts.holdout.inputs), theirs, rtol=1e-12)


def test_calibration_mends_what_is_promised_too_surely(own_module, training_set):
    own_module.make_bayes = GaussianNB
    parts, model = train(training_set, candidates=("own_candidates:make_bayes",))
    matrix = model.pipeline.named_steps["columns"].transform(frame(parts.holdout.inputs))
    raw = model.pipeline.named_steps["classifier"].predict_proba(matrix)[:, 1]

    ours = metrics.log_loss(parts.holdout.labels, model.probabilities(parts.holdout.inputs))

    assert 0 < model.calibration.slope < 1
    assert ours < metrics.log_loss(parts.holdout.labels, raw)
    assert model.after.log_loss < model.before.log_loss
    assert model.after.calibration_error < model.before.calibration_error
    assert model.after.brier < model.before.brier


def test_boosting_that_learned_nothing_promises_the_base_rate():
    parts, model = train(
        make_training_set(700, seed=7, signal=False), candidates=("gradient_boosting",)
    )
    probabilities = model.probabilities(parts.holdout.inputs)

    assert np.abs(probabilities - parts.training.labels.mean()).max() < 0.1


def test_a_blend_answers_with_the_weighted_mean_of_its_parts_log_odds(training_set):
    parts, model = train(training_set, candidates=("blend",))
    rows = frame(parts.holdout.inputs)

    assert isinstance(model.pipeline, Blend)
    assert sum(part.share for part in model.pipeline.parts) == pytest.approx(1)
    scores = sum(
        part.share * part.pipeline.decision_function(rows) for part in model.pipeline.parts
    )
    theirs = expit(model.calibration.slope * scores + model.calibration.intercept)
    np.testing.assert_allclose(model.probabilities(parts.holdout.inputs), theirs, rtol=1e-12)


def test_a_rare_label_loses_no_row_and_no_probability():
    """One row in fifty is positive: all rows train, and their mean probability is their share."""
    plain = make_training_set(6000, seed=3)
    kept = np.flatnonzero(
        (plain.table.column("label").to_numpy() == 0)
        | (np.random.default_rng(0).random(6000) < 0.02)
    )
    table = plain.table.take(pa.array(kept))
    training_set = TrainingSet(entity="idx", features=FEATURES, label="label", table=table, build=1)

    parts, model = train(training_set)

    share = parts.training.labels.mean()
    probabilities = model.probabilities(parts.training.inputs)
    answered = probabilities >= model.threshold
    assert share < 0.03
    assert model.rows == len(parts.training.labels)
    assert probabilities.mean() == pytest.approx(share, rel=0.15)
    # Balanced accuracy moves the threshold to where the rare label is found all the same.
    assert answered[parts.training.labels == 1].mean() > 0.6


def test_costs_move_the_threshold(training_set):
    shares = []
    for costs in ((1.0, 50.0), (1.0, 1.0), (50.0, 1.0)):
        aim = Costs(false_positive=costs[0], false_negative=costs[1])
        parts, model = train(training_set, candidates=("logistic",), threshold=aim)
        shares.append((model.probabilities(parts.holdout.inputs) >= model.threshold).mean())

    assert shares[0] > shares[1] > shares[2]


# The search


class Clock:
    """Every look at it is a second later."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def test_the_same_number_of_trials_gives_the_same_model_however_it_was_counted():
    training_set = make_training_set(500)
    parts = split(training_set, salt="clients", share=0.2)
    timed = Model(candidates=("gradient_boosting",), minutes=5 / 60)

    by_time = fit(parts.training, training_set.features, timed, clock=Clock())
    counted = Model(candidates=("gradient_boosting",), trials=by_time.trials)
    by_count = fit(parts.training, training_set.features, counted)

    assert by_time.trials == 4
    assert by_time.results == by_count.results
    np.testing.assert_array_equal(
        by_time.probabilities(parts.holdout.inputs), by_count.probabilities(parts.holdout.inputs)
    )


def test_a_search_does_at_least_as_well_in_cross_validation():
    training_set = make_training_set(500)
    _, plain = train(training_set, candidates=("logistic",))
    _, searched = train(training_set, candidates=("logistic",), trials=12)

    assert plain.trials == 1
    assert searched.trials == 12
    assert searched.results[0].mean > plain.results[0].mean
    assert set(searched.results[0].configuration) == {"C"}


def test_a_search_does_better_on_rows_that_nothing_was_chosen_by():
    """Three numbers count by the sign of their product alone: the default's trees see little."""
    random = np.random.default_rng(0)
    numbers = random.normal(size=(22_000, 8))
    product = 1.2 * np.sign(numbers[:, :3].prod(axis=1))
    labels = (random.random(len(numbers)) < expit(product)).astype(np.int64)
    inputs = {f"number {place}": numbers[:, [place]] for place in range(8)}
    features = tuple(Feature(name=name, type="number") for name in inputs)
    seen = {name: values[:2000] for name, values in inputs.items()}
    fresh = {name: values[2000:] for name, values in inputs.items()}
    training = Sample(inputs=seen, labels=labels[:2000], table=pa.table({}))

    areas, losses = [], []
    for trials in (None, 12):
        model = Model(candidates=("gradient_boosting",), trials=trials)
        answered = fit(training, features, model).probabilities(fresh)
        areas.append(metrics.roc_auc_score(labels[2000:], answered))
        losses.append(metrics.log_loss(labels[2000:], answered))

    assert areas[1] > areas[0] + 0.02
    assert losses[1] < losses[0] - 0.01


def test_no_training_row_lies_at_the_threshold(training_set):
    for candidate in ("logistic", "gradient_boosting"):
        parts, model = train(training_set, candidates=(candidate,))
        distance = np.abs(model.probabilities(parts.training.inputs) - model.threshold)
        assert distance.min() >= SMALLEST_GAP / 2 * 0.99


# What is hard to fit


@pytest.mark.parametrize("candidate", ["logistic", "gradient_boosting"])
@pytest.mark.parametrize("known", [0, 1, 9, 10, 40])
def test_a_number_that_is_null_nearly_everywhere_harms_nothing(candidate, known):
    plain = make_training_set(600)
    values = pa.array([row if row < known else None for row in range(600)])
    table = plain.table.set_column(1, "attr_a", values)
    training_set = TrainingSet(entity="idx", features=FEATURES, label="label", table=table, build=1)

    parts, model = train(training_set, candidates=(candidate,))

    assert np.isfinite(model.probabilities(parts.holdout.inputs)).all()


def test_nothing_known_at_all_is_refused():
    plain = make_training_set(600, features=FEATURES[:1])
    table = plain.table.set_column(1, "attr_a", pa.nulls(600, pa.int64()))
    training_set = TrainingSet(
        entity="idx", features=FEATURES[:1], label="label", table=table, build=1
    )

    with pytest.raises(TrainingError, match="attr_a are null nearly everywhere"):
        train(training_set)


def test_no_number_is_too_absurd_for_logistic_regression(training_set):
    parts, model = train(training_set, candidates=("logistic",))
    inputs = {name: values[:2].copy() for name, values in parts.holdout.inputs.items()}
    for values in inputs.values():
        if values.dtype == np.float64:
            values[:, 0] = [1e308, -1e308]

    with np.errstate(over="ignore"):
        assert np.isfinite(model.probabilities(inputs)).all()
    assert FURTHEST < 1e308


def test_a_projects_own_candidate_competes(own_module, training_set):
    own_module.make_bayes = GaussianNB
    own = "own_candidates:make_bayes"
    _, model = train(training_set, candidates=("logistic", own, "blend"))

    assert [result.candidate for result in model.results] == ["logistic", own, "blend"]
    assert model.candidate != own


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        ("forest", "There is no candidate 'forest'"),
        ("no_such_module:make", "cannot be made: ModuleNotFoundError: No module named"),
        ("own_candidates:missing", "cannot be made"),
        ("own_candidates:needs_argument", "cannot be made"),
        ("own_candidates:makes_a_list", "makes a list without fit and predict_proba"),
        ("own_candidates:fails", r"raised InvalidParameterError in fit on [\d,]+ rows.*: .*C"),
    ],
)
def test_a_candidate_that_does_not_work_is_refused(own_module, training_set, candidate, message):
    own_module.needs_argument = lambda argument: None
    own_module.makes_a_list = list
    own_module.fails = lambda: LogisticRegression(C=-1.0)

    with pytest.raises(TrainingError, match=message):
        train(training_set, candidates=(candidate,))
