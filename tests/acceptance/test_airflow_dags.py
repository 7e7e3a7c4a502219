"""The DAGs as Airflow reads them: from the project file alone, without database or bucket."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from gristmill.flow.report import Silence
from gristmill.orchestration.environment import Environment, ensure_environment
from gristmill.settings import cache_folder

from .installation import EXAMPLES

pytestmark = pytest.mark.xdist_group("airflow")

SOURCE = Path(__file__).parents[2] / "src"
READ = """
import json, sys, time
began = time.monotonic()
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
print(json.dumps({
    "seconds": time.monotonic() - began,
    "errors": bag.import_errors,
    "dags": {
        name: {
            "tasks": {one.task_id: getattr(one, "bash_command", "") for one in dag.tasks},
            "catchup": dag.catchup,
            "params": list(dag.params),
            "active": dag.max_active_runs,
            "paused": dag.is_paused_upon_creation,
            "retries": max(one.retries for one in dag.tasks),
        }
        for name, dag in bag.dags.items()
    },
}))
"""


@pytest.fixture(scope="session")
def environment() -> Environment:
    return ensure_environment(cache_folder(), Silence())


@pytest.fixture
def read(environment: Environment, tmp_path: Path):
    """What Airflow finds in a dags folder, in an environment without database and bucket."""
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "gristmill").symlink_to(SOURCE / "gristmill")

    def call(dags: Path) -> dict:
        variables = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GRISTMILL_", "AIRFLOW_", "AWS_"))
        }
        done = subprocess.run(
            [environment.python, "-c", READ, str(dags)],
            env={
                **variables,
                "PYTHONPATH": str(modules),
                "AIRFLOW_HOME": str(tmp_path),
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql+psycopg2://nobody@127.0.0.1:1/no",
                "GRISTMILL_COMMAND": "/opt/gristmill",
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        print(f"{dags}: read in {found['seconds']:.1f} s")
        return found

    return call


def test_the_clients_project(read) -> None:
    found = read(EXAMPLES / "clients/dags")
    project = EXAMPLES / "clients/gristmill.toml"
    dags = found["dags"]

    assert found["errors"] == {}
    assert {name: list(dag["tasks"]) for name, dag in dags.items()} == {
        "load_client_data": ["load"],
        "load_sales_data": ["load"],
        "process_data": ["build", "done"],
        "train_model": ["train"],
        "sales_statistics": ["show_sales_statistics"],
        "notice_changes": ["look", "start"],
    }
    program = f"exec /opt/gristmill --project {project}"
    assert dags["train_model"]["tasks"]["train"] == f"{program} train --if-needed"
    month = dags["load_sales_data"]["tasks"]["load"]
    assert f'{program} load stores sales --period "$PERIOD"' in month
    assert {name for name, dag in dags.items() if dag["params"]} == {"load_sales_data"}
    assert not any(dag["catchup"] or dag["paused"] for dag in dags.values())
    assert {dag["retries"] for dag in dags.values()} == {3}
    assert {name: dag["active"] for name, dag in dags.items() if dag["active"] > 1} == {
        "load_sales_data": 4
    }


def test_another_project(read) -> None:
    found = read(EXAMPLES / "cdnow/dags")
    assert found["errors"] == {}
    assert sorted(found["dags"]) == ["load_sales", "notice_changes", "process_data", "train_model"]
    assert "load customers sales labels" in found["dags"]["load_sales"]["tasks"]["load"]


def test_a_mistake_in_the_project_file_is_told_in_place_of_the_dags(read, tmp_path: Path) -> None:
    dags = tmp_path / "project" / "dags"
    dags.mkdir(parents=True)
    text = (EXAMPLES / "clients/dags/gristmill_dags.py").read_text(encoding="utf-8")
    (dags / "gristmill_dags.py").write_text(text)
    (dags.parent / "gristmill.toml").write_text('[project]\nname = "x"\n')
    (told,) = read(dags)["errors"].values()
    assert "gristmill.toml: project.source: missing" in told
