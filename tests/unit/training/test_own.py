import sys

import pytest
from sklearn.linear_model import LogisticRegression

from gristmill.errors import TrainingError
from gristmill.training.own import importable, make_own, own_sources

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
