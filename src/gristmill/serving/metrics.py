"""What the workers count, and Prometheus's view of their sum: whichever worker is asked tells it.

Each worker counts in a small file of its own that it maps into memory: counting is one addition,
nothing is sent or flushed, and a killed worker's counts stay. A worker that starts goes on in the
file of one that is gone, so that no count ever falls.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import mmap
import os
import time
from bisect import bisect_left
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import generate_latest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from prometheus_client.core import Metric

logger = logging.getLogger(__name__)

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

BUCKETS = (
    *(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1),
    *(0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
"""Upper bounds of the latency histogram, in seconds."""
STATUSES = (
    *(200, 307, 400, 401, 403, 404, 405, 408, 409, 413, 415, 421, 422, 431, 500, 501, 503),
    0,
)
"""Statuses that are told apart; 0 stands for any other."""
OTHER = "other"
"""The route of requests to addresses that there are not."""

_ROUTES = (
    *("/predict", "/predict/{entity}", "/predict/batch", "/outcomes"),
    *("/health", "/ready", "/model", "/model/report", "/metrics", "/openapi.json", "/docs", OTHER),
)
_TOTALS = ("predictions", "outcomes", "unlogged", "swaps", "swaps_refused")
_TEXT_SLOTS = 8
"""Eight-byte slots of a text."""


# Where each number stands in a file, in slots of eight bytes.
_STATUS = {status: place for place, status in enumerate(STATUSES)}
_ROUTE = {route: place for place, route in enumerate(_ROUTES)}
_ALL_BUCKETS = len(BUCKETS) + 1
_REQUESTS = 0
_LATENCIES = _REQUESTS + len(_ROUTES) * len(STATUSES)
_SECONDS = _LATENCIES + len(_ROUTES) * _ALL_BUCKETS
_TOTAL = {name: _SECONDS + len(_ROUTES) + place for place, name in enumerate(_TOTALS)}
_WAITING = _SECONDS + len(_ROUTES) + len(_TOTALS)
_OLDEST_AT = _WAITING + 1
_VERSION = _OLDEST_AT + 1
_STATE = _VERSION + _TEXT_SLOTS
_SIZE = (_STATE + _TEXT_SLOTS) * 8
_LAYOUT = hashlib.sha256(repr((BUCKETS, STATUSES, _ROUTES, _TOTALS)).encode()).hexdigest()[:12]
"""Files of another layout are another version's: they are left alone."""


class _File:
    """One worker's numbers, as integers and as floats."""

    def __init__(self, memory: mmap.mmap) -> None:
        self.memory = memory
        self.integers = memoryview(memory).cast("Q")
        self.floats = memoryview(memory).cast("d")

    def write(self, slot: int, text: str) -> None:
        """Put a text, cut to what fits."""
        start = slot * 8
        room = _TEXT_SLOTS * 8
        octets = text.encode()[:room].decode(errors="ignore").encode()
        self.memory[start : start + room] = octets.ljust(room, b"\0")

    def read(self, slot: int) -> str:
        """The text that stands there."""
        start = slot * 8
        return self.memory[start : start + _TEXT_SLOTS * 8].rstrip(b"\0").decode(errors="replace")

    def close(self) -> None:
        """Let the memory go."""
        self.integers.release()
        self.floats.release()
        self.memory.close()


