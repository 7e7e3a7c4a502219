"""The API, its batches, `predict` and `score` answer 100,000 entities alike, to the last bit."""

import http.client
import json
import re
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pytest

from .conftest import Installation

pytestmark = pytest.mark.xdist_group("same_answers")  # one installation for all

ENTITIES = 100_000
LABELLED = 4_000
BATCH = 10_000
CONNECTIONS = 32
IN_FLIGHT = 40
"""Requests that a connection sends before it reads their answers."""
AT_A_TIME = 50_000
"""Entities that one command line names: an argument each."""
JSON = "Content-Type: application/json"

PROJECT = """
[project]
name = "same"
source = "bucket"

[tables.clients]
path = "clients.csv"
key = ["idx"]
[tables.clients.columns]
idx = "integer"
amount = "number?"
visits = "integer?"
place = "text?"
born = "date?"
seen = "timestamp?"
member = "boolean?"

[tables.labels]
path = "labels.csv"
key = ["idx"]
columns = { idx = "integer", label = "integer" }

[features]
entity = "clients.idx"
features = ["clients.amount", "clients.visits", "clients.place", "clients.born", "clients.seen",
            "clients.member"]
label = "labels.label"

[model]
candidates = ["gradient_boosting"]
"""

Answers = dict[int, tuple[bytes, int]]
"""Entity → the eight bytes of its probability, and its label."""


def answered(probability: float, label: int) -> tuple[bytes, int]:
    return struct.pack(">d", probability), label


def write_bucket(bucket: Path) -> None:
    """Features of every type, null here and there, with a signal in some of them."""
    random = np.random.default_rng(5)
    bucket.mkdir()

    def sparse(values: object, kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind, mask=random.random(ENTITIES) < 0.05)

    amount = random.lognormal(3, 1, ENTITIES)
    place = random.choice(np.array(["Porto", "Évora", 'a "quoted", place', "Faro"]), ENTITIES)
    seconds = random.integers(1_500_000_000_000_000, 1_700_000_000_000_000, ENTITIES)
    clients = pa.table(
        {
            "idx": np.arange(ENTITIES),
            "amount": sparse(amount, pa.float64()),
            "visits": sparse(random.poisson(3, ENTITIES), pa.int64()),
            "place": sparse(place, pa.string()),
            "born": sparse(
                random.integers(0, 12_000, ENTITIES).astype("datetime64[D]"), pa.date32()
            ),
            "seen": sparse(seconds.astype("datetime64[us]"), pa.timestamp("us")),
            "member": sparse(random.random(ENTITIES) < 0.5, pa.bool_()),
        }
    )
    seen = clients.schema.get_field_index("seen")
    texts = pa.compute.strftime(clients["seen"], "%Y-%m-%dT%H:%M:%SZ")
    arrow_csv.write_csv(clients.set_column(seen, "seen", texts), bucket / "clients.csv")
    score = np.log(amount) - 3 + (place == "Porto") + random.logistic(size=ENTITIES)
    labels = {"idx": np.arange(LABELLED), "label": (score > 0).astype(int)[:LABELLED]}
    arrow_csv.write_csv(pa.table(labels), bucket / "labels.csv")


@pytest.fixture(scope="module")
def installation(install, tmp_path_factory) -> Installation:
    folder = tmp_path_factory.mktemp("same")
    (folder / "gristmill.toml").write_text(PROJECT)
    write_bucket(folder / "bucket")
    made = install("clients", project=folder)
    made.run("run")
    return made


@pytest.fixture(scope="module")
def rows(installation) -> dict[int, dict[str, object]]:
    """What the feature store holds of everyone, as JSON has it."""
    with installation.connect() as connection:
        found = connection.execute(
            "SELECT idx, row_to_json(features) FROM (SELECT idx, amount, visits, place, born, "
            "seen, member FROM public.feature_store) AS features"
        ).fetchall()
    rows = {idx: {name: row[name] for name in row if name != "idx"} for idx, row in found}
    assert len(rows) == ENTITIES
    return rows


