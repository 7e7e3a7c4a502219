"""The whole system in Docker Compose: brought up, answering, killed, up again with nothing lost.

One system for all tests of this file, in their order: bringing it up is most of the time.
"""

import contextlib
import os
import re
import signal
import ssl
import subprocess
import threading
import time

import httpx
import pytest

from .tools import ROOT

pytestmark = pytest.mark.xdist_group("docker")

WITHIN = 900.0
"""Seconds for what takes one or two minutes where nothing else runs."""
SERVICES = ["operational-db", "mlflow", "airflow", "model-training", "api", "nginx"]
FEATURES = {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "scd_b": 3}


def until(holds, what, tell=lambda: ""):
    deadline = time.monotonic() + WITHIN
    while not (found := holds()):
        assert time.monotonic() < deadline, f"{what} within {WITHIN:.0f} s\n{tell()}"
        time.sleep(1)
    return found


class Client:
    """Asks the API by way of nginx, with the key that `.env` has."""

    def __init__(self, system):
        key = system.settings()["API_KEY"]
        self._client = httpx.Client(
            base_url=f"http://{system.engine.address}:8080",
            headers={"authorization": f"Bearer {key}"},
            timeout=30,
        )
        self.answers = []

    def close(self):
        self._client.close()

    def tell(self, outcome):
        """What was recorded of an outcome."""
        answer = self._client.post("/outcomes", json=outcome)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def predict(self, entity):
        """The answer, or None where none was given."""
        with contextlib.suppress(httpx.TransportError):
            answer = self._client.post("/predict", json={"idx": entity, "features": FEATURES})
            if answer.status_code == 200:
                self.answers.append(answer.json())
                return answer.json()
        return None


@pytest.fixture(scope="module")
def system(images):
    """The system, brought up as docs/compose.md says, on a small bucket; nobody clicks anything."""
    fill = (
        "gristmill sample /srv/bucket/new --customers 4000 --months 2"
        " && mv /srv/bucket/new/* /srv/bucket && rmdir /srv/bucket/new"
    )
    images.compose("run", "--rm", "--no-deps", "--entrypoint", "sh", "prepare", "-c", fill)
    try:
        images.compose("up", "-d")
        yield images
    finally:
        images.compose("down", "--volumes", "--timeout", "5", check=False)


@pytest.fixture(scope="module")
def client(system):
    """A client, once the API answers by itself."""
    client = Client(system)
    until(
        lambda: client.predict(1),
        "/predict is answered",
        lambda: system.compose("logs", "--no-color", "--tail", "60", check=False)[-8000:],
    )
    yield client
    client.close()


def test_one_up_ends_in_an_answer(system, client):
    answer = client.predict(7)
    assert 0 < answer["probability"] < 1
    # The verdict made it champion, not a person.
    assert system.query("SELECT version, by FROM gristmill.promotions") == [
        [answer["model_version"], "gate"]
    ]
    loaded = dict(system.query("SELECT table_name, sum(rows) FROM gristmill.loads GROUP BY 1"))
    assert int(loaded["customer_profiles"]) == 4000
    assert system.query("SELECT count(*) FROM public.sales_statistics")[0] != ["0"]


def test_the_users_of_the_project_are_there(system, client):
    rows = system.query(
        "SELECT rolname FROM pg_roles WHERE rolcanlogin AND rolname IN"
        " ('admin', 'airflow', 'analyst', 'api', 'ds_user', 'mle_user', 'mlflow') ORDER BY 1"
    )
    names = ["admin", "airflow", "analyst", "api", "ds_user", "mle_user", "mlflow"]
    assert [row[0] for row in rows] == names
    supers = system.query("SELECT rolname FROM pg_roles WHERE rolsuper")
    assert supers == [["postgres"]]


