"""The API over a real socket: what is answered is on record, what is wrong is said by name."""

import base64
import contextlib
import dataclasses
import hashlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import psycopg
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gristmill.errors import BundleError, EntityNotFound, PortTaken, ServingError
from gristmill.predictions.spool import adopt_spools
from gristmill.serving import api
from gristmill.serving.bodies import LARGEST_BODY
from gristmill.serving.entry import build
from gristmill.serving.server import Deployment, listen, serve
from gristmill.serving.service import AT_DATABASE

MISSION = {"idx": 150000, "features": {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "scd_b": 3}}


def _with(**features):
    return MISSION | {"features": MISSION["features"] | features}


@contextlib.contextmanager
def _served(app):
    """The application on a socket, in a thread; a client of it."""
    listening = listen("127.0.0.1", 0)
    config = uvicorn.Config(app, lifespan="on", log_level="warning", access_log=False, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        _wait_until(lambda: server.started)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with httpx.Client(base_url=address, timeout=30, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def _wait_until(holds, seconds=60):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"it did not come about within {seconds} seconds"
        time.sleep(0.02)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def client(example_model, tmp_path_factory):
    """A service without a database."""
    folder = tmp_path_factory.mktemp("serving")
    example_model.write(folder / "3")
    with _served(build(Deployment(bundle=folder / "3", spool=folder / "spool"))) as client:
        yield client


def _problem(response, status, kind):
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["type"] == f"/docs#{kind}"
    assert "Traceback" not in response.text
    assert "/tmp" not in response.text
    return problem


# What is answered


def test_the_mission_s_request(client, example_model):
    response = client.post("/predict", json=MISSION)
    assert response.status_code == 200
    answer = response.json()
    assert set(answer) == {"label", "probability", "model_version", "prediction_id"}
    assert answer["probability"] == pytest.approx(
        example_model.probability(**MISSION["features"]), abs=1e-15
    )
    assert (answer["label"], answer["model_version"]) == (1, "3")
    assert UUID(answer["prediction_id"]).version == 7


@pytest.mark.parametrize("change", [{"attr_b": None}, {"attr_b": "never seen"}, {"scd_a": None}])
def test_null_and_unknown_categories_are_answered(client, example_model, change):
    features = MISSION["features"] | change
    answer = client.post("/predict", json=MISSION | {"features": features}).json()
    assert answer["probability"] == pytest.approx(example_model.probability(**features), abs=1e-15)


def test_a_model_without_signal_says_so(example_model, tmp_path):
    example_model.write(tmp_path / "3", manifest=example_model.manifest(no_signal=True))
    deployment = Deployment(bundle=tmp_path / "3", spool=tmp_path / "spool")
    with _served(build(deployment)) as client:
        assert client.post("/predict", json=MISSION).json()["no_signal"] is True


# What is refused


@pytest.mark.parametrize(
    ("body", "kind", "field"),
    [
        ([], "invalid-request", None),
        (3, "invalid-request", None),
        ({}, "invalid-request", "idx"),
        ({"idx": 1}, "invalid-request", "features"),
        ({"features": MISSION["features"]}, "invalid-request", "idx"),
        (MISSION | {"extra": 1}, "invalid-request", "extra"),
        (MISSION | {"idx": "150000"}, "invalid-request", "idx"),
        (MISSION | {"idx": None}, "invalid-request", "idx"),
        (MISSION | {"idx": True}, "invalid-request", "idx"),
        (MISSION | {"idx": 2**63}, "invalid-request", "idx"),
        (MISSION | {"features": None}, "invalid-request", "features"),
        (MISSION | {"features": []}, "invalid-request", "features"),
        (MISSION | {"features": {}}, "invalid-feature", "attr_a"),
        (_with(attr_c=1), "invalid-feature", "attr_c"),
        (_with(attr_a=3.0), "invalid-feature", "attr_a"),
        (_with(attr_a="1"), "invalid-feature", "attr_a"),
        (_with(attr_b=1), "invalid-feature", "attr_b"),
        (_with(attr_b="\0"), "invalid-feature", "attr_b"),
        (_with(scd_a={}), "invalid-feature", "scd_a"),
        (_with(scd_b=True), "invalid-feature", "scd_b"),
    ],
)
def test_a_wrong_field_is_named(client, body, kind, field):
    problem = _problem(client.post("/predict", json=body), 422, kind)
    assert problem.get("field") == field


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"idx": NaN}',
        b'{"idx": Infinity}',
        b'{"idx": 1e999}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"\xff\xfe",
        b'"\xff"',
        b'{"idx": "\\ud800"}',
        b"{} {}",
        b"\xef\xbb\xbf{}",
        b"\0",
    ],
)
def test_what_is_not_json(client, body):
    headers = {"content-type": "application/json"}
    _problem(client.post("/predict", content=body, headers=headers), 400, "malformed-json")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
