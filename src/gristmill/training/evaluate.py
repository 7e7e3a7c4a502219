"""Says how good scores are on rows that trained nothing: every number with what it is worth.

It knows probabilities, labels and a threshold, not the model behind them, so that a champion and
a candidate are measured by the same few lines.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from gristmill.training.auc import Z95, Estimate, roc_auc

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gristmill.project.model import Metric

LOWER_IS_BETTER = frozenset({"log_loss", "brier"})
CALIBRATION_BINS = 10

_SMALLEST_PROBABILITY = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Rows by their label and by what was answered at the threshold."""

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a model is worth on the holdout; intervals hold with 95% confidence."""

    rows: int
    positives: int
    base_rate: float
    """The share of rows with label 1."""
    threshold: float
    """From this probability on the answer is 1."""
    roc_auc: Estimate
    """DeLong's interval."""
    average_precision: float
    """To be compared with the base rate, which is what chance reaches."""
    log_loss: Estimate
    """In nats; the interval of a mean."""
    brier: Estimate
    """The mean squared error of the probability; the interval of a mean."""
    accuracy: Estimate
    """Wilson's interval."""
    balanced_accuracy: Estimate
    """The mean of sensitivity and specificity; their Wilson intervals combined as Newcombe's."""
    sensitivity: Estimate
    """The share of positives answered 1; Wilson's interval."""
    specificity: Estimate
    """The share of negatives answered 0; Wilson's interval."""
    precision: Estimate | None
    """The share of positives among what is answered 1, if anything is; Wilson's interval."""
    f1: float
    calibration_error: float
    """The mean distance of probability and outcome over ten bins of equally many rows."""
    confusion: Confusion

    def to_dict(self) -> dict[str, Any]:
        """As plain dictionaries, numbers and nulls, for JSON."""
        return asdict(self)


def evaluate(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], *, threshold: float
) -> Evaluation:
    """Measure probabilities of label 1 against the labels; both arrays have shape (rows,).

    There must be two rows of each label.
    """
    confusion = confuse(labels, probabilities, threshold=threshold)
    right_positives, right_negatives = confusion.true_positives, confusion.true_negatives
    rows, positives = len(labels), int(labels.sum())
    sensitivity = wilson(right_positives, positives)
    specificity = wilson(right_negatives, rows - positives)
    answered = right_positives + confusion.false_positives
    return Evaluation(
        rows=rows,
        positives=positives,
        base_rate=positives / rows,
        threshold=threshold,
        roc_auc=roc_auc(labels, probabilities),
        average_precision=average_precision(labels, probabilities),
        log_loss=_mean(losses("log_loss", labels, probabilities)),
        brier=_mean(losses("brier", labels, probabilities)),
        accuracy=wilson(right_positives + right_negatives, rows),
        balanced_accuracy=_mean_of_two(sensitivity, specificity),
        sensitivity=sensitivity,
        specificity=specificity,
        precision=wilson(right_positives, answered) if answered else None,
        f1=f1(confusion),
        calibration_error=calibration_error(labels, probabilities),
        confusion=confusion,
    )


def measure(
    metric: Metric,
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    *,
    threshold: float,
) -> float:
    """One of the project's metrics; see LOWER_IS_BETTER for its direction."""
    match metric:
        case "roc_auc":
            return roc_auc(labels, probabilities).value
        case "average_precision":
            return average_precision(labels, probabilities)
        case "log_loss":
            return float(losses("log_loss", labels, probabilities).mean())
        case "brier":
            return float(losses("brier", labels, probabilities).mean())
        case "f1":
            return f1(confuse(labels, probabilities, threshold=threshold))
        case "balanced_accuracy":
            confusion = confuse(labels, probabilities, threshold=threshold)
            positives = int(labels.sum())
            sensitivity = confusion.true_positives / positives
            return (sensitivity + confusion.true_negatives / (len(labels) - positives)) / 2


def losses(
    metric: Literal["log_loss", "brier"],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
) -> NDArray[np.float64]:
    """What each row adds to a metric that is a mean, of shape (rows,)."""
    if metric == "brier":
        return (probabilities - labels) ** 2
    of_label = np.where(labels == 1, probabilities, 1.0 - probabilities)
    return cast("NDArray[np.float64]", -np.log(np.maximum(of_label, _SMALLEST_PROBABILITY)))


def confuse(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], *, threshold: float
) -> Confusion:
    """Count the rows by label and answer; the answer is 1 from the threshold on."""
    answered = probabilities >= threshold
    positive = labels == 1
    return Confusion(
        true_positives=int(np.count_nonzero(answered & positive)),
        false_positives=int(np.count_nonzero(answered & ~positive)),
        true_negatives=int(np.count_nonzero(~answered & ~positive)),
        false_negatives=int(np.count_nonzero(~answered & positive)),
    )


def f1(confusion: Confusion) -> float:
    """The harmonic mean of precision and sensitivity; 0 where nothing is answered 1 rightly."""
    wrong = confusion.false_positives + confusion.false_negatives
    return 2 * confusion.true_positives / max(1, 2 * confusion.true_positives + wrong)


def average_precision(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """The area under the precision-recall curve as a sum of steps, scikit-learn's definition."""
    order = np.argsort(-probabilities, kind="stable")
    # A step ends where the score changes: rows with the same score are answered 1 together.
    ends = np.append(np.flatnonzero(np.diff(probabilities[order])), len(labels) - 1)
    found = np.cumsum(labels[order])[ends]
    gained = np.diff(found, prepend=0)
    return float((gained * found / (ends + 1)).sum() / labels.sum())


def calibration_error(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """The mean absolute difference of mean probability and share of positives, bin by bin."""
    order = np.argsort(probabilities, kind="stable")
    bins = np.array_split(order, min(CALIBRATION_BINS, len(order)))
    distances = [abs(probabilities[rows].sum() - labels[rows].sum()) for rows in bins]
    return float(sum(distances) / len(labels))


def wilson(successes: int, trials: int) -> Estimate:
    """A proportion and its interval: Wilson, J. Am. Stat. Assoc. 22 (1927) 209-212."""
    share = successes / trials
    spread = Z95**2 / trials
    middle = (share + spread / 2) / (1 + spread)
    margin = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return Estimate(
        value=share,
        low=min(share, max(0.0, middle - margin)),
        high=max(share, min(1.0, middle + margin)),
    )


def _mean_of_two(first: Estimate, second: Estimate) -> Estimate:
    """Newcombe, Statistics in Medicine 17 (1998) 873-890, method 10, for a sum."""
    value = (first.value + second.value) / 2
    below = math.hypot(first.value - first.low, second.value - second.low) / 2
    above = math.hypot(first.high - first.value, second.high - second.value) / 2
    return Estimate(value=value, low=value - below, high=value + above)


def _mean(values: NDArray[np.float64]) -> Estimate:
    value = float(values.mean())
    margin = Z95 * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Estimate(value=value, low=max(0.0, value - margin), high=value + margin)
