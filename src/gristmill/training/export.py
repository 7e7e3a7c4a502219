"""Writes a fitted model as an ONNX graph, and proves that the graph answers the same.

Both built-in candidates are written by hand, in double precision throughout, because no converter
carries them exactly. A graph that would answer one row otherwise is not handed out.

The graph has one input per feature, named after it, of shape [N, 1]: double with NaN for null, or
string with `features.encode.NULL_TEXT` for null. Its one output, `probability`, is double of shape
[N, 1]: the probability of label 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gristmill.errors import ExportError
from gristmill.features.encode import NULL_TEXT
from gristmill.project.model import BUILT_IN_CANDIDATES
from gristmill.training.candidates import FURTHEST, columns_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from gristmill.project.features import Feature
    from gristmill.training.fit import FittedModel
    from gristmill.training.split import Sample

OUTPUT = "probability"
OPSET, TREES_OPSET, IR_VERSION = 21, 5, 10
MOST_ROWS_TO_PROVE = 200_000
MOST_TEXTS_TO_PROBE = 1_000
LARGEST_DIFFERENCE = 1e-9
"""Rounding differs by about 1e-15; more than this is another model."""

_UNSEEN_TEXT = "\x00unseen"
_LESS_OR_EQUAL = 0
"""ai.onnx.ml 5 TreeEnsemble: the mode of a node that goes left where value ≤ split."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What was compared to prove that graph and fitted model answer the same."""

    rows: int
    """Rows of the training part."""
    probes: int
    """Rows made to hurt: at and beside each split, null, unseen and empty."""
    largest_difference: float
    """The greatest absolute difference of two probabilities."""
    flips: int
    """Rows answered otherwise; always 0 in a graph that was handed out."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """A graph and its proof."""

    graph: bytes = field(repr=False)
    """A serialised ONNX model; the same fitted model gives the same bytes."""
    parity: Parity


def export(model: FittedModel, training: Sample) -> Export:
    """Write the graph of a fitted model and compare the two on training rows and on probes.

    Raises ExportError where the candidate is not built in, or where graph and model differ.
    """
    if model.candidate not in BUILT_IN_CANDIDATES:
        raise ExportError(
            f"{model.candidate!r} won the comparison, but there is no exact graph of it, so it "
            f"cannot be served. Served can be {' and '.join(BUILT_IN_CANDIDATES)}: leave it out of "
            "`candidates` in [model]."
        )
    if OUTPUT in (feature.name for feature in model.features):
        raise ExportError(
            f"A feature is called {OUTPUT!r}, which is the name of the answer. Rename its column."
        )
    graph = write_graph(model)
    return Export(graph=graph, parity=prove(graph, model, training))


# The graph


class _Graph:
    """Nodes and constants as they are added; every value's name is handed back to wire it on."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, values: object, dtype: Any = np.float64) -> str:
        from onnx import TensorProto, helper, numpy_helper

        name = f"gristmill/constant/{len(self.constants)}"
        array = np.asarray(values, dtype=dtype)
        if array.dtype == object:
            texts = [text.encode() for text in array.ravel()]
            tensor = helper.make_tensor(name, TensorProto.STRING, array.shape, texts)
        else:
            tensor = numpy_helper.from_array(array, name)
        self.constants.append(tensor)
        return name

    def add(
        self, operator: str, *inputs: str, output: str = "", domain: str = "", **attributes: Any
    ) -> str:
        from onnx import helper

        name = output or f"gristmill/value/{len(self.nodes)}"
        node = helper.make_node(operator, list(inputs), [name], domain=domain, **attributes)
        self.nodes.append(node)
        return name

    def as_double(self, flags: str) -> str:
        from onnx import TensorProto

        return self.add("Cast", flags, to=TensorProto.DOUBLE)

    def side_by_side(self, columns: Sequence[str]) -> str:
        return columns[0] if len(columns) == 1 else self.add("Concat", *columns, axis=1)


def write_graph(model: FittedModel) -> bytes:
    """The ONNX model of a built-in candidate, as bytes."""
    graph = _Graph()
    classifier = model.pipeline.named_steps["classifier"]
    numbers, standardise = columns_of(model.pipeline, "numbers")
    texts, one_hot = columns_of(model.pipeline, "texts")
    parts = list(numbers)
    if numbers and model.candidate == "logistic":
        parts = [_standardised(graph, numbers, standardise)]
    if texts:
        parts += _one_hot(graph, texts, one_hot)
    matrix = graph.side_by_side(parts)
    if model.candidate == "logistic":
        score = _linear(graph, matrix, classifier)
    else:
        score = _trees(graph, matrix, classifier)
    slope = graph.add("Mul", score, graph.constant(model.calibration.slope))
    moved = graph.add("Add", slope, graph.constant(model.calibration.intercept))
    graph.add("Sigmoid", moved, output=OUTPUT)
    return _serialised(graph, model.features)


