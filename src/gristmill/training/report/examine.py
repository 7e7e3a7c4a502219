"""Everything a model's report shows, computed once: nothing here is drawn."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gristmill.training.report import curves
from gristmill.training.report.distribution import Distribution, distribution
from gristmill.training.report.importance import Importances, importances
from gristmill.training.report.slices import Slice, slices, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from gristmill.features.read import TrainingSet
    from gristmill.training.evaluate import Evaluation
    from gristmill.training.fit import FittedModel
    from gristmill.training.report.importance import Scoring
    from gristmill.training.split import Split


@dataclass(frozen=True, kw_only=True, eq=False)
class Examined:
    """A judged model, looked at from all sides."""

    project: str
    entity: str
    """The name of the entity's key."""
    label: str
    build: int
    """The build of the training set."""
    training_rows: int
    training_positives: int
    as_of: tuple[object, object] | None
    """The first and the last moment of the training set's rows, where they have one each."""
    candidate: str
    seed: int
    parameters: Mapping[str, Any]
    """What the model was fitted with."""
    comparison: Mapping[str, tuple[float, ...]]
    """The metric of every candidate on each fold of the cross-validation."""
    metric: str
    """What the candidates were compared by."""
    evaluation: Mapping[str, Any]
    verdict: Mapping[str, Any]
    """`training.gate.Verdict` as plain values; whatever evidence it has is shown."""
    ranking: curves.Ranking
    calibration: tuple[curves.Said, ...]
    calibration_error_by_chance: float
    """What perfect probabilities exceed one time in twenty."""
    histogram: tuple[list[float], list[int], list[int]]
    intervals: Mapping[str, tuple[float, float]]
    """Bootstrap intervals of metrics whose evaluation has none."""
    importances: Importances
    whole: Slice
    """All rows of the holdout as one group."""
    slices: tuple[Slice, ...]
    distributions: tuple[Distribution, ...]
    """Of every feature over the training part, the holdout beside it."""


def examine(
    *,
    project: str,
    known: TrainingSet,
    parts: Split,
    fitted: FittedModel,
    evaluation: Evaluation,
    verdict: Mapping[str, Any],
    model: Scoring,
    scores: NDArray[np.float64],
) -> Examined:
    """Look at a model by its scores on the holdout's rows, of shape (rows,).

    `verdict` is the gate's, as plain values that may be read wherever the bundle goes. It takes
    about five scorings of the holdout for each feature; of a million rows in all at the most.
    """
    training, holdout = parts.training, parts.holdout
    rank = curves.ranking(holdout.labels, scores)
    names = [feature.name for feature in known.features]
    labels = training.labels.astype(np.float64)
    return Examined(
        project=project,
        entity=known.entity,
        label=known.label,
        build=known.build,
        training_rows=len(training.labels),
        training_positives=training.positives,
        as_of=_moments(known),
        candidate=fitted.candidate,
        seed=fitted.seed,
        parameters=_parameters(fitted),
        comparison={result.candidate: result.folds for result in fitted.results},
        metric=fitted.results[0].metric,
        evaluation=evaluation.to_dict(),
        verdict=verdict,
        ranking=rank,
        calibration=tuple(curves.calibration(holdout.labels, scores)),
        calibration_error_by_chance=curves.calibration_error_by_chance(scores, seed=fitted.seed),
        histogram=curves.histogram(holdout.labels, scores),
        intervals={
            "average_precision": curves.average_precision_interval(rank, seed=fitted.seed),
            "f1": curves.f1_interval(evaluation.to_dict()["confusion"], seed=fitted.seed),
        },
        importances=importances(model, names, holdout.table, holdout.labels, seed=fitted.seed),
        whole=whole(holdout.labels, scores),
        slices=tuple(slices(known.features, training.table, holdout.table, holdout.labels, scores)),
        distributions=tuple(
            distribution(
                training.table.column(feature.name),
                feature,
                labels=labels,
                beside=holdout.table.column(feature.name),
            )
            for feature in known.features
        ),
    )


def _moments(known: TrainingSet) -> tuple[object, object] | None:
    """The first and the last `as_of`."""
    import pyarrow.compute as pc

    if "as_of" not in known.table.column_names:
        return None
    extremes = pc.min_max(known.table.column("as_of"))
    return extremes["min"].as_py(), extremes["max"].as_py()


def _parameters(fitted: FittedModel) -> dict[str, Any]:
    """The threshold, the calibration, and what the classifier says of itself."""
    found: dict[str, Any] = {"threshold": fitted.threshold, "trials": fitted.trials}
    found["calibration"] = asdict(fitted.calibration)
    for name, reliability in (("before", fitted.before), ("after", fitted.after)):
        if reliability:
            found[f"in cross-validation, {name} calibration"] = asdict(reliability)
    steps: Mapping[str, Any] = getattr(fitted.pipeline, "named_steps", {})
    classifier: Any = steps.get("classifier")
    if hasattr(classifier, "get_params"):
        given = classifier.get_params(deep=False)
        found |= {name: value for name, value in sorted(given.items()) if value is not None}
    for part in getattr(fitted.pipeline, "parts", ()):
        found[f"{part.candidate}.share"] = part.share
        given = part.pipeline.named_steps["classifier"].get_params(deep=False)
        found |= {
            f"{part.candidate}.{name}": value
            for name, value in sorted(given.items())
            if value is not None
        }
    return found
