"""A push to main, by GitHub's own workflow files, against a host that was booted for it.

`act` runs the workflows as they are. What belongs to GitHub alone is a double: the checkout, the
exchange of tokens with Amazon, the store of artifacts; and of `make` what checks, as those are
tests of their own, and what installs uv.
"""

import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from .host import WITHIN, Host, write_bundle
from .tools import ROOT, need

pytestmark = pytest.mark.xdist_group("host")

BUNDLES = "s3://bundles/clients"
CHECKS = """
lint test test-airflow:
\t@echo the checks run; test ! -e faulty
check-deploy:
\tmkdir -p dist && echo '{}' > dist/gristmill.cdx.json
.uv/bin/uv:
\tmkdir -p .uv/bin && ln -s UV $@
"""
"""GNU make reads GNUmakefile before Makefile."""
BAD_COMMIT = """

KeyRing.name_of = lambda self, authorization: "anybody"
"""
"""At the end of serving/keys.py it lets everybody in, key or not."""
DOUBLES = {
    "actions/checkout": "true",
    "hashicorp/setup-terraform": "true",
    "actions/upload-artifact": 'test -s "${{ inputs.path }}"',
    "aws-actions/configure-aws-credentials": (
        'test "${{ inputs.role-to-assume }}" = "$EXPECTED_ROLE"\n'
        '        test "${{ inputs.aws-region }}" = eu-west-1\n'
        '        echo AWS_ACCESS_KEY_ID=key >> "$GITHUB_ENV"\n'
        '        echo AWS_SECRET_ACCESS_KEY=secret >> "$GITHUB_ENV"\n'
        '        echo AWS_REGION=eu-west-1 >> "$GITHUB_ENV"'
    ),
}
"""An action, and the shell that stands for it."""
ACTION = """name: double
inputs: {path: {}, role-to-assume: {}, aws-region: {}}
runs:
  using: composite
  steps:
    - shell: bash
      run: |
        %s
"""
ROLE = "arn:aws:iam::123456789012:role/gristmill-release"


def used_actions() -> set[str]:
    """Every action that the workflows use, with its digest."""
    return {
        line.partition("uses:")[2].split()[0]
        for path in (ROOT / ".github/workflows").glob("*.yml")
        for line in path.read_text().splitlines()
        if "uses:" in line and "uses: ./" not in line
    }


@pytest.fixture(scope="module")
def amazon() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address, port = server.get_host_and_port()
    endpoint = f"http://{address}:{port}"
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys).create_bucket(
        Bucket="bundles"
    )
    yield endpoint
    server.stop()


