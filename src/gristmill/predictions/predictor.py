"""The one path from features to an answer: for the API, for batches and for the command line.

It refuses features that the model does not know or lacks, and a bundle whose samples it would
answer otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from gristmill.errors import BundleError, InvalidFeatures, PredictionError
from gristmill.features.encode import encode_table, encode_values
from gristmill.predictions.prediction import json_value
from gristmill.registry.bundle import Sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from gristmill.project.features import Feature
    from gristmill.registry.bundle import Bundle

LANES = 4
"""Batches are padded to a multiple of this, or one row and a batch differ in their last bits."""

CHUNK = 1 << 16
"""Rows of a table that are answered at a time: a multiple of LANES."""

TOLERANCE = 1e-12
"""How far a sample's answer may be off: processors differ in the last bits of an exponential."""


def _padded(rows: int) -> NDArray[np.intp]:
    """The places of so many rows, the last one repeated up to a multiple of LANES."""
    return np.minimum(np.arange(rows + -rows % LANES), rows - 1)


_PADDED_ROW = _padded(1)


class Answer(NamedTuple):
    """What the model says."""

    probability: float
    label: int


@dataclass(frozen=True, kw_only=True)
class _Names:
    """The features' names, for the check that a request makes exactly these."""

    known: frozenset[str]
    ordered: tuple[str, ...]

    def check(self, row: Mapping[str, object]) -> None:
        if row.keys() == self.known:
            return
        for name in row:
            if name not in self.known:
                raise InvalidFeatures(self._unknown(name), field=name)
        missing = next(name for name in self.ordered if name not in row)
        raise InvalidFeatures(
            f"The feature {missing!r} is missing; where it is not known, give null.", field=missing
        )

    def _unknown(self, name: str) -> str:
        near = get_close_matches(name[:100], self.ordered, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"It knows {', '.join(self.ordered)}."
        shown = name if len(name) <= 100 else f"{name[:100]}…"
        return f"The model knows no feature {shown!r}. {hint}"


class Predictor:
    """A model ready to answer: its graph, the features it takes, the threshold of its label."""

    def __init__(self, *, graph: bytes, features: Sequence[Feature], threshold: float) -> None:
        """Load a graph, in one thread; raises BundleError where it does not fit the features."""
        self.features = tuple(features)
        self.threshold = threshold
        self._names = _Names(
            known=frozenset(feature.name for feature in features),
            ordered=tuple(feature.name for feature in features),
        )
        self._session = _open_session(graph)
        _check_interface(self._session, self.features)

    def answer(self, features: Mapping[str, object]) -> Answer:
        """The answer for one set of features; see `answers`."""
        return self.answers([features])[0]

    def answers(self, rows: Sequence[Mapping[str, object]]) -> list[Answer]:
        """The answer for each of a few rows of Python or JSON values.

        Null and unknown categories are answered. Raises InvalidFeatures, naming the field, where
        one is missing, unknown or not of its type.
        """
        if not rows:
            return []
        for row in rows:
            self._names.check(row)
        probabilities: list[float] = self._run(encode_values(rows, self.features)).tolist()
        if not all(map(math.isfinite, probabilities)):
            raise _not_finite()
        return [
            Answer(probability, int(probability >= self.threshold)) for probability in probabilities
        ]

    def probabilities(self, table: pa.Table) -> NDArray[np.float64]:
        """The probability for each row of a table that holds the features' columns."""
        chunks = (table.slice(start, CHUNK) for start in range(0, table.num_rows, CHUNK))
        found = [self._run(encode_table(chunk, self.features)) for chunk in chunks]
        probabilities = np.concatenate(found) if found else np.empty(0)
        if not np.isfinite(probabilities).all():
            raise _not_finite()
        return probabilities

    def labels(self, probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
        """The label for each probability: 1 from the threshold on."""
        return (probabilities >= self.threshold).astype(np.int64)

    def _run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """The probabilities for encoded inputs, each of shape (rows, 1); shape (rows,)."""
        rows = len(next(iter(inputs.values())))
        if rows % LANES:
            places = _PADDED_ROW if rows == 1 else _padded(rows)
            inputs = {name: column.take(places, axis=0) for name, column in inputs.items()}
        found = self._session.run(["probability"], inputs)[0]
        return cast("NDArray[np.float64]", found).reshape(-1)[:rows]


def load_predictor(bundle: Bundle) -> Predictor:
    """A bundle's model, its samples recomputed; raises BundleError where an answer differs."""
    manifest = bundle.manifest
    predictor = Predictor(
        graph=bundle.graph, features=manifest.features, threshold=manifest.threshold
    )
    _check_samples(predictor, bundle.samples)
    return predictor


def answer_samples(
    *,
    graph: bytes,
    features: Sequence[Feature],
    threshold: float,
    rows: Sequence[Mapping[str, object]],
) -> tuple[Sample, ...]:
    """Rows of features with their exact answers, as a bundle carries them."""
    predictor = Predictor(graph=graph, features=features, threshold=threshold)
    plain = [{name: json_value(value) for name, value in row.items()} for row in rows]
    return tuple(
        Sample(features=row, probability=answer.probability, label=answer.label)
        for row, answer in zip(plain, predictor.answers(plain), strict=True)
    )


def sample_inputs(
    table: pa.Table, features: Sequence[Feature], *, count: int = 32, seed: int = 0
) -> list[dict[str, object]]:
    """Inputs for a bundle's samples: values that occur in the table, the last row all null.

    They are drawn column by column, so that no entity's row is copied into the bundle.
    """
    random = np.random.default_rng(seed)
    columns = {
        feature.name: table.column(feature.name)
        .take(random.integers(table.num_rows, size=count - 1))
        .to_pylist()
        for feature in features
    }
    rows: list[dict[str, object]] = [
        {name: json_value(column[place]) for name, column in columns.items()}
        for place in range(count - 1)
    ]
    return [*rows, {feature.name: None for feature in features}]


def _not_finite() -> PredictionError:
    return PredictionError("The model computes no finite probability for these features.")


# Loading


def _open_session(graph: bytes) -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise PredictionError(
            "Answering needs the package onnxruntime. Install Gristmill with its extra: "
            "pip install 'gristmill[serve]'."
        ) from error

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except tuple(_runtime_errors()) as error:
        reason = str(error).strip().splitlines()[0]
        raise BundleError(f"model.onnx cannot be loaded: {reason}") from error


def _runtime_errors() -> Iterator[type[Exception]]:
    """The runtime's errors: they share no base class but Exception.

    What it says of a spoilt graph may quote it, and then be no text.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    for name in ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented"):
        yield getattr(state, name)
    yield state.RuntimeException
    yield UnicodeDecodeError


def _check_interface(session: Any, features: Sequence[Feature]) -> None:
    """The graph takes one input per feature, by name and type, and gives `probability`."""
    expected = {
        feature.name: "tensor(string)" if feature.type == "text" else "tensor(double)"
        for feature in features
    }
    found = {argument.name: argument.type for argument in session.get_inputs()}
    if found != expected:
        raise BundleError(
            "model.onnx does not take the features that manifest.json names.\n"
            f"Expected: {expected}\nFound: {found}"
        )
    outputs = {argument.name: argument.type for argument in session.get_outputs()}
    if outputs.get("probability") != "tensor(double)":
        raise BundleError(
            f"model.onnx must give `probability` as tensor(double); it gives {outputs}."
        )


def _check_samples(predictor: Predictor, samples: Sequence[Sample]) -> None:
    try:
        answers = predictor.answers([sample.features for sample in samples])
    except PredictionError as error:
        raise BundleError(f"samples.json holds a sample that has no answer: {error}") from error
    except tuple(_runtime_errors()) as error:
        reason = str(error).strip().splitlines()[0]
        raise BundleError(f"model.onnx fails for a sample of samples.json: {reason}") from error
    for place, (sample, answer) in enumerate(zip(samples, answers, strict=True)):
        off = abs(answer.probability - sample.probability)
        if off > TOLERANCE or answer.label != sample.label:
            raise BundleError(
                f"Sample {place} of samples.json is answered otherwise than where the bundle was "
                f"made.\nExpected: {sample.probability!r}, label {sample.label}\n"
                f"Found: {answer.probability!r}, label {answer.label}\n"
                "This machine or its onnxruntime computes differently; do not serve from it."
            )
