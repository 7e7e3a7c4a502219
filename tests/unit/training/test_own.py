import sys

import pytest
from sklearn.linear_model import LogisticRegression

from gristmill.errors import TrainingError
from gristmill.project.model import Model
from gristmill.training.fit import fit
from gristmill.training.own import importable, make_own, own_sources
from gristmill.training.split import split

from .conftest import FEATURES, make_training_set

MODULE = """
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier

def make_forest():
    return RandomForestClassifier(n_estimators=3)

def make_seeded():
    return RandomForestClassifier(random_state=7)

def make_nested():
    return BaggingClassifier(RandomForestClassifier())
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project's folder with a module that no other test imports."""
    (tmp_path / "beside_the_project.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("beside_the_project", None)


def test_a_module_beside_the_project_file_is_found_there_and_only_meanwhile(folder):
    before = [*sys.path]

    with importable(folder):
        assert make_own("beside_the_project:make_forest", seed=0).n_estimators == 3
        assert sys.path[: len(before)] == before  # nothing installed is shadowed

    assert sys.path == before


def test_without_its_folder_it_is_not_found_and_that_is_said(folder):
    with pytest.raises(TrainingError, match="beside the project file"):
        make_own("beside_the_project:make_forest", seed=0)


def test_what_takes_a_seed_and_has_none_gets_the_projects(folder):
    with importable(folder):
        assert make_own("beside_the_project:make_forest", seed=3).random_state == 3
        assert make_own("beside_the_project:make_seeded", seed=3).random_state == 7
        nested = make_own("beside_the_project:make_nested", seed=3)

    assert (nested.random_state, nested.estimator.random_state) == (3, 3)


def test_a_module_that_is_no_python_is_refused(folder):
    (folder / "beside_the_project.py").write_text("def make(:")

    with importable(folder), pytest.raises(TrainingError, match="cannot be made"):
        make_own("beside_the_project:make", seed=0)


@pytest.mark.parametrize(
    ("body", "said"),
    [("return forest()", "NameError: name 'forest'"), ("raise RuntimeError('no GPU')", "no GPU")],
)
def test_whatever_goes_wrong_in_it_is_said_to_be_its_own(folder, body, said):
    (folder / "beside_the_project.py").write_text(f"def make():\n    {body}\n")

    with importable(folder), pytest.raises(TrainingError, match=said):
        make_own("beside_the_project:make", seed=0)


FAILING = """
from sklearn.linear_model import LogisticRegression

class Picky(LogisticRegression):
    def fit(self, matrix, labels):
        {fit}
        return super().fit(matrix, labels)

    def predict_proba(self, matrix):
        answered = super().predict_proba(matrix)
        {answer}
"""


@pytest.mark.parametrize(
    ("fit_with", "answer", "said"),
    [
        (
            "raise KeyError('region')",
            "return answered",
            r"raised KeyError in fit on \d+ rows, at beside_the_project.py line 6: 'region'",
        ),
        (
            "self.C = -1.0",
            "return answered",
            r"raised InvalidParameterError in fit on \d+ rows, at beside_the_project.py line 7: ",
        ),
        (
            "pass",
            "raise MemoryError('too large')",
            r"raised MemoryError in predict_proba on \d+ rows, at beside_the_project.py line 11: ",
        ),
        (
            "pass",
            "return answered[:, 1]",
            r"predict_proba of its Picky gives an array of shape \(\d+,\)",
        ),
        ("pass", "return answered * 2", "gives numbers that are no probabilities"),
        ("pass", "return answered * float('nan')", "gives numbers that are no probabilities"),
    ],
)
def test_what_fails_while_it_works_is_told_as_its_own_with_the_line(folder, fit_with, answer, said):
    source = FAILING.format(fit=fit_with, answer=answer)
    (folder / "beside_the_project.py").write_text(source)
    parts = split(make_training_set(1500), salt="clients", share=0.2)
    model = Model(candidates=("logistic", "beside_the_project:Picky"))

    with importable(folder), pytest.raises(TrainingError, match=said) as raised:
        fit(parts.training, FEATURES, model)

    assert "own candidate 'beside_the_project:Picky'" in str(raised.value)


def test_changed_code_is_told(folder):
    candidate = "beside_the_project:make_forest"
    with importable(folder):
        before = own_sources([candidate, "logistic"])
        (folder / "beside_the_project.py").write_text(MODULE + "# changed\n")
        after = own_sources([candidate, "logistic"])

    assert set(before) == {candidate}
    assert before[candidate] != after[candidate] != ""
    assert own_sources(["no_such_module:make"]) == {"no_such_module:make": ""}
    assert own_sources([f"{LogisticRegression.__module__}:LogisticRegression"]) != {}
