import dataclasses

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pytest
from scipy.special import expit

from gristmill.errors import ExportError
from gristmill.features.encode import NULL_TEXT, encode_values
from gristmill.features.read import TrainingSet
from gristmill.project.features import Feature
from gristmill.project.model import Model
from gristmill.training.calibrate import Calibration
from gristmill.training.candidates import MOST_ENCODED, columns_of, frame
from gristmill.training.export import export, write_graph
from gristmill.training.fit import fit
from gristmill.training.proof import make_probes, pipelines, prove, run_graph
from gristmill.training.split import split

from .conftest import FEATURES, make_training_set

PARTS = ("logistic", "gradient_boosting")
CANDIDATES = (*PARTS, "blend")


def train(training_set, candidate):
    model = Model(candidates=(candidate,))
    parts = split(training_set, salt="clients", share=model.holdout)
    return parts, fit(parts.training, training_set.features, model)


@pytest.fixture(scope="module", params=CANDIDATES)
def trained(request, training_set):
    return train(training_set, request.param)


def repeated(inputs, times):
    """The first row, so many times."""
    return {name: np.repeat(values[:1], times, axis=0) for name, values in inputs.items()}


def test_the_proof_covers_rows_and_splits(trained):
    parts, model = trained

    exported = export(model, parts.training)

    assert exported.parity.rows == len(parts.training.labels)
    assert exported.parity.flips == 0
    assert exported.parity.largest_difference < 1e-14
    boosting = dict(pipelines(model)).get("gradient_boosting")
    if boosting is not None:
        splits = {
            (node["feature_idx"], node["num_threshold"])
            for stage in boosting.named_steps["classifier"]._predictors
            for node in stage[0].nodes
            if not node["is_leaf"] and node["feature_idx"] < 5  # five numbers, then texts
        }
        assert len(splits) > 50
        assert exported.parity.probes > 3 * len(splits)


def test_unseen_rows_are_answered_as_scikit_learn_answers(trained):
    """The whole way from values, beside the pipeline's own predict_proba."""
    _, model = trained
    graph = write_graph(model)
    rows = [
        {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "since": "2020-01-31", "active": True},
        {"attr_a": None, "attr_b": None, "scd_a": None, "since": None, "active": None},
        {"attr_a": -3, "attr_b": "", "scd_a": -1e300, "since": "1905-01-01", "active": False},
        {"attr_a": 0, "attr_b": "ö", "scd_a": 1e300, "since": "2004-10-19", "active": None},
        {"attr_a": 2**53, "attr_b": "rare", "scd_a": 0.0, "since": None, "active": True},
        {"attr_a": 2, "attr_b": "🌾", "scd_a": 5e-324, "since": None, "active": True},
    ]
    inputs = encode_values([{**row, "seen": "2020-01-01T00:00:00Z"} for row in rows], FEATURES)

    answered = run_graph(graph, inputs)

    with np.errstate(over="ignore"):
        score = model.pipeline.decision_function(frame(inputs))
    slope, intercept = model.calibration.slope, model.calibration.intercept
    np.testing.assert_allclose(answered, expit(slope * score + intercept), rtol=0, atol=1e-14)


def test_null_empty_and_unseen_are_three_things(trained):
    parts, model = trained
    inputs = repeated(parts.holdout.inputs, 3)
    inputs["attr_b"] = np.array([[NULL_TEXT], [""], ["unseen"]], dtype=object)

    assert len(set(run_graph(write_graph(model), inputs).tolist())) == 3


def test_unseen_counts_as_rare(trained):
    parts, model = trained
    inputs = repeated(parts.holdout.inputs, 2)
    inputs["attr_b"] = np.array([["rare"], ["unseen"]], dtype=object)

    first, second = run_graph(write_graph(model), inputs)

    assert first == second


def test_one_row_and_a_batch_are_bit_equal(trained):
    parts, model = trained
    graph = write_graph(model)
    inputs = parts.holdout.inputs

    batch = run_graph(graph, inputs)

    for size in (2, 3, 7, 64, 257):
        few = run_graph(graph, {name: values[:size] for name, values in inputs.items()})
        np.testing.assert_array_equal(few, batch[:size])
    for row in range(0, len(batch), 17):
        alone = run_graph(graph, {name: values[row : row + 1] for name, values in inputs.items()})
        assert alone[0] == batch[row]


def test_the_same_model_gives_the_same_bytes(trained, training_set):
    _, model = trained
    _, again = train(training_set, model.candidate)

    assert write_graph(model) == write_graph(again)


def test_the_graph_takes_features_by_name_and_answers_in_double(trained):
    _, model = trained
    graph = write_graph(model)
    session = onnxruntime.InferenceSession(graph)

    taken = {each.name: (each.type, each.shape[1]) for each in session.get_inputs()}
    assert taken == {
        feature.name: ("tensor(string)" if feature.type == "text" else "tensor(double)", 1)
        for feature in FEATURES
    }
    (answer,) = session.get_outputs()
    assert (answer.name, answer.type) == ("probability", "tensor(double)")
    domains = {node.domain for node in onnx.load_from_string(graph).graph.node}
    assert domains <= {"", "ai.onnx.ml"}