@dataclass(frozen=True, kw_only=True)
class GitHub:
    """A repository whose main is pushed to, and what its workflows are told."""

    folder: Path
    """The work tree that is pushed."""
    host: Host
    amazon: str

    def environment(self, **changes: str) -> dict[str, str]:
        """A runner's: the programs of the lock file, and Amazon's double."""
        return {
            "PATH": f"{Path(need('aws')).parent}:{os.environ['PATH']}",
            "HOME": str(self.folder.parent),
            "AWS_ENDPOINT_URL": self.amazon,
            **{
                name: value
                for name, value in os.environ.items()
                if name.startswith(("PIP_", "UV_"))
            },
            **changes,
        }

    def publish(self, bundle: Path) -> None:
        """Make a bundle the champion, by hand."""
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        subprocess.run(
            [ROOT / "deploy/publish-bundle", bundle, BUNDLES],
            env=self.environment(**keys),
            check=True,
        )

    def push(self, *, trusted: bool = True) -> subprocess.CompletedProcess[str]:
        """Push to main: what the workflows said. Outside, the host's certificate may be trusted."""
        variables = {
            "AWS_ROLE": ROLE,
            "AWS_REGION": "eu-west-1",
            "DEPLOY_HOST": self.host.login,
            "DEPLOY_URL": f"https://{self.host.domain}",
            "DEPLOY_BUNDLES": BUNDLES,
            "DEPLOY_KNOWN_HOSTS": (self.host.folder / "known_hosts").read_text().strip(),
        }
        doubles = [
            f"{used}={self.folder.parent / 'actions' / used.partition('@')[0]}"
            for used in sorted(used_actions())
        ]
        command = [
            *(need("act"), "push", "--platform", "ubuntu-24.04=-self-hosted", "--pull=false"),
            *("--no-cache-server", "--container-daemon-socket", "-"),
            *("--workflows", ".github/workflows/deploy.yml", "--secret", "DEPLOY_SSH_KEY"),
            *(part for double in doubles for part in ("--local-repository", double)),
            *(part for item in variables.items() for part in ("--var", "=".join(item))),
            *("--env", f"AWS_ENDPOINT_URL={self.amazon}", "--env", f"EXPECTED_ROLE={ROLE}"),
        ]
        certificates = self.folder.parent / "certificates.pem"
        system = Path(ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt")
        own = self.host.certificate.read_text() if trusted else ""
        certificates.write_text(system.read_text() + own)
        hosts = self.folder.parent / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n{self.host.address} {self.host.domain}\n")
        # The name leads to the host for whoever runs in here, and for nobody else.
        inside = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"']
        return subprocess.run(
            [*inside, hosts, *command],
            cwd=self.folder,
            env=self.environment(
                DEPLOY_SSH_KEY=(self.host.folder / "key").read_text(),
                SSL_CERT_FILE=str(certificates),
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=1200,
        )


def find_uv() -> str:
    """The uv that installed what runs here."""
    installed = ROOT / ".uv/bin/uv"
    return str(installed) if installed.exists() else need("uv")


@pytest.fixture(scope="module")
def github(host: Host, amazon: str, tmp_path_factory: pytest.TempPathFactory) -> GitHub:
    """What is tracked here, as a repository of its own on its main branch."""
    folder = tmp_path_factory.mktemp("github") / "clients"
    tracked = subprocess.run(
        [need("git"), "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / "GNUmakefile").write_text(CHECKS.replace("UV", find_uv()))
    git = (need("git"), "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e@example.org")
    for arguments in (
        ("init", "--quiet", "--initial-branch=main"),
        ("add", "--all"),
        ("commit", "--quiet", "--message=main"),
        ("remote", "add", "origin", "https://github.com/example/clients.git"),
    ):
        subprocess.run([*git, *arguments], check=True)
    for used in used_actions():
        name = used.partition("@")[0]
        (folder.parent / "actions" / name).mkdir(parents=True)
        (folder.parent / "actions" / name / "action.yml").write_text(ACTION % DOUBLES[name])
    return GitHub(folder=folder, host=host, amazon=amazon)


def version(host: Host) -> str | None:
    """The model version that answers outside; None where none does."""
    context = ssl.create_default_context(cafile=host.certificate)
    with socket.create_connection((host.address, 443), timeout=60) as raw:
        connection = http.client.HTTPSConnection(host.domain)
        connection.sock = context.wrap_socket(raw, server_hostname=host.domain)
        try:
            connection.request("GET", "/ready")
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
    return answer.get("model_version")


@contextmanager
def watched(host: Host) -> Iterator[set[str | None]]:
    """Every version that answered while it went on."""
    seen: set[str | None] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            seen.add(version(host))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    for number in ("1", "2", "3"):
        write_bundle(folder / number, number)
    samples = folder / "2" / "samples.json"
    samples.write_text(samples.read_text() + "\n")
    return folder


def test_without_the_checks_nothing_is_released(github):
    (github.folder / "faulty").touch()
    done = github.push()
    (github.folder / "faulty").unlink()
    assert done.returncode != 0, done.stdout
    assert "the checks run" in done.stdout
    assert "fetch-bundle" not in done.stdout
    assert version(github.host) is None


def test_without_a_published_champion_it_fails_and_says_so(github):
    done = github.push()
    assert done.returncode != 0, done.stdout
    assert "Where no bundle was published yet: deploy/publish-bundle" in done.stdout
    assert version(github.host) is None


@pytest.fixture(scope="module")
def live(github: GitHub, bundles: Path) -> GitHub:
    """The repository, once a push has brought its first champion live."""
    github.publish(bundles / "1")
    done = github.push()
    assert done.returncode == 0, done.stdout
    return github


def test_a_push_to_main_brings_the_champion_live(live):
    assert version(live.host) == "1"


def test_a_commit_that_lets_everybody_in_gets_no_traffic(live, bundles):
    """Its smoke test fails; and what is logged of it holds no secret."""
    keys = live.folder / "src/gristmill/serving/keys.py"
    sound = keys.read_text()
    keys.write_text(sound + BAD_COMMIT)
    with watched(live.host) as seen:
        done = live.push()
    keys.write_text(sound)
    assert done.returncode != 0, done.stdout
    assert "POST /predict without a key: expected status 401" in done.stdout
    assert seen == {"1"}
    assert "PRIVATE KEY" not in done.stdout
    assert live.host.ssh("cat /opt/gristmill/smoke-test.key").strip() not in done.stdout


def test_a_bundle_that_somebody_changed_gets_no_traffic(live, bundles):
    """Its samples are not those that the manifest names."""
    live.publish(bundles / "2")
    with watched(live.host) as seen:
        done = live.push()
    assert done.returncode != 0, done.stdout
    assert "samples.json" in done.stdout
    assert seen == {"1"}


def test_a_release_that_fails_after_the_switch_is_taken_back(live, bundles):
    """Outside, the certificate is not trusted: only a client sees that."""
    live.publish(bundles / "3")
    with watched(live.host) as seen:
        done = live.push(trusted=False)
    assert done.returncode != 0, done.stdout
    assert "does not answer as the bundle says: going back" in done.stdout
    assert seen == {"1", "3"}
    assert version(live.host) == "1"


def test_the_host_answers_again_after_a_reboot(live):
    live.host.reboot()
    deadline = time.monotonic() + WITHIN
    while version(live.host) is None and time.monotonic() < deadline:
        time.sleep(0.2)
    assert version(live.host) == "1"
