"""A project's own classifier, by import path: found, called, and told when its code changes."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gristmill.errors import TrainingError
from gristmill.project.model import BUILT_IN_CANDIDATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let modules of a folder be imported, after all that is installed: nothing is shadowed."""
    place = str(folder)
    if place in sys.path:
        yield
        return
    sys.path.append(place)
    try:
        yield
    finally:
        sys.path.remove(place)


def make_own(path: str, *, seed: int) -> Any:
    """Call `package.module:make_estimator`; what it makes must be able to give probabilities.

    Whatever of it takes a `random_state` and was given none gets the project's seed. Raises
    TrainingError where it cannot be imported, called or used.
    """
    module_name, colon, function_name = path.partition(":")
    if not colon:
        raise TrainingError(
            f"There is no candidate {path!r}. Built in are {', '.join(BUILT_IN_CANDIDATES)}; "
            'a project\'s own is written "package.module:make_estimator".'
        )
    try:
        estimator = getattr(importlib.import_module(module_name), function_name)()
    except Exception as error:  # the project's own code, which may raise whatever it likes
        raise TrainingError(
            f"The candidate {path!r} cannot be made: {type(error).__name__}: {error}. It must name "
            "a function, in a module that is installed or lies beside the project file, that takes "
            "no arguments and returns a scikit-learn classifier."
        ) from error
    missing = [name for name in ("fit", "predict_proba") if not hasattr(estimator, name)]
    if missing:
        raise TrainingError(
            f"The candidate {path!r} makes a {type(estimator).__name__} without "
            f"{' and '.join(missing)}: it must be a scikit-learn classifier."
        )
    return _seeded(estimator, seed)


def fit_own(
    path: str, classifier: Any, matrix: NDArray[np.float64], labels: NDArray[np.int64]
) -> Any:
    """The classifier, fitted; raises TrainingError that says what it raised, and where."""
    return _called(path, "fit", lambda: classifier.fit(matrix, labels), rows=len(matrix))


def probabilities_of_own(
    path: str, classifier: Any, matrix: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The probability of label 1, of shape (rows,).

    Raises TrainingError where it fails, or gives what a classifier of two classes would not.
    """
    answered = np.asarray(
        _called(path, "predict_proba", lambda: classifier.predict_proba(matrix), rows=len(matrix))
    )
    if answered.shape != (len(matrix), 2):
        _refuse_answers(path, classifier, f"an array of shape {answered.shape}", len(matrix))
    if answered.dtype.kind != "f" or not np.all((answered >= 0.0) & (answered <= 1.0)):
        _refuse_answers(path, classifier, "numbers that are no probabilities", len(matrix))
    return cast("NDArray[np.float64]", answered[:, 1].astype(np.float64))


def _refuse_answers(path: str, classifier: Any, found: str, rows: int) -> None:
    raise TrainingError(
        f"The project's own candidate {path!r}: predict_proba of its {type(classifier).__name__} "
        f"gives {found} for {rows:,} rows. It must give two columns, the probabilities of label 0 "
        "and of label 1."
    )


def _called(path: str, method: str, call: Callable[[], Any], *, rows: int) -> Any:
    try:
        return call()
    except Exception as error:  # the project's own code, which may raise whatever it likes
        raise TrainingError(
            f"The project's own candidate {path!r} raised {type(error).__name__} in {method} on "
            f"{rows:,} rows{_place(path, error)}: {str(error).rstrip('.')}. Mend it, or leave it "
            "out of [model] candidates."
        ) from error


def _place(path: str, error: Exception) -> str:
    """Where an error was raised: in the project's own module if it passed through it."""
    raised = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in raised if frame.filename != __file__]
    module = sys.modules.get(path.partition(":")[0])
    own = [frame for frame in frames if frame.filename == getattr(module, "__file__", None)]
    return "".join(
        f", at {Path(frame.filename).name} line {frame.lineno}" for frame in (own or frames)[-1:]
    )


def own_sources(candidates: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of the file of each candidate of the project's own, "" where it has none.

    It tells whether the code is still that which a version was trained by; modules that the file
    imports are not looked into.
    """
    return {
        candidate: _digest(candidate.partition(":")[0])
        for candidate in candidates
        if candidate not in BUILT_IN_CANDIDATES
    }


def _digest(module_name: str) -> str:
    importlib.invalidate_caches()
    try:
        found = importlib.util.find_spec(module_name)
    except (ImportError, ValueError, AttributeError):
        return ""
    if found is None or not found.origin or not Path(found.origin).is_file():
        return ""
    return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()


def _seeded(estimator: Any, seed: int) -> Any:
    if not hasattr(estimator, "get_params"):
        return estimator
    unset = {
        name: seed
        for name, value in estimator.get_params(deep=True).items()
        if name.split("__")[-1] == "random_state" and value is None
    }
    return cast("Any", estimator.set_params(**unset)) if unset else estimator
