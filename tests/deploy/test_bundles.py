"""The way of a bundle and of a key to a release: what is published, believed and refused."""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from .tools import ROOT, need

PLACE = "s3://published/clients"


@pytest.fixture
def s3() -> Iterator[tuple[str, object]]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address, port = server.get_host_and_port()
    endpoint = f"http://{address}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket="published")
    yield endpoint, client
    for item in client.list_objects_v2(Bucket="published").get("Contents", ()):
        client.delete_object(Bucket="published", Key=item["Key"])
    server.stop()


def run(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A script of deploy/, with the lock file's programs and nothing else of the environment."""
    return subprocess.run(
        [ROOT / "deploy" / script, *map(str, arguments)],
        env={"PATH": f"{Path(need('aws')).parent}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def amazon(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }


def published(s3, bundle: Path) -> str:
    """The digest that a bundle was published under."""
    endpoint, _ = s3
    done = run("publish-bundle", bundle, PLACE, **amazon(endpoint))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().rpartition("/")[2]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_last_one_published_is_fetched_to_the_byte_and_the_others_stay(
    s3, example_model, bundle_folder, tmp_path
):
    first = published(s3, bundle_folder)
    example_model.write(tmp_path / "4", manifest=example_model.manifest(version="4"))
    second = published(s3, tmp_path / "4")
    assert first != second
    run("fetch-bundle", PLACE, tmp_path / "fetched", **amazon(s3[0]))
    assert contents(tmp_path / "fetched") == contents(tmp_path / "4")
    listed = s3[1].list_objects_v2(Bucket="published", Prefix=f"clients/{first}/")
    assert listed["KeyCount"] == len(contents(bundle_folder))


def test_another_manifest_than_the_published_one_is_refused(s3, bundle_folder, tmp_path):
    digest = published(s3, bundle_folder)
    s3[1].put_object(Bucket="published", Key=f"clients/{digest}/manifest.json", Body=b"{}")
    done = run("fetch-bundle", PLACE, tmp_path / "fetched", **amazon(s3[0]))
    assert done.returncode == 1
    assert "somebody changed it" in done.stderr
    assert not any(path.name.startswith("fetched") for path in tmp_path.iterdir())


@pytest.mark.parametrize("line", ["../../elsewhere", f"{'0' * 64}\n{'1' * 64}"])
def test_a_champion_that_is_no_digest_is_refused(s3, tmp_path, line):
    s3[1].put_object(Bucket="published", Key="clients/champion", Body=line.encode())
    done = run("fetch-bundle", PLACE, tmp_path / "fetched", **amazon(s3[0]))
    assert done.returncode == 1
    assert "should hold a sha256 and nothing else" in done.stderr


def test_a_folder_that_is_no_bundle_is_not_published(s3, tmp_path):
    done = run("publish-bundle", tmp_path, PLACE, **amazon(s3[0]))
    assert done.returncode == 1
    assert "it has no manifest.json" in done.stderr
    assert "Contents" not in s3[1].list_objects_v2(Bucket="published")


# ssh


@pytest.fixture
def key(tmp_path: Path) -> str:
    command = [need("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "made"]
    subprocess.run(command, check=True)
    return (tmp_path / "made").read_text()


def settings(folder: Path, host: str) -> dict[str, str]:
    """What ssh itself makes of the configuration, for a host."""
    shown = subprocess.run(
        ["ssh", "-F", folder / "config", "-G", host], capture_output=True, text=True, check=True
    )
    return dict(line.partition(" ")[::2] for line in shown.stdout.splitlines())


def test_ssh_believes_the_named_host_alone_and_asks_nothing(tmp_path, key):
    folder = tmp_path / "ssh"
    known = "api.example.org ssh-ed25519 AAAA"
    done = run("ssh-access", folder, DEPLOY_SSH_KEY=key, DEPLOY_KNOWN_HOSTS=known)
    assert done.returncode == 0, done.stderr
    assert key not in done.stdout + done.stderr
    for file in folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = settings(folder, "deploy@api.example.org")
    assert found["stricthostkeychecking"] in {"yes", "true"}
    assert found["userknownhostsfile"] == str(folder / "known_hosts")
    assert found["identityfile"] == str(folder / "key")
    assert found["batchmode"] == "yes"
    assert found.get("proxycommand", "none") == "none"
    assert (folder / "known_hosts").read_text() == f"{known}\n"


def test_an_instance_is_reached_through_session_manager(tmp_path, key):
    run("ssh-access", tmp_path / "ssh", DEPLOY_SSH_KEY=key, DEPLOY_KNOWN_HOSTS="i-0 ssh-ed25519 A")
    proxy = settings(tmp_path / "ssh", "deploy@i-0123456789abcdef0")["proxycommand"]
    assert proxy.startswith("aws ssm start-session --target ")
    assert "--document-name AWS-StartSSHSession" in proxy


def test_what_is_no_private_key_is_refused(tmp_path):
    done = run("ssh-access", tmp_path / "ssh", DEPLOY_SSH_KEY="hunter2", DEPLOY_KNOWN_HOSTS="a b c")
    assert done.returncode == 1
    assert "no private key without a passphrase" in done.stderr
    assert "hunter2" not in done.stderr


CONSOLE = """[   12.3] cloud-init[512]: Cloud-init v. 22.4.2 finished
-----BEGIN SSH HOST KEY FINGERPRINTS-----
256 SHA256:0000000000000000000000000000000000000000000 root@ip-10-20-0-7 (ED25519)
-----END SSH HOST KEY FINGERPRINTS-----
-----BEGIN SSH HOST KEY KEYS-----
ecdsa-sha2-nistp256 AAAAE2VjZHNh= root@ip-10-20-0-7
ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMIyeIr5 root@ip-10-20-0-7
-----END SSH HOST KEY KEYS-----
"""


def test_the_hosts_key_is_the_one_that_it_showed_on_its_console(tmp_path):
    """The double of AWS knows no console: a program in the place of `aws` prints one."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (tmp_path / "console").write_text(CONSOLE)
    (programs / "aws").write_text(f'#!/bin/sh\necho "$@" >&2\ncat {tmp_path / "console"}\n')
    (programs / "aws").chmod(0o755)
    path = {"PATH": f"{programs}:/usr/bin:/bin"}
    script = ROOT / "deploy/terraform/host-key"
    command = [script, "i-0123456789abcdef0", "eu-west-1"]
    done = subprocess.run(command, env=path, capture_output=True, text=True, check=False)
    line = "i-0123456789abcdef0 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMIyeIr5\n"
    assert (done.returncode, done.stdout) == (0, line)
    assert "--instance-id i-0123456789abcdef0 --region eu-west-1" in done.stderr
    (tmp_path / "console").write_text("booting\n")
    done = subprocess.run(command, env=path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "has not shown its key yet" in done.stderr
