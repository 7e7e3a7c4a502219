"""Scores candidates on rows that their fit had not seen: the cross-validation.

The rows are cut into folds and made into matrices once, for all configurations that are tried.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gristmill.errors import TrainingError
from gristmill.project.model import BUILT_IN_CANDIDATES
from gristmill.training.candidates import frame, make_classifier, make_columns
from gristmill.training.convert import add_probability
from gristmill.training.graph import Graph
from gristmill.training.own import fit_own, probabilities_of_own

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from gristmill.project.features import Feature
    from gristmill.training.candidates import Configuration
    from gristmill.training.split import Sample
    from gristmill.training.tune import Proposal

FOLDS = 3
MOST_ROWS_TO_COMPARE = 200_000
"""Candidates are compared on so many rows: with more, no comparison comes out otherwise."""
FEWEST_TO_COMPARE = 1_000
"""… unless they hold fewer rows of the rarer label than this."""
MOST_CELLS = 12_000_000
"""… or have so many columns that their matrices would hold more numbers than this."""
FEW_ROWS = 10_000
MOST_ITERATIONS = 500
"""Boosting ends after so many trees at the latest."""
OWN_PROBABILITIES = 1e-7
"""A project's own classifier is never surer than this: its log-odds would be noise beyond."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """What came of one configuration."""

    candidate: str
    configuration: Configuration
    """With, for boosting, the number of trees that did best."""
    scores: NDArray[np.float64]
    """Log-odds for each compared row by the fit that had not seen it, of shape (rows,)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fold:
    left_out: NDArray[np.intp]
    fitting: NDArray[np.float64]
    fitting_labels: NDArray[np.int64]
    testing: NDArray[np.float64]
    testing_labels: NDArray[np.int64]


@dataclass(kw_only=True, eq=False)
class Comparison:
    """The rows that candidates are compared on, in folds."""

    features: tuple[Feature, ...]
    seed: int
    labels: NDArray[np.int64]
    parts: tuple[NDArray[np.intp], ...]
    """The rows that are left out together."""
    _rows: Any
    _folds: dict[str, list[_Fold]] = field(default_factory=dict)

    def prepare(self, candidates: Sequence[str]) -> None:
        """Import what the candidates are made of, and make the matrices of every fold."""
        for candidate in candidates:
            make_classifier(candidate, {}, seed=self.seed)
            self._matrices(candidate)

    def attempt(self, proposal: Proposal) -> Trial:
        """Fit on all folds but one and score that one, for each fold.

        Raises TrainingError where the candidate cannot be made or fitted, ExportError where there
        is no exact graph of it.
        """
        candidate, configuration = proposal
        if candidate == "gradient_boosting":
            return self._boost(configuration)
        scores = np.empty(len(self.labels))
        for fold in self._matrices(candidate):
            unfitted = make_classifier(candidate, configuration, seed=self.seed)
            classifier = fitted(candidate, unfitted, fold.fitting, fold.fitting_labels)
            scores[fold.left_out] = log_odds(candidate, classifier, fold.testing)
        if candidate not in BUILT_IN_CANDIDATES:
            # Better now than after the search: one that has no graph must not win.
            columns = fold.fitting.shape[1]
            add_probability(Graph(), "matrix", classifier, columns=columns)
        return Trial(candidate=candidate, configuration=configuration, scores=scores)

    def _boost(self, configuration: Configuration) -> Trial:
        """The same, and the number of trees that does best over all folds together."""
        folds = self._matrices("gradient_boosting")
        classifiers = [self._boosted(configuration, fold) for fold in folds]
        losses = np.zeros(max(each.n_iter_ for each in classifiers))
        for fold, classifier in zip(folds, classifiers, strict=True):
            losses += _losses(classifier, fold, len(losses))
        trees = int(np.argmin(losses)) + 1
        scores = np.empty(len(self.labels))
        for fold, classifier in zip(folds, classifiers, strict=True):
            stages = classifier.staged_decision_function(fold.testing)
            stage = min(trees, classifier.n_iter_)
            scores[fold.left_out] = next(islice(stages, stage - 1, None)).ravel()
        return Trial(
            candidate="gradient_boosting",
            configuration={**configuration, "max_iter": trees},
            scores=scores,
        )

    def _boosted(self, configuration: Configuration, fold: _Fold) -> Any:
        """Fitted until the left-out rows have gained nothing for a while."""
        patience = max(10, round(2.0 / configuration["learning_rate"]))
        unfitted = make_classifier("gradient_boosting", configuration, seed=self.seed)
        unfitted.set_params(
            early_stopping=True, max_iter=MOST_ITERATIONS, n_iter_no_change=patience
        )
        return fitted(
            "gradient_boosting",
            unfitted,
            fold.fitting,
            fold.fitting_labels,
            X_val=fold.testing,
            y_val=fold.testing_labels,
        )

    def _matrices(self, candidate: str) -> list[_Fold]:
        kind = "gradient_boosting" if candidate == "gradient_boosting" else "linear"
        if kind not in self._folds:
            self._folds[kind] = [self._fold(candidate, left_out) for left_out in self.parts]
        return self._folds[kind]

    def _fold(self, candidate: str, left_out: NDArray[np.intp]) -> _Fold:
        seen = np.ones(len(self.labels), dtype=bool)
        seen[left_out] = False
        rows, labels = self._rows[seen], self.labels[seen]
        columns = make_columns(candidate, self.features, rows, seed=self.seed)
        return _Fold(
            left_out=left_out,
            fitting=columns.fit_transform(rows, labels),
            fitting_labels=labels,
            testing=columns.transform(self._rows.iloc[left_out]),
            testing_labels=self.labels[left_out],
        )


def comparison(training: Sample, features: tuple[Feature, ...], *, seed: int) -> Comparison:
    """Cut the first rows, which come in random order, into folds."""
    from sklearn.model_selection import StratifiedKFold

    enough = _rows_to_compare(training.labels, features)
    labels = training.labels[:enough]
    folds = StratifiedKFold(n_splits=FOLDS, shuffle=True, random_state=seed)
    return Comparison(
        features=features,
        seed=seed,
        labels=labels,
        parts=tuple(left_out for _, left_out in folds.split(np.zeros(enough), labels)),
        _rows=frame(training.inputs).iloc[:enough],
    )


def threads(rows: int) -> AbstractContextManager[object]:
    """One thread where there are few rows: more would wait for each other longer than they work."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # has no types

    limited = rows < FEW_ROWS
    return cast(
        "AbstractContextManager[object]", threadpool_limits(1) if limited else nullcontext()
    )


