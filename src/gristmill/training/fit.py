"""Chooses among the candidates by cross-validation, fits the best and sets its threshold.

It sees the training part only: what it says of a candidate is not an evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gristmill.errors import TrainingError
from gristmill.project.model import BUILT_IN_CANDIDATES
from gristmill.training.candidates import frame, make_pipeline
from gristmill.training.evaluate import LOWER_IS_BETTER, measure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from gristmill.project.features import Feature
    from gristmill.project.model import Metric, Model
    from gristmill.training.split import Sample

FOLDS = 3
MOST_ROWS_TO_COMPARE = 200_000
"""Candidates are compared on so many rows: with more, no comparison comes out otherwise."""
FEWEST_TO_COMPARE = 1_000
"""… unless they hold fewer rows of the rarer label than this."""
SMALLEST_GAP = 1e-9
"""The threshold keeps half of this from every training row's probability, if it can."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Probability = sigmoid(slope · score + intercept): Platt's, from out-of-fold scores."""

    slope: float = 1.0
    intercept: float = 0.0


@dataclass(frozen=True, kw_only=True)
class CandidateResult:
    """How one candidate did in cross-validation."""

    candidate: str
    metric: Metric
    folds: tuple[float, ...]
    """The metric on each part that was left out."""

    @property
    def mean(self) -> float:
        """The mean over the folds, by which candidates are compared."""
        return fmean(self.folds)

    @property
    def deviation(self) -> float:
        """The standard deviation over the folds."""
        return stdev(self.folds)


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedModel:
    """The chosen candidate, fitted on the whole training part."""

    candidate: str
    features: tuple[Feature, ...]
    pipeline: Any
    """A scikit-learn pipeline with the steps `columns` and `classifier`."""
    calibration: Calibration
    threshold: float
    """From this probability on the answer is 1; it lies midway between training rows' own."""
    results: tuple[CandidateResult, ...]
    """Every candidate's, the chosen one's among them."""
    rows: int
    """How many rows it was fitted on."""
    seed: int

    def probabilities(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """The probability of label 1 for encoded features, of shape (rows,)."""
        return _calibrated(_scores(self.candidate, self.pipeline, frame(inputs)), self.calibration)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Trial:
    """A candidate's scores for rows that its fit had not seen."""

    result: CandidateResult
    calibration: Calibration
    threshold: float


def fit(training: Sample, features: tuple[Feature, ...], model: Model) -> FittedModel:
    """Cross-validate the candidates, choose by the project's metric, fit on every training row.

    The same rows and seed give the same model. Raises TrainingError where a candidate cannot be
    made or fitted.
    """
    trials = [_try(candidate, training, features, model) for candidate in model.candidates]
    sign = -1.0 if model.metric in LOWER_IS_BETTER else 1.0
    # Of equals the first: a project lists its candidates in the order it would rather have them.
    best = max(trials, key=lambda trial: sign * trial.result.mean)
    candidate = best.result.candidate
    rows = frame(training.inputs)
    unfitted = make_pipeline(candidate, features, rows, seed=model.seed)
    pipeline = _fitted(candidate, unfitted, rows, training.labels)
    probabilities = _calibrated(_scores(candidate, pipeline, rows), best.calibration)
    return FittedModel(
        candidate=candidate,
        features=features,
        pipeline=pipeline,
        calibration=best.calibration,
        threshold=midway(probabilities, best.threshold),
        results=tuple(trial.result for trial in trials),
        rows=len(training.labels),
        seed=model.seed,
    )


def _try(candidate: str, training: Sample, features: tuple[Feature, ...], model: Model) -> _Trial:
    """Fit on all folds but one and score that one, for each fold."""
    from sklearn.model_selection import StratifiedKFold

    enough = _rows_to_compare(training.labels)
    labels = training.labels[:enough]
    rows = frame(training.inputs).iloc[:enough]
    folds = StratifiedKFold(n_splits=FOLDS, shuffle=True, random_state=model.seed)
    parts = list(folds.split(np.zeros(enough), labels))
    scores = np.empty(enough)
    for fitting, left_out in parts:
        seen = rows.iloc[fitting]
        unfitted = make_pipeline(candidate, features, seen, seed=model.seed)
        pipeline = _fitted(candidate, unfitted, seen, labels[fitting])
        scores[left_out] = _scores(candidate, pipeline, rows.iloc[left_out])
    calibration = _calibrate(scores, labels) if candidate == "gradient_boosting" else Calibration()
    probabilities = _calibrated(scores, calibration)
    threshold = best_threshold(labels, probabilities, metric=model.metric)
    result = CandidateResult(
        candidate=candidate,
        metric=model.metric,
        folds=tuple(
            measure(model.metric, labels[part], probabilities[part], threshold=threshold)
            for _, part in parts
        ),
    )
    return _Trial(result=result, calibration=calibration, threshold=threshold)


def _rows_to_compare(labels: NDArray[np.int64]) -> int:
    """How many of the first rows, which come in random order, are enough to compare on."""
    rarer = 1 if 2 * labels.sum() <= len(labels) else 0
    of_rarer = np.flatnonzero(labels == rarer)[:FEWEST_TO_COMPARE]
    return max(min(MOST_ROWS_TO_COMPARE, len(labels)), int(of_rarer[-1]) + 1)


def _fitted(candidate: str, pipeline: Any, rows: Any, labels: NDArray[np.int64]) -> Any:
    try:
        return pipeline.fit(rows, labels)
    except ValueError as error:
        raise TrainingError(
            f"The candidate {candidate!r} cannot be fitted on {len(labels):,} rows: {error}"
        ) from error


def _scores(candidate: str, pipeline: Any, rows: Any) -> NDArray[np.float64]:
    """Log-odds before calibration, of shape (rows,)."""
    from scipy.special import logit

    if candidate in BUILT_IN_CANDIDATES:
        return cast("NDArray[np.float64]", pipeline.decision_function(rows))
    # What a project's own classifier calls a decision need not be log-odds; a probability is.
    smallest = np.finfo(np.float64).eps
    probabilities = np.clip(pipeline.predict_proba(rows)[:, 1], smallest, 1.0 - smallest)
    return cast("NDArray[np.float64]", logit(probabilities))


def _calibrated(scores: NDArray[np.float64], calibration: Calibration) -> NDArray[np.float64]:
    from scipy.special import expit

    probabilities = expit(calibration.slope * scores + calibration.intercept)
    return cast("NDArray[np.float64]", probabilities)


def _calibrate(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> Calibration:
    """Platt's sigmoid: Advances in Large Margin Classifiers (1999) 61-74.

    Where higher scores did not go with label 1, nothing was learned: the slope is 0 then, and every
    row has the share of positives for its probability.
    """
    from sklearn.linear_model import LogisticRegression

    # Its slight ridge keeps the slope finite where the scores separate the labels.
    sigmoid = LogisticRegression(solver="newton-cholesky").fit(scores.reshape(-1, 1), labels)
    slope, intercept = float(sigmoid.coef_[0, 0]), float(sigmoid.intercept_[0])
    if slope > 0.0:
        return Calibration(slope=slope, intercept=intercept)
    share = float(labels.mean())
    return Calibration(slope=0.0, intercept=float(np.log(share / (1 - share))))


def best_threshold(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], *, metric: Metric
) -> float:
    """The threshold, between neighbouring probabilities, with the best balanced accuracy or f1.

    f1 where that is the project's metric, balanced accuracy otherwise.
    """
    order = np.argsort(probabilities, kind="stable")
    ordered = probabilities[order]
    cuts = np.flatnonzero(np.diff(ordered)) + 1
    if len(cuts) == 0:
        return midway(probabilities, 0.5)
    positives = int(labels.sum())
    missed = np.cumsum(labels[order])[cuts - 1]
    found = positives - missed
    if metric == "f1":
        goodness = 2 * found / (len(labels) - cuts + positives)
    else:
        goodness = found / positives + (cuts - missed) / (len(labels) - positives)
    cut = cuts[int(np.argmax(goodness))]
    return float((ordered[cut - 1] + ordered[cut]) / 2)


def midway(probabilities: NDArray[np.float64], near: float) -> float:
    """The threshold moved to the middle of the gap between probabilities that it lies in.

    A gap too narrow for the runtime's rounding (see SMALLEST_GAP) is passed over for the nearest
    one that is not. Where all probabilities are equal, the threshold answers as `near` would.
    """
    known = np.unique(probabilities)
    if len(known) == 1:
        only = float(known[0])
        return only / 2 if only >= near else (1 + only) / 2
    gaps = np.diff(known)
    inside = min(max(int(np.searchsorted(known, near)) - 1, 0), len(gaps) - 1)
    wide = np.flatnonzero(gaps >= min(SMALLEST_GAP, gaps.max()))
    gap = wide[int(np.argmin(np.abs(wide - inside)))]
    return float((known[gap] + known[gap + 1]) / 2)
