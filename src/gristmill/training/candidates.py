"""The classifiers that compete: two built in, their blend, and a project's own by import path.

Each takes a frame of encoded features. What the classifiers themselves see is a matrix of doubles,
made by steps that the graph can repeat exactly: numbers, the calendar of dates, one column for each
common text, and for a feature of many texts how often the label was 1 with each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from gristmill.errors import TrainingError
from gristmill.training import calendar
from gristmill.training.own import make_own

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from gristmill.project.features import Feature

    Configuration = Mapping[str, float]
    """What a classifier is made with, beside what is the same for all of its kind."""

Kind = Literal["numbers", "cycles", "texts", "many"]

BLENDED = ("logistic", "gradient_boosting")
"""What the candidate `blend` is made of."""
MOST_COLUMNS = {"gradient_boosting": 10}
"""The most texts of a feature with a column of their own; the rest share one."""
MOST_COLUMNS_OF_OTHERS = 30
MOST_ENCODED = 10_000
"""The most texts of a feature of which is known how often the label was 1."""
RARE = 10
"""Texts seen in fewer training rows count as one, numbers known in fewer are left out."""
FURTHEST = 1e6
"""Standardised numbers are cut off here, so that no number, however absurd, makes a NaN."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One pipeline of a blend."""

    candidate: str
    share: float
    """What its score counts; the shares of a blend add up to 1."""
    pipeline: Any


@dataclass(frozen=True, kw_only=True, eq=False)
class Blend:
    """Pipelines that answer together, by a weighted mean of their log-odds."""

    parts: tuple[Part, ...]

    def decision_function(self, rows: Any) -> NDArray[np.float64]:
        """The log-odds of each row of a frame, of shape (rows,)."""
        scores = [part.share * part.pipeline.decision_function(rows) for part in self.parts]
        return cast("NDArray[np.float64]", np.sum(scores, axis=0))


def make_columns(candidate: str, features: Sequence[Feature], rows: Any, *, seed: int) -> Any:
    """An unfitted scikit-learn transformer from a frame of features to a candidate's matrix.

    `rows` is the frame that it is going to be fitted on: a number that is null in all but a few
    rows is left out, for it says little and scikit-learn's boosting cannot bin it. Raises
    TrainingError where nothing is left.
    """
    from sklearn.compose import ColumnTransformer

    texts = [feature.name for feature in features if feature.type == "text"]
    known = [feature for feature in features if feature.type != "text"]
    known = [feature for feature in known if rows[feature.name].count() >= RARE]
    if not texts and not known:
        raise TrainingError(
            f"No feature is known in {RARE} of {len(rows):,} training rows: "
            f"{', '.join(feature.name for feature in features)} are null nearly everywhere. "
            "Look at what the tables are joined by."
        )
    numbers = [feature.name for feature in known]
    dated = [feature for feature in known if feature.type in calendar.CYCLES]
    boosting = candidate == "gradient_boosting"
    cycles = _cycles(dated, candidate)
    most = MOST_COLUMNS.get(candidate, MOST_COLUMNS_OF_OTHERS)
    common = {name: _common_texts(rows[name]) for name in texts}
    many = [name for name in texts if len(common[name]) > most]
    steps = [
        ("numbers", "passthrough" if boosting else _standardised(), numbers),
        ("cycles", cycles, [feature.name for feature in dated]),
        ("texts", _one_hot(most), texts),
        ("many", _share_of_ones([common[name] for name in many], seed, not boosting), many),
    ]
    return ColumnTransformer([step for step in steps if step[2]])


def make_classifier(candidate: str, configuration: Configuration, *, seed: int) -> Any:
    """An unfitted scikit-learn classifier.

    Raises TrainingError where a project's own cannot be made.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    if candidate == "logistic":
        # Newton's method converges in a few steps on many rows of few columns, and exactly.
        return LogisticRegression(solver="newton-cholesky", random_state=seed, **configuration)
    if candidate == "gradient_boosting":
        return HistGradientBoostingClassifier(
            early_stopping=False, random_state=seed, **configuration
        )
    return make_own(candidate, seed=seed)


def columns_of(columns: Any, kind: Kind) -> tuple[list[str], Any]:
    """The features of one kind that fitted columns use, in order, and what transforms them."""
    for name, transformer, names in columns.transformers_:
        if name == kind:
            return list(names), transformer
    return [], None


def frame(inputs: Mapping[str, NDArray[Any]]) -> Any:
    """Encoded features as the pandas frame that the pipelines take."""
    import pandas as pd

    return pd.DataFrame(
        {name: pd.Series(values[:, 0], dtype=values.dtype) for name, values in inputs.items()}
    )


def _common_texts(column: Any) -> NDArray[Any]:
    """The texts that are not rare, the most frequent first where there are too many; sorted."""
    counts = column.value_counts()
    counts = counts[counts >= RARE]
    if len(counts) > MOST_ENCODED:
        counts = counts.sort_index().sort_values(ascending=False, kind="stable")[:MOST_ENCODED]
    return np.array(sorted(counts.index), dtype=object)


def _one_hot(most: int) -> Any:
    from sklearn.preprocessing import OneHotEncoder

    return OneHotEncoder(
        handle_unknown="infrequent_if_exist",
        min_frequency=RARE,
        max_categories=most + 1,
        sparse_output=False,
    )


def _share_of_ones(categories: list[NDArray[Any]], seed: int, standardise: bool) -> Any:
    """How often the label was 1 with a text, drawn to the mean the rarer the text is.

    What a training row is given was counted on other rows (five folds), or the label would leak
    into the feature: Micci-Barreca, SIGKDD Explorations 3 (2001) 27-32.
    """
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler, TargetEncoder

    encode = TargetEncoder(
        categories=categories,
        target_type="binary",
        cv=StratifiedKFold(5, shuffle=True, random_state=seed),
    )
    return Pipeline([("encode", encode), *([("scale", StandardScaler())] if standardise else [])])


def _cycles(dated: Sequence[Feature], candidate: str) -> Any:
    """Where in the week, the year and the day a moment lies, as the candidate can use it."""
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    cycles = {"cycles": [calendar.CYCLES[feature.type] for feature in dated]}
    if candidate == "logistic":
        return FunctionTransformer(calendar.waves, kw_args=cycles)
    phases = FunctionTransformer(calendar.phases, kw_args=cycles)
    if candidate == "gradient_boosting":
        return phases
    impute = SimpleImputer(strategy="median")
    return Pipeline([("phases", phases), ("impute", impute), ("scale", StandardScaler())])


def _standardised() -> Any:
    """Null becomes the median, with a column that says so; then mean 0, variance 1."""
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    limits = {"a_min": -FURTHEST, "a_max": FURTHEST}
    return Pipeline(
        [
            ("impute", SimpleImputer(strategy="median", add_indicator=True)),
            ("scale", StandardScaler()),
            ("cut", FunctionTransformer(np.clip, kw_args=limits)),
        ]
    )
