"""One path to an answer: the model's arithmetic, and a refusal that names the field."""

import dataclasses
import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.errors import BundleError, InvalidFeatures, PredictionError
from gristmill.predictions.predictor import (
    Predictor,
    answer_samples,
    load_predictor,
    sample_inputs,
)
from gristmill.project.features import Feature
from gristmill.registry.bundle import read_bundle

MISSION = {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "scd_b": 3}

rows_of_features = st.lists(
    st.fixed_dictionaries(
        {
            "attr_a": st.none() | st.integers(-1000, 1000),
            "attr_b": st.none() | st.sampled_from(["a", "b", "c", "", "ü", "never seen"]),
            "scd_a": st.none() | st.floats(-100, 100) | st.integers(-100, 100),
            "scd_b": st.none() | st.integers(0, 100),
        }
    ),
    min_size=1,
    max_size=30,
)


@pytest.fixture(scope="module")
def predictor(example_model):
    return Predictor(
        graph=example_model.graph(),
        features=example_model.features,
        threshold=example_model.threshold,
    )


def test_the_mission_s_request_by_hand(predictor):
    answer = predictor.answer(MISSION)
    assert answer.probability == pytest.approx(1 / (1 + math.exp(-0.575)), abs=1e-15)
    assert answer.label == 1


@given(rows=rows_of_features)
def test_answers_are_the_model_s(predictor, example_model, rows):
    for row, answer in zip(rows, predictor.answers(rows), strict=True):
        assert answer.probability == pytest.approx(example_model.probability(**row), abs=1e-14)
        assert answer.label == (answer.probability >= example_model.threshold)


@given(rows=rows_of_features)
def test_a_row_a_batch_and_a_table_are_bit_equal(predictor, rows):
    batch = predictor.answers(rows)
    assert [predictor.answer(row) for row in rows] == batch
    table = pa.Table.from_pylist(
        rows,
        schema=pa.schema(
            [
                ("attr_a", pa.int64()),
                ("attr_b", pa.string()),
                ("scd_a", pa.float64()),
                ("scd_b", pa.int64()),
            ]
        ),
    )
    probabilities = predictor.probabilities(table)
    assert probabilities.tolist() == [answer.probability for answer in batch]
    assert predictor.labels(probabilities).tolist() == [answer.label for answer in batch]


def test_the_label_is_1_from_the_threshold_on(example_model):
    exact = Predictor(
        graph=example_model.graph(), features=example_model.features, threshold=0.5
    ).answer({"attr_a": 0, "attr_b": None, "scd_a": 0, "scd_b": 0})
    assert exact == (0.5, 1)


def test_nothing_to_answer(predictor, example_model):
    assert predictor.answers([]) == []
    assert predictor.probabilities(example_model.table.slice(0, 0)).tolist() == []


def test_null_and_unknown_categories_are_answered(predictor):
    nothing = dict.fromkeys(MISSION)
    assert predictor.answer(nothing).probability == 0.5
    assert predictor.answer(nothing | {"attr_b": "never seen"}).probability == 0.5


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"attr_a": "1"}, "attr_a", "whole number"),
        ({"attr_a": True}, "attr_a", "whole number"),
        ({"attr_a": 3.0}, "attr_a", "without a decimal point"),
        ({"attr_a": 2**53 + 1}, "attr_a", "2**53"),
        ({"attr_b": 1}, "attr_b", "text"),
        ({"attr_b": "a\x00b"}, "attr_b", "U+0000"),
        ({"attr_b": "\ud800"}, "attr_b", "text"),
        ({"scd_a": "0.5"}, "scd_a", "number"),
        ({"scd_a": False}, "scd_a", "number"),
        ({"scd_a": math.inf}, "scd_a", "finite"),
        ({"scd_a": 10**400}, "scd_a", "finite"),
        ({"scd_a": [0.5]}, "scd_a", "number"),
        ({"scd_b": {}}, "scd_b", "whole number"),
        ({"scd_c": 1}, "scd_c", "Did you mean"),
        ({"x" * 10_000: 1}, "x" * 10_000, "knows no feature"),
    ],
)
def test_a_wrong_value_is_refused_by_name(predictor, change, field, words):
    with pytest.raises(InvalidFeatures) as caught:
        predictor.answer(MISSION | change)
    assert caught.value.field == field
    assert words in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", MISSION)
def test_a_missing_feature_is_refused_by_name(predictor, name):
    with pytest.raises(InvalidFeatures, match="missing") as caught:
        predictor.answer({other: value for other, value in MISSION.items() if other != name})
    assert caught.value.field == name


