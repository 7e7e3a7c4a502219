"""Makes probabilities of scores by a sigmoid, measures what that mends, and weighs a blend's parts.

Everything is fitted on scores of rows that the scoring model had not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from gristmill.training.evaluate import calibration_error, measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Probability = sigmoid(slope · score + intercept), Platt's; as it is, the score's own."""

    slope: float = 1.0
    intercept: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How far probabilities are from what happened, on rows that trained neither them nor these."""

    log_loss: float
    """In nats."""
    brier: float
    calibration_error: float
    """The mean distance of probability and outcome over ten bins of equally many rows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibrated:
    """Scores made into probabilities."""

    calibration: Calibration
    """Fitted on all rows: for the model that is fitted on all of them."""
    shares: tuple[float, ...]
    """What each column of scores counts; they add up to 1."""
    probabilities: NDArray[np.float64]
    """Each row's by a sigmoid that it did not fit, of shape (rows,)."""
    before: Reliability
    """Of the scores' own probabilities."""
    after: Reliability


def apply(scores: NDArray[np.float64], calibration: Calibration) -> NDArray[np.float64]:
    """Probabilities for log-odds of the same shape."""
    from scipy.special import expit

    probabilities = expit(calibration.slope * scores + calibration.intercept)
    return cast("NDArray[np.float64]", probabilities)


def calibrate(
    scores: NDArray[np.float64],
    labels: NDArray[np.int64],
    parts: Sequence[NDArray[np.intp]],
) -> Calibrated:
    """Fit the sigmoid that makes probabilities of log-odds, of shape (rows, models).

    `parts` are the rows left out together: what a sigmoid does for a part is measured with one
    fitted on the others. One model's own probabilities are left alone where the sigmoid does not
    lower their log loss.
    """
    own = apply(scores.mean(axis=1), Calibration())
    before = reliability(labels, own)
    mended = np.empty(len(labels))
    for part in parts:
        others = np.ones(len(labels), dtype=bool)
        others[part] = False
        shares, calibration = _sigmoid(scores[others], labels[others])
        mended[part] = apply(scores[part] @ np.array(shares), calibration)
    after = reliability(labels, mended)
    if scores.shape[1] == 1 and after.log_loss >= before.log_loss:
        return Calibrated(
            calibration=Calibration(), shares=(1.0,), probabilities=own, before=before, after=before
        )
    shares, calibration = _sigmoid(scores, labels)
    return Calibrated(
        calibration=calibration, shares=shares, probabilities=mended, before=before, after=after
    )


def reliability(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> Reliability:
    """Measure probabilities of label 1; both arrays have shape (rows,)."""
    return Reliability(
        log_loss=measure("log_loss", labels, probabilities, threshold=0.5),
        brier=measure("brier", labels, probabilities, threshold=0.5),
        calibration_error=calibration_error(labels, probabilities),
    )


def _sigmoid(
    scores: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[tuple[float, ...], Calibration]:
    """Platt's sigmoid: Advances in Large Margin Classifiers (1999) 61-74; its slope in shares.

    Where not all models' higher scores go with label 1, beside the others, the best one alone gets
    all of it. Where none's do, nothing was learned: the slope is 0 then, and every row has the
    share of positives for its probability.
    """
    models = scores.shape[1]
    alone = [(column,) for column in range(models)] if models > 1 else []
    for choices in ([tuple(range(models))], alone):
        fits = [_fitted(scores[:, used], labels, used) for used in choices]
        rising = [fit for fit in fits if (fit.slopes > 0.0).all()]
        if rising:
            best = min(rising, key=lambda fit: fit.log_loss)
            total = float(best.slopes.sum())
            shares = np.zeros(models)
            shares[list(best.used)] = best.slopes / total
            return tuple(shares.tolist()), Calibration(slope=total, intercept=best.intercept)
    share = float(labels.mean())
    intercept = float(np.log(share / (1 - share)))
    return (1.0 / models,) * models, Calibration(slope=0.0, intercept=intercept)


class _Sigmoid(NamedTuple):
    """A sigmoid of some columns of scores."""

    used: tuple[int, ...]
    slopes: NDArray[np.float64]
    intercept: float
    log_loss: float


def _fitted(
    scores: NDArray[np.float64], labels: NDArray[np.int64], used: tuple[int, ...]
) -> _Sigmoid:
    from sklearn.linear_model import LogisticRegression

    # Its slight ridge keeps the slope finite where the scores separate the labels.
    sigmoid = LogisticRegression(solver="newton-cholesky").fit(scores, labels)
    slopes, intercept = sigmoid.coef_[0], float(sigmoid.intercept_[0])
    calibration = Calibration(intercept=intercept)
    loss = measure("log_loss", labels, apply(scores @ slopes, calibration), threshold=0.5)
    return _Sigmoid(used=used, slopes=slopes, intercept=intercept, log_loss=loss)
