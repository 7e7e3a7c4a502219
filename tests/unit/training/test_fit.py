import sys
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

from gristmill.errors import TrainingError
from gristmill.features.encode import encode_table
from gristmill.features.read import TrainingSet
from gristmill.project.features import Feature
from gristmill.project.model import Model
from gristmill.training.candidates import FURTHEST, MOST_CATEGORIES, frame, make_pipeline
from gristmill.training.evaluate import evaluate
from gristmill.training.fit import (
    SMALLEST_GAP,
    Calibration,
    best_threshold,
    fit,
    midway,
)
from gristmill.training.gate import judge
from gristmill.training.split import split

from .conftest import FEATURES, make_training_set


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
        assert [result.candidate for result in model.results] == ["logistic", "gradient_boosting"]
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

    np.testing.assert_allclose(model.probabilities(parts.holdout.inputs), theirs, rtol=1e-12)


def test_calibration_mends_what_boosting_promises_too_surely(training_set):
    parts, model = train(training_set, candidates=("gradient_boosting",))
    raw = model.pipeline.predict_proba(frame(parts.holdout.inputs))[:, 1]

    ours = metrics.log_loss(parts.holdout.labels, model.probabilities(parts.holdout.inputs))

    assert 0 < model.calibration.slope < 1
    assert ours < metrics.log_loss(parts.holdout.labels, raw)


def test_boosting_that_learned_nothing_promises_the_base_rate():
    parts, model = train(
        make_training_set(700, seed=7, signal=False), candidates=("gradient_boosting",)
    )
    probabilities = model.probabilities(parts.holdout.inputs)

    assert model.calibration.slope == 0.0
    np.testing.assert_allclose(probabilities, parts.training.labels.mean())
    assert not (probabilities >= model.threshold).any()


# The threshold


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=4, max_size=30).filter(
        lambda rows: 0 < sum(label for label, _ in rows) < len(rows)
    ),
    st.sampled_from(["roc_auc", "f1"]),
)
def test_the_threshold_is_the_best_of_all_between_neighbours(rows, metric):
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    scores = scores / 8
    known = np.unique(scores)
    measure = metrics.f1_score if metric == "f1" else metrics.balanced_accuracy_score

    threshold = best_threshold(labels, scores, metric=metric)

    if len(known) > 1:
        between = (known[1:] + known[:-1]) / 2
        assert threshold in between
        assert measure(labels, scores >= threshold) == pytest.approx(
            max(measure(labels, scores >= each) for each in between)
        )


def test_midway_between_neighbours():
    scores = np.array([0.1, 0.4, 0.4, 0.6, 0.9])
    assert midway(scores, 0.45) == 0.5
    assert midway(scores, 0.4) == 0.25  # 0.4 itself is answered 1, so it stays above
    assert midway(scores, 0.05) == 0.25
    assert midway(scores, 0.95) == 0.75


def test_a_gap_too_narrow_for_rounding_is_passed_over():
    scores = np.array([0.1, 0.4, 0.4 + SMALLEST_GAP / 10, 0.6])

    assert midway(scores, 0.4 + SMALLEST_GAP / 20) == 0.25

    neighbours = np.array([0.4, np.nextafter(0.4, 1)])
    assert neighbours[0] <= midway(neighbours, 0.4) <= neighbours[1]


def test_one_score_for_all_is_answered_as_the_threshold_would():
    assert midway(np.full(3, 0.3), 0.5) == 0.65
    assert midway(np.full(3, 0.3), 0.2) == 0.15


def test_no_training_row_lies_at_the_threshold(training_set):
    for candidate in ("logistic", "gradient_boosting"):
        parts, model = train(training_set, candidates=(candidate,))
        distance = np.abs(model.probabilities(parts.training.inputs) - model.threshold)
        assert distance.min() >= SMALLEST_GAP / 2 * 0.99


# The candidates


@pytest.mark.parametrize("candidate", ["logistic", "gradient_boosting"])
def test_many_texts_do_not_explode(candidate):
    rows = 3000
    table = pa.table({"shop": [f"{number % 997}" for number in range(rows)]})
    feature = Feature(name="shop", type="text")
    common = pa.table({"shop": [f"{number % 60}" for number in range(rows)]})
    labels = np.arange(rows) % 2

    rare_rows = frame(encode_table(table, [feature]))
    rare = make_pipeline(candidate, [feature], rare_rows, seed=0).fit(rare_rows, labels)
    many_rows = frame(encode_table(common, [feature]))
    many = make_pipeline(candidate, [feature], many_rows, seed=0).fit(many_rows, labels)

    assert rare.named_steps["classifier"].n_features_in_ == 1
    assert many.named_steps["classifier"].n_features_in_ == MOST_CATEGORIES + 1


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


@pytest.fixture
def own_module(monkeypatch):
    module = ModuleType("own_candidates")
    monkeypatch.setitem(sys.modules, "own_candidates", module)
    return module


def test_a_projects_own_candidate_competes(own_module, training_set):
    own_module.make_bayes = GaussianNB
    parts, model = train(training_set, candidates=("own_candidates:make_bayes",))

    theirs = model.pipeline.predict_proba(frame(parts.holdout.inputs))[:, 1]

    assert isinstance(model.pipeline.named_steps["classifier"], GaussianNB)
    assert model.calibration == Calibration()
    np.testing.assert_allclose(
        model.probabilities(parts.holdout.inputs), theirs, rtol=1e-6, atol=1e-15
    )


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        ("forest", "There is no candidate 'forest'"),
        ("no_such_module:make", "cannot be made: No module named"),
        ("own_candidates:missing", "cannot be made"),
        ("own_candidates:needs_argument", "cannot be made"),
        ("own_candidates:makes_a_list", "makes a list without fit and predict_proba"),
        ("own_candidates:fails", r"cannot be fitted on [\d,]+ rows: .*C"),
    ],
)
def test_a_candidate_that_does_not_work_is_refused(own_module, training_set, candidate, message):
    own_module.needs_argument = lambda argument: None
    own_module.makes_a_list = list
    own_module.fails = lambda: LogisticRegression(C=-1.0)

    with pytest.raises(TrainingError, match=message):
        train(training_set, candidates=(candidate,))
