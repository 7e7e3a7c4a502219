"""Who may ask, under which id, and what the log says of it."""

import asyncio
import dataclasses
import json
import logging
import re
import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gristmill.registry.bundle import read_bundle
from gristmill.serving.api import create_app
from gristmill.serving.entry import build
from gristmill.serving.guard import MOST_LOGGED
from gristmill.serving.keys import add_key, revoke_key
from gristmill.serving.server import Deployment

REQUEST = {"idx": 1, "features": {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "scd_b": 3}}


@pytest.fixture
def keys(tmp_path):
    return tmp_path / "keys.json"


@pytest.fixture
def client(bundle_folder, served, keys, tmp_path):
    """A service that asks for a key where there is one."""
    deployment = Deployment(
        bundle=bundle_folder,
        spool=tmp_path / "spool",
        keys=keys,
        counters=tmp_path / "counters",
    )
    with served(build(deployment)) as client:
        yield client


def bearer(key):
    return {"authorization": f"Bearer {key}"}


def until(holds):
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_any_key_this_machine_is_answered(client):
    assert client.post("/predict", json=REQUEST).status_code == 200


def test_with_a_key_on_file_every_address_but_the_open_ones_asks_for_it(client, keys):
    key = add_key(keys, "crm")
    until(lambda: client.get("/model").status_code == 401)
    for method, path in (
        *(("POST", path) for path in ("/predict", "/predict/batch", "/outcomes")),
        *(("GET", path) for path in ("/predict/1", "/model", "/metrics", "/openapi.json")),
        *(("GET", path) for path in ("/nothing", "/docs/", "/health/../model")),
        ("DELETE", "/model"),
    ):
        refused = client.request(method, path, json=REQUEST if method == "POST" else None)
        assert (path, refused.status_code) == (path, 401)
        assert refused.json()["type"] == "/docs#unauthorized"
        assert refused.headers["www-authenticate"] == "Bearer"
    for path in ("/health", "/ready", "/docs"):
        assert client.get(path).status_code == 200
    assert client.post("/predict", json=REQUEST, headers=bearer(key)).status_code == 200
    assert client.get("/nothing", headers=bearer(key)).status_code == 404
    wrong = client.post("/predict", json=REQUEST, headers=bearer(key[:-1]))
    assert (wrong.status_code, key[:-1] in wrong.text) == (401, False)


def test_a_revoked_key_is_refused_within_seconds(client, keys):
    key = add_key(keys, "crm")
    until(lambda: client.get("/model").status_code == 401)
    assert client.get("/model", headers=bearer(key)).status_code == 200
    revoke_key(keys, "crm")
    until(lambda: client.get("/model", headers=bearer(key)).status_code == 401)
    assert client.get("/model").status_code == 401


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("http://127.0.0.1", 200),
        ("http://[::1]", 200),
        ("http://192.0.2.7", 401),
        ("http://[2001:db8::7]", 401),
        ("http://localhost.example.com", 401),
    ],
)
def test_what_comes_from_elsewhere_needs_a_key_though_there_is_none(
    bundle_folder, tmp_path, address, status
):
    app = create_app(bundle=read_bundle(bundle_folder), spool=tmp_path / "spool")

    async def ask():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url=address) as client:
            return await client.get("/model")

    try:
        assert asyncio.run(ask()).status_code == status
    finally:
        app.state.service.log.close()


@pytest.mark.parametrize("given", ["7f3e-1", "a" * 100, "Root=1-67891233;abcdef".replace(";", "/")])
def test_a_request_s_own_id_is_returned(client, given):
    for path in ("/health", "/nothing"):
        found = client.get(path, headers={"x-request-id": given})
        assert found.headers["x-request-id"] == given


@pytest.mark.parametrize("given", [None, "", "a" * 101, 'a"b', "a b", "{}"])
def test_any_other_request_gets_one_of_its_own(client, given):
    headers = {} if given is None else {"x-request-id": given}
    found = {client.get("/health", headers=headers).headers["x-request-id"] for _ in range(3)}
    assert len(found) == 3
    assert all(re.fullmatch(r"[0-9a-f]{12}-\d+", one) for one in found)


@pytest.fixture
def logged(caplog):
    """What was logged of refused requests."""
    caplog.set_level(logging.INFO, logger="gristmill.requests")
    return lambda: [one for one in caplog.records if one.name == "gristmill.requests"]


def test_a_refused_request_is_logged_by_its_kind_without_its_values(client, logged, keys):
    key = add_key(keys, "crm")
    until(lambda: client.get("/model").status_code == 401)
    wrong = {"idx": 1, "features": REQUEST["features"] | {"attr_a": "secret"}}
    headers = bearer(key) | {"x-request-id": "mine"}
    assert "secret" in client.post("/predict", json=wrong, headers=headers).text
    client.get("/predict/secret", headers=bearer(key))
    until(lambda: logged()[-1].route == "/predict/{entity}")
    line = next(one for one in logged() if one.request_id == "mine")
    assert (line.status, line.problem, line.key) == (422, "invalid-feature", "crm")
    assert (line.method, line.route) == ("POST", "/predict")
    assert "secret" not in json.dumps([vars(one) for one in logged()], default=str)
    assert key not in json.dumps([vars(one) for one in logged()], default=str)


def test_a_flood_of_refusals_does_not_fill_the_log(client, logged):
    started = time.monotonic()
    for _ in range(10 * MOST_LOGGED):
        client.get("/nothing")
    seconds = int(time.monotonic() - started) + 2
    lines = [one for one in logged() if one.getMessage() == "refused"]
    assert 0 < len(lines) <= MOST_LOGGED * seconds


def test_an_answer_is_counted_and_a_refusal_too(client):
    client.post("/predict", json=REQUEST)
    client.post("/predict/batch", json={"rows": [REQUEST] * 5})
    client.post("/predict", json={})
    client.get("/nothing")
    found = {}
    answer = client.get("/metrics")
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found[(sample.name, *sorted(sample.labels.values()))] = sample.value
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert found["gristmill_requests_total", "/predict", "200"] == 1
    assert found["gristmill_requests_total", "/predict", "422"] == 1
    assert found["gristmill_requests_total", "/predict/batch", "200"] == 1
    assert found["gristmill_requests_total", "404", "other"] == 1
    assert found["gristmill_request_seconds_count", "/predict"] == 2
    assert found["gristmill_predictions_total",] == 6
    assert found["gristmill_log_waiting",] == 6
    assert found["gristmill_log_workers", "writing"] == 1
    assert found["gristmill_model_workers", "3"] == 1


def test_a_fault_is_told_without_what_is_inside(bundle_folder, served, tmp_path, logged):
    class Broken:
        def answer(self, features):
            raise ZeroDivisionError(f"secret {features}")

        def answers(self, rows):
            raise ZeroDivisionError(f"secret {rows}")

    app = create_app(bundle=read_bundle(bundle_folder), spool=tmp_path / "spool")
    service = app.state.service
    service.served = dataclasses.replace(service.served, predictor=Broken())
    with served(app) as client:
        answer = client.post("/predict", json=REQUEST, headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.json()["type"]) == (500, "/docs#internal-error")
    assert answer.headers["x-request-id"] == "mine"
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    (line,) = [one for one in logged() if one.request_id == "mine"]
    assert (line.status, line.reason) == (500, None)


def test_a_head_has_no_body(client):
    answer = httpx.head(f"{client.base_url}/health", trust_env=False)
    assert (answer.status_code, answer.content) == (200, b"")
