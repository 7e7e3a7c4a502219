"""Writes a fitted model as an ONNX graph, and proves that the graph answers the same.

The built-in candidates are written by hand, in double precision throughout, because no converter
carries them exactly. A graph that would answer one row otherwise is not handed out.

The graph has one input per feature, named after it, of shape [N, 1]: double with NaN for null, or
string with `features.encode.NULL_TEXT` for null. Its one output, `probability`, is double of shape
[N, 1]: the probability of label 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gristmill.errors import ExportError
from gristmill.training import calendar
from gristmill.training.candidates import FURTHEST, Blend, columns_of
from gristmill.training.compare import OWN_PROBABILITIES
from gristmill.training.convert import add_probability
from gristmill.training.graph import OUTPUT, Graph, tensor
from gristmill.training.proof import Parity, prove
from gristmill.training.trees import add_trees, histogram_trees

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gristmill.project.features import Feature
    from gristmill.training.fit import FittedModel
    from gristmill.training.split import Sample

_NO_TEXT = "\x00none"
"""What no text is equal to."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """A graph and its proof."""

    graph: bytes = field(repr=False)
    """A serialised ONNX model; the same fitted model gives the same bytes."""
    parity: Parity


def export(model: FittedModel, training: Sample) -> Export:
    """Write the graph of a fitted model and compare the two on training rows and on probes.

    Raises ExportError where a classifier has no graph, or where graph and model differ.
    """
    if OUTPUT in (feature.name for feature in model.features):
        raise ExportError(
            f"A feature is called {OUTPUT!r}, which is the name of the answer. Rename its column."
        )
    graph = write_graph(model)
    return Export(graph=graph, parity=prove(graph, model, training))


def write_graph(model: FittedModel) -> bytes:
    """The ONNX model of a fitted model, as bytes."""
    graph = Graph()
    types = {feature.name: feature for feature in model.features}
    score = _score(graph, model.candidate, model.pipeline, types)
    slope = graph.add("Mul", score, graph.constant(model.calibration.slope))
    moved = graph.add("Add", slope, graph.constant(model.calibration.intercept))
    graph.add("Sigmoid", moved, output=OUTPUT)
    return graph.serialised(model.features)


def _score(graph: Graph, candidate: str, pipeline: Any, features: Mapping[str, Feature]) -> str:
    """Log-odds before calibration."""
    if isinstance(pipeline, Blend):
        scores = []
        for part in pipeline.parts:
            score = _score(graph, part.candidate, part.pipeline, features)
            scores.append(graph.add("Mul", score, graph.constant(part.share)))
        return scores[0] if len(scores) == 1 else graph.add("Add", *scores)
    columns = pipeline.named_steps["columns"]
    classifier = pipeline.named_steps["classifier"]
    matrix = _matrix(graph, candidate, columns, features)
    if candidate == "logistic":
        product = graph.add("MatMul", matrix, graph.constant(classifier.coef_.reshape(-1, 1)))
        return graph.add("Add", product, graph.constant(classifier.intercept_))
    if candidate == "gradient_boosting":
        total = add_trees(graph, matrix, histogram_trees(classifier))
        return graph.add("Add", total, graph.constant(classifier._baseline_prediction.ravel()))
    return _own(graph, matrix, classifier)


def _own(graph: Graph, matrix: str, classifier: Any) -> str:
    """The log-odds of a project's own classifier, by way of its probability."""
    probability = add_probability(graph, matrix, classifier, columns=classifier.n_features_in_)
    bounds = [graph.constant(OWN_PROBABILITIES), graph.constant(1.0 - OWN_PROBABILITIES)]
    sure = graph.add("Clip", probability, *bounds)
    odds = graph.add("Div", sure, graph.add("Sub", graph.constant(1.0), sure))
    return graph.add("Log", odds)


# The matrix that a classifier sees


def _matrix(graph: Graph, candidate: str, columns: Any, features: Mapping[str, Feature]) -> str:
    """Numbers, calendar, texts, texts of many: the order in which they are transformed."""
    numbers, standardise = columns_of(columns, "numbers")
    dated, phased = columns_of(columns, "cycles")
    texts, one_hot = columns_of(columns, "texts")
    many, share_of_ones = columns_of(columns, "many")
    parts = list(numbers)
    if numbers and candidate != "gradient_boosting":
        parts = [_standardised(graph, numbers, standardise)]
    if dated:
        cycles = [calendar.CYCLES[features[name].type] for name in dated]
        phases = _phases(graph, dated, cycles)
        if candidate == "logistic":
            phases = _waves(graph, phases, cycles)
        elif candidate != "gradient_boosting":
            phases = _filled(graph, phases, phased)
        parts.append(phases)
    if texts:
        parts += _one_hot(graph, texts, one_hot)
    if many:
        parts.append(_share_of_ones(graph, many, share_of_ones))
    return graph.side_by_side(parts)


