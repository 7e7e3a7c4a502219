"""Which of scikit-learn's classifiers ship: those that the documentation names, and no others."""

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.tree import DecisionTreeClassifier

from gristmill.errors import ExportError
from gristmill.project.model import Model
from gristmill.training.candidates import frame
from gristmill.training.export import export
from gristmill.training.fit import fit
from gristmill.training.proof import run_graph
from gristmill.training.split import split

from .conftest import make_training_set

SHIP = [
    LogisticRegression(C=0.3),
    SGDClassifier(loss="log_loss"),
    MLPClassifier((8,), solver="lbfgs", alpha=10, max_iter=1000),
    GaussianNB(),
    CalibratedClassifierCV(LogisticRegression()),
    DecisionTreeClassifier(max_depth=6),
    RandomForestClassifier(20, class_weight="balanced_subsample"),
    ExtraTreesClassifier(20, min_samples_leaf=3),
    GradientBoostingClassifier(n_estimators=40, subsample=0.8),
    HistGradientBoostingClassifier(max_iter=40),
]
REFUSED = [
    AdaBoostClassifier(),
    BaggingClassifier(),
    KNeighborsClassifier(),
    LinearDiscriminantAnalysis(),
    VotingClassifier([("a", LogisticRegression()), ("b", GaussianNB())], voting="soft"),
    make_pipeline(PolynomialFeatures(2), LogisticRegression(max_iter=1000)),
]


def named(estimator):
    return type(estimator).__name__


@pytest.fixture(scope="module")
def small():
    return make_training_set(1200)


@pytest.fixture
def train(monkeypatch, small):
    def train(estimator):
        module = ModuleType("own_to_convert")
        module.make = lambda: clone(estimator)
        monkeypatch.setitem(sys.modules, "own_to_convert", module)
        model = Model(candidates=("own_to_convert:make",))
        parts = split(small, salt="clients", share=model.holdout)
        fitted = fit(parts.training, small.features, model)
        return parts, fitted, export(fitted, parts.training)

    return train


@pytest.mark.parametrize("estimator", SHIP, ids=named)
def test_it_answers_in_the_graph_as_in_scikit_learn(train, estimator):
    parts, model, exported = train(estimator)

    answered = run_graph(exported.graph, parts.holdout.inputs)

    matrix = model.pipeline.named_steps["columns"].transform(frame(parts.holdout.inputs))
    theirs = model.pipeline.named_steps["classifier"].predict_proba(matrix)[:, 1]
    theirs = np.clip(theirs, 1e-7, 1 - 1e-7)
    score = model.calibration.slope * np.log(theirs / (1 - theirs)) + model.calibration.intercept
    np.testing.assert_allclose(answered, 1 / (1 + np.exp(-score)), rtol=0, atol=1e-9)
    assert (exported.parity.flips, exported.parity.rows) == (0, len(parts.training.labels))


@pytest.mark.parametrize("estimator", REFUSED, ids=named)
def test_it_is_refused_with_what_to_use_instead(train, estimator):
    with pytest.raises(ExportError, match=r"RandomForestClassifier|converted exactly"):
        train(estimator)


def test_the_documentation_names_what_ships_and_what_does_not():
    page = Path(__file__).parents[3] / "docs" / "project-file.md"
    rows = re.findall(
        r"^\| `(\w+)`.* \| (yes|no)\b", page.read_text(encoding="utf-8"), re.MULTILINE
    )
    documented = dict(rows)

    expected = {named(each): "yes" for each in SHIP} | {named(each): "no" for each in REFUSED}
    expected["PolynomialFeatures"] = expected.pop("Pipeline")
    assert documented == expected


def test_trees_that_are_too_many_to_serve_are_refused(train, monkeypatch):
    monkeypatch.setattr("gristmill.training.trees.MOST_NODES", 1_000)

    with pytest.raises(ExportError, match=r"1,000 can be served\. Grow smaller ones"):
        train(RandomForestClassifier(20))


def test_a_graph_that_compares_doubles_where_a_forest_compares_floats_is_noticed(
    train, monkeypatch
):
    monkeypatch.setattr("gristmill.training.convert._as_floats", lambda graph, matrix: matrix)

    with pytest.raises(ExportError, match="does not answer as the fitted model does"):
        train(RandomForestClassifier(20))
