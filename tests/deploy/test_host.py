"""A prepared host: hardened, shut where it should be, and answering again after whatever befell."""

import http.client
import json
import re
import socket
import ssl
import time
import warnings

import pytest

from .host import WITHIN, prepare, write_bundle

pytestmark = pytest.mark.xdist_group("host")

ASKED = {"idx": 7, "features": {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "scd_b": 3}}
OPEN_PORTS = {22, 80, 443}


def ask(host, method, path, body=None, *, headers=None):
    """One answer through nginx: status, headers, body."""
    context = ssl.create_default_context(cafile=host.certificate)
    context.set_alpn_protocols(["http/1.1"])
    raw = socket.create_connection((host.address, 443), timeout=60)
    connection = http.client.HTTPSConnection(host.domain, timeout=60)
    connection.sock = context.wrap_socket(raw, server_hostname=host.domain)
    try:
        sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sending = {"content-type": "application/json", **(headers or {})}
        connection.request(method, path, sent, sending)
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    return answer.status, answer.headers, json.loads(content) if content else None


def until_it_answers(host, key):
    """What it answers, once it does."""
    deadline = time.monotonic() + WITHIN
    while True:
        try:
            status, _, answer = ask(
                host, "POST", "/predict", ASKED, headers={"authorization": f"Bearer {key}"}
            )
        except OSError:
            status, answer = 0, None
        if status == 200:
            return answer
        assert status in {0, 503}, answer
        assert time.monotonic() < deadline, "it does not answer again"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def released(host, tmp_path_factory):
    """The host with a first release, and a key for its API."""
    deadline = time.monotonic() + WITHIN
    while host.root("cat /proc/net/tcp").count(":01BB 00000000:0000 0A") == 0:
        assert time.monotonic() < deadline, "nginx has not taken its configuration up"
        time.sleep(0.2)
    before = ask(host, "GET", "/ready")
    bundle = write_bundle(tmp_path_factory.mktemp("bundles") / "1", "1")
    done = host.release(bundle)
    assert done.returncode == 0, done.stdout
    return host, host.key("crm"), before


def test_before_the_first_release_it_says_that_nothing_answers(released):
    _, _, (status, headers, answer) = released
    assert status == 503
    assert headers.get_content_type() == "application/problem+json"
    assert answer["title"] == "The API does not answer just now"


def test_preparing_again_changes_nothing_of_ours(released):
    host, key, _ = released
    host.root("echo WORKERS=3 >> /etc/gristmill/gristmill.env")
    kept = "md5sum /etc/gristmill/gristmill.env /etc/gristmill/tls/* ~deploy/.ssh/authorized_keys"
    before = host.root(kept)
    prepare(host)
    assert host.root(kept) == before
    assert ask(host, "GET", "/model", headers={"authorization": f"Bearer {key}"})[0] == 200


def test_the_units_are_sound_and_hardened(released):
    host, _, _ = released
    units = "gristmill-api@blue.service gristmill-api@green.service gristmill-live.service"
    assert host.root(f"systemd-analyze verify {units} 2>&1") == ""
    shown = host.root("systemd-analyze security gristmill-api@blue.service --no-pager")
    exposure = float(re.search(r"Overall exposure level .*: ([0-9.]+)", shown)[1])
    assert exposure < 2.5
    assert "successful" in host.root("nginx -t 2>&1")
    assert host.root("stat --format=%a:%U /etc/gristmill/gristmill.env").strip() == "600:root"
    assert host.root("systemctl --failed --no-legend") == ""


def test_only_three_ports_are_open(released):
    host, _, _ = released
    table = host.root("cat /proc/net/tcp /proc/net/tcp6")
    listening = re.findall(r": [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:0000 0A ", table)
    assert {int(port, 16) for port in listening} == OPEN_PORTS


@pytest.mark.parametrize(
    "command",
    [
        "cat /etc/gristmill/gristmill.env",
        "cat /etc/gristmill/tls/privkey.pem",
        "sudo -n cat /etc/shadow",
        "sudo -n systemctl stop nginx.service",
        "sudo -n systemctl start gristmill-api@other.service",
    ],
)
def test_who_releases_may_not(released, command):
    host, _, _ = released
    assert host.ssh(f"{command} >/dev/null 2>&1 || echo refused").strip() == "refused"


