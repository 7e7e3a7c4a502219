"""The record of model versions, in a real Postgres, with the real MLflow beside it."""

import json
import logging
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psycopg
import pytest
from mlflow import MlflowClient

from gristmill.errors import NoChampion, RegistryError, VersionNotFound
from gristmill.project.features import Feature
from gristmill.registry.store import Registry
from gristmill.registry.tracking import tracking_url
from gristmill.training.evaluate import evaluate
from gristmill.training.export import Parity
from gristmill.training.fit import Calibration, CandidateResult, FittedModel
from gristmill.training.gate import Verdict

# MLflow calls what SQLAlchemy is going to drop, leaves sockets to the garbage collector, and more.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

MODEL = FittedModel(
    candidate="logistic",
    features=(Feature(name="age", type="integer"), Feature(name="shop", type="text")),
    pipeline=None,
    calibration=Calibration(),
    threshold=0.25,
    results=tuple(
        CandidateResult(candidate=candidate, metric="roc_auc", folds=(0.5, 0.7, 0.6))
        for candidate in ("logistic", "own.module:make")
    ),
    rows=80,
    seed=3,
)
EVALUATION = evaluate(np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.4, 0.2]), threshold=0.95)
PARITY = Parity(rows=80, probes=9, largest_difference=3e-16, flips=0)
PROMOTE = Verdict(decision="promote", reasons=("Better.",), no_signal=False, p_value=0.001)
REFUSE = Verdict(
    decision="refuse", reasons=("No better than chance.",), no_signal=True, p_value=0.6
)


def write_bundle(folder: Path, version: str) -> None:
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"version": version}))


@pytest.fixture
def build(warehouse):
    with warehouse.transaction() as transaction:
        return transaction.value(
            "INSERT INTO gristmill.builds (name, period, definition, loads, builds, as_of, rows, "
            "seconds) VALUES ('training_set', 'all', '', '{1,2}', '{}', now(), 100, 0) "
            "RETURNING build"
        )


@pytest.fixture
def registry(warehouse, tmp_path):
    return Registry(
        warehouse=warehouse,
        name="clients",
        bundles=tmp_path / "bundles",
        artifacts=tmp_path / "mlflow",
    )


@pytest.fixture
def register(registry, build):
    def call(verdict=PROMOTE, *, write=write_bundle):
        return registry.register(
            MODEL,
            EVALUATION,
            verdict,
            build=build,
            lineage={"loads": [1, 2]},
            parity=PARITY,
            code_version="0.1.0",
            log="fold 1: 0.5\nfold 2: 0.7",
            write_bundle=write,
        )

    return call


@pytest.fixture
def mlflow(warehouse):
    url = tracking_url(warehouse.url)
    return MlflowClient(tracking_uri=url, registry_uri=url)


def test_a_version_is_on_record_with_all_that_is_known_of_it(registry, register, build):
    version = register(REFUSE)

    assert registry.versions() == [version]
    assert registry.version("1") == version
    assert (version.version, version.candidate, version.seed) == ("1", "logistic", 3)
    assert (version.verdict, version.no_signal) == ("refuse", True)
    assert version.reasons == ("No better than chance.",)
    assert version.evaluation == json.loads(json.dumps(EVALUATION.to_dict()))
    assert (version.build, version.lineage) == (build, {"loads": [1, 2]})
    assert json.loads((version.bundle / "manifest.json").read_text()) == {"version": "1"}
    assert registry.champion() is None
    with pytest.raises(NoChampion):
        registry.require_champion()


def test_mlflow_shows_the_run_whole(register, mlflow):
    version = register()

    run = mlflow.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["features"] == "age integer, shop text"
    assert run.data.params["folds.own.module_make"] == "0.500000, 0.700000, 0.600000"
    assert run.data.metrics["roc_auc"] == EVALUATION.roc_auc.value
    assert run.data.metrics["roc_auc_low"] == EVALUATION.roc_auc.low
    assert run.data.metrics["cross_validation.logistic.roc_auc"] == pytest.approx(0.6)
    assert run.data.tags["loads"] == "[1, 2]"
    assert run.data.tags["verdict"] == "promote"
    artifacts = Path(mlflow.download_artifacts(version.run_id, "bundle"))
    assert json.loads((artifacts / "manifest.json").read_text()) == {"version": "1"}
    log = Path(mlflow.download_artifacts(version.run_id, "training.log"))
    assert log.read_text() == "fold 1: 0.5\nfold 2: 0.7"
    assert mlflow.get_model_version("clients", "1").run_id == version.run_id


def test_mlflow_keeps_to_its_own_schema(register, warehouse):
    register()

    with warehouse.transaction() as transaction:
        schemas = transaction.rows(
            "SELECT table_schema AS name FROM information_schema.tables "
            "WHERE table_name IN ('model_versions', 'experiments', 'alembic_version')"
        )
    assert sorted(row["name"] for row in schemas) == ["gristmill", "mlflow", "mlflow", "mlflow"]


def test_promotions_are_the_truth_and_the_alias_follows(registry, register, mlflow):
    register()
    register()

    for version in ("1", "2"):
        registry.promote(version, by="ana", why="better")
        assert registry.require_champion().version == version
        assert mlflow.get_model_version_by_alias("clients", "champion").run_id == (
            registry.version(version).run_id
        )
    registry.promote("2", by="ben", why="again")

    recorded = [(one.version, one.by, one.rolled_back) for one in registry.promotions()]
    assert recorded == [("1", "ana", False), ("2", "ana", False)]


