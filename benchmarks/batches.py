"""Rows a second where many are asked at once: `/predict/batch`, `score`, and scikit-learn alone.

One core computes. PostgreSQL, and who sends the batches, are on the other.
"""

import http.client
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.servers.model import Model
from benchmarks.stacks import LOAD_CORE, SERVER_CORE, Running, stacks, started
from benchmarks.trained import Trained, as_frame, some_rows, train_champion
from gristmill.flow import steps
from gristmill.flow.report import Silence
from gristmill.predictions.predictor import load_predictor
from gristmill.registry.bundle import read_bundle

CUSTOMERS = 100_000
BATCH = 10_000
"""Rows of a request: the most that it takes."""
SAME = 1e-12


def rows_a_second(folder: Path, home: Path, seconds: int, rounds: int) -> dict:
    """Rows answered a second, medians of the rounds."""
    os.sched_setaffinity(0, {LOAD_CORE})
    trained = train_champion(folder, home, customers=CUSTOMERS)
    rows = some_rows(trained, CUSTOMERS)
    os.sched_setaffinity(0, {SERVER_CORE})
    measured = _by_hand(trained, [features for _, features in rows], rounds)
    measured["ours: gristmill score, all into the database"] = [
        _score(trained) for _ in range(rounds)
    ]
    os.sched_setaffinity(0, {LOAD_CORE})
    for stack in stacks(trained):
        if stack.name in ("ours, durable log, shipped to PostgreSQL", "ours, no log"):
            with started(stack, folder) as server:
                name = f"{stack.name}: POST /predict/batch, {BATCH:,} rows a request"
                measured[name] = [_post(server, rows, seconds) for _ in range(rounds)]
    limit = statistics.median(measured["scikit-learn: predict_proba of a frame that is there"])
    return {
        "what": f"{CUSTOMERS:,} entities of 4 features, medians of {rounds}; the same answers",
        "rows": [
            {
                "way": name,
                "rows a second": round(statistics.median(found)),
                "× scikit-learn": statistics.median(found) / limit,
            }
            for name, found in measured.items()
        ],
        "measured": measured,
    }


def _by_hand(trained: Trained, rows: list[dict], rounds: int) -> dict[str, list[float]]:
    """Without a server: scikit-learn from a frame and from requests' rows, ours from those."""
    model = Model(trained.model)
    predictor = load_predictor(read_bundle(trained.bundle))
    frame = as_frame(rows, model.texts)
    expected = model.probabilities(frame)

    def ours() -> np.ndarray:
        batches = (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))
        return np.array([answer.probability for b in batches for answer in predictor.answers(b)])

    def frames_of_batches() -> np.ndarray:
        batches = (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))
        return np.concatenate([model.probabilities(as_frame(b, model.texts)) for b in batches])

    ways: dict[str, Callable[[], np.ndarray]] = {
        "scikit-learn: predict_proba of a frame that is there": lambda: model.probabilities(frame),
        f"scikit-learn: frames of {BATCH:,} requested rows": frames_of_batches,
        f"ours: the predictor alone, {BATCH:,} requested rows": ours,
    }
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            found = way()
            measured[name].append(len(rows) / (time.perf_counter() - began))
            if np.abs(found - expected).max() > SAME:
                raise SystemExit(f"{name} answers otherwise.")
    return measured


def _score(trained: Trained) -> float:
    scored = steps.score(trained.context, Silence(), again=True)
    return scored.entities / scored.seconds


def _post(server: Running, rows: list[tuple[int, dict]], seconds: int) -> float:
    """One connection, one request after the other; rows a second that were answered."""
    bodies = [
        json.dumps(
            {"rows": [{"idx": key, "features": row} for key, row in rows[start : start + BATCH]]}
        )
        for start in range(0, len(rows), BATCH)
    ]
    address = server.address.removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=60)
    answered, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        body = bodies[answered // BATCH % len(bodies)]
        connection.request("POST", "/predict/batch", body, {"Content-Type": "application/json"})
        with connection.getresponse() as response:
            content = response.read()
            if response.status != 200:
                raise SystemExit(f"{server.stack.name}: {response.status} {content[:500]!r}")
        answered += BATCH
    took = time.perf_counter() - began
    if len(json.loads(content)["predictions"]) != BATCH:
        raise SystemExit(f"{server.stack.name} did not answer every row.")
    return answered / took
