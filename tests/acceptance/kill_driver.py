"""A warm interpreter that forks a process for each step to be killed; tells how each ended.

The step itself is the product's own. What is added, in the child alone, counts each exchange with
the server and kills, before the one that was asked for, this process or the server.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pandas  # noqa: F401  (or pyarrow imports it in each child anew)
import psycopg

from gristmill.bucket.bucket import open_bucket
from gristmill.errors import GristmillError
from gristmill.flow import steps
from gristmill.flow.context import Context, Home
from gristmill.flow.report import Silence
from gristmill.project.read import read_project
from gristmill.warehouse.connection import Warehouse
from gristmill.warehouse.roles import AppliedUsers


def main() -> None:
    """Answer each line of the input by the child's process id, and by how it ended."""
    for line in sys.stdin:
        request = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            try:
                os.write(writing, json.dumps(work(request)).encode())
            finally:
                os._exit(0)
        os.close(writing)
        tell({"pid": child})
        with os.fdopen(reading) as said:
            result = said.read()
        _, status = os.waitpid(child, 0)
        tell(json.loads(result or "{}") | {"killed": os.WIFSIGNALED(status)})


def tell(answer: dict[str, object]) -> None:
    """Write one line."""
    print(json.dumps(answer), flush=True)


def work(request: dict) -> dict[str, object]:
    """Run the step; how many exchanges it took, how long, and what error of ours ended it."""
    count = 0
    exchange = psycopg.Connection.wait

    def counted(self, *arguments, **options):
        nonlocal count
        count += 1
        if count == request["point"]:
            strike(request["victim"], request["postmaster"])
        return exchange(self, *arguments, **options)

    psycopg.Connection.wait = counted
    context = opened(request)
    started = time.monotonic()
    error = ""
    try:
        getattr(steps, request["step"])(context, Silence(), request["names"])
    except GristmillError as raised:
        error = f"{type(raised).__name__}: {raised}"
    return {"points": count, "seconds": time.monotonic() - started, "error": error}


def opened(request: dict) -> Context:
    """The project, with nothing asked of the server yet."""
    project = read_project(Path(request["project"]))
    return Context(
        project=project,
        warehouse=Warehouse(url=request["url"]),
        bucket=open_bucket(project.source, root=project.root),
        home=Home(path=Path(request["home"])),
        users=AppliedUsers(created=(), without_password=(), undeclared=()),
    )


def strike(victim: str, postmaster: int) -> None:
    """Kill this process; or the server with all its processes, at once as a power cut would."""
    if victim == "step":
        os.kill(os.getpid(), signal.SIGKILL)
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    for pid in [postmaster, *map(int, children)]:
        os.kill(pid, signal.SIGKILL)
    while any(Path(f"/proc/{pid}/cwd").exists() for pid in [postmaster, *children]):
        time.sleep(0.001)


if __name__ == "__main__":
    main()
