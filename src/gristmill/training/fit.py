"""Chooses among the candidates by cross-validation, fits the best and sets its threshold.

It sees the training part only: what it says of a candidate is not an evaluation.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from gristmill.project.model import BUILT_IN_CANDIDATES
from gristmill.training import calibrate
from gristmill.training.candidates import (
    BLENDED,
    Blend,
    Part,
    frame,
    make_classifier,
    make_columns,
)
from gristmill.training.compare import Trial, comparison, fitted, log_odds, threads
from gristmill.training.evaluate import LOWER_IS_BETTER, measure
from gristmill.training.threshold import best_threshold, midway
from gristmill.training.tune import Budget, proposals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from gristmill.project.features import Feature
    from gristmill.project.model import Metric, Model
    from gristmill.training.calibrate import Calibrated, Calibration
    from gristmill.training.compare import Comparison
    from gristmill.training.split import Sample


@dataclass(frozen=True, kw_only=True)
class CandidateResult:
    """How one candidate did in cross-validation, with the best of its configurations."""

    candidate: str
    metric: Metric
    folds: tuple[float, ...]
    """The metric on each part that was left out."""
    configuration: Mapping[str, Any] = field(default_factory=dict)
    """What its classifier was made with; of a blend, each part's by its name."""

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
    """A scikit-learn pipeline with the steps `columns` and `classifier`, or a Blend of two."""
    calibration: Calibration
    threshold: float
    """From this probability on the answer is 1; it lies midway between training rows' own."""
    results: tuple[CandidateResult, ...]
    """Every candidate's, the chosen one's among them."""
    rows: int
    """How many rows it was fitted on."""
    seed: int
    trials: int = 0
    """How many configurations were tried: with the same seed and rows, so many give this model."""
    before: calibrate.Reliability | None = None
    """How reliable its own probabilities were in cross-validation …"""
    after: calibrate.Reliability | None = None
    """… and the calibrated ones."""

    def probabilities(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """The probability of label 1 for encoded features, of shape (rows,)."""
        scores = _scores(self.candidate, self.pipeline, frame(inputs))
        return calibrate.apply(scores, self.calibration)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Entry:
    """A candidate in the comparison: its trial, or two of a blend, and what came of it."""

    trials: tuple[Trial, ...]
    calibrated: Calibrated
    threshold: float
    result: CandidateResult


def fit(
    training: Sample,
    features: tuple[Feature, ...],
    model: Model,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> FittedModel:
    """Cross-validate the candidates, choose by the project's metric, fit on every training row.

    The same rows, seed and number of trials give the same model. Raises TrainingError where a
    candidate cannot be made or fitted.
    """
    with threads(len(training.labels)):
        return _fit(training, features, model, clock)


def _fit(
    training: Sample, features: tuple[Feature, ...], model: Model, clock: Callable[[], float]
) -> FittedModel:
    compared = comparison(training, features, seed=model.seed)
    entries, trials = _search(compared, model, clock)
    # Of equals the first: a project lists its candidates in the order it would rather have them.
    best = max(
        (entries[candidate] for candidate in model.candidates),
        key=lambda entry: _goodness(entry.result),
    )
    candidate = best.result.candidate
    rows = frame(training.inputs)
    pipeline = _refitted(best, rows, training.labels, features, model.seed)
    scores = _scores(candidate, pipeline, rows)
    probabilities = calibrate.apply(scores, best.calibrated.calibration)
    return FittedModel(
        candidate=candidate,
        features=features,
        pipeline=pipeline,
        calibration=best.calibrated.calibration,
        threshold=midway(probabilities, best.threshold),
        results=tuple(entries[each].result for each in model.candidates),
        rows=len(training.labels),
        seed=model.seed,
        trials=trials,
        before=best.calibrated.before,
        after=best.calibrated.after,
    )


def _search(
    compared: Comparison, model: Model, clock: Callable[[], float]
) -> tuple[dict[str, _Entry], int]:
    """The best entry of each candidate, and how many trials it took to find them."""
    singles = [each for each in model.candidates if each != "blend"]
    if "blend" in model.candidates:
        singles += [part for part in BLENDED if part not in singles]
    budget = Budget(model, defaults=len(singles), clock=clock)
    compared.prepare(singles)
    budget.prepared()
    entries: dict[str, _Entry] = {}
    for proposal in proposals(singles, rows=len(compared.labels), seed=model.seed):
        if not budget.allows():
            break
        entry = _entry(proposal.candidate, (compared.attempt(proposal),), compared, model)
        known = entries.get(proposal.candidate)
        if known is None or _goodness(entry.result) > _goodness(known.result):
            entries[proposal.candidate] = entry
        budget.count()
    if "blend" in model.candidates:
        parts = tuple(entries[part].trials[0] for part in BLENDED)
        entries["blend"] = _entry("blend", parts, compared, model)
    return entries, budget.done


def _entry(candidate: str, trials: tuple[Trial, ...], compared: Comparison, model: Model) -> _Entry:
    labels = compared.labels
    scores = np.column_stack([trial.scores for trial in trials])
    calibrated = calibrate.calibrate(scores, labels, compared.parts)
    probabilities = calibrated.probabilities
    threshold = best_threshold(labels, probabilities, aim=model.aim)
    configurations = {trial.candidate: dict(trial.configuration) for trial in trials}
    result = CandidateResult(
        candidate=candidate,
        metric=model.metric,
        folds=tuple(
            measure(model.metric, labels[part], probabilities[part], threshold=threshold)
            for part in compared.parts
        ),
        configuration=configurations if len(trials) > 1 else configurations[candidate],
    )
    return _Entry(trials=trials, calibrated=calibrated, threshold=threshold, result=result)


def _goodness(result: CandidateResult) -> float:
    return -result.mean if result.metric in LOWER_IS_BETTER else result.mean


def _refitted(
    entry: _Entry,
    rows: Any,
    labels: NDArray[np.int64],
    features: Sequence[Feature],
    seed: int,
) -> Any:
    """The entry's pipeline, or those of a blend that count anything, fitted on all rows."""
    from sklearn.pipeline import Pipeline

    parts = []
    for trial, share in zip(entry.trials, entry.calibrated.shares, strict=True):
        if share > 0:
            columns = make_columns(trial.candidate, features, rows, seed=seed)
            matrix = columns.fit_transform(rows, labels)
            unfitted = make_classifier(trial.candidate, trial.configuration, seed=seed)
            classifier = fitted(trial.candidate, unfitted, matrix, labels)
            pipeline = Pipeline([("columns", columns), ("classifier", classifier)])
            parts.append(Part(candidate=trial.candidate, share=share, pipeline=pipeline))
    return parts[0].pipeline if entry.result.candidate != "blend" else Blend(parts=tuple(parts))


def _scores(candidate: str, pipeline: Any, rows: Any) -> NDArray[np.float64]:
    """Log-odds before calibration, of shape (rows,)."""
    if candidate in BUILT_IN_CANDIDATES:
        return log_odds(candidate, pipeline, rows)
    matrix = pipeline.named_steps["columns"].transform(rows)
    return log_odds(candidate, pipeline.named_steps["classifier"], matrix)