def test_what_is_not_declared_as_plain_json(client, headers):
    response = client.post("/predict", content=json.dumps(MISSION), headers=headers)
    _problem(response, 415, "unsupported-media-type")


def test_json_declared_in_other_words(client):
    for declared in ("Application/JSON", 'application/json; charset="UTF-8"'):
        response = client.post(
            "/predict", content=json.dumps(MISSION), headers={"content-type": declared}
        )
        assert response.status_code == 200


def test_a_body_that_is_too_large(client):
    big = b" " * (LARGEST_BODY + 1)
    headers = {"content-type": "application/json"}
    _problem(client.post("/predict", content=big, headers=headers), 413, "too-large")
    pieces = (big[:65536] for _ in range(LARGEST_BODY // 65536 + 1))
    _problem(client.post("/predict", content=pieces, headers=headers), 413, "too-large")
    body = json.dumps(MISSION).encode().ljust(LARGEST_BODY)
    assert client.post("/predict", content=body, headers=headers).status_code == 200


def test_addresses_and_methods_that_there_are_not(client):
    for address in ("/nothing", "/predict/", "/docs/", "/predict/../etc"):
        assert client.get(address).headers["content-type"] == "application/problem+json"
    _problem(client.get("/nothing"), 404, "not-found")
    refused = client.get("/predict")
    _problem(refused, 405, "method-not-allowed")
    assert refused.headers["allow"] == "POST"
    _problem(client.delete("/model"), 405, "method-not-allowed")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: not x.is_integer())
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=3,
)
near_requests = st.fixed_dictionaries(
    {},
    optional={
        "idx": st.just(150000) | json_values,
        "extra": json_values,
        "features": json_values
        | st.fixed_dictionaries(
            {name: st.just(value) | json_values for name, value in MISSION["features"].items()}
        )
        | st.fixed_dictionaries(
            {}, optional=dict.fromkeys((*MISSION["features"], "attr_c"), json_values)
        ),
    },
)


@settings(max_examples=300)
@given(body=near_requests)
def test_the_service_answers_exactly_what_its_schema_admits(client, body):
    document = client.get("/openapi.json").json()
    schema = {"$ref": "#/components/schemas/PredictRequest", "components": document["components"]}
    response = client.post("/predict", json=body)
    admitted = Draft202012Validator(schema).is_valid(body)
    assert response.status_code == (200 if admitted else 422), response.text
    name = "Answer" if admitted else "Problem"
    schema["$ref"] = f"#/components/schemas/{name}"
    Draft202012Validator(schema).validate(response.json())


@settings(max_examples=100)
@given(body=st.binary(max_size=50), address=st.sampled_from(["/predict", "/predict/1", "/model"]))
def test_no_bytes_make_it_fail(client, body, address):
    response = client.post(address, content=body, headers={"content-type": "application/json"})
    assert 400 <= response.status_code < 500


# About itself


def test_health_readiness_and_model(client):
    assert client.get("/health").json() == {"status": "alive"}
    told = client.get("/ready").json()
    assert told.pop("waiting") >= 0
    assert told.pop("oldest_seconds") >= 0
    assert told == {
        "status": "ready",
        "model_version": "3",
        "log": "writing",
        "shipping": "off",
        "unlogged": 0,
    }
    model = client.get("/model").json()
    assert (model["project"], model["version"], model["threshold"]) == ("clients", "3", 0.5)