def test_what_answers_may_not_change_itself(released):
    host, _, _ = released
    pid = host.root(
        f"systemctl show -P MainPID gristmill-api@{host.live()['slot']}.service"
    ).strip()
    status = host.root(f"cat /proc/{pid}/status")
    assert re.search(r"CapEff:\s+0000000000000000\n", status)
    assert re.search(r"NoNewPrivs:\s+1\n", status)
    assert re.search(r"Seccomp:\s+2\n", status)
    inside = f"nsenter --mount --target {pid} touch"
    for path in ("/opt/gristmill/releases/1/code/x", "/etc/x", "/home/x"):
        assert host.root(f"{inside} {path} 2>/dev/null || echo refused").strip() == "refused"


def test_http_leads_to_https(released):
    host, _, _ = released
    connection = http.client.HTTPConnection(host.address, 80, timeout=60)
    connection.request("GET", "/predict/7?x=1", headers={"host": host.domain})
    answer = connection.getresponse()
    assert answer.status == 308
    assert answer.headers["location"] == f"https://{host.domain}/predict/7?x=1"
    connection.close()


def test_tls_is_modern_and_for_this_name_only(released):
    host, _, _ = released
    spoken = {}
    for version in (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        spoken[version.name] = _handshake(host, host.domain, version)
    assert spoken == {"TLSv1_1": None, "TLSv1_2": "h2", "TLSv1_3": "h2"}
    assert _handshake(host, "other.example.org", ssl.TLSVersion.TLSv1_3) is None


def _handshake(host, name, version):
    """The protocol that is agreed on; None where there is no agreement."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that it is old is the point
        context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection((host.address, 443), timeout=60) as raw:
        try:
            with context.wrap_socket(raw, server_hostname=name) as wrapped:
                return wrapped.selected_alpn_protocol()
        except (ssl.SSLError, ConnectionResetError):
            return None


def test_every_answer_has_the_headers_that_protect(released):
    host, key, _ = released
    for path, expected in (("/model", 200), ("/nothing", 404)):
        status, headers, _ = ask(host, "GET", path, headers={"authorization": f"Bearer {key}"})
        assert status == expected
        assert headers["strict-transport-security"] == "max-age=31536000"
        assert headers.get_all("x-content-type-options") == ["nosniff"]
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["server"] == "nginx"
        assert re.fullmatch("[0-9a-f]{32}", headers["x-request-id"])


def test_what_the_api_refuses_arrives_as_it_is(released):
    host, key, _ = released
    opened = {"authorization": f"Bearer {key}"}
    status, headers, problem = ask(host, "POST", "/predict", ASKED)
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert problem["type"] == "/docs#unauthorized"
    wrong = {"idx": 7, "features": {**ASKED["features"], "attr_a": "x"}}
    status, _, problem = ask(host, "POST", "/predict", wrong, headers=opened)
    assert (status, problem["field"]) == (422, "attr_a")
    too_much = b"[" + b" " * (9 << 20) + b"]"
    status, headers, problem = ask(host, "POST", "/predict/batch", too_much, headers=opened)
    assert (status, headers.get_content_type()) == (413, "application/problem+json")
    assert problem["status"] == 413


def test_the_log_is_in_the_journal_and_holds_no_entity(released):
    host, key, _ = released
    opened = {"authorization": f"Bearer {key}"}
    status, headers, _ = ask(host, "GET", "/predict/4711471147", headers=opened)
    assert status == 501  # there is no feature store behind it
    request = headers["x-request-id"]
    logged = host.root(f"journalctl --no-pager --output=cat --grep={request}")
    assert len(re.findall(request, logged)) == 2  # by nginx and by the API
    assert "4711471147" not in host.root("journalctl --no-pager")


def test_it_answers_again_after_a_crash_a_reboot_and_a_power_cut(released):
    host, key, _ = released
    unit = f"gristmill-api@{host.live()['slot']}.service"
    for _ in range(6):  # more often than systemd would allow a unit by default
        host.root(f"systemctl kill --kill-whom=main --signal=KILL {unit}")
        until_it_answers(host, key)
    host.reboot()
    until_it_answers(host, key)
    host.cut_power()
    host.boot()
    assert until_it_answers(host, key)["model_version"] == "1"
    other = {"blue": "green", "green": "blue"}[host.live()["slot"]]
    state = host.root(f"systemctl is-active gristmill-api@{other}.service", check=False)
    assert state.strip() == "inactive"


@pytest.mark.parametrize(
    "arguments", ["", "localhost", "'a.b; c.d'", "api.example.org 'no key'", "a.example b c"]
)
def test_preparing_by_a_wrong_name_changes_nothing(released, arguments):
    host, _, _ = released
    said = host.root(f"host/prepare-host {arguments} 2>&1 || echo exit $?")
    assert re.search("usage: |PUBLIC_KEY is one line", said)
    assert said.splitlines()[-1] in {"exit 1", "exit 2"}
    assert host.root("cat /etc/gristmill/domain").strip() == host.domain
