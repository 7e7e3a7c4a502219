"""A certificate from a real ACME server: issued through nginx, served, and renewed by the timer."""

import contextlib
import json
import os
import socket
import ssl
import subprocess
import time
import urllib.request

import pytest

from .host import WITHIN
from .tools import need

pytestmark = pytest.mark.xdist_group("host")

AUTHORITY_NAME = "acme.gristmill.test"
VALID_SECONDS = 20 * 24 * 3600
"""Less than the month before its end when certbot renews."""


@pytest.fixture(scope="module")
def authority(host, tmp_path_factory):
    """An ACME server on this machine, which the host trusts; its directory's URL."""
    folder = tmp_path_factory.mktemp("pebble")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", f"/CN={AUTHORITY_NAME}", "-addext", f"subjectAltName=DNS:{AUTHORITY_NAME}"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    ports = {name: _free_port(host.gateway) for name in ("acme", "management", "dns", "double")}
    (folder / "pebble.json").write_text(
        json.dumps(
            {
                "pebble": {
                    "listenAddress": f"{host.gateway}:{ports['acme']}",
                    "managementListenAddress": f"{host.gateway}:{ports['management']}",
                    "certificate": str(certificate),
                    "privateKey": str(key),
                    "httpPort": 80,
                    "tlsPort": 443,
                    "certificateValidityPeriod": VALID_SECONDS,
                }
            }
        )
    )
    with contextlib.ExitStack() as running:
        _start(
            running,
            *(need("pebble-challtestsrv"), "-defaultIPv4", host.address, "-defaultIPv6", ""),
            *("-dns01", f"{host.gateway}:{ports['dns']}", "-http01", "", "-https01", ""),
            *("-tlsalpn01", "", "-management", f"{host.gateway}:{ports['double']}"),
        )
        _start(
            running,
            *(need("pebble"), "-config", folder / "pebble.json", "-strict"),
            *("-dnsserver", f"{host.gateway}:{ports['dns']}"),
        )
        host.root(f"echo {host.gateway} {AUTHORITY_NAME} >> /etc/hosts")
        trusted = "/usr/local/share/ca-certificates/acme.crt"
        host.root(f"cat > {trusted} <<'END'\n{certificate.read_text()}END\nupdate-ca-certificates")
        _wait_for(host.gateway, ports["acme"])
        yield f"https://{AUTHORITY_NAME}:{ports['acme']}/dir", _root_of(ports, host, certificate)


def _start(running, *command):
    process = subprocess.Popen(
        [str(part) for part in command],
        env={**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    running.callback(process.wait)
    running.callback(process.kill)


def _free_port(address):
    with socket.create_server((address, 0)) as listening:
        return listening.getsockname()[1]


def _wait_for(address, port):
    deadline = time.monotonic() + WITHIN
    while True:
        try:
            socket.create_connection((address, port), timeout=5).close()
        except OSError:
            assert time.monotonic() < deadline, "the ACME server does not come up"
            time.sleep(0.1)
        else:
            return


def _root_of(ports, host, certificate):
    """The certificate that the authority signs with in the end."""
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    url = f"https://{host.gateway}:{ports['management']}/roots/0"
    with urllib.request.urlopen(url, context=context, timeout=30) as answer:
        return answer.read().decode()


def _served(host, root):
    """What nginx shows, verified for the host's name by the authority's root."""
    context = ssl.create_default_context(cadata=root)
    with (
        socket.create_connection((host.address, 443), timeout=60) as raw,
        context.wrap_socket(raw, server_hostname=host.domain) as wrapped,
    ):
        return wrapped.getpeercert()


def test_it_is_issued_served_and_renewed(host, authority):
    directory, root = authority
    with pytest.raises(ssl.SSLCertVerificationError):
        _served(host, root)
    said = host.root(f"gristmill-certificate ops@example.org {directory} 2>&1")
    assert "Successfully received certificate" in said
    first = _until_served(host, root, None)
    assert ("DNS", host.domain) in first["subjectAltName"]
    assert ("commonName", "Pebble") in {
        (name, value.split()[0]) for entry in first["issuer"] for name, value in entry
    }

    # Debian's own timer does this, twice a day; what is due for renewal is renewed.
    assert host.root("systemctl is-enabled certbot.timer").strip() == "enabled"
    host.root("systemctl start certbot.service")
    second = _until_served(host, root, first["serialNumber"])
    assert second["serialNumber"] != first["serialNumber"]

    host.reboot()
    assert _served(host, root)["serialNumber"] == second["serialNumber"]
    rights = host.root("stat --format=%a:%U /etc/gristmill/tls/privkey.pem")
    assert rights.strip() == "600:root"


def _until_served(host, root, before):
    """The certificate that is served, once it is another than before."""
    deadline = time.monotonic() + WITHIN
    while True:
        with contextlib.suppress(ssl.SSLCertVerificationError):
            found = _served(host, root)
            if found["serialNumber"] != before:
                return found
        assert time.monotonic() < deadline, host.root("journalctl -u certbot --no-pager | tail")
        time.sleep(0.2)


@pytest.mark.parametrize("arguments", ["", "nobody", "a@example.org b c"])
def test_it_is_asked_for_rightly(host, arguments):
    said = host.root(f"gristmill-certificate {arguments} 2>&1 || echo exit $?")
    assert "usage: gristmill-certificate" in said
    assert said.splitlines()[-1] == "exit 2"