def test_the_documentation_runs_its_own_script_and_no_other(client):
    assert client.get("/").headers["location"] == "/docs"
    response = client.get("/docs")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    for element in ("script", "style"):
        content = re.search(f"<{element}>(.*?)</{element}>", response.text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy


def test_the_report_shows_itself_and_does_nothing(example_model, tmp_path):
    """A bundle may be from elsewhere: a script in its page must not run as the service's own."""
    page = "<!doctype html><title>é</title><script>alert(1)</script>"
    example_model.write(tmp_path / "3", report=page)
    deployment = Deployment(bundle=tmp_path / "3", spool=tmp_path / "spool")
    with _served(build(deployment)) as client:
        address = client.get("/model").json()["report"]
        response = client.get(address)
    assert response.text == page
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = response.headers["content-security-policy"].split("; ")
    assert {"sandbox", "default-src 'none'", "frame-ancestors 'none'"} <= set(policy)
    assert not [one for one in policy if one.startswith("script-src")]


def test_a_bundle_without_a_report(client):
    assert client.get("/model").json()["report"] is None
    _problem(client.get("/model/report"), 404, "not-found")


def test_an_entity_without_a_feature_store(client):
    _problem(client.get("/predict/150000"), 501, "no-database")


# With a database


def _logged(warehouse):
    with warehouse.transaction() as transaction:
        return transaction.rows("SELECT * FROM gristmill.predictions")


def test_what_was_answered_is_in_the_warehouse(warehouse, bundle_folder, tmp_path):
    deployment = Deployment(
        bundle=bundle_folder, spool=tmp_path / "spool", database_url=warehouse.url
    )
    with _served(build(deployment)) as client:
        answer = client.post("/predict", json=MISSION).json()
        _wait_until(lambda: _logged(warehouse))
        (row,) = _logged(warehouse)
        _wait_until(lambda: client.get("/ready").json()["waiting"] == 0)
        assert client.get("/ready").json()["shipping"] == "up to date"
    assert str(row["prediction_id"]) == answer["prediction_id"]
    assert (row["entity"], row["features"]) == ("150000", MISSION["features"])
    assert (row["probability"], row["label"]) == (answer["probability"], answer["label"])
    assert row["model_version"] == "3"
    assert abs(datetime.now(UTC) - row["predicted_at"]) < timedelta(minutes=5)
    assert 0 < row["latency_ms"] < 60_000
    assert list((tmp_path / "spool").iterdir()) == []


def test_an_entity_s_features_come_from_the_feature_store(
    warehouse, feature_store, bundle_folder, tmp_path
):
    deployment = Deployment(
        bundle=bundle_folder, spool=tmp_path / "spool", database_url=warehouse.url
    )
    with _served(build(deployment)) as client:
        sent = client.post("/predict", json=MISSION).json()
        stored = client.get("/predict/150000").json()
        assert stored["features"] == MISSION["features"]
        assert (stored["probability"], stored["label"]) == (sent["probability"], sent["label"])
        assert datetime.fromisoformat(stored["features_as_of"]) == feature_store
        assert 7200 <= stored["features_age_seconds"] < 7200 + 600

        empty = client.get("/predict/2").json()
        assert set(empty["features"].values()) == {None}
        assert empty["probability"] == 0.5

        problem = _problem(client.get("/predict/3"), 404, "unknown-entity")
        assert "3" in problem["detail"]
        assert _problem(client.get("/predict/x"), 422, "invalid-request")["field"] == "idx"
        assert _problem(client.get("/predict/1/2"), 422, "invalid-request")["field"] == "idx"
    assert len(_logged(warehouse)) == 3


def test_a_database_that_is_away_is_not_an_unknown_entity(
    warehouse, feature_store, superuser, bundle_folder, tmp_path
):
    name = psycopg.sql.Identifier(psycopg.conninfo.conninfo_to_dict(warehouse.url)["dbname"])
    allow = psycopg.sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    deployment = Deployment(
        bundle=bundle_folder, spool=tmp_path / "spool", database_url=warehouse.url
    )
    with _served(build(deployment)) as client:
        superuser.execute(allow.format(name, psycopg.sql.SQL("false")))
        refused = client.get("/predict/150000")
        _problem(refused, 503, "database-unavailable")
        assert "retry-after" in refused.headers
        answer = client.post("/predict", json=MISSION).json()
        assert client.get("/ready").status_code == 200
        superuser.execute(allow.format(name, psycopg.sql.SQL("true")))
        _wait_until(lambda: _logged(warehouse))
    assert [str(row["prediction_id"]) for row in _logged(warehouse)] == [answer["prediction_id"]]


def test_a_database_that_hangs_holds_up_its_own_requests_only(
    bundle_folder, served, tmp_path, monkeypatch
):
    app = build(Deployment(bundle=bundle_folder, spool=tmp_path / "spool"))
    service = app.state.service
    answers, asking = threading.Event(), threading.Semaphore(0)

    def hang(key):
        asking.release()
        assert answers.wait(60)
        raise EntityNotFound(f"There is no {key}.")

    service.served = dataclasses.replace(service.served, lookup=hang)
    monkeypatch.setattr(api, "DATABASE_TIMEOUT", 0.2)
    with served(app) as client, ThreadPoolExecutor(AT_DATABASE) as pool:
        hanging = [pool.submit(client.get, f"/predict/{key}") for key in range(AT_DATABASE)]
        for _ in hanging:
            assert asking.acquire(timeout=60)
        _problem(client.get("/predict/100"), 503, "database-unavailable")
        assert client.post("/predict", json=MISSION).status_code == 200
        answers.set()
        for one in hanging:
            _problem(one.result(), 404, "unknown-entity")
        _problem(client.get("/predict/100"), 404, "unknown-entity")


def test_a_feature_store_that_was_never_built(warehouse, bundle_folder, tmp_path):
    deployment = Deployment(
        bundle=bundle_folder, spool=tmp_path / "spool", database_url=warehouse.url
    )
    with _served(build(deployment)) as client:
        _problem(client.get("/predict/150000"), 503, "database-unavailable")


# As a process


PROGRAM = """
import sys
from pathlib import Path
from gristmill.serving.server import Deployment, serve

if __name__ == "__main__":
    bundle, spool, port, workers, url = sys.argv[1:]
    serve(
        Deployment(bundle=Path(bundle), spool=Path(spool), database_url=url or None),
        host="127.0.0.1", port=int(port), workers=int(workers),
    )
"""


@contextlib.contextmanager
def _process(folder, bundle, url="", workers=1, before=""):
    """The server as a process of its own, ready to answer; it and a client of it."""
    program = folder / "serve_it.py"
    program.write_text(before + PROGRAM)
    port = _free_port()
    arguments = [str(bundle), str(folder / "spool"), str(port), str(workers), url]
    server = subprocess.Popen([sys.executable, str(program), *arguments])
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False)
    with server, client:
        try:
            _wait_until(lambda: server.poll() is not None or _is_ready(client))
            assert server.poll() is None
            yield server, client
        finally:
            if server.poll() is None:
                server.terminate()


