"""What all tests share: no test depends on how fast the machine is."""

import math
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from onnx import TensorProto, helper

from gristmill.predictions.predictor import answer_samples, sample_inputs
from gristmill.project.features import Feature
from gristmill.registry.bundle import Entity, Manifest, write_bundle
from gristmill.registry.reference import reference_table

# The same examples in every run: what fails was changed, not drawn. `pytest --hypothesis-profile
# explore` draws others.
settings.register_profile(
    "gristmill",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "explore", settings.get_profile("gristmill"), derandomize=False, max_examples=500
)
settings.load_profile("gristmill")


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the proofs that kill at random shall go on."""
    parser.addoption(
        "--kills", type=int, default=200, help="how often test_kill.py kills, at the least"
    )
    parser.addoption(
        "--swaps", type=int, default=60, help="how often test_readers.py swaps a load in"
    )
    parser.addoption("--months", type=int, default=4, help="how many a backfill of Airflow loads")
    parser.addoption("--pictures", action="store_true", help="take those of Airflow's pages anew")


@pytest.fixture(scope="session")
def kills(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--kills"))


@pytest.fixture(scope="session")
def swaps(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--swaps"))


class ExampleModel:
    """A model small enough to be computed by hand, and the bundle that carries it."""

    features = (
        Feature(name="attr_a", type="integer"),
        Feature(name="attr_b", type="text"),
        Feature(name="scd_a", type="number"),
        Feature(name="scd_b", type="integer"),
    )
    threshold = 0.5
    table = pa.table(
        {
            "attr_a": pa.array([1, 2, None, 4], pa.int64()),
            "attr_b": ["a", "b", "c", None],
            "scd_a": [0.5, 1.25, -3.0, 0.0],
            "scd_b": pa.array([3, 1, 0, 2], pa.int64()),
        }
    )

    @staticmethod
    def probability(attr_a, attr_b, scd_a, scd_b):
        """The same as the graph, in plain Python."""
        score = 0.25 * (attr_a or 0) + 0.125 * (scd_b or 0) - (scd_a or 0.0)
        score += 0.5 if attr_b == "c" else 0.0
        return 1 / (1 + math.exp(-score))

    def graph(self) -> bytes:
        """sigmoid(0.25 attr_a + 0.5 [attr_b is c] - scd_a + 0.125 scd_b), null as nought."""
        nodes = [
            helper.make_node("Equal", ["attr_b", "c"], ["is_c"]),
            helper.make_node("Cast", ["is_c"], ["number_attr_b"], to=TensorProto.DOUBLE),
        ]
        for name in ("attr_a", "scd_a", "scd_b"):
            nodes += [
                helper.make_node("IsNaN", [name], [f"null_{name}"]),
                helper.make_node("Where", [f"null_{name}", "nought", name], [f"number_{name}"]),
            ]
        names = [f"number_{feature.name}" for feature in self.features]
        nodes += [
            helper.make_node("Concat", names, ["row"], axis=1),
            helper.make_node("MatMul", ["row", "weights"], ["score"]),
            helper.make_node("Sigmoid", ["score"], ["probability"]),
        ]
        kinds = {"text": TensorProto.STRING}
        inputs = [
            helper.make_tensor_value_info(
                feature.name, kinds.get(feature.type, TensorProto.DOUBLE), [None, 1]
            )
            for feature in self.features
        ]
        output = helper.make_tensor_value_info("probability", TensorProto.DOUBLE, [None, 1])
        constants = [
            helper.make_tensor("c", TensorProto.STRING, [1], [b"c"]),
            helper.make_tensor("nought", TensorProto.DOUBLE, [1], [0.0]),
            helper.make_tensor("weights", TensorProto.DOUBLE, [4, 1], [0.25, 0.5, -1.0, 0.125]),
        ]
        graph = helper.make_graph(nodes, "example", inputs, [output], constants)
        opsets = [helper.make_opsetid("", 21)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()

    def manifest(self, **changes) -> Manifest:
        given = {
            "project": "clients",
            "version": "3",
            "created_at": datetime(2026, 11, 1, 12, tzinfo=UTC),
            "entity": Entity(name="idx", type="integer"),
            "features": self.features,
            "label": "label",
            "threshold": self.threshold,
            "candidate": "logistic",
            "metrics": {"roc_auc": {"value": 0.78, "low": 0.77, "high": 0.79}},
            "no_signal": False,
            "verdict": {"decision": "promote", "reasons": ["better than chance"]},
            "lineage": {"build": 7, "loads": [1, 2, 3]},
            "feature_store": "feature_store",
        }
        return Manifest(**given | changes)

    def write(self, folder, *, manifest=None, report=None):
        """Write the example's bundle to a folder; the bundle as it is read back."""
        manifest = manifest or self.manifest()
        samples = answer_samples(
            graph=self.graph(),
            features=manifest.features,
            threshold=manifest.threshold,
            rows=sample_inputs(self.table, self.features, count=8),
        )
        return write_bundle(
            folder,
            manifest=manifest,
            graph=self.graph(),
            samples=samples,
            reference=reference_table(self.table, self.features),
            report=report,
        )


@pytest.fixture(scope="session")
def example_model() -> ExampleModel:
    return ExampleModel()


@pytest.fixture
def bundle_folder(example_model, tmp_path):
    """A bundle on disk, the test's own to spoil."""
    folder = tmp_path / "bundles" / "3"
    example_model.write(folder)
    return folder