def _standardised(graph: _Graph, numbers: Sequence[str], fitted: Any) -> str:
    """Median for null, a column that says which were null, then mean 0 and variance 1."""
    impute, scale = fitted.named_steps["impute"], fitted.named_steps["scale"]
    with_indicator = set(impute.indicator_.features_.tolist())
    filled, indicators = [], []
    for position, (name, median) in enumerate(zip(numbers, impute.statistics_, strict=True)):
        is_null = graph.add("IsNaN", name)
        filled.append(graph.add("Where", is_null, graph.constant([[median]]), name))
        if position in with_indicator:
            indicators.append(graph.as_double(is_null))
    raw = graph.side_by_side(filled + indicators)
    centred = graph.add("Sub", raw, graph.constant(scale.mean_))
    scaled = graph.add("Div", centred, graph.constant(scale.scale_))
    return graph.add("Clip", scaled, graph.constant(-FURTHEST), graph.constant(FURTHEST))


def _one_hot(graph: _Graph, texts: Sequence[str], fitted: Any) -> list[str]:
    """A column per text of its own, and where there are rare ones, a column for all others."""
    columns = []
    for position, name in enumerate(texts):
        own, has_rare = own_categories(fitted, position)
        # Without texts of their own there is still one comparison, which no text passes.
        known = graph.constant([own or [_UNSEEN_TEXT]], dtype=object)
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


def _linear(graph: _Graph, matrix: str, classifier: Any) -> str:
    product = graph.add("MatMul", matrix, graph.constant(classifier.coef_.reshape(-1, 1)))
    return graph.add("Add", product, graph.constant(classifier.intercept_))


def _trees(graph: _Graph, matrix: str, classifier: Any) -> str:
    """Histogram boosting as one TreeEnsemble; scikit-learn keeps its trees in private fields."""
    trees = [stage[0].nodes for stage in classifier._predictors]
    attributes = _tree_attributes(trees)
    total = graph.add("TreeEnsemble", matrix, domain="ai.onnx.ml", **attributes)
    return graph.add("Add", total, graph.constant(classifier._baseline_prediction.ravel()))


def _tree_attributes(trees: Sequence[NDArray[Any]]) -> dict[str, Any]:
    """Splits and leaves in two lists, as the operator numbers them, each tree after the other."""
    splits: list[tuple[float, int, int, int, bool, bool, bool]] = []
    leaves: list[float] = []
    roots: list[int] = []
    for nodes in trees:
        first_split = len(splits)
        if nodes[0]["is_leaf"]:
            # The operator's tree begins with a split: one whose two sides are the same leaf.
            leaves.append(float(nodes[0]["value"]))
            roots.append(first_split)
            splits.append((0.0, 0, len(leaves) - 1, len(leaves) - 1, True, True, True))
            continue
        is_leaf = nodes["is_leaf"].astype(bool)
        number = np.where(
            is_leaf,
            len(leaves) + np.cumsum(is_leaf) - 1,
            first_split + np.cumsum(~is_leaf) - 1,
        )
        roots.append(first_split)
        for node in nodes[~is_leaf]:
            left, right = int(node["left"]), int(node["right"])
            splits.append(
                (
                    float(node["num_threshold"]),
                    int(node["feature_idx"]),
                    int(number[left]),
                    int(number[right]),
                    bool(is_leaf[left]),
                    bool(is_leaf[right]),
                    bool(node["missing_go_to_left"]),
                )
            )
        leaves += nodes["value"][is_leaf].tolist()
    return _operator_attributes(splits, leaves, roots)


def _operator_attributes(
    splits: Sequence[tuple[float, int, int, int, bool, bool, bool]],
    leaves: Sequence[float],
    roots: Sequence[int],
) -> dict[str, Any]:
    from onnx import numpy_helper

    at, features, left, right, left_leaf, right_leaf, null_left = zip(*splits, strict=True)
    modes = np.full(len(splits), _LESS_OR_EQUAL, dtype=np.uint8)
    return {
        "n_targets": 1,
        "tree_roots": list(roots),
        "nodes_splits": numpy_helper.from_array(np.array(at, dtype=np.float64), "splits"),
        "nodes_modes": numpy_helper.from_array(modes, "modes"),
        "nodes_featureids": list(features),
        "nodes_truenodeids": list(left),
        "nodes_falsenodeids": list(right),
        "nodes_trueleafs": [int(leaf) for leaf in left_leaf],
        "nodes_falseleafs": [int(leaf) for leaf in right_leaf],
        "nodes_missing_value_tracks_true": [int(goes) for goes in null_left],
        "leaf_targetids": [0] * len(leaves),
        "leaf_weights": numpy_helper.from_array(np.array(leaves, dtype=np.float64), "weights"),
    }