def _is_ready(client):
    try:
        return client.get("/ready").status_code == 200
    except httpx.TransportError:
        return False


def _ask_until_it_dies(address, start, answered):
    """Entities one after another; which of them were answered, with their predictions."""
    with httpx.Client(base_url=address, timeout=30, trust_env=False) as client:
        for entity in range(start, start + 100_000):
            try:
                response = client.post("/predict", json=MISSION | {"idx": entity})
            except httpx.TransportError:
                return
            assert response.status_code == 200
            answered[response.json()["prediction_id"]] = str(entity)


def test_killed_under_load_every_answer_is_in_the_warehouse_exactly_once(
    warehouse, bundle_folder, tmp_path
):
    answered = {}
    with (
        _process(tmp_path, bundle_folder, warehouse.url) as (server, client),
        ThreadPoolExecutor(4) as pool,
    ):
        asking = [
            pool.submit(_ask_until_it_dies, str(client.base_url), start, answered)
            for start in range(0, 400_000, 100_000)
        ]
        _wait_until(lambda: len(answered) > 300)
        server.kill()
        for one in asking:
            one.result()
    with _process(tmp_path, bundle_folder, warehouse.url):
        expected = set(answered)
        _wait_until(lambda: expected <= {str(row["prediction_id"]) for row in _logged(warehouse)})
    rows = _logged(warehouse)
    found = {str(row["prediction_id"]): row["entity"] for row in rows}
    assert answered.items() <= found.items()
    # Up to one request of each client was on record when the server died before it could answer.
    assert len(rows) == len(found) <= len(answered) + 4
    entities = [row["entity"] for row in rows]
    assert len(set(entities)) == len(entities)
    assert list((tmp_path / "spool").iterdir()) == []