def test_a_bundle_answers_as_where_it_was_made(bundle_folder, example_model):
    bundle = read_bundle(bundle_folder)
    predictor = load_predictor(bundle)
    for sample in bundle.samples:
        assert predictor.answer(sample.features) == (sample.probability, sample.label)
        assert sample.probability == pytest.approx(
            example_model.probability(**sample.features), abs=1e-14
        )


@pytest.mark.parametrize("change", [{"probability": 1e-9}, {"label": 1}])
def test_a_bundle_that_answers_otherwise_is_refused(bundle_folder, change):
    bundle = read_bundle(bundle_folder)
    first = bundle.samples[0]
    spoilt = dataclasses.replace(
        first,
        probability=first.probability + change.get("probability", 0),
        label=(first.label + change.get("label", 0)) % 2,
    )
    bundle = dataclasses.replace(bundle, samples=(spoilt, *bundle.samples[1:]))
    with pytest.raises(BundleError, match="Sample 0"):
        load_predictor(bundle)


def test_a_bundle_whose_samples_have_no_answer_is_refused(bundle_folder):
    bundle = read_bundle(bundle_folder)
    odd = dataclasses.replace(bundle.samples[0], features={"attr_a": 1})
    with pytest.raises(BundleError, match="missing"):
        load_predictor(dataclasses.replace(bundle, samples=(odd,)))


def test_a_graph_that_does_not_fit_the_features_is_refused(example_model):
    for features in (
        example_model.features[:3],
        (*example_model.features, Feature(name="more", type="number")),
        (*example_model.features[:3], Feature(name="scd_b", type="text")),
    ):
        with pytest.raises(BundleError, match="does not take the features"):
            Predictor(graph=example_model.graph(), features=features, threshold=0.5)


def test_a_graph_that_fails_where_it_runs_is_refused(bundle_folder):
    bundle = read_bundle(bundle_folder)
    bundle = dataclasses.replace(bundle, graph=_of_another_shape(bundle.graph))
    with pytest.raises(BundleError, match=r"model\.onnx fails"):
        load_predictor(bundle)


def _of_another_shape(graph):
    """The model, with an end that only seven rows would pass."""
    import onnx

    model = onnx.load_from_string(graph)
    (last,) = (node for node in model.graph.node if "probability" in node.output)
    last.output[list(last.output).index("probability")] = "before"
    shape = onnx.numpy_helper.from_array(np.array([7, 1]), "seven")
    model.graph.initializer.append(shape)
    model.graph.node.append(onnx.helper.make_node("Reshape", ["before", "seven"], ["probability"]))
    return model.SerializeToString()


def test_a_graph_that_cannot_even_be_spoken_of_is_refused(example_model):
    """The runtime quotes the name of what it does not know, and that is no text."""
    graph = example_model.graph().replace(b"Sigmoid", b"Sigmo\xff\xfe")
    with pytest.raises(BundleError, match=r"model\.onnx cannot be loaded"):
        Predictor(graph=graph, features=example_model.features, threshold=0.5)


def test_bytes_that_are_no_graph_are_refused(example_model):
    for content in (b"", b"nonsense", example_model.graph()[:200]):
        with pytest.raises(BundleError, match=r"model\.onnx"):
            Predictor(graph=content, features=example_model.features, threshold=0.5)


def test_numbers_too_great_for_the_model_have_no_answer_rather_than_nan(predictor):
    greatest = float(np.finfo(np.float64).max)
    answered = predictor.answer(MISSION | {"scd_a": greatest})
    assert answered.probability == 0.0


def test_samples_are_json_and_hold_every_feature(example_model):
    rows = sample_inputs(example_model.table, example_model.features, count=16)
    samples = answer_samples(
        graph=example_model.graph(), features=example_model.features, threshold=0.5, rows=rows
    )
    assert len(samples) == 16
    assert set(samples[-1].features.values()) == {None}
    for sample in samples:
        assert json.loads(json.dumps(sample.features)) == sample.features


def test_no_finite_probability_is_an_error(example_model):
    with pytest.raises(PredictionError, match="no finite"):
        Predictor(
            graph=_graph_of_nan(), features=[Feature(name="x", type="number")], threshold=0.5
        ).answer({"x": 1.0})


def _graph_of_nan():
    from onnx import TensorProto, helper

    given = helper.make_tensor_value_info("x", TensorProto.DOUBLE, [None, 1])
    found = helper.make_tensor_value_info("probability", TensorProto.DOUBLE, [None, 1])
    nodes = [
        helper.make_node("Sub", ["x", "x"], ["nought"]),
        helper.make_node("Div", ["nought", "nought"], ["probability"]),
    ]
    graph = helper.make_graph(nodes, "nan", [given], [found])
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