def _standardised(graph: Graph, numbers: Sequence[str], fitted: Any) -> str:
    """Median for null, a column that says which were null, then mean 0 and variance 1."""
    impute, scale = fitted.named_steps["impute"], fitted.named_steps["scale"]
    with_indicator = set(impute.indicator_.features_.tolist())
    filled, indicators = [], []
    for position, (name, median) in enumerate(zip(numbers, impute.statistics_, strict=True)):
        is_null = graph.add("IsNaN", name)
        filled.append(graph.add("Where", is_null, graph.constant([[median]]), name))
        if position in with_indicator:
            indicators.append(graph.as_double(is_null))
    scaled = _scaled(graph, graph.side_by_side(filled + indicators), scale)
    return graph.add("Clip", scaled, graph.constant(-FURTHEST), graph.constant(FURTHEST))


def _scaled(graph: Graph, columns: str, scale: Any) -> str:
    centred = graph.add("Sub", columns, graph.constant(scale.mean_))
    return graph.add("Div", centred, graph.constant(scale.scale_))


def _phases(graph: Graph, dated: Sequence[str], cycles: Sequence[Sequence[calendar.Cycle]]) -> str:
    """What `calendar.phases` computes, by the same operations in the same order."""
    columns = []
    for name, of_column in zip(dated, cycles, strict=True):
        for cycle in of_column:
            period = graph.constant(cycle.period)
            moved = graph.add("Add", name, graph.constant(cycle.offset))
            turns = graph.add("Floor", graph.add("Div", moved, period))
            columns.append(graph.add("Sub", moved, graph.add("Mul", turns, period)))
    limits = [graph.constant(-calendar.FURTHEST), graph.constant(calendar.FURTHEST)]
    return graph.add("Clip", graph.side_by_side(columns), *limits)


def _waves(graph: Graph, phases: str, cycles: Sequence[Sequence[calendar.Cycle]]) -> str:
    """What `calendar.waves` makes of the phases."""
    turns = graph.add("Div", phases, graph.constant(calendar.periods(cycles)))
    turns = graph.add("Clip", turns, graph.constant(0.0), graph.constant(1.0))
    later = graph.add("Add", turns, graph.constant(0.25))
    both = graph.side_by_side([turns, graph.add("Sub", later, graph.add("Floor", later))])
    doubled = graph.add("Mul", both, graph.constant(2.0))
    swings = graph.add("Abs", graph.add("Sub", doubled, graph.constant(1.0)))
    return graph.add("Where", graph.add("IsNaN", swings), graph.constant(0.5), swings)


def _filled(graph: Graph, phases: str, fitted: Any) -> str:
    """Median for null, then mean 0 and variance 1."""
    medians = graph.constant(fitted.named_steps["impute"].statistics_)
    filled = graph.add("Where", graph.add("IsNaN", phases), medians, phases)
    return _scaled(graph, filled, fitted.named_steps["scale"])


def _one_hot(graph: Graph, texts: Sequence[str], fitted: Any) -> list[str]:
    """A column per text of its own, and where there are rare ones, a column for all others."""
    columns = []
    for position, name in enumerate(texts):
        own, has_rare = own_categories(fitted, position)
        # Without texts of their own there is still one comparison, which no text passes.
        known = graph.constant([own or [_NO_TEXT]], dtype=object)
        equal = graph.as_double(graph.add("Equal", name, known))
        if own:
            columns.append(equal)
        if has_rare:
            seen = graph.add("ReduceSum", equal, graph.constant([1], np.int64), keepdims=1)
            columns.append(graph.add("Sub", graph.constant(1.0), seen))
    return columns


def own_categories(one_hot: Any, position: int) -> tuple[list[str], bool]:
    """The texts of one feature that have a column of their own, and whether others share one."""
    rare = one_hot.infrequent_categories_[position]
    shared = set() if rare is None else set(rare.tolist())
    own = [text for text in one_hot.categories_[position].tolist() if text not in shared]
    return own, bool(shared)


def _share_of_ones(graph: Graph, many: Sequence[str], fitted: Any) -> str:
    """How often the label was 1 with each text; with any other, as often as with all."""
    encode = fitted.named_steps["encode"]
    encoded = []
    for name, texts, values in zip(many, encode.categories_, encode.encodings_, strict=True):
        encoded.append(_looked_up(graph, name, texts.tolist(), values, encode.target_mean_))
    columns = graph.side_by_side(encoded)
    scale = fitted.named_steps.get("scale")
    return columns if scale is None else _scaled(graph, columns, scale)


def _looked_up(graph: Graph, name: str, texts: list[str], values: Any, other: float) -> str:
    return graph.add(
        "LabelEncoder",
        name,
        domain="ai.onnx.ml",
        keys_tensor=tensor("keys", texts, object),
        values_tensor=tensor("values", values),
        default_tensor=tensor("default", [other]),
    )