@pytest.mark.parametrize("candidate", PARTS)
@pytest.mark.parametrize("kept", [(0,), (1,), (2, 4), (1, 3)])
def test_any_mix_of_features(candidate, kept):
    features = tuple(FEATURES[position] for position in kept)
    parts, model = train(make_training_set(600, features=features), candidate)

    assert export(model, parts.training).parity.flips == 0


def test_the_greatest_doubles_of_several_numbers_make_no_noise():
    """scikit-learn adds up the probes: of six numbers that was ∞ − ∞, and numpy said so."""
    names = [f"number_{place}" for place in range(6)]
    random = np.random.default_rng(1)
    columns = {name: random.normal(size=600) for name in names}
    table = pa.table({"id": np.arange(600), **columns, "label": random.integers(0, 2, 600)})
    features = tuple(Feature(name=name, type="number") for name in names)
    known = TrainingSet(entity="id", features=features, label="label", table=table, build=1)
    parts, model = train(known, "logistic")

    assert export(model, parts.training).parity.flips == 0


@pytest.mark.parametrize("candidate", PARTS)
def test_columns_that_are_null_or_constant_throughout(candidate):
    plain = make_training_set(600)
    table = plain.table.set_column(1, "attr_a", pa.nulls(600, pa.int64()))
    table = table.set_column(2, "attr_b", pa.nulls(600, pa.string()))
    table = table.set_column(6, "active", pa.array([True] * 600))
    training_set = TrainingSet(entity="idx", features=FEATURES, label="label", table=table, build=1)
    parts, model = train(training_set, candidate)

    assert export(model, parts.training).parity.flips == 0


@pytest.mark.parametrize("candidate", PARTS)
def test_texts_that_are_all_rare(candidate):
    feature = Feature(name="attr_b", type="text")
    plain = make_training_set(600, features=(feature,))
    table = plain.table.set_column(2, "attr_b", pa.array([str(row) for row in range(600)]))
    training_set = TrainingSet(
        entity="idx", features=(feature,), label="label", table=table, build=1
    )
    parts, model = train(training_set, candidate)

    assert export(model, parts.training).parity.flips == 0


