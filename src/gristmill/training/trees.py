"""scikit-learn's trees as one ai.onnx.ml 5 TreeEnsemble in double precision.

A split goes left where value ≤ threshold, in both; what a forest of scikit-learn compares is the
value as a float, so for it the matrix is rounded to floats first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gristmill.errors import ExportError
from gristmill.training.graph import tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from gristmill.training.graph import Graph

MOST_NODES = 2_000_000
"""A forest with more would make a bundle of hundreds of megabytes, loaded by each process."""
_LESS_OR_EQUAL = 0
"""The mode of a node that goes left where value ≤ threshold."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tree:
    """A tree's nodes in arrays of one length, the root first."""

    is_leaf: NDArray[np.bool_]
    feature: NDArray[np.int64]
    """The matrix's column that a split looks at; nothing in a leaf."""
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    null_left: NDArray[np.bool_]
    """Whether NaN goes left."""
    value: NDArray[np.float64]
    """What a leaf adds; nothing in a split."""


def histogram_trees(classifier: Any) -> list[Tree]:
    """The trees of a HistGradientBoostingClassifier, which it keeps in private fields.

    Raises ExportError where a split asks for categories rather than for a threshold.
    """
    trees = []
    for stage in classifier._predictors:
        nodes = stage[0].nodes
        if nodes["is_categorical"].any():
            raise ExportError(
                "A HistGradientBoostingClassifier with categorical features has no exact graph: "
                "leave `categorical_features` out; texts arrive as numbers."
            )
        trees.append(
            Tree(
                is_leaf=nodes["is_leaf"].astype(bool),
                feature=nodes["feature_idx"].astype(np.int64),
                threshold=nodes["num_threshold"].astype(np.float64),
                left=nodes["left"].astype(np.int64),
                right=nodes["right"].astype(np.int64),
                null_left=nodes["missing_go_to_left"].astype(bool),
                value=nodes["value"].astype(np.float64),
            )
        )
    return trees


def grown_tree(grown: Any, values: NDArray[np.float64]) -> Tree:
    """A tree of scikit-learn's `tree_`, with what each of its nodes would add as a leaf."""
    is_leaf = grown.children_left == -1
    return Tree(
        is_leaf=is_leaf,
        feature=np.maximum(grown.feature, 0).astype(np.int64),
        threshold=grown.threshold.astype(np.float64),
        left=grown.children_left.astype(np.int64),
        right=grown.children_right.astype(np.int64),
        null_left=np.zeros(len(is_leaf), dtype=bool),
        value=values.astype(np.float64),
    )


def thresholds(trees: Sequence[Tree]) -> dict[int, NDArray[np.float64]]:
    """Every column's finite thresholds, sorted: where an answer can jump."""
    columns = np.concatenate([tree.feature[~tree.is_leaf] for tree in trees])
    values = np.concatenate([tree.threshold[~tree.is_leaf] for tree in trees])
    finite = np.isfinite(values)
    columns, values = columns[finite], values[finite]
    return {int(column): np.unique(values[columns == column]) for column in np.unique(columns)}


def add_trees(graph: Graph, matrix: str, trees: Sequence[Tree]) -> str:
    """The sum of the leaves that each row of the matrix comes to, of shape [N, 1].

    Raises ExportError where there are too many nodes to serve.
    """
    nodes = sum(len(tree.is_leaf) for tree in trees)
    if nodes > MOST_NODES:
        raise ExportError(
            f"The trees have {nodes:,} nodes; {MOST_NODES:,} can be served. Grow smaller ones: "
            "`max_leaf_nodes`, `min_samples_leaf` or fewer of them."
        )
    return graph.add("TreeEnsemble", matrix, domain="ai.onnx.ml", **_attributes(trees))


def _attributes(trees: Sequence[Tree]) -> dict[str, Any]:
    """Splits and leaves in two lists, as the operator numbers them, each tree after the other."""
    splits: list[Tree] = []
    goes: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    weights: list[NDArray[np.float64]] = []
    roots: list[int] = []
    first_split = first_leaf = 0
    for given in trees:
        tree = _with_a_split(given)
        number = np.where(
            tree.is_leaf,
            first_leaf + np.cumsum(tree.is_leaf) - 1,
            first_split + np.cumsum(~tree.is_leaf) - 1,
        )
        inner = ~tree.is_leaf
        roots.append(first_split)
        splits.append(tree)
        goes.append((number[tree.left[inner]], number[tree.right[inner]]))
        weights.append(tree.value[tree.is_leaf])
        first_split += int(inner.sum())
        first_leaf += int(tree.is_leaf.sum())

    def of_splits(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(tree, name)[~tree.is_leaf] for tree in splits])

    def to_leaf(side: str) -> list[int]:
        ends = [tree.is_leaf[getattr(tree, side)[~tree.is_leaf]] for tree in splits]
        return [int(end) for end in np.concatenate(ends)]

    return {
        "n_targets": 1,
        "tree_roots": roots,
        "nodes_splits": tensor("splits", of_splits("threshold")),
        "nodes_modes": tensor("modes", np.full(first_split, _LESS_OR_EQUAL), np.uint8),
        "nodes_featureids": of_splits("feature").tolist(),
        "nodes_truenodeids": np.concatenate([left for left, _ in goes]).tolist(),
        "nodes_falsenodeids": np.concatenate([right for _, right in goes]).tolist(),
        "nodes_trueleafs": to_leaf("left"),
        "nodes_falseleafs": to_leaf("right"),
        "nodes_missing_value_tracks_true": of_splits("null_left").astype(np.int64).tolist(),
        "leaf_targetids": [0] * first_leaf,
        "leaf_weights": tensor("weights", np.concatenate(weights)),
    }


def _with_a_split(tree: Tree) -> Tree:
    """The operator's tree begins with a split: a lone leaf gets one with itself on both sides."""
    if not tree.is_leaf[0]:
        return tree
    return Tree(
        is_leaf=np.array([False, True]),
        feature=np.array([0, 0]),
        threshold=np.array([0.0, 0.0]),
        left=np.array([1, 0]),
        right=np.array([1, 0]),
        null_left=np.array([True, True]),
        value=np.array([0.0, tree.value[0]]),
    )
