"""A real Airflow on the clients project: embedded Postgres, a bucket behind S3's protocol."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from .installation import EXAMPLES, Installation

PATIENCE = 600.0
"""Seconds after which something that was waited for is not coming, on the slowest of machines."""
PASSWORD = "chosen for this test"
BUCKET = "customers"
NOTICED_EACH_MINUTE = """[workflows]
notice_changes = { steps = ["notice"], schedule = "* * * * *" }"""


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """What a condition gives once it is true of it; fails where that does not come."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.5)
    raise AssertionError(f"{what} did not come within {seconds:.0f} s")


def _name(task: dict[str, Any]) -> str:
    index = task["map_index"]
    return f"{task['task_id']}[{index}]" if index >= 0 else task["task_id"]


@dataclass(kw_only=True)
class Stack:
    """A project, its bucket and its Airflow."""

    installation: Installation
    endpoint: str
    """Where the bucket is served."""
    output: Path
    """What `gristmill airflow` printed."""
    port: int = field(default_factory=free_port)
    process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @cached_property
    def bucket(self) -> Any:
        """The bucket, for whoever changes it."""
        return boto3.resource(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
        ).Bucket(BUCKET)

    def put(self, folder: Path) -> None:
        """Put the files of a folder into the bucket."""
        for file in sorted(folder.rglob("*.csv")):
            self.bucket.put_object(Key=str(file.relative_to(folder)), Body=file.read_bytes())

    def start(self) -> None:
        """Start Airflow, and wait until it is ready."""
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                self.installation.command("airflow", "--port", str(self.port)),
                env=self.installation.variables,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until(self._is_ready, "Airflow")

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.output.read_text()
        return "Airflow is ready" in self.output.read_text()

    def stop(self) -> None:
        """Stop Airflow and the database."""
        self.__dict__.pop("client", httpx.Client()).close()
        self.bucket.meta.client.close()
        self.installation.run("down")
        if self.process:
            self.process.wait(timeout=PATIENCE)

    @cached_property
    def client(self) -> httpx.Client:
        """Logged in to Airflow's REST API."""
        client = httpx.Client(base_url=self.url, timeout=120)
        credentials = {"username": "airflow", "password": PASSWORD}
        token = client.post("/auth/token", json=credentials).json()["access_token"]
        client.headers["authorization"] = f"Bearer {token}"
        return client

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """What Airflow's REST API answers."""
        answer = self.client.request(method, f"/api/v2{path}", **more)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def runs(self, dag: str) -> list[dict[str, Any]]:
        """A DAG's runs, oldest first."""
        found = self.ask("GET", f"/dags/{dag}/dagRuns", params={"limit": 1000})["dag_runs"]
        return sorted(found, key=lambda run: run["queued_at"] or "")

    def tasks(self, dag: str, run: str) -> dict[str, dict[str, Any]]:
        """The tasks of a run, by name; of a mapped one with its index."""
        found = self.ask("GET", f"/dags/{dag}/dagRuns/{run}/taskInstances", params={"limit": 1000})
        return {
            f"{one['task_id']}[{one['map_index']}]"
            if one["map_index"] >= 0
            else one["task_id"]: one
            for one in found["task_instances"]
        }

    def log(self, dag: str, run: str, task: str, attempt: int = 1) -> str:
        """What a task said, as Airflow's pages show it."""
        path = f"/dags/{dag}/dagRuns/{run}/taskInstances/{task}/logs/{attempt}"
        lines = self.ask("GET", path, params={"full_content": True})["content"]
        return "\n".join(str(one.get("event", "")) for one in lines)

    def is_idle(self) -> bool:
        """Whether nothing runs and nothing waits to run, but for looking whether something should.

        A run of what was paused meanwhile would never end. What a run tells the next workflow is
        queued before it ends, and is a run before it leaves the queue: so runs are looked at twice.
        """
        return not (self._something_runs() or self._something_is_told() or self._something_runs())

    def _something_runs(self) -> bool:
        return any(
            run["dag_id"] != "notice_changes"
            for state in ("running", "queued")
            for run in self.ask("GET", "/dags/~/dagRuns", params={"state": state})["dag_runs"]
        )

    def _something_is_told(self) -> bool:
        return any(
            self.ask("GET", f"/dags/{dag['dag_id']}/assets/queuedEvents")["queued_events"]
            for dag in self.ask("GET", "/dags")["dags"]
        )

    def printed(self) -> str:
        """What the terminal shows so far."""
        return self.output.read_text(encoding="utf-8")


@contextmanager
def stack(
    *, months: int, customers: int = 3000, environment: dict[str, str] | None = None
) -> Iterator[Stack]:
    """The clients project with a sample in its bucket; its Airflow is not started yet."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    # Not under pytest's folder, which root closes to the user that root's server runs as.
    folder = Path(tempfile.mkdtemp(prefix="gristmill-airflow-", dir="/tmp"))
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    project = folder / "project"
    shutil.copytree(EXAMPLES / "clients", project)
    file = project / "gristmill.toml"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("[workflows]", NOTICED_EACH_MINUTE), encoding="utf-8")
    made = Stack(
        installation=Installation(
            project=file,
            home=folder / "home",
            environment={
                "GRISTMILL_SOURCE": f"s3://{BUCKET}",
                "GRISTMILL_AIRFLOW_PASSWORD": PASSWORD,
                "AWS_ENDPOINT_URL": f"http://{host}:{port}",
                "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_REGION": "us-east-1",
                "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "2",
                **(environment or {}),
            },
        ),
        endpoint=f"http://{host}:{port}",
        output=folder / "airflow.txt",
    )
    try:
        sample = folder / "sample"
        size = ("--customers", str(customers), "--months", str(months))
        made.installation.run("sample", str(sample), *size)
        made.bucket.create()
        made.put(sample)
        yield made
    finally:
        with suppress(AssertionError):
            made.stop()
        server.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def airflow_stack() -> Iterator[Stack]:
    """Airflow on the clients project with four months in the bucket, started and touched by nobody.

    One for all tests of a run, which go in the order of their files; those that start another
    come before.
    """
    with stack(months=4) as made:
        made.start()
        yield made
