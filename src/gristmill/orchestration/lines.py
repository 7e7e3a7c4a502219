"""What Airflow and its tasks say: all of it in a file, what people want to know in the terminal.

Airflow logs JSON. A line of a task is shown with its dag, run and task; of Airflow's own lines
those that tell of an error.
"""

from __future__ import annotations

import json
import re
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from io import TextIOWrapper
    from pathlib import Path
    from typing import TextIO

OURSELVES = "gristmill"
"""Who speaks where it is not one of Airflow's processes; the file does not get these lines."""
LOG_LIMIT = 10 * 1024 * 1024
"""Bytes after which a new file is begun, and the old one kept beside it."""
LONGEST_VALUE = 100
"""Characters of what a line of the terminal shows beside its text."""
_END = "\n"
_LOUD = {"error", "critical"}
_FOLDS = re.compile(r"::(group|endgroup)::")
"""How Airflow marks what its pages fold away."""
_KNOWN = {"timestamp", "level", "event", "logger", "filename", "lineno", "exception"}
_KNOWN |= {"dag_id", "run_id", "task_id", "map_index", "try_number", "ti_id", "error_detail"}


class Speaker:
    """Takes what is said, by whom; from several threads at once."""

    def __init__(self, out: TextIO, log: Path, *, as_json: bool = False) -> None:
        """`as_json` sends every line to `out`, as JSON that names who said it."""
        self._out = out
        self._log = log
        self._as_json = as_json
        self._lock = threading.Lock()
        self._file: TextIOWrapper | None = None

    def __enter__(self) -> Speaker:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def __call__(self, who: str, line: str) -> None:
        """Somebody said a line."""
        record = parsed(line)
        shown = (
            json.dumps({"service": who, **record}, ensure_ascii=False)
            if self._as_json
            else readable(who, record)
        )
        with self._lock:
            if shown is not None:
                self._out.write(f"{shown}\n")
                self._out.flush()
            if who != OURSELVES:
                self._keep(json.dumps({"service": who, **record}, ensure_ascii=False))

    def _keep(self, text: str) -> None:
        if self._file is not None and self._file.tell() > LOG_LIMIT:
            self._file.close()
            self._log.replace(self._log.with_name(f"{self._log.name}.1"))
            self._file = None
        if self._file is None:
            self._file = self._log.open("a", encoding="utf-8", buffering=1)
        self._file.write(f"{text}\n")


def parsed(line: str) -> dict[str, Any]:
    """A line as a record; what is no JSON object is its `event`."""
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    return record if isinstance(record, dict) else {"event": line}


def readable(who: str, record: dict[str, Any]) -> str | None:
    """A record as people read it, in as many lines as it has; None where it is not shown."""
    event = str(record.get("event", "")).rstrip()
    level = str(record.get("level", ""))
    said_by_task = str(record.get("logger", "")).startswith("task.")
    if "task_id" in record and "run_id" in record:
        index = record.get("map_index", -1)
        part = f"[{index}]" if isinstance(index, int) and index >= 0 else ""
        who = f"{record.get('dag_id')} {record['run_id']} {record['task_id']}{part}"
    elif level not in _LOUD and who != OURSELVES and not said_by_task:
        return None
    if not event or _FOLDS.match(event):
        return None
    moment = str(record.get("timestamp", ""))[11:19]
    more = " ".join(
        f"{key}={value}"
        for key, value in record.items()
        if key not in _KNOWN and len(str(value)) <= LONGEST_VALUE
    )
    text = f"{event} ({more})" if more else event
    if "task_id" not in record and who != OURSELVES:
        text = text.splitlines()[0]  # What follows is a traceback; the file has it.
    text += "".join(f"\n{one}" for one in _errors(record))
    loud = f" {level.upper()}:" if level in _LOUD or level == "warning" else ""
    start = f"{moment} {who} |{loud}" if moment else f"{who} |{loud}"
    return "\n".join(f"{start} {one}" for one in text.splitlines())


def _errors(record: dict[str, Any]) -> list[str]:
    """What an exception said; where it came from is in the file and in Airflow's pages."""
    details = record.get("exception") or record.get("error_detail") or []
    if not isinstance(details, list):
        return [str(details)]
    return [
        f"{one.get('exc_type')}: {str(one.get('exc_value')).partition(_END)[0]}"
        for one in details
        if isinstance(one, dict)
    ]