def _serialised(graph: _Graph, features: Sequence[Feature]) -> bytes:
    from onnx import TensorProto, checker, helper

    inputs = [
        helper.make_tensor_value_info(
            feature.name,
            TensorProto.STRING if feature.type == "text" else TensorProto.DOUBLE,
            ["N", 1],
        )
        for feature in features
    ]
    output = helper.make_tensor_value_info(OUTPUT, TensorProto.DOUBLE, ["N", 1])
    model = helper.make_model(
        helper.make_graph(graph.nodes, "gristmill", inputs, [output], graph.constants),
        producer_name="gristmill",
        ir_version=IR_VERSION,
        opset_imports=[
            helper.make_opsetid("", OPSET),
            helper.make_opsetid("ai.onnx.ml", TREES_OPSET),
        ],
    )
    checker.check_model(model, full_check=True)
    return cast("bytes", model.SerializeToString(deterministic=True))


# The proof


def prove(graph: bytes, model: FittedModel, training: Sample) -> Parity:
    """Compare the graph's answers with the model's; raises ExportError where they differ.

    Compared are the training rows (the first MOST_ROWS_TO_PROVE) and, on rows of theirs, each
    number at every split and one unit in the last place beside it, null, zero and the extremes of
    doubles; each text with a column of its own, many that share one, an unseen one, the empty one
    and null.
    """
    rows = {name: values[:MOST_ROWS_TO_PROVE] for name, values in training.inputs.items()}
    probes = make_probes(model, rows)
    differences, flips = [], 0
    for inputs in (rows, probes):
        with np.errstate(over="ignore"):  # the probes hold the greatest doubles there are
            expected = model.probabilities(inputs)
        answered = run_graph(graph, inputs)
        differences.append(float(np.abs(answered - expected).max()))
        flips += int(
            np.count_nonzero((answered >= model.threshold) != (expected >= model.threshold))
        )
    parity = Parity(
        rows=_length(rows),
        probes=_length(probes),
        largest_difference=max(differences),
        flips=flips,
    )
    # Written so that a NaN, which compares false, is refused as well.
    if flips or not parity.largest_difference <= LARGEST_DIFFERENCE:
        raise ExportError(
            f"The graph of {model.candidate!r} does not answer as the fitted model does: on "
            f"{parity.rows + parity.probes:,} rows the largest difference is "
            f"{parity.largest_difference:.3g} and {flips:,} answers differ. "
            "Nothing was registered; another seed in [model] gives another model."
        )
    return parity


def run_graph(graph: bytes, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """The graph's probabilities, of shape (rows,), on one thread and padded as when serving."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    rows = _length(inputs)
    padding = -rows % 4
    padded = {
        name: np.concatenate([values, np.repeat(values[-1:], padding, axis=0)])
        for name, values in inputs.items()
    }
    (answers,) = session.run([OUTPUT], padded)
    return cast("NDArray[np.float64]", answers[:rows, 0])


def make_probes(model: FittedModel, rows: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Training rows, each with one feature put where graph and model could part."""
    splits = _splits_by_feature(model)
    changed = [
        (feature.name, value)
        for feature in model.features
        for value in (
            _text_probes(model, feature)
            if feature.type == "text"
            else _number_probes(splits.get(feature.name, np.empty(0)))
        )
    ]
    bases = np.arange(len(changed) + 1) % _length(rows)
    probes = {name: values[bases].copy() for name, values in rows.items()}
    for row, (name, value) in enumerate(changed):
        probes[name][row, 0] = value
    for feature in model.features:  # the last row is null throughout
        probes[feature.name][-1, 0] = NULL_TEXT if feature.type == "text" else np.nan
    return probes


def _splits_by_feature(model: FittedModel) -> dict[str, NDArray[np.float64]]:
    """Where the model's answer can jump, by numeric feature: its trees' finite thresholds."""
    numbers, standardise = columns_of(model.pipeline, "numbers")
    if model.candidate != "gradient_boosting":
        medians = standardise.named_steps["impute"].statistics_ if numbers else []
        return {name: np.array([at]) for name, at in zip(numbers, medians, strict=True)}
    nodes = np.concatenate(
        [stage[0].nodes for stage in model.pipeline.named_steps["classifier"]._predictors]
    )
    splits = nodes[(nodes["is_leaf"] == 0) & np.isfinite(nodes["num_threshold"])]
    return {
        name: np.unique(splits["num_threshold"][splits["feature_idx"] == position])
        for position, name in enumerate(numbers)
    }


def _number_probes(splits: NDArray[np.float64]) -> list[float]:
    largest = np.finfo(np.float64).max
    beside = [splits, np.nextafter(splits, -np.inf), np.nextafter(splits, np.inf)]
    extremes = [np.nan, 0.0, -0.0, 5e-324, largest, -largest]
    return [*np.concatenate(beside).tolist(), *extremes]


def _text_probes(model: FittedModel, feature: Feature) -> list[str]:
    texts, one_hot = columns_of(model.pipeline, "texts")
    position = texts.index(feature.name)
    own, _ = own_categories(one_hot, position)
    some = one_hot.categories_[position][:MOST_TEXTS_TO_PROBE].tolist()
    return [*own, *some, NULL_TEXT, _UNSEEN_TEXT, "", "\ufffd \U0001f33e"]


def _length(inputs: Mapping[str, NDArray[Any]]) -> int:
    return len(next(iter(inputs.values())))