def test_the_api_may_read_and_record_and_no_more(system, client):
    told = {"idx": 7, "outcome": 1, "observed_at": "2026-01-31T12:00:00Z"}
    assert client.tell(told) == {"added": 1, "corrected": 0, "known": 0}
    assert client.tell({**told, "outcome": 0}) == {"added": 0, "corrected": 1, "known": 0}
    known = system.query("SELECT has_table_privilege('api', 'public.feature_store', 'SELECT')")
    assert known == [["t"]]
    rights = system.query(
        "SELECT DISTINCT relname, right_name FROM pg_class, unnest(array["
        "'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER']) AS rights (right_name)"
        " WHERE relkind IN ('r', 'p', 'v') AND relnamespace::regnamespace::text IN"
        " ('gristmill', 'public', 'raw', 'builds', 'mlflow')"
        " AND has_table_privilege('api', pg_class.oid, right_name) ORDER BY 1, 2"
    )
    assert rights == [["outcomes", "INSERT"], ["predictions", "INSERT"]]
    creates = "SELECT has_database_privilege('api', 'companydata', 'CREATE')"
    assert system.query(creates) == [["f"]]


def test_who_has_no_key_is_refused(system, client):
    url = f"http://{system.engine.address}:8080/predict"
    body = {"idx": 1, "features": FEATURES}
    assert httpx.post(url, json=body).status_code == 401
    assert httpx.post(url, json=body, headers={"authorization": "Bearer x"}).status_code == 401


def test_the_pages_answer(system, client):
    settings = system.settings()
    airflow = f"http://{system.engine.address}:8082"
    login = {"username": "airflow", "password": settings["AIRFLOW_PASSWORD"]}
    assert httpx.post(f"{airflow}/auth/token", json=login, timeout=60).status_code == 201
    wrong = {"username": "airflow", "password": "airflow"}
    assert httpx.post(f"{airflow}/auth/token", json=wrong, timeout=60).status_code == 401
    mlflow = f"http://{system.engine.address}:5000/health"
    assert httpx.get(mlflow, headers={"host": "localhost:5000"}, timeout=60).status_code == 200


def test_mlflows_pages_keep_its_tables_and_see_no_customer(system, client):
    with httpx.Client(
        base_url=f"http://{system.engine.address}:5000/api/2.0/mlflow/experiments",
        headers={"host": "localhost:5000"},
        timeout=60,
    ) as mlflow:
        asked = {"experiment_name": "clients"}
        experiment = mlflow.get("/get-by-name", params=asked).json()["experiment"]
        tag = {"experiment_id": experiment["experiment_id"], "key": "seen", "value": "yes"}
        assert mlflow.post("/set-experiment-tag", json=tag).status_code == 200
    assert system.query("SELECT value FROM mlflow.experiment_tags WHERE key = 'seen'") == [["yes"]]
    seen = system.query(
        "SELECT DISTINCT relnamespace::regnamespace FROM pg_class"
        " WHERE relkind IN ('r', 'p', 'v') AND relnamespace::regnamespace::text IN"
        " ('gristmill', 'public', 'raw', 'builds', 'mlflow')"
        " AND has_table_privilege('mlflow', oid, 'SELECT, INSERT, UPDATE, DELETE')"
    )
    assert seen == [["mlflow"]]


def test_what_runs_can_change_nothing_of_itself(system, client):
    for service in SERVICES:
        container = system.engine.inspect(system.container(service))
        assert container["HostConfig"]["Privileged"] is False
        assert "no-new-privileges:true" in container["HostConfig"]["SecurityOpt"]
        if service != "operational-db":
            assert container["HostConfig"]["ReadonlyRootfs"] is True, service
            assert container["HostConfig"]["CapDrop"] == ["ALL"], service
            assert container["Config"]["User"] not in ("", "0", "root"), service
    logs = system.compose("logs", "--no-color")
    secrets = {
        value for name, value in system.settings().items() if re.search("PASSWORD|SECRET|KEY", name)
    } - {""}
    assert len(secrets) == 8
    assert [one for one in secrets if one in logs] == []


def test_tasks_say_in_the_logs_what_they_do(system, client):
    logs = system.compose("logs", "--no-color", "model-training")
    assert "customer_profiles: loaded 4,000 rows" in logs
    line = next(line for line in logs.splitlines() if "customer_profiles: loaded" in line)
    assert "load_client_data" in line


def _asking(client, stop):
    entity = 1000
    while not stop.is_set():
        entity += 1
        client.predict(entity)


