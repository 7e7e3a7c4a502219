"""The record of model versions, in a real Postgres, with the real MLflow beside it."""

import hashlib
import itertools
import json
import logging
import os
import pwd
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psycopg
import pytest
import sklearn
from mlflow import MlflowClient

from gristmill.errors import BundleError, NoChampion, RegistryError, VersionNotFound
from gristmill.project.features import Feature
from gristmill.registry.store import Registry
from gristmill.registry.tracking import tracking_url
from gristmill.training.calibrate import Calibration
from gristmill.training.evaluate import evaluate
from gristmill.training.fit import CandidateResult, FittedModel
from gristmill.training.gate import Verdict
from gristmill.training.proof import Parity
from gristmill.warehouse import embedded
from gristmill.warehouse.credentials import read_passwords

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
COMMIT = "c0ffee" * 6 + "c0ff"
PROMOTE = Verdict(decision="promote", reasons=("Better.",), no_signal=False, p_value=0.001)
REFUSE = Verdict(
    decision="refuse", reasons=("No better than chance.",), no_signal=True, p_value=0.6
)


TRACKED = "migrated_by_mlflow"
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def tracked(warehouse_home):
    """A database that MLflow has made its tables in too, which takes it seconds: made once."""
    server = embedded.find(warehouse_home)
    parameters = {
        "host": "127.0.0.1",
        "port": server.port,
        "user": "postgres",
        "password": read_passwords(warehouse_home / "credentials.json")["postgres"],
        "dbname": "postgres",
    }
    with psycopg.connect(**parameters, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {TRACKED} TEMPLATE migrated OWNER admin")
        url = tracking_url(embedded.start(warehouse_home, database=TRACKED, owner="admin").url)
        code = (
            "import sys; from mlflow import MlflowClient\n"
            "url = sys.stdin.read(); MlflowClient(url, url).search_registered_models()"
        )
        # In a process of its own: connections that stayed open would keep it from being copied.
        subprocess.run([sys.executable, "-c", code], input=url, text=True, check=True)
        yield connection
        connection.execute(f"DROP DATABASE {TRACKED} WITH (FORCE)")


@pytest.fixture
def warehouse(tracked, warehouse_home):
    name = f"registry_{next(_numbers)}"
    tracked.execute(f"CREATE DATABASE {name} TEMPLATE {TRACKED} OWNER admin")
    try:
        yield embedded.start(warehouse_home, database=name, owner="admin")
    finally:
        tracked.execute(f"DROP DATABASE {name} WITH (FORCE)")


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
def write_bundle(example_model):
    def write(folder: Path, version: str) -> None:
        example_model.write(folder, manifest=example_model.manifest(version=version))

    return write


@pytest.fixture
def register(registry, build, write_bundle):
    def call(verdict=PROMOTE, *, write=write_bundle):
        return registry.register(
            MODEL,
            EVALUATION,
            verdict,
            build=build,
            lineage={"loads": [1, 2], "project": {"commit": COMMIT, "files": {}}},
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
    assert (version.build, version.lineage["loads"]) == (build, [1, 2])
    assert version.lineage["libraries"]["numpy"] == np.__version__
    assert version.lineage["libraries"]["python"] == ".".join(map(str, sys.version_info[:3]))
    manifest = (version.bundle / "manifest.json").read_bytes()
    assert json.loads(manifest)["version"] == "1"
    assert version.bundle_digest == hashlib.sha256(manifest).hexdigest()
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
    assert run.data.tags["mlflow.source.git.commit"] == COMMIT
    artifacts = Path(mlflow.download_artifacts(version.run_id, "bundle"))
    assert {file.name: file.read_bytes() for file in artifacts.iterdir()} == {
        file.name: file.read_bytes() for file in version.bundle.iterdir()
    }
    lineage = json.loads(
        Path(mlflow.download_artifacts(version.run_id, "lineage.json")).read_text()
    )
    assert lineage == {**version.lineage, "build": version.build, "code_version": "0.1.0"}
    assert run.data.params["library.scikit-learn"] == sklearn.__version__
    assert run.info.user_id == pwd.getpwuid(os.geteuid()).pw_name
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


def test_in_use_are_the_champion_the_one_before_it_and_the_newest(registry, register):
    assert registry.in_use() == []
    for number in range(1, 6):
        register()
        if number < 5:
            registry.promote(str(number), by="ana", why="better")
    assert [one.version for one in registry.in_use()] == ["4", "3", "5"]

    registry.rollback(by="ben", why="4 is wrong")
    assert [one.version for one in registry.in_use()] == ["3", "2", "5"]
    registry.promote("5", by="ana", why="better")
    assert [one.version for one in registry.in_use()] == ["5", "3"]


def test_what_is_not_there_is_said(registry, register):
    with pytest.raises(VersionNotFound, match="there is none"):
        registry.promote("1", by="ana", why="")
    with pytest.raises(NoChampion):
        registry.rollback(by="ana", why="")
    register()
    with pytest.raises(VersionNotFound, match="no model version 7; there are 1"):
        registry.version("7")


def mirrored(mlflow):
    """The run that the alias points at."""
    return mlflow.get_model_version_by_alias("clients", "champion").run_id


def parts(registry):
    """What is said not to be whole: the version, and which part of it."""
    return [(problem.version, problem.part) for problem in registry.problems()]


def test_a_lost_alias_is_named_and_mended(registry, register, mlflow):
    register()
    registry.promote("1", by="ana", why="better")
    assert parts(registry) == []
    mlflow.delete_registered_model_alias("clients", "champion")
    assert parts(registry) == [("1", "alias")]

    assert registry.mend_mirror()
    assert mirrored(mlflow) == registry.version("1").run_id
    assert parts(registry) == []


def test_an_alias_that_somebody_moved_is_moved_back(registry, register, mlflow):
    register()
    register(REFUSE)
    registry.promote("1", by="ana", why="better")
    mlflow.set_registered_model_alias("clients", "champion", "2")
    assert parts(registry) == [("1", "alias")]

    register(REFUSE)  # whoever trains mends it
    assert mirrored(mlflow) == registry.version("1").run_id


def test_a_champion_deleted_in_mlflow_answers_and_is_mirrored_again(registry, register, mlflow):
    register()
    registry.promote("1", by="ana", why="better")
    mlflow.delete_model_version("clients", "1")
    assert registry.require_champion().version == "1"
    assert parts(registry) == [("1", "alias")]

    registry.user_interface(port=5050)
    made = mlflow.get_model_version_by_alias("clients", "champion")
    assert made.run_id == registry.version("1").run_id
    assert (made.version, made.tags["version"]) == (2, "1")
    assert register().version == "3"


def test_a_registered_model_deleted_in_mlflow_is_made_again(registry, register, mlflow):
    register()
    registry.promote("1", by="ana", why="better")
    mlflow.delete_registered_model("clients")

    assert registry.mend_mirror()
    assert mirrored(mlflow) == registry.version("1").run_id


def test_a_deleted_run_is_named_until_it_is_restored(registry, register, mlflow):
    run_id = register().run_id
    register()
    mlflow.delete_run(run_id)
    (problem,) = registry.problems()
    assert (problem.version, problem.part) == ("1", "run")
    assert run_id in problem.message

    mlflow.restore_run(run_id)
    assert registry.problems() == []


def test_an_mlflow_that_forgot_the_run_is_logged_and_decides_nothing(
    registry, register, warehouse, caplog
):
    register()
    registry.promote("1", by="ana", why="better")
    with warehouse.transaction() as transaction:
        for table in ("registered_model_aliases", "model_versions"):
            transaction.execute(f"DELETE FROM mlflow.{table}")
        transaction.execute("TRUNCATE mlflow.runs CASCADE")

    with caplog.at_level(logging.WARNING):
        assert not registry.mend_mirror()
    assert "not up to date" in caplog.text
    assert parts(registry) == [("1", "run"), ("1", "alias")]
    assert registry.require_champion().version == "1"


def spoil(version):
    file = version.bundle / "model.onnx"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_a_damaged_bundle_is_named_with_where_a_whole_copy_is(registry, register):
    version = register()
    spoil(version)
    (problem,) = registry.problems()
    assert (problem.version, problem.part) == ("1", "bundle")
    assert "model.onnx is not what it should be" in problem.message

    copy = Path(re.search(r"A whole copy is in (\S+):", problem.message)[1])
    shutil.rmtree(version.bundle)
    assert "There is no bundle at" in registry.problems()[0].message
    shutil.copytree(copy, version.bundle)
    assert registry.problems() == []
    assert version.open_bundle().manifest.version == "1"


def test_a_bundle_that_was_replaced_by_a_whole_one_is_noticed(registry, register, example_model):
    version = register()
    shutil.rmtree(version.bundle)
    example_model.write(version.bundle, manifest=example_model.manifest(version="1", threshold=0.9))

    with pytest.raises(BundleError, match=r"manifest\.json is not what it should be"):
        version.open_bundle()
    assert parts(registry) == [("1", "bundle")]


def test_training_data_tidied_away_is_a_problem_of_what_is_in_use(registry, register, warehouse):
    for number in ("1", "2", "3"):
        register()
        registry.promote(number, by="ana", why="better")
    assert registry.problems() == []
    with warehouse.transaction() as transaction:
        transaction.execute("UPDATE gristmill.builds SET dropped_at = '2026-11-02'")

    found = registry.problems()
    assert [(one.version, one.part, one.expected) for one in found] == [
        ("1", "training data", True), ("2", "training data", False), ("3", "training data", False),
    ]  # fmt: skip
    assert "tidied away on 2026-11-02 (builds: 1, loads: 0), though the version is in use" in (
        found[2].message
    )


def test_nothing_is_promoted_or_rolled_back_to_what_cannot_answer(registry, register):
    for number in ("1", "2"):
        register()
        registry.promote(number, by="ana", why="better")
    third = register()
    spoil(third)
    with pytest.raises(BundleError):
        registry.promote("3", by="ana", why="better", force=True)

    spoil(registry.version("1"))
    with pytest.raises(BundleError):
        registry.rollback(by="ana", why="worse")
    assert [one.version for one in registry.promotions()] == ["1", "2"]


def test_what_a_killed_process_left_half_written_is_swept(register, tmp_path):
    partial = tmp_path / "bundles" / ".7.0123456789abcdef.partial"
    partial.mkdir(parents=True)
    (partial / "model.onnx").write_bytes(b"half")

    register()
    assert [folder.name for folder in (tmp_path / "bundles").iterdir()] == ["1"]


def test_a_promotion_is_signed_by_both_systems(registry, register, warehouse):
    register()
    registry.promote("1", by="gate", why="better")
    with psycopg.connect(warehouse.url) as connection:  # and nobody signs for another
        connection.execute(
            "INSERT INTO gristmill.promotions (version, by, database_user, promoted_at, why) "
            "VALUES ('1', 'eve', 'somebody', '2001-01-01', 'an old one')"
        )

    first, second = registry.promotions()
    assert (first.by, first.os_user) == ("gate", pwd.getpwuid(os.geteuid()).pw_name)
    assert first.database_user == second.database_user == "admin"
    assert first.promoted_at < second.promoted_at


CHANGES = (
    "UPDATE gristmill.promotions SET why = 'it was ever so'",
    "DELETE FROM gristmill.promotions",
    "TRUNCATE gristmill.promotions",
    "UPDATE gristmill.model_versions SET verdict = 'promote'",
    "DELETE FROM gristmill.model_versions",
    "TRUNCATE gristmill.model_versions CASCADE",
    "UPDATE gristmill.builds SET loads = '{}'",
    "DELETE FROM gristmill.builds",
    "TRUNCATE gristmill.builds CASCADE",
    "UPDATE gristmill.loads SET etag = ''",
    "DELETE FROM gristmill.loads",
    "TRUNCATE gristmill.loads CASCADE",
)


def test_the_database_itself_keeps_the_record(registry, register, warehouse, superuser):
    register()
    registry.promote("1", by="ana", why="better")
    before = registry.versions(), registry.promotions()
    parameters = psycopg.conninfo.conninfo_to_dict(warehouse.url)
    replica = {"user": "postgres", "password": superuser.info.password}
    replica["options"] = "-c session_replication_role=replica"
    for changed in ({}, replica):  # ordinary triggers would not see the second one's changes
        for statement in CHANGES:
            with (
                psycopg.connect(**{**parameters, **changed}) as connection,
                pytest.raises(psycopg.errors.RestrictViolation, match="stays as it is"),
            ):
                connection.execute(statement)
    assert (registry.versions(), registry.promotions()) == before


def test_answers_of_a_version_that_is_not_on_record_are_noticed(registry, register, warehouse):
    register()
    with warehouse.transaction() as transaction:
        transaction.execute(
            "INSERT INTO gristmill.predictions SELECT gen_random_uuid(), '7', '{}', 0.5, 1, "
            "version, '2026-11-01 12:00+00', 1.0 FROM unnest('{1,1,8,8,9}'::text[]) AS version"
        )

    assert parts(registry) == [("8", "answers"), ("9", "answers")]
    assert "2026-11-01 12:00" in registry.problems()[0].message
    first, last = registry.answered("1")
    assert first == last == datetime(2026, 11, 1, 12, tzinfo=UTC)
    assert registry.answered("2") == (None, None)


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("error", [OSError("disk full"), Interrupted()])
def test_half_a_version_is_none(registry, register, write_bundle, mlflow, tmp_path, error):
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
    registry, register, write_bundle, warehouse, tmp_path
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


READ = """
import pathlib, sys
from gristmill.registry.store import Registry
from gristmill.warehouse.connection import Warehouse
folder = pathlib.Path(".")
registry = Registry(
    warehouse=Warehouse(url=sys.stdin.read()), name="clients", bundles=folder, artifacts=folder
)
registry.versions(), registry.champion(), registry.promotions(), registry.problems()
"""


def in_another_process(code, warehouse, folder):
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=warehouse.url,
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
    )
    return done.stdout, done.stderr


def test_reading_the_record_does_not_import_mlflow(registry, register, warehouse, tmp_path):
    register()
    registry.promote("1", by="ana", why="better")
    code = READ + (
        "print(registry.mend_mirror())\n"
        "heavy = {'mlflow', 'sklearn', 'pandas', 'onnx', 'scipy', 'sqlalchemy'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    assert in_another_process(code, warehouse, tmp_path) == ("True\n[]\n", "")


def test_without_mlflow_the_record_is_read_and_the_alias_left(
    registry, register, mlflow, warehouse, tmp_path
):
    register()
    registry.promote("1", by="ana", why="better")
    mlflow.delete_registered_model_alias("clients", "champion")
    refuse = "import sys\nsys.modules.update(dict.fromkeys(('mlflow', 'sqlalchemy')))\n"
    code = refuse + READ + "print(registry.mend_mirror())\n"
    printed, logged = in_another_process(code, warehouse, tmp_path)
    assert printed == "False\n"
    assert "install gristmill[train]" in logged


def test_mlflow_is_quiet_and_its_pages_keep_the_password(registry, register, warehouse, capfd):
    register()
    arguments, environment = registry.user_interface(port=5050)

    assert capfd.readouterr() == ("", "")
    password = psycopg.conninfo.conninfo_to_dict(warehouse.url)["password"]
    assert password not in " ".join(arguments)
    assert password in environment["MLFLOW_BACKEND_STORE_URI"]
    assert arguments[-2:] == ["--port", "5050"]