def test_against_the_verdict_only_by_force(registry, register):
    register(REFUSE)
    with pytest.raises(RegistryError, match=r"'refuse': No better than chance.*--force"):
        registry.promote("1", by="ana", why="hope")
    assert registry.champion() is None

    registry.promote("1", by="ana", why="hope", force=True)
    assert registry.require_champion().no_signal


def test_rolling_back_goes_further_back_each_time(registry, register):
    for number in range(1, 4):
        register()
        registry.promote(str(number), by="ana", why="better")

    assert registry.rollback(by="ben", why="3 is wrong").version == "2"
    assert registry.rollback(by="ben", why="2 too").version == "1"
    with pytest.raises(RegistryError, match="none before it"):
        registry.rollback(by="ben", why="1 too")

    registry.promote("3", by="ana", why="mended")
    assert registry.rollback(by="ben", why="not mended").version == "1"
    assert [one.version for one in registry.promotions()] == ["1", "2", "3", "2", "1", "3", "1"]


def test_what_is_not_there_is_said(registry, register):
    with pytest.raises(VersionNotFound, match="there is none"):
        registry.promote("1", by="ana", why="")
    with pytest.raises(NoChampion):
        registry.rollback(by="ana", why="")
    register()
    with pytest.raises(VersionNotFound, match="no model version 7; there are 1"):
        registry.version("7")


def test_a_lost_alias_is_mended(registry, register, mlflow):
    register()
    registry.promote("1", by="ana", why="better")
    mlflow.delete_registered_model_alias("clients", "champion")

    assert registry.mend_mirror()
    mirrored = mlflow.get_model_version_by_alias("clients", "champion")
    assert mirrored.run_id == registry.version("1").run_id


def test_a_version_deleted_in_mlflow_answers_all_the_same(registry, register, mlflow, caplog):
    register()
    registry.promote("1", by="ana", why="better")
    mlflow.delete_model_version("clients", "1")

    with caplog.at_level(logging.WARNING):
        assert not registry.mend_mirror()
    assert "deleted there" in caplog.text
    assert registry.require_champion().version == "1"
    assert register().version == "2"


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("error", [OSError("disk full"), Interrupted()])
def test_half_a_version_is_none(registry, register, mlflow, tmp_path, error):
    def write_and_fail(folder, version):
        write_bundle(folder, version)
        raise error

    with pytest.raises(type(error)):
        register(write=write_and_fail)

    assert registry.versions() == []
    assert list((tmp_path / "bundles").iterdir()) == []
    assert mlflow.search_model_versions("name = 'clients'") == []
    (run,) = mlflow.search_runs([mlflow.get_experiment_by_name("clients").experiment_id])
    assert run.info.status == "FAILED"
    assert register().version == "2"


def lose_mlflow(warehouse):
    with warehouse.transaction() as transaction:
        transaction.execute("DROP SCHEMA mlflow CASCADE")


def test_a_dead_mlflow_leaves_nothing_behind(registry, register, warehouse, tmp_path):
    register()
    lose_mlflow(warehouse)

    with pytest.raises(RegistryError, match="MLflow, the record of runs, failed"):
        register()

    assert [version.version for version in registry.versions()] == ["1"]
    assert [folder.name for folder in (tmp_path / "bundles").iterdir()] == ["1"]
    assert registry.promote("1", by="ana", why="MLflow is away").version == "1"
    assert registry.require_champion().version == "1"
    assert not registry.mend_mirror()


def test_an_mlflow_that_dies_on_the_way_leaves_nothing_behind(
    registry, register, warehouse, tmp_path
):
    def write_and_lose(folder, version):
        write_bundle(folder, version)
        lose_mlflow(warehouse)

    with pytest.raises(RegistryError, match="MLflow, the record of runs, failed"):
        register(write=write_and_lose)

    assert registry.versions() == []
    assert list((tmp_path / "bundles").iterdir()) == []


def test_two_at_once_get_two_versions(registry, register):
    register()
    ready = threading.Barrier(2)

    def together(_):
        ready.wait()
        return register().version

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(together, range(2))) == ["2", "3"]
    assert [version.version for version in registry.versions()] == ["1", "2", "3"]


def test_numbers_go_on_where_mlflow_lost_its_own(registry, register, mlflow):
    register()
    register()
    mlflow.delete_registered_model("clients")

    assert register().version == "3"

    registry.promote("3", by="ana", why="better")
    mirrored = mlflow.get_model_version_by_alias("clients", "champion")
    assert mirrored.run_id == registry.version("3").run_id


def test_reading_the_record_does_not_import_mlflow(register, warehouse, tmp_path):
    register()
    code = (
        "import sys, pathlib\n"
        "from gristmill.registry.store import Registry\n"
        "from gristmill.warehouse.connection import Warehouse\n"
        "folder = pathlib.Path('.')\n"
        "registry = Registry(warehouse=Warehouse(url=sys.stdin.read()), name='clients', "
        "bundles=folder, artifacts=folder)\n"
        "registry.versions(), registry.champion(), registry.promotions()\n"
        "heavy = {'mlflow', 'sklearn', 'pandas', 'onnx', 'scipy', 'sqlalchemy'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=warehouse.url,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_mlflow_is_quiet_and_its_pages_keep_the_password(registry, register, warehouse, capfd):
    register()
    arguments, environment = registry.user_interface(port=5050)

    assert capfd.readouterr() == ("", "")
    password = psycopg.conninfo.conninfo_to_dict(warehouse.url)["password"]
    assert password not in " ".join(arguments)
    assert password in environment["MLFLOW_BACKEND_STORE_URI"]
    assert arguments[-2:] == ["--port", "5050"]
