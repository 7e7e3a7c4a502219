"""`python -m benchmarks [NAME…]`: side by side with what people use instead, and with the limit."""

import argparse
import json
import os
import platform
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import (
    accuracy,
    airflow,
    batches,
    loading,
    months,
    parity,
    serving,
    serving_keyed,
    verdict,
    whole_run,
)
from gristmill.warehouse import embedded

BENCHMARKS = {
    "load": loading.clean,
    "dirty": loading.dirty,
    "airflow": airflow.backfill,
    "month": months.one_changed,
    "view": months.through_the_view,
    "run": whole_run.run,
    "serving": serving.answers,
    "keyed": serving_keyed.answers,
    "batch": batches.rows_a_second,
    "verdict": verdict.run,
    "accuracy": accuracy.run,
    "parity": parity.run,
}
TIMED = {"batch", "keyed", "serving"}
"""They go on for some seconds, where the others have a number of rows."""
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}; all if none")
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows of customer activity")
    parser.add_argument("--rounds", type=int, default=3, help="each way that often; medians count")
    parser.add_argument("--seconds", type=int, default=5, help="how long a server is measured")
    chosen = parser.parse_args()
    for name in chosen.names or BENCHMARKS:
        # /var/tmp: a disk, where /tmp may be memory; passable, so that root's server user gets in.
        with tempfile.TemporaryDirectory(prefix="gristmill-benchmark-", dir="/var/tmp") as folder:
            Path(folder).chmod(0o711)
            home = Path(folder) / ".gristmill"
            size = chosen.seconds if name in TIMED else chosen.rows
            try:
                measured = BENCHMARKS[name](Path(folder), home, size, chosen.rounds)
            finally:
                embedded.stop(home)
        print(f"\n{name}: {measured['what']}\n")
        _print_table(measured["rows"])
        _keep(name, measured)


def _print_table(rows: list[dict]) -> None:
    columns = list(rows[0])
    cells = [columns, ["---"] * len(columns), *([_cell(row[c]) for c in columns] for row in rows)]
    for line in cells:
        print("| " + " | ".join(line) + " |")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _keep(name: str, measured: dict) -> None:
    RESULTS.mkdir(exist_ok=True)
    machine = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg(),
    }
    (RESULTS / f"{name}.json").write_text(json.dumps({**machine, **measured}, indent=2))


if __name__ == "__main__":
    main()
