"""Rows a second where many are asked at once, beside scikit-learn's own `predict_proba`.

One core computes. PostgreSQL, and who sends the batches, are on the other.
"""

import http.client
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np

from benchmarks.servers.model import Model
from benchmarks.stacks import LOAD_CORE, SERVER_CORE, Running, stacks, started
from benchmarks.trained import Trained, as_frame, some_rows, train_champion
from gristmill.flow import steps
from gristmill.flow.report import Silence
from gristmill.predictions.predictor import load_predictor
from gristmill.registry.bundle import read_bundle

CUSTOMERS = 50_000
SIZES = (1, 100, 1_000, 10_000)
"""Rows that are asked together; more than the last a request does not take."""
SHARE = 8
"""One size of one way goes on for so small a part of the seconds, or the whole takes minutes."""
SAME = 1e-12
SCORE = "ours: gristmill score, everyone into the database"

Way = Callable[[int], np.ndarray]
"""Answers the batch of a number, which goes round: its probabilities."""
Rates = dict[str, dict[int, list[float]]]
"""Of each way and size, the rows a second of each round."""


def rows_a_second(folder: Path, home: Path, seconds: int, rounds: int) -> dict:
    """Rows answered a second, medians of the rounds."""
    os.sched_setaffinity(0, {LOAD_CORE})
    trained = train_champion(folder, home, customers=CUSTOMERS)
    rows = some_rows(trained, max(SIZES))
    expected = Model(trained.model).probabilities(as_frame([f for _, f in rows], {"attr_b"}))
    os.sched_setaffinity(0, {SERVER_CORE})
    measured: Rates = {}
    for size in SIZES:
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        ways = _by_hand(trained, batches)
        _measure(measured, ways, size, expected, seconds / SHARE, rounds)
    measured[SCORE] = {max(SIZES): [_score(trained) for _ in range(rounds)]}
    os.sched_setaffinity(0, {LOAD_CORE})
    for stack in stacks(trained)[:3]:
        if stack.name == "ours, durable log, no database":
            continue
        with started(stack, folder) as server:
            for size in SIZES:
                batches = [rows[start : start + size] for start in range(0, len(rows), size)]
                with _posted(server, batches) as post:
                    name = f"{stack.name}: POST /predict/batch"
                    _measure(measured, {name: post}, size, expected, seconds / SHARE, rounds)
    return {
        "what": f"rows a second by how many are asked together, {seconds / SHARE:g} s each, "
        f"medians of {rounds}; rows of 4 features; all gave the same answers",
        "rows": _rows(measured),
        "measured": measured,
    }


def _by_hand(trained: Trained, batches: list[list[tuple[int, dict]]]) -> dict[str, Way]:
    """Without a server: scikit-learn from a frame and from requests' rows, ours from those."""
    model = Model(trained.model)
    predictor = load_predictor(read_bundle(trained.bundle))
    asked = [[features for _, features in batch] for batch in batches]
    frames = [as_frame(batch, model.texts) for batch in asked]

    def of_rows(place: int) -> np.ndarray:
        return model.probabilities(as_frame(asked[place], model.texts))

    def ours(place: int) -> np.ndarray:
        return np.array([answer.probability for answer in predictor.answers(asked[place])])

    return {
        "scikit-learn: predict_proba of a frame that is there": lambda place: model.probabilities(
            frames[place]
        ),
        "scikit-learn: a frame made of the requested rows": of_rows,
        "ours: the predictor alone, of the requested rows": ours,
    }


@contextmanager
def _posted(server: Running, batches: list[list[tuple[int, dict]]]) -> Iterator[Way]:
    """One connection, one request after the other."""
    bodies = [
        json.dumps({"rows": [{"idx": key, "features": row} for key, row in batch]})
        for batch in batches
    ]
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=60)

    def post(place: int) -> np.ndarray:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/predict/batch", bodies[place], headers)
        with connection.getresponse() as response:
            content = response.read()
            if response.status != 200:
                raise SystemExit(f"{server.stack.name}: {response.status} {content[:500]!r}")
        # Reading the answer is the sender's own affair, and on its own core.
        return np.array([one["probability"] for one in json.loads(content)["predictions"]])

    yield post
    connection.close()


def _measure(
    measured: Rates,
    ways: dict[str, Way],
    size: int,
    expected: np.ndarray,
    seconds: float,
    rounds: int,
) -> None:
    """The ways in turn; every answer is compared with scikit-learn's, outside of the time."""
    batches = len(expected) // size
    for _ in range(rounds):
        for name, way in ways.items():
            took = 0.0
            for number in count():
                place = number % batches
                began = time.perf_counter()
                found = way(place)
                took += time.perf_counter() - began
                if np.abs(found - expected[place * size : (place + 1) * size]).max() > SAME:
                    raise SystemExit(f"{name} answers otherwise.")
                if took > seconds:
                    break
            rates = measured.setdefault(name, {}).setdefault(size, [])
            rates.append((number + 1) * size / took)


def _score(trained: Trained) -> float:
    scored = steps.score(trained.context, Silence(), again=True)
    return scored.entities / scored.seconds


def _rows(measured: Rates) -> list[dict]:
    limit = next(iter(measured.values()))
    return [
        {
            "way": name,
            **{
                f"{size:,}": round(statistics.median(found[size])) if size in found else "–"
                for size in SIZES
            },
            f"× scikit-learn at {SIZES[-1]:,}": statistics.median(found[SIZES[-1]])
            / statistics.median(limit[SIZES[-1]]),
        }
        for name, found in measured.items()
    ]