def fitted(
    candidate: str,
    unfitted: Any,
    matrix: NDArray[np.float64],
    labels: NDArray[np.int64],
    **validation: Any,
) -> Any:
    """A classifier, fitted; raises TrainingError where it cannot be."""
    if candidate not in BUILT_IN_CANDIDATES:
        return fit_own(candidate, unfitted, matrix, labels)
    try:
        return unfitted.fit(matrix, labels, **validation)
    except (ValueError, TypeError) as error:
        raise TrainingError(
            f"The candidate {candidate!r} cannot be fitted on {len(labels):,} rows: {error}"
        ) from error


def log_odds(candidate: str, classifier: Any, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-odds before calibration, of shape (rows,)."""
    from scipy.special import logit

    if candidate in BUILT_IN_CANDIDATES:
        return cast("NDArray[np.float64]", classifier.decision_function(matrix))
    # What a project's own classifier calls a decision need not be log-odds; a probability is.
    probabilities = probabilities_of_own(candidate, classifier, matrix)
    surest = 1.0 - OWN_PROBABILITIES
    return cast("NDArray[np.float64]", logit(np.clip(probabilities, OWN_PROBABILITIES, surest)))


def _losses(classifier: Any, fold: _Fold, stages: int) -> NDArray[np.float64]:
    """The log loss of the left-out rows after each tree, summed; after the last it stays."""
    signs = np.where(fold.testing_labels == 1, -1.0, 1.0)
    found = [
        float(np.logaddexp(0.0, signs * scores.ravel()).sum())
        for scores in classifier.staged_decision_function(fold.testing)
    ]
    return np.array([*found, *[found[-1]] * (stages - len(found))])


def _rows_to_compare(labels: NDArray[np.int64], features: Sequence[Feature]) -> int:
    """How many of the first rows are enough to compare on, and not too many to hold."""
    columns = sum(32 if feature.type == "text" else 4 for feature in features)
    most = min(MOST_ROWS_TO_COMPARE, MOST_CELLS // columns, len(labels))
    rarer = 1 if 2 * labels.sum() <= len(labels) else 0
    of_rarer = np.flatnonzero(labels == rarer)[:FEWEST_TO_COMPARE]
    return max(most, int(of_rarer[-1]) + 1)
