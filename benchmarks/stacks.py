"""How each server is started: ours, with and without its record, and what people use instead."""

import importlib.metadata
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import mlflow.pyfunc

from benchmarks.trained import Trained

ROOT = Path(__file__).parents[1]
SERVER_CORE, LOAD_CORE = 0, 1
UVICORN = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
BENTOML = "1.4.30"
STARTED_WITHIN = 300
"""Seconds: an environment may have to be downloaded first."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A server with the model."""

    name: str
    command: list[str]
    """`{port}` in it, and in the environment, is the port that it shall listen on."""
    environment: dict[str, str] = field(default_factory=dict)
    path: str = "/predict"
    body: Callable[[int, dict], bytes]
    """The request for an entity's features."""
    probability: Callable[[dict], float] | None
    """What is answered; None where that is nothing."""
    record: bool = False
    """Whether it ships a record that has to be waited for."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A stack that answers."""

    stack: Stack
    address: str
    log: Path
    process: int
    """The first of its processes."""

    @property
    def url(self) -> str:
        return self.address + self.stack.path

    def processor_seconds(self) -> float:
        """What all its processes have used of the processor, so far."""
        ticks, children = {}, defaultdict(list)
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it ended just now
                # proc(5): what follows the name in brackets begins with field 3, the state.
                fields = stat.read_text().rpartition(")")[2].split()
                children[int(fields[1])].append(int(stat.parent.name))
                ticks[int(stat.parent.name)] = int(fields[11]) + int(fields[12])
        found, used = [self.process], 0
        while found:
            process = found.pop()
            used += ticks.get(process, 0)
            found += children[process]
        return used / os.sysconf("SC_CLK_TCK")

    def ask(self, body: bytes) -> dict:
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            told = f"{self.log.read_text(errors='replace')[-2000:]}\n{error}: {error.read()!r}"
            raise SystemExit(
                f"{self.stack.name} answers {body!r} with an error:\n{told}"
            ) from error


def stacks(trained: Trained) -> list[Stack]:
    """All of them; ours first, then the one that is the measure."""
    python = [sys.executable, "-m"]
    ours = ["--project", str(trained.folder), "serve", "--port", "{port}"]
    model = {
        "BENCHMARK_MODEL": str(trained.model),
        "BENCHMARK_DATABASE": trained.context.warehouse.url,
    }
    plain = {"body": _as_json, "probability": lambda answer: answer["probability"]}
    return [
        Stack(
            name="ours, durable log, shipped to PostgreSQL",
            command=[*python, "gristmill", *ours],
            record=True,
            **plain,
        ),
        Stack(
            name="ours, durable log, no database",
            command=[*python, "gristmill.serving"],
            environment={"GRISTMILL_BUNDLE": str(trained.bundle), "GRISTMILL_PORT": "{port}",
                         "GRISTMILL_HOME": str(trained.folder / "without-database")},
            **plain,
        ),
        Stack(
            name="ours, no log",
            command=[*python, "benchmarks.servers.unlogged", *ours],
            **plain,
        ),
        Stack(
            name="Flask + gunicorn, scikit-learn, INSERT and commit",
            command=[*python, "gunicorn", "--workers", "1", "--bind", "127.0.0.1:{port}",
                     "--log-level", "error", "benchmarks.servers.flask_app:app"],
            environment=model,
            **plain,
        ),
        Stack(
            name="FastAPI + uvicorn, scikit-learn",
            command=[*python, "uvicorn", "benchmarks.servers.fastapi_app:app", *UVICORN,
                     "--port", "{port}"],
            environment=model,
            **plain,
        ),
        _mlflow(trained),
        Stack(
            name=f"BentoML {BENTOML}, scikit-learn",
            command=[*_environment(f"bentoml=={BENTOML}"), "bentoml", "serve",
                     "benchmarks.servers.bentoml_service:Predictions", "--port", "{port}"],
            environment={**model, "BENTOML_DO_NOT_TRACK": "True",
                         "BENTOML_HOME": str(trained.folder / "bentoml")},
            **plain,
        ),
        Stack(
            name="no-op on our server",
            command=[*python, "uvicorn", "benchmarks.servers.noop:app", *UVICORN,
                     "--port", "{port}"],
            body=_as_json,
            probability=None,
        ),
    ]  # fmt: skip


def _mlflow(trained: Trained) -> Stack:
    saved = trained.folder / "mlflow-model"
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    mlflow.pyfunc.save_model(
        path=saved,
        python_model=str(ROOT / "benchmarks" / "servers" / "mlflow_model.py"),
        artifacts={"model": str(trained.model)},
        pip_requirements=[],
    )

    def body(_: int, features: dict) -> bytes:
        columns = {"columns": list(features), "data": [list(features.values())]}
        return json.dumps({"dataframe_split": columns}).encode()

    return Stack(
        name=f"mlflow models serve {importlib.metadata.version('mlflow')}, scikit-learn",
        command=[sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(saved),
                 "--env-manager", "local", "--workers", "1", "--port", "{port}"],
        path="/invocations",
        body=body,
        probability=lambda answer: answer["predictions"][0],
    )  # fmt: skip


def _environment(*packages: str) -> list[str]:
    """The start of a command in an environment of its own, with our versions of the model's."""
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    same = [
        f"{name}=={importlib.metadata.version(name)}"
        for name in ("joblib", "numpy", "pandas", "scikit-learn", "scipy")
    ]
    wanted = [part for package in [*packages, *same] for part in ("--with", package)]
    return [uv, "run", "--quiet", "--isolated", "--no-project", "--python", sys.executable, *wanted]


def _as_json(entity: int, features: dict) -> bytes:
    return json.dumps({"idx": entity, "features": features}).encode()


@contextmanager
def started(stack: Stack, logs: Path) -> Iterator[Running]:
    """The stack, answering on a core of its own."""
    port = _free_port()
    command = [word.replace("{port}", str(port)) for word in stack.command]
    told = {name: value.replace("{port}", str(port)) for name, value in stack.environment.items()}
    log = logs / f"{stack.name.split(',')[0]}-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "-c", str(SERVER_CORE), *command],
            cwd=logs,
            env={**_surroundings(), **told},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        running = Running(
            stack=stack, address=f"http://127.0.0.1:{port}", log=log, process=process.pid
        )
        _wait_until_listening(running, process)
        yield running
    finally:
        _stop(process)


def _stop(process: subprocess.Popen) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _surroundings() -> dict[str, str]:
    """The environment without settings for another project, with this Python's programs first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GRISTMILL_")}
    programs = str(Path(sys.executable).parent)
    return {
        **kept,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}",
    }


def _wait_until_listening(running: Running, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + STARTED_WITHIN
    while True:
        try:
            urllib.request.urlopen(running.address, timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                told = running.log.read_text(errors="replace")[-2000:]
                raise SystemExit(f"{running.stack.name} did not come up:\n{told}") from None
            time.sleep(0.1)
        else:
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
