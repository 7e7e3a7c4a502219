"""The parts of an ONNX graph as they are added, and the graph as bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gristmill.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gristmill.project.features import Feature

OUTPUT = "probability"
OPSET, TREES_OPSET, IR_VERSION = 21, 5, 10
PREFIX = "gristmill/"
"""Every value's name begins so, which no feature's does."""


class Graph:
    """Nodes and constants as they are added; every value's name is handed back to wire it on."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, values: object, dtype: Any = np.float64) -> str:
        """A tensor of numbers, or with the type object of texts."""
        name = f"{PREFIX}constant/{len(self.constants)}"
        self.constants.append(tensor(name, values, dtype))
        return name

    def add(
        self, operator: str, *inputs: str, output: str = "", domain: str = "", **attributes: Any
    ) -> str:
        """A node with one output."""
        from onnx import helper

        name = output or f"{PREFIX}value/{len(self.nodes)}"
        node = helper.make_node(operator, list(inputs), [name], domain=domain, **attributes)
        self.nodes.append(node)
        return name

    def as_double(self, values: str) -> str:
        """Flags or floats as doubles."""
        from onnx import TensorProto

        return self.add("Cast", values, to=TensorProto.DOUBLE)

    def side_by_side(self, columns: Sequence[str]) -> str:
        """Columns as one matrix."""
        return columns[0] if len(columns) == 1 else self.add("Concat", *columns, axis=1)

    def serialised(self, features: Sequence[Feature]) -> bytes:
        """The graph as an ONNX model that takes the features and gives OUTPUT.

        Raises ExportError where the types in it do not fit together.
        """
        from onnx import TensorProto, checker, helper, shape_inference

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
            helper.make_graph(self.nodes, "gristmill", inputs, [output], self.constants),
            producer_name="gristmill",
            ir_version=IR_VERSION,
            opset_imports=[
                helper.make_opsetid("", OPSET),
                helper.make_opsetid("ai.onnx.ml", TREES_OPSET),
            ],
        )
        try:
            checker.check_model(model, full_check=True)
        except (checker.ValidationError, shape_inference.InferenceError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ExportError(
                f"The graph is no valid ONNX in double precision: {reason}. A candidate of the "
                "project's own is made of something that cannot be converted exactly."
            ) from error
        return cast("bytes", model.SerializeToString(deterministic=True))


def tensor(name: str, values: object, dtype: Any = np.float64) -> Any:
    """Numbers or texts as an ONNX tensor."""
    from onnx import TensorProto, helper, numpy_helper

    array = np.asarray(values, dtype=dtype)
    if array.dtype == object:
        texts = [text.encode() for text in array.ravel()]
        return helper.make_tensor(name, TensorProto.STRING, array.shape, texts)
    return numpy_helper.from_array(array, name)
