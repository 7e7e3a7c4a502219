"""`run`, step by step, for a fifth as many clients as there are rows of activity."""

import resource
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

from benchmarks import data
from gristmill.console.terminal import OUT, TerminalReport
from gristmill.flow import steps
from gristmill.flow.context import open_context
from gristmill.project.read import read_project

PROJECT = """
[project]
name = "benchmark"
source = "bucket"
[tables.profiles]
path = "profiles.csv"
key = ["idx"]
columns = { idx = "integer", attr_a = "integer", attr_b = "text" }
[tables.activity]
path = "activity.csv"
key = ["idx", "valid_from"]
valid = ["valid_from", "valid_to"]
[tables.activity.columns]
idx = "integer"
valid_from = "date"
valid_to = "date?"
scd_a = "number"
scd_b = "integer"
[tables.labels]
path = "labels.csv"
key = ["idx"]
columns = { idx = "integer", label = { type = "integer", in = [0, 1] } }
[features]
entity = "profiles.idx"
features = ["profiles.attr_a", "profiles.attr_b", "activity.scd_a", "activity.scd_b"]
label = "labels.label"
[model]
"""


def run(folder: Path, home: Path, rows: int, _: int) -> dict:
    _write(folder, rows)
    context = open_context(read_project(folder), home=home)
    started = time.monotonic()
    with TerminalReport(OUT) as report:
        steps.run(context, report)
        first = [{"step": name, "seconds": seconds} for name, seconds in report.seconds]
        total = time.monotonic() - started
        started = time.monotonic()
        steps.run(context, report)
    first.append({"step": "all of it", "seconds": total})
    first.append({"step": "a second time, nothing to do", "seconds": time.monotonic() - started})
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return {
        "what": f"{rows // data.PER_CLIENT:,} clients, {rows:,} rows of activity; "
        f"greatest client memory {memory:,} MB",
        "rows": first,
    }


def _write(folder: Path, rows: int) -> None:
    (folder / "gristmill.toml").write_text(PROJECT)
    bucket = folder / "bucket"
    bucket.mkdir()
    data.write_activity(bucket / "activity.csv", rows)
    clients = rows // data.PER_CLIENT
    random = np.random.default_rng(11)
    category = random.integers(0, 5, clients)
    signal = category * 0.4 - 0.8 + random.logistic(size=clients)
    idx = np.arange(clients)
    for name, columns in {
        "profiles": {
            "idx": idx,
            "attr_a": random.integers(0, 9, clients),
            "attr_b": np.array(list("abcde"))[category],
        },
        "labels": {"idx": idx, "label": (signal > 0).astype(int)},
    }.items():
        arrow_csv.write_csv(pa.table(columns), bucket / f"{name}.csv", data.UNQUOTED)