def test_stopped_in_good_order_all_is_shipped(warehouse, bundle_folder, tmp_path):
    with _process(tmp_path, bundle_folder, warehouse.url) as (server, client):
        answers = {
            client.post("/predict", json=MISSION | {"idx": n}).json()["prediction_id"]
            for n in range(50)
        }
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    assert {str(row["prediction_id"]) for row in _logged(warehouse)} == answers
    assert list((tmp_path / "spool").iterdir()) == []


def test_several_workers_share_one_port(warehouse, bundle_folder, tmp_path):
    with _process(tmp_path, bundle_folder, warehouse.url, workers=2) as (server, client):
        _wait_until(lambda: len(list((tmp_path / "spool").glob("*.lock"))) == 2)
        answers = set()
        for number in range(40):
            with httpx.Client(base_url=client.base_url, trust_env=False) as fresh:
                response = fresh.post("/predict", json=MISSION | {"idx": number})
                answers.add(response.json()["prediction_id"])
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    assert {str(row["prediction_id"]) for row in _logged(warehouse)} == answers
    assert list((tmp_path / "spool").iterdir()) == []


def test_no_answer_without_a_record(bundle_folder, tmp_path):
    """The kernel refuses to let the server's files grow, as a full disk would."""
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))\n"
    answers = 0
    with _process(tmp_path, bundle_folder, before=limit) as (_, client):
        for number in range(1000):
            response = client.post("/predict", json=MISSION | {"idx": number})
            if response.status_code != 200:
                break
            answers += 1
        _problem(response, 503, "record-unavailable")
        _problem(client.get("/ready"), 503, "record-unavailable")
        assert client.get("/health").status_code == 200
    (lock,) = (tmp_path / "spool").glob("*.lock")
    assert lock.exists()
    assert _count_spooled(tmp_path / "spool") == answers > 0


def _count_spooled(folder):
    (spool,) = adopt_spools(folder).spools
    count = spool.count
    spool.close()
    return count


def test_a_port_that_is_taken(bundle_folder, tmp_path):
    deployment = Deployment(bundle=bundle_folder, spool=tmp_path / "spool")
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=f"Port {port} .* --port"):
            serve(deployment, host="127.0.0.1", port=port)


def test_a_host_that_is_not_ours():
    with pytest.raises(ServingError, match="Cannot listen"):
        listen("192.0.2.1", 0)
    with pytest.raises(ServingError, match="not known"):
        listen("no.such.host.invalid", 0)


def test_a_spoilt_bundle_is_not_served(bundle_folder, tmp_path):
    (bundle_folder / "model.onnx").write_bytes(b"x")
    deployment = Deployment(bundle=bundle_folder, spool=tmp_path / "spool", database_url=None)
    with pytest.raises(BundleError, match=r"model\.onnx"):
        serve(deployment, host="127.0.0.1", port=0, workers=2)


def test_a_deployment_does_not_show_its_secret(tmp_path):
    deployment = Deployment(
        bundle=tmp_path, spool=tmp_path, database_url="postgresql://a:secret@host/x"
    )
    assert "secret" not in repr(deployment)


def test_the_command_line_does_not_load_the_web_framework():
    program = (
        "import sys, gristmill.serving.server\n"
        "print({'uvicorn', 'starlette', 'msgspec', 'onnxruntime'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (found.stdout.strip(), found.returncode) == ("set()", 0)