def test_times_are_told_apart_to_the_microsecond_at_splits():
    """Epoch seconds do not fit in float32: a converter that narrows them flips thousands."""
    rows = 1000
    times = 1_600_000_000_000_000 + np.arange(rows) * 7
    table = pa.table(
        {
            "idx": np.arange(rows),
            "seen": pa.array(times).cast(pa.timestamp("us", tz="UTC")),
            "label": (np.arange(rows) // 250) % 2,
        }
    )
    features = (Feature(name="seen", type="timestamp"),)
    training_set = TrainingSet(entity="idx", features=features, label="label", table=table, build=1)
    parts, model = train(training_set, "gradient_boosting")

    probabilities = run_graph(export(model, parts.training).graph, parts.holdout.inputs)

    assert ((probabilities >= model.threshold) == parts.holdout.labels).mean() > 0.95


def test_a_graph_of_another_model_is_not_handed_out(trained):
    parts, model = trained
    moved = dataclasses.replace(model, calibration=Calibration(slope=1.0, intercept=1e-6))

    with pytest.raises(ExportError, match=r"does not answer as the fitted model does.*[1-9]"):
        prove(write_graph(moved), model, parts.training)


def test_a_split_moved_by_one_unit_in_the_last_place_is_noticed(training_set):
    """What makes the probes worth having: training rows alone would not notice."""
    parts, model = train(training_set, "gradient_boosting")
    graph = onnx.load_from_string(write_graph(model))
    trees = next(node for node in graph.graph.node if node.op_type == "TreeEnsemble")
    attribute = next(each for each in trees.attribute if each.name == "nodes_splits")
    splits = onnx.numpy_helper.to_array(attribute.t)
    attribute.t.CopyFrom(onnx.numpy_helper.from_array(np.nextafter(splits, np.inf), "splits"))
    moved = graph.SerializeToString()

    rows = parts.training.inputs
    probes = make_probes(model, rows)

    np.testing.assert_allclose(run_graph(moved, rows), model.probabilities(rows), atol=1e-14)
    with np.errstate(over="ignore"):
        assert np.abs(run_graph(moved, probes) - model.probabilities(probes)).max() > 1e-6
    with pytest.raises(ExportError):
        prove(moved, model, parts.training)


def test_a_feature_named_like_the_answer_is_refused(trained):
    parts, model = trained
    named = (*FEATURES[:-1], Feature(name="probability", type="boolean"))

    with pytest.raises(ExportError, match="Rename its column"):
        export(dataclasses.replace(model, features=named), parts.training)


# Many texts


def shops(rows, *, levels, seed=0):
    """Labels that follow the shop; shop 0 has a tenth of the rows, the last ones have a few."""
    random = np.random.default_rng(seed)
    number = np.where(random.random(rows) < 0.1, 0, random.integers(0, levels, rows))
    likely = random.random(levels)[number]
    table = pa.table(
        {
            "idx": np.arange(rows),
            "shop": pa.array([f"shop {each}" for each in number.tolist()]),
            "label": (random.random(rows) < likely).astype(np.int64),
        }
    )
    feature = Feature(name="shop", type="text")
    return TrainingSet(entity="idx", features=(feature,), label="label", table=table, build=1)


@pytest.mark.parametrize("candidate", PARTS)
def test_hundreds_of_texts_are_told_apart_by_a_small_graph(candidate):
    training_set = shops(9_000, levels=300)

    parts, model = train(training_set, candidate)
    exported = export(model, parts.training)
    answers = run_graph(exported.graph, parts.holdout.inputs)

    assert exported.parity.flips == 0
    assert exported.parity.probes > 300
    assert len(exported.graph) < 200_000
    assert len(set(answers.tolist())) > 50
    assert np.corrcoef(answers, parts.holdout.labels)[0, 1] > 0.4


def test_what_a_graph_holds_of_a_texts_feature_is_bounded():
    """Every row a text of its own but for some: none of them is in the graph."""
    training_set = shops(4000, levels=4000)

    parts, model = train(training_set, "logistic")

    assert len(export(model, parts.training).graph) < 5_000
    assert MOST_ENCODED <= 10_000


def test_a_text_is_encoded_as_scikit_learn_encodes_it():
    training_set = shops(3000, levels=60)
    parts, model = train(training_set, "gradient_boosting")
    columns = model.pipeline.named_steps["columns"]
    texts, encode = columns_of(columns, "many")
    inputs = repeated(parts.holdout.inputs, 3)
    inputs["shop"] = np.array([["shop 0"], ["shop 7"], ["unseen"]], dtype=object)

    matrix = columns.transform(frame(inputs))

    assert texts == ["shop"]
    theirs = encode.named_steps["encode"]
    assert matrix[2, -1] == theirs.target_mean_ == pytest.approx(parts.training.labels.mean())
    graph = write_graph(model)
    np.testing.assert_allclose(run_graph(graph, inputs), model.probabilities(inputs), rtol=1e-14)


# Dates


def days(*, label_of, seed=0, rows=3000):
    """Labels that follow the day, nine times in ten."""
    random = np.random.default_rng(seed)
    day = random.integers(10_000, 20_000, rows)
    truth = label_of(day)
    label = np.where(random.random(rows) < 0.9, truth, 1 - truth).astype(np.int64)
    since = pa.array(day.astype(np.int32)).cast(pa.date32())
    table = pa.table({"idx": np.arange(rows), "since": since, "label": label})
    feature = Feature(name="since", type="date")
    return TrainingSet(entity="idx", features=(feature,), label="label", table=table, build=1)


@pytest.mark.parametrize("candidate", PARTS)
@pytest.mark.parametrize("what", ["weekend", "summer"])
def test_what_comes_again_every_week_or_year_is_learned_from_a_date(candidate, what):
    def label_of(day):
        if what == "weekend":
            return ((day + 3) % 7 >= 5).astype(np.int64)
        return ((day % 365.2425) // 91.31 == 2).astype(np.int64)

    parts, model = train(days(label_of=label_of), candidate)
    exported = export(model, parts.training)

    answered = run_graph(exported.graph, parts.holdout.inputs) >= model.threshold
    assert exported.parity.flips == 0
    assert (answered == parts.holdout.labels).mean() > 0.8


# The parity that is promised


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_no_row_of_many_flips(candidate):
    """The small sister of `python -m benchmarks parity`."""
    random = np.random.default_rng(5)
    rows = 9_000
    money = random.integers(0, 100_000, rows) / 100
    moment = 1_600_000_000 + random.integers(0, 10**8, rows)
    shop = random.integers(0, 40, rows)
    score = np.log1p(money) - 5.5 + (shop % 5 - 2) + ((moment // 86_400) % 7 > 4)
    null = random.random((2, rows)) < 0.05
    table = pa.table(
        {
            "idx": np.arange(rows),
            "money": pa.array(money, mask=null[0]),
            "moment": pa.array(moment * 1_000_000).cast(pa.timestamp("us", tz="UTC")),
            "epoch": pa.array(moment, mask=null[1]),
            "shop": pa.array([None if each == 39 else f"shop {each}" for each in shop.tolist()]),
            "label": (random.random(rows) < expit(score)).astype(np.int64),
        }
    )
    features = (
        Feature(name="money", type="number"),
        Feature(name="moment", type="timestamp"),
        Feature(name="epoch", type="integer"),
        Feature(name="shop", type="text"),
    )
    known = TrainingSet(entity="idx", features=features, label="label", table=table, build=1)

    parts, model = train(known, candidate)
    parity = export(model, parts.training).parity

    assert (parity.flips, parity.rows) == (0, len(parts.training.labels))
    assert parity.largest_difference < 1e-13
