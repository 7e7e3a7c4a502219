"""A project's own classifier as part of a graph: trees by hand, everything else by skl2onnx.

skl2onnx writes trees in single precision, which answers other rows otherwise. Whether what is
written here answers exactly is not decided here: the proof decides.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from gristmill.errors import ExportError
from gristmill.training.graph import OPSET, PREFIX
from gristmill.training.trees import Tree, add_trees, grown_tree, histogram_trees

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gristmill.training.graph import Graph

INSTEAD = (
    "Use instead a LogisticRegression, MLPClassifier, GaussianNB, RandomForestClassifier, "
    "ExtraTreesClassifier, GradientBoostingClassifier or HistGradientBoostingClassifier of "
    "scikit-learn, or the built-in candidates."
)
_ML_OPSET = 3
"""What skl2onnx writes ai.onnx.ml in; no operator of it that is let in has changed since."""
_FORBIDDEN = ("TreeEnsembleClassifier", "TreeEnsembleRegressor", "SVMClassifier", "SVMRegressor")
"""Operators that compute in single precision, whatever they are given."""
_STUMBLES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What converters raise: its own errors are RuntimeErrors, the others are what breaks inside."""


def add_probability(graph: Graph, matrix: str, classifier: Any, *, columns: int) -> str:
    """The probability of label 1 for each row of a matrix of doubles, of shape [N, 1].

    Raises ExportError where there is no graph of the classifier in double precision.
    """
    trees = trees_of(classifier)
    if not trees:
        return _converted(graph, matrix, classifier, columns)
    if _is(classifier, "HistGradientBoostingClassifier"):
        total = add_trees(graph, matrix, trees)
        baseline = np.ravel(classifier._baseline_prediction)
        return graph.add("Sigmoid", graph.add("Add", total, graph.constant(baseline)))
    total = add_trees(graph, _as_floats(graph, matrix), trees)
    if _is(classifier, "GradientBoostingClassifier"):
        start = classifier._raw_predict_init(np.zeros((1, columns)))
        return graph.add("Sigmoid", graph.add("Add", total, graph.constant(np.ravel(start))))
    return graph.add("Div", total, graph.constant(float(len(trees))))


def trees_of(classifier: Any) -> list[Tree]:
    """The trees of a classifier that is made of trees, each with what its leaves add; or none."""
    if _is(classifier, "HistGradientBoostingClassifier"):
        return histogram_trees(classifier)
    if _is(classifier, "DecisionTreeClassifier"):
        return [_of_shares(classifier.tree_)]
    if _is(classifier, "RandomForestClassifier", "ExtraTreesClassifier"):
        return [_of_shares(each.tree_) for each in classifier.estimators_]
    if _is(classifier, "GradientBoostingClassifier") and _starts_constant(classifier):
        rate = classifier.learning_rate
        grown = [each.tree_ for each in classifier.estimators_[:, 0]]
        return [grown_tree(each, rate * each.value[:, 0, 0]) for each in grown]
    return []


def compares_floats(classifier: Any) -> bool:
    """Whether its trees round what they compare to single precision."""
    return not _is(classifier, "HistGradientBoostingClassifier")


def _is(classifier: Any, *names: str) -> bool:
    """Whether it is one of scikit-learn's own: a class derived from one may answer otherwise."""
    kind = type(classifier)
    return kind.__name__ in names and kind.__module__.startswith("sklearn.")


def _of_shares(grown: Any) -> Tree:
    """A tree whose leaves hold the share of label 1."""
    counts = grown.value[:, 0, :]
    return grown_tree(grown, counts[:, 1] / counts.sum(axis=1))


def _starts_constant(classifier: Any) -> bool:
    """Whether boosting starts from one number for all rows."""
    return classifier.loss == "log_loss" and classifier.init in (None, "zero")


def _as_floats(graph: Graph, matrix: str) -> str:
    from onnx import TensorProto

    return graph.as_double(graph.add("Cast", matrix, to=TensorProto.FLOAT))


# By skl2onnx


def _converted(graph: Graph, matrix: str, classifier: Any, columns: int) -> str:
    """Its nodes, renamed, put into ours."""
    written = _by_skl2onnx(classifier, columns)
    output = written.output[1].name
    needed = _needed(written, output)
    _check_operators(classifier, needed)
    prefix = f"{PREFIX}own/"
    renamed = {written.input[0].name: matrix, "": ""}
    for initializer in written.initializer:
        renamed[initializer.name] = prefix + initializer.name
        initializer.name = renamed[initializer.name]
        graph.constants.append(initializer)
    for node in needed:
        for name in node.output:
            renamed[name] = prefix + name if name else ""
    for node in needed:
        node.input[:] = [renamed[name] for name in node.input]
        node.output[:] = [renamed[name] for name in node.output]
        node.name = ""
        graph.nodes.append(node)
    second = graph.constant([1], np.int64)
    return graph.add("Gather", graph.as_double(renamed[output]), second, axis=1)


def _by_skl2onnx(classifier: Any, columns: int) -> Any:
    """The graph of a classifier: one matrix of doubles in; labels and probabilities out."""
    try:
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import DoubleTensorType
    except ImportError as error:
        raise ExportError(
            "A project's own classifier is turned into a graph by skl2onnx, which is not installed "
            "here: install gristmill[train]."
        ) from error
    logging.getLogger("skl2onnx").setLevel(logging.ERROR)
    try:
        return to_onnx(
            classifier,
            initial_types=[("matrix", DoubleTensorType([None, columns]))],
            options={"zipmap": False},
            target_opset={"": OPSET, "ai.onnx.ml": _ML_OPSET},
        ).graph
    except _STUMBLES as error:
        reason = " ".join(str(error).split())[:200]
        raise ExportError(
            f"There is no exact graph of {type(classifier).__name__}: skl2onnx cannot convert it "
            f"({type(error).__name__}: {reason}). {INSTEAD}"
        ) from error


def _needed(written: Any, output: str) -> list[Any]:
    """The nodes that the probabilities come from, in order: not those of the labels."""
    wanted = {output}
    kept = []
    for node in reversed(written.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]


def _check_operators(classifier: Any, nodes: Sequence[Any]) -> None:
    for node in nodes:
        single = node.op_type in _FORBIDDEN
        if single or any(attribute.g.node or attribute.graphs for attribute in node.attribute):
            reason = "in single precision" if single else "with branches or loops"
            raise ExportError(
                f"There is no exact graph of {type(classifier).__name__}: skl2onnx writes it "
                f"{reason} ({node.op_type}). {INSTEAD}"
            )