def test_killed_and_up_again_nothing_is_lost(system, client):
    before = client.predict(42)
    stop = threading.Event()
    asking = threading.Thread(target=_asking, args=(client, stop))
    asking.start()
    try:
        until(lambda: len(client.answers) > 50, "answers come")
        containers = [system.engine.inspect(system.container(service)) for service in SERVICES]
        # Not by the engine, which would think that it was asked to: as a crash does.
        for container in containers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(container["State"]["Pid"], signal.SIGKILL)
        killed_at = len(client.answers)
        until(
            lambda: len(client.answers) > killed_at + 50,
            "answers come again by themselves",
            lambda: system.compose("ps", check=False),
        )
    finally:
        stop.set()
        asking.join()

    until(lambda: _is_healthy(system), "Airflow is back by itself")

    # The containers go, what is in the volumes stays: what answers needs nothing else.
    system.compose("down", "--timeout", "20")
    system.compose("up", "-d", "nginx")
    again = until(lambda: client.predict(42), "/predict is answered again")
    assert again["probability"] == before["probability"]
    assert again["model_version"] == before["model_version"]

    answered = sorted(answer["prediction_id"] for answer in client.answers)
    assert len(answered) == len(set(answered))
    until(lambda: _recorded(system) >= set(answered), "every answer is in the warehouse")
    counted = system.query(
        "SELECT count(*), count(DISTINCT prediction_id) FROM gristmill.predictions"
    )
    assert counted[0][0] == counted[0][1]


def _is_healthy(system):
    with contextlib.suppress(httpx.TransportError):
        health = httpx.get(f"http://{system.engine.address}:8082/api/v2/monitor/health", timeout=30)
        return health.is_success and health.json()["scheduler"]["status"] == "healthy"
    return False


def _recorded(system):
    return {row[0] for row in system.query("SELECT prediction_id FROM gristmill.predictions")}


@pytest.fixture(scope="module")
def certificates(images, tmp_path_factory):
    """A folder as CERTIFICATES names it."""
    folder = tmp_path_factory.mktemp("certificates")
    folder.chmod(0o755)
    key = folder / "privkey.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=api"]
    subprocess.run(
        [
            *(*command, "-addext", f"subjectAltName=IP:{images.engine.address}"),
            *("-keyout", key, "-out", folder / "fullchain.pem"),
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    key.chmod(0o644)
    return folder


def test_production_answers_by_tls_alone(system, client, certificates):
    before = client.predict(42)
    with (system.folder / ".env").open("a") as settings:
        settings.write(f"CERTIFICATES={certificates}\n")
    files = ("-f", "docker-compose.yml", "-f", "docker-compose.production.yml")
    system.compose(*files, "up", "-d", "nginx")
    address = system.engine.address
    context = ssl.create_default_context(cafile=certificates / "fullchain.pem")
    asked = {"idx": 42, "features": FEATURES}
    key = {"authorization": f"Bearer {system.settings()['API_KEY']}"}

    def answer():
        with contextlib.suppress(httpx.TransportError):
            url = f"https://{address}/predict"
            answered = httpx.post(url, json=asked, headers=key, verify=context, timeout=30)
            return answered if answered.status_code == 200 else None
        return None

    answered = until(answer, "an answer by TLS", lambda: system.compose("ps", check=False))
    assert answered.json()["probability"] == before["probability"]
    assert answered.headers["strict-transport-security"]
    assert answered.headers["x-frame-options"] == "DENY"
    plain = httpx.post(f"http://{address}/predict", json=asked, headers=key)
    assert (plain.status_code, plain.headers["location"]) == (308, f"https://{address}/predict")
    api = system.engine.inspect(system.container("api"))
    assert api["HostConfig"]["Memory"] == 2 << 30
    listed = system.engine.docker("top", system.container("api"), "-o", "pid,args").splitlines()
    serving = [line for line in listed if "gristmill.serving" in line and "init" not in line]
    assert len(serving) == 3, listed  # the one that watches, and two workers


@pytest.mark.parametrize("name", ["http", "https"])
def test_nginx_takes_its_configuration(images, certificates, name):
    said = images.engine.docker(
        *("run", "--rm", "--read-only", "--tmpfs", "/tmp", "--user", "101:101"),
        *("--cap-drop", "ALL", "--volume", f"{ROOT / 'deploy/compose/nginx'}:/etc/gristmill:ro"),
        *("--volume", f"{certificates}:/etc/certificates:ro", images.settings()["NGINX_IMAGE"]),
        *("nginx", "-t", "-c", f"/etc/gristmill/{name}.conf"),
        errors=True,
    )
    assert "test is successful" in said
    assert "warn" not in said