class Counters:
    """What one worker counts; made for the thread of its event loop.

    `folder` is where the workers of one service keep their files; without one, or where it cannot
    be written, a worker counts and tells for itself.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Take a file that no living worker counts in, or make one."""
        self._folder = folder
        self._lock: int | None = None
        self._own = self._claim(folder) if folder else _File(mmap.mmap(-1, _SIZE))
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        self._unlogged = 0
        self._rest()

    def count(self, route: str, status: int, seconds: float) -> None:
        """One request that was answered, so many seconds after it came."""
        place = _ROUTE.get(route, _ROUTE[OTHER])
        integers = self._own.integers
        integers[_REQUESTS + place * len(STATUSES) + _STATUS.get(status, len(STATUSES) - 1)] += 1
        integers[_LATENCIES + place * _ALL_BUCKETS + bisect_left(BUCKETS, seconds)] += 1
        self._own.floats[_SECONDS + place] += seconds

    def refuse(self, status: int) -> None:
        """One connection that was refused before there was a request: it has no time."""
        slot = _REQUESTS + _ROUTE[OTHER] * len(STATUSES) + _STATUS.get(status, len(STATUSES) - 1)
        self._own.integers[slot] += 1

    def add(self, name: str, count: int = 1) -> None:
        """Count predictions, outcomes, swaps, refused swaps."""
        self._own.integers[_TOTAL[name]] += count

    def serve(self, version: str) -> None:
        """Tell which model version answers."""
        self._own.write(_VERSION, version)

    def log(self, *, waiting: int, oldest_seconds: float, state: str, unlogged: int) -> None:
        """Tell how the record of predictions stands; `unlogged` since this worker began."""
        self.add("unlogged", unlogged - self._unlogged)
        self._unlogged = unlogged
        self._own.integers[_WAITING] = waiting
        self._own.floats[_OLDEST_AT] = time.time() - oldest_seconds if waiting else 0.0
        self._own.write(_STATE, state)

    def exposition(self) -> bytes:
        """The sum over all workers, in Prometheus's text format."""
        return generate_latest(self._registry)

    def close(self) -> None:
        """Leave the file to the next worker."""
        self._rest()
        self._own.close()
        if self._lock is not None:
            os.close(self._lock)

    def collect(self) -> Iterable[Metric]:
        """The sum over all workers, as Prometheus's client takes it."""
        with self._all() as (files, living):
            yield from _requests(files)
            yield from _totals(files)
            yield from _states(living)

    # Files

    def _rest(self) -> None:
        """Whatever is true of a worker only while it lives."""
        self.log(waiting=0, oldest_seconds=0.0, state="", unlogged=self._unlogged)
        self.serve("")

    def _claim(self, folder: Path) -> _File:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            number = 0
            while True:
                path = folder / f"{_LAYOUT}-{number}"
                lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    # Room that is not really there would kill the process once it is written to.
                    os.posix_fallocate(lock, 0, _SIZE)
                    file = _File(mmap.mmap(lock, _SIZE))
                except BlockingIOError:
                    os.close(lock)
                    number += 1
                except OSError:
                    os.close(lock)
                    raise
                else:
                    self._lock = lock
                    return file
        except OSError as error:
            logger.warning("This worker counts for itself alone: %s", error)
            self._folder = None
            return _File(mmap.mmap(-1, _SIZE))

    @contextmanager
    def _all(self) -> Iterator[tuple[list[_File], list[_File]]]:
        """The files of all workers that there ever were, and those of the living."""
        files: list[_File] = [self._own]
        living: list[_File] = [self._own]
        own = os.fstat(self._lock).st_ino if self._lock is not None else None
        try:
            for path in sorted(self._folder.glob(f"{_LAYOUT}-*")) if self._folder else ():
                with suppress(OSError, ValueError), path.open("rb") as opened:
                    if os.fstat(opened.fileno()).st_ino == own:
                        continue
                    memory = mmap.mmap(opened.fileno(), _SIZE, access=mmap.ACCESS_READ)
                    files.append(_File(memory))
                    if _is_locked(opened.fileno()):
                        living.append(files[-1])
            yield files, living
        finally:
            for file in files[1:]:
                file.close()


def _is_locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _requests(files: list[_File]) -> Iterable[Metric]:
    requests = CounterMetricFamily(
        "gristmill_requests", "Requests answered.", labels=["route", "status"]
    )
    latency = HistogramMetricFamily(
        "gristmill_request_seconds",
        "Seconds from a request's arrival to its answer.",
        labels=["route"],
    )
    for route, place in _ROUTE.items():
        for status, offset in _STATUS.items():
            slot = _REQUESTS + place * len(STATUSES) + offset
            if count := sum(file.integers[slot] for file in files):
                requests.add_metric([route, str(status) if status else OTHER], count)
        slot = _LATENCIES + place * _ALL_BUCKETS
        buckets, total = [], 0
        for offset, bound in enumerate((*map(str, BUCKETS), "+Inf")):
            total += sum(file.integers[slot + offset] for file in files)
            buckets.append((bound, total))
        if total:
            seconds = sum(file.floats[_SECONDS + place] for file in files)
            latency.add_metric([route], buckets, seconds)
    return requests, latency


def _totals(files: list[_File]) -> Iterable[Metric]:
    told = {
        "predictions": "Predictions that were answered.",
        "outcomes": "Outcomes that were recorded for the first time, or corrected.",
        "unlogged": "Predictions that were answered without a record, by the project's choice.",
        "swaps": "Times that a worker went over to another model version.",
        "swaps_refused": "Times that a worker kept its model version, as the new one was spoilt.",
    }
    for name, meaning in told.items():
        total = sum(file.integers[_TOTAL[name]] for file in files)
        yield CounterMetricFamily(f"gristmill_{name}", meaning, value=total)


def _states(living: list[_File]) -> Iterable[Metric]:
    waiting = sum(file.integers[_WAITING] for file in living)
    yield GaugeMetricFamily(
        "gristmill_log_waiting", "Predictions on record here, not in the database.", value=waiting
    )
    since = [file.floats[_OLDEST_AT] for file in living if file.integers[_WAITING]]
    yield GaugeMetricFamily(
        "gristmill_log_oldest_seconds",
        "The age of the oldest of them.",
        value=max((time.time() - moment for moment in since), default=0.0),
    )
    for name, meaning, label, slot in (
        ("gristmill_log_workers", "Workers, by the state of their record.", "state", _STATE),
        (
            "gristmill_model_workers",
            "Workers, by the model version that they answer from.",
            "model_version",
            _VERSION,
        ),
    ):
        metric = GaugeMetricFamily(name, meaning, labels=[label])
        texts = [text for file in living if (text := file.read(slot))]
        for text in sorted(set(texts)):
            metric.add_metric([text], texts.count(text))
        yield metric