@contextmanager
def serving(installation: Installation) -> Iterator[tuple[str, int]]:
    """The API on a port; it is stopped once all that it answered is in the database."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host, port = probe.getsockname()
    command = installation.command("serve", "--host", host, "--port", str(port))
    server = subprocess.Popen(command, env=installation.variables)
    try:
        wait_until(lambda: waiting_to_be_shipped(host, port) is not None, server)
        yield host, port
        wait_until(lambda: waiting_to_be_shipped(host, port) == 0, server)
    finally:
        server.terminate()
        assert server.wait(120) == 0


def waiting_to_be_shipped(host: str, port: int) -> int | None:
    connection = http.client.HTTPConnection(host, port, timeout=60)
    try:
        connection.request("GET", "/ready")
        waiting: int = json.load(connection.getresponse())["waiting"]
    except OSError:
        return None
    finally:
        connection.close()
    return waiting


def wait_until(holds, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not holds():
        assert server.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


def by_single_requests(address: tuple[str, int], rows: dict[int, dict[str, object]]) -> Answers:
    """`POST /predict`, one request for each entity, on some connections that stay open."""
    entities = list(rows)
    shares = [entities[start::CONNECTIONS] for start in range(CONNECTIONS)]
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        found = threads.map(lambda share: one_connection(address, rows, share), shares)
        return {entity: answer for part in found for entity, answer in part.items()}


def one_connection(
    address: tuple[str, int], rows: dict[int, dict[str, object]], share: list[int]
) -> Answers:
    answers: Answers = {}
    with socket.create_connection(address, timeout=300) as connection:
        stream = connection.makefile("rb")
        for start in range(0, len(share), IN_FLIGHT):
            asked = share[start : start + IN_FLIGHT]
            connection.sendall(b"".join(request(idx, rows[idx]) for idx in asked))
            for idx in asked:
                document = json.loads(response(stream))
                answers[idx] = answered(document["probability"], document["label"])
    return answers


def request(idx: int, features: dict[str, object]) -> bytes:
    body = json.dumps({"idx": idx, "features": features}).encode()
    head = ["POST /predict HTTP/1.1", "Host: localhost", JSON, f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, "", ""]).encode() + body


def response(stream) -> bytes:
    """The body of the next response, which has to be a good one."""
    status = stream.readline()
    assert status.startswith(b"HTTP/1.1 200 "), status
    length = 0
    while (line := stream.readline()) != b"\r\n":
        if found := re.fullmatch(rb"(?i)content-length: *(\d+)\r\n", line):
            length = int(found[1])
    return stream.read(length)


def by_batches(address: tuple[str, int], rows: dict[int, dict[str, object]]) -> Answers:
    """`POST /predict/batch`."""
    answers: Answers = {}
    connection = http.client.HTTPConnection(*address, timeout=300)
    entities = list(rows)
    for start in range(0, len(entities), BATCH):
        asked = [{"idx": idx, "features": rows[idx]} for idx in entities[start : start + BATCH]]
        body = json.dumps({"rows": asked})
        connection.request("POST", "/predict/batch", body, {"Content-Type": "application/json"})
        with connection.getresponse() as found:
            document = json.load(found)
            assert found.status == 200, document
        for one in document["predictions"]:
            answers[one["idx"]] = answered(one["probability"], one["label"])
    connection.close()
    return answers


def by_predict(installation: Installation, entities: list[int]) -> Answers:
    """`gristmill predict`."""
    answers: Answers = {}
    for start in range(0, len(entities), AT_A_TIME):
        named = [str(idx) for idx in entities[start : start + AT_A_TIME]]
        for one in json.loads(installation.run("predict", "--json", *named)):
            answers[int(one["entity"])] = answered(one["probability"], one["label"])
    return answers


def on_record(connection: psycopg.Connection, *, since: int) -> tuple[int, Answers]:
    """How many predictions were recorded after so many, and what they say; one answer for each."""
    found = connection.execute(
        "SELECT entity::integer, probability, label, count(*) FROM (SELECT * FROM "
        "gristmill.predictions ORDER BY predicted_at OFFSET %s) AS newer GROUP BY 1, 2, 3",
        [since],
    ).fetchall()
    answers = {idx: answered(probability, label) for idx, probability, label, _ in found}
    assert len(answers) == len(found), "an entity was answered in two ways"
    return sum(count for *_, count in found), answers


def test_every_way_answers_alike(installation, rows):
    with serving(installation) as address:
        single = by_single_requests(address, rows)
        batches = by_batches(address, rows)
    predicted = by_predict(installation, list(rows))
    said = installation.run("score")

    assert f"score: version 1, {ENTITIES:,} entities" in said
    assert installation.run("score").startswith(f"score: unchanged, version 1, {ENTITIES:,}")
    assert len(single) == ENTITIES
    assert len({probability for probability, _ in single.values()}) > 1_000
    assert {label for _, label in single.values()} == {0, 1}
    assert batches == single
    assert predicted == single
    with installation.connect() as connection:
        recorded, kept = on_record(connection, since=0)
        scored, kept_by_score = on_record(connection, since=3 * ENTITIES)
    assert (recorded, scored) == (4 * ENTITIES, ENTITIES)
    assert kept == single
    assert kept_by_score == single


def test_features_of_the_feature_store_answer_alike(installation, rows):
    """`GET /predict/{idx}`, which reads the features itself."""
    with serving(installation) as address:
        sent = by_single_requests(address, {idx: rows[idx] for idx in range(0, 2_000, 7)})
        connection = http.client.HTTPConnection(*address, timeout=300)
        read: Answers = {}
        for idx in sent:
            connection.request("GET", f"/predict/{idx}")
            with connection.getresponse() as found:
                document = json.load(found)
            read[idx] = answered(document["probability"], document["label"])
        connection.close()
    assert read == sent
