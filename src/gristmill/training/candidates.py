"""The classifiers that compete: two built in, and a project's own by import path.

All are scikit-learn pipelines that take a frame of encoded features and one-hot encode the texts,
null being a text like any other. Rare texts, and in answering unseen ones, count as one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from gristmill.errors import TrainingError
from gristmill.project.model import BUILT_IN_CANDIDATES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from gristmill.project.features import Feature

MOST_CATEGORIES = 30
"""The most texts of a feature that have a column of their own; the rest share one."""
RARE = 10
"""Texts seen in fewer training rows share a column, numbers known in fewer are left out."""
FURTHEST = 1e6
"""Standardised numbers are cut off here, so that no number, however absurd, makes a NaN."""


def make_pipeline(candidate: str, features: Sequence[Feature], rows: Any, *, seed: int) -> Any:
    """An unfitted scikit-learn pipeline with the steps `columns` and `classifier`.

    `rows` is the frame that it is going to be fitted on: a number that is null in all but a few
    rows is left out, for it says little and scikit-learn's boosting cannot bin it. Raises
    TrainingError where nothing else is left, or a project's own candidate cannot be made.
    """
    from sklearn.pipeline import Pipeline

    texts = [feature.name for feature in features if feature.type == "text"]
    numbers = [
        feature.name
        for feature in features
        if feature.type != "text" and rows[feature.name].count() >= RARE
    ]
    if not texts and not numbers:
        raise TrainingError(
            f"No feature is known in {RARE} of {len(rows):,} training rows: "
            f"{', '.join(feature.name for feature in features)} are null nearly everywhere. "
            "Look at what the tables are joined by."
        )
    if candidate == "gradient_boosting":
        columns, classifier = _columns(numbers, texts, "passthrough"), _boosting(seed)
    else:
        columns = _columns(numbers, texts, _standardised())
        classifier = _logistic(seed) if candidate == "logistic" else _own(candidate)
    return Pipeline([("columns", columns), ("classifier", classifier)])


def columns_of(pipeline: Any, kind: Literal["numbers", "texts"]) -> tuple[list[str], Any]:
    """The features of one kind that a fitted pipeline uses, in order, and what transforms them."""
    transformers = pipeline.named_steps["columns"].transformers_
    return next(
        (list(names), transformer) for name, transformer, names in transformers if name == kind
    )


def frame(inputs: Mapping[str, NDArray[Any]]) -> Any:
    """Encoded features as the pandas frame that the pipelines take."""
    import pandas as pd

    return pd.DataFrame(
        {name: pd.Series(values[:, 0], dtype=values.dtype) for name, values in inputs.items()}
    )


def _columns(numbers: list[str], texts: list[str], for_numbers: Any) -> Any:
    """Numbers first, then one column per text: the order that the export relies on."""
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import OneHotEncoder

    one_hot = OneHotEncoder(
        handle_unknown="infrequent_if_exist",
        min_frequency=RARE,
        max_categories=MOST_CATEGORIES + 1,
        sparse_output=False,
    )
    return ColumnTransformer([("numbers", for_numbers, numbers), ("texts", one_hot, texts)])


def _standardised() -> Any:
    """Null becomes the median, with a column that says so; then mean 0, variance 1."""
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    limits = {"a_min": -FURTHEST, "a_max": FURTHEST}
    return Pipeline(
        [
            (
                "impute",
                SimpleImputer(strategy="median", add_indicator=True),
            ),
            ("scale", StandardScaler()),
            ("cut", FunctionTransformer(np.clip, kw_args=limits)),
        ]
    )


def _logistic(seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    # Newton's method converges in a few steps on many rows of few columns, and exactly.
    return LogisticRegression(solver="newton-cholesky", random_state=seed)


def _boosting(seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_iter=200,
        early_stopping=True,
        n_iter_no_change=10,
        validation_fraction=0.1,
        random_state=seed,
    )


def _own(path: str) -> Any:
    """Call `package.module:make_estimator`; what it makes must be able to give probabilities."""
    module_name, colon, function_name = path.partition(":")
    if not colon:
        raise TrainingError(
            f"There is no candidate {path!r}. Built in are {', '.join(BUILT_IN_CANDIDATES)}; "
            'a project\'s own is written "package.module:make_estimator".'
        )
    try:
        estimator = getattr(importlib.import_module(module_name), function_name)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise TrainingError(
            f"The candidate {path!r} cannot be made: {error}. It must name an importable function "
            "that takes no arguments and returns a scikit-learn classifier."
        ) from error
    missing = [name for name in ("fit", "predict_proba") if not hasattr(estimator, name)]
    if missing:
        raise TrainingError(
            f"The candidate {path!r} makes a {type(estimator).__name__} without "
            f"{' and '.join(missing)}: it must be a scikit-learn classifier."
        )
    return cast("Any", estimator)
