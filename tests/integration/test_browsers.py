"""What a web page may have a browser ask of a service on the same machine that asks for no key."""

import json
import socket

import pytest

from gristmill.serving.entry import build
from gristmill.serving.keys import add_key
from gristmill.serving.server import Deployment

REQUEST = {"idx": 1, "features": {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "scd_b": 3}}


@pytest.fixture(scope="module")
def client(example_model, served, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browsers")
    example_model.write(folder / "3")
    with served(build(Deployment(bundle=folder / "3", spool=folder / "spool"))) as client:
        yield client


def ask(client, method="POST", path="/predict", **headers):
    content = {"json": REQUEST} if method == "POST" else {}
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.request(method, path, headers=headers, **content)


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8000", "LOCALHOST", "localhost.", "127.0.0.1", "127.0.0.1:1",
     "127.8.9.1", "[::1]", "[::1]:8000"],
)  # fmt: skip
def test_this_machine_by_any_of_its_own_names(client, host):
    assert ask(client, host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example",
     "evil.example@localhost:1.evil.example", "0.0.0.0:8000", "10.0.0.1", "[::2]", "[::1", "",
     "localhost:x:y.example", "127.1.evil", "\u00e9"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/predict"), ("GET", "/model"), ("GET", "/ready"), ("GET", "/")]
)
def test_a_name_that_was_made_to_lead_here(client, host, method, path):
    response = ask(client, method, path, host=host.encode())
    assert (response.status_code, response.json()["type"]) == (421, "/docs#misdirected")


def test_two_hosts_are_both_looked_at(client):
    body = json.dumps(REQUEST).encode()
    address = (client.base_url.host, client.base_url.port)
    with socket.create_connection(address, 60) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nconnection: close\r\n"
            b"host: localhost\r\nhost: evil.example\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 421 ")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "https://127.0.0.1.evil.example"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site"},
    ],
)
def test_a_page_of_another_site(client, headers):
    """An image of a page is a GET, and would leave a prediction on record."""
    for method, path in (("POST", "/predict"), ("GET", "/predict/1"), ("GET", "/model")):
        response = ask(client, method, path, **headers)
        assert (response.status_code, response.json()["type"]) == (403, "/docs#another-site")
    assert ask(client, "GET", "/docs", **headers).status_code == 200


@pytest.mark.parametrize("site", ["same-origin", "same-site", "none"])
def test_its_own_pages_and_an_address_that_was_typed(client, site):
    origin = str(client.base_url).rstrip("/")
    assert ask(client, origin=origin, sec_fetch_site=site).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_what_a_page_can_post_without_leave_is_no_json(client, kind):
    before = client.get("/ready").json()["waiting"]
    response = client.post("/predict", content=json.dumps(REQUEST), headers={"content-type": kind})
    assert response.status_code == 415
    leave = client.options("/predict", headers={"access-control-request-method": "POST"})
    assert leave.status_code == 405
    assert not [name for name in leave.headers if name.startswith("access-control")]
    assert client.get("/ready").json()["waiting"] == before


def test_with_a_key_every_name_is_answered(example_model, served, tmp_path):
    """As a proxy passes it on."""
    example_model.write(tmp_path / "3")
    key = add_key(tmp_path / "keys.json", "proxy")
    deployment = Deployment(
        bundle=tmp_path / "3", spool=tmp_path / "spool", keys=tmp_path / "keys.json"
    )
    with served(build(deployment)) as client:
        for headers in ({"host": "api.example"}, {"origin": "https://api.example"}):
            assert ask(client, authorization=f"Bearer {key}", **headers).status_code == 200
            assert ask(client, **headers).status_code == 401
            assert ask(client, "GET", "/ready", **headers).status_code == 200
