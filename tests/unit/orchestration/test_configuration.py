"""What Airflow is told about a project."""

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

import gristmill
from gristmill.orchestration.configuration import Secrets, read_secrets, variables, write_links

SECRETS = Secrets(password="p", database="d", tokens="t", sessions="s", connections="c")


def told(**changes):
    given = {
        "folder": Path("/shop/.gristmill/airflow"),
        "dags": Path("/shop/dags"),
        "home": Path("/shop/.gristmill"),
        "database_url": "postgresql://airflow:d@127.0.0.1:5432/airflow",
        "host": "127.0.0.1",
        "port": 8082,
        "secrets": SECRETS,
        "inherited": {},
    }
    return variables(**given | changes)


def test_airflow_lives_with_the_project():
    found = told()
    assert found["AIRFLOW_HOME"] == "/shop/.gristmill/airflow"
    assert found["AIRFLOW__CORE__DAGS_FOLDER"] == "/shop/dags"
    assert found["GRISTMILL_HOME"] == "/shop/.gristmill"
    assert (
        found["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
        == "postgresql+psycopg2://airflow:d@127.0.0.1:5432/airflow"
    )


def test_what_somebody_sets_wins_and_what_is_not_airflows_passes_through():
    inherited = {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW_HOME": "/elsewhere",
        "AWS_REGION": "eu-west-1",
        "PYTHONPATH": "/theirs",
    }
    found = told(inherited=inherited)
    assert found["AIRFLOW__CORE__EXECUTOR"] == "CeleryExecutor"
    assert found["AIRFLOW_HOME"] == "/shop/.gristmill/airflow"
    assert found["AWS_REGION"] == "eu-west-1"
    assert found["PYTHONPATH"] == "/shop/.gristmill/airflow/modules:/theirs"


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("127.0.0.1", "http://127.0.0.1:8082"),
        ("0.0.0.0", "http://127.0.0.1:8082"),
        ("::1", "http://[::1]:8082"),
    ],
)
def test_tasks_reach_the_api_wherever_it_listens(host, reached):
    found = told(host=host)
    assert found["AIRFLOW__API__HOST"] == host
    assert found["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == f"{reached}/execution/"


def test_secrets_are_made_once_for_their_owner_alone(tmp_path):
    first, second = read_secrets(tmp_path), read_secrets(tmp_path, "chosen")
    file = tmp_path / "credentials.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "chosen" not in file.read_text()
    assert second == Secrets(**{**vars(first), "password": "chosen"})
    assert len(first.tokens.encode()) >= 64
    assert len(set(vars(first).values())) == 5
    assert not any(secret in repr(first) for secret in vars(first).values())


def test_airflow_imports_the_running_package_and_nothing_beside_it(tmp_path):
    write_links(tmp_path, {})
    write_links(tmp_path, {})
    assert [one.name for one in (tmp_path / "modules").iterdir()] == ["gristmill"]
    assert (tmp_path / "modules" / "gristmill").samefile(Path(gristmill.__file__).parent)


@pytest.mark.parametrize("path", [None, "/their's/modules"])
def test_the_tasks_command_is_ours_without_airflows_secrets(tmp_path, path):
    inherited = {"PYTHONPATH": path} if path else {}
    write_links(tmp_path, inherited)
    command = tmp_path / "gristmill"
    assert stat.S_IMODE(command.stat().st_mode) == 0o700
    environment = told(folder=tmp_path, inherited={**os.environ, **inherited})
    version = subprocess.run(
        [command, "--version"], env=environment, capture_output=True, text=True
    )
    assert version.stdout == f"gristmill {gristmill.__version__}\n", version.stderr
    shown = "import json, os; print(json.dumps(dict(os.environ)))"
    script = command.read_text().replace("-m gristmill", f"-c {json.dumps(shown)}")
    command.write_text(script)
    done = subprocess.run([command], env=environment, capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    assert seen.get("PYTHONPATH") == path
    assert seen["GRISTMILL_HOME"] == "/shop/.gristmill"
    for name in ("DATABASE__SQL_ALCHEMY_CONN", "API_AUTH__JWT_SECRET", "CORE__FERNET_KEY"):
        assert f"AIRFLOW__{name}" not in seen
