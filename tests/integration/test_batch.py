"""Many answers by one request: all or none, each on record, the same as one by one."""

import json

import pytest

from gristmill.serving.bodies import LARGEST_BATCH_BODY, MOST_ROWS
from gristmill.serving.entry import build
from gristmill.serving.server import Deployment

JSON = {"content-type": "application/json"}


def row(number, **features):
    known = {
        "attr_a": number % 7 or None,
        "attr_b": "abcé"[number % 4],
        "scd_a": number / 13,
        "scd_b": number % 5,
    }
    return {"idx": number, "features": known | features}


@pytest.fixture(scope="module")
def client(example_model, served, tmp_path_factory):
    """A service without a database."""
    folder = tmp_path_factory.mktemp("batch")
    example_model.write(folder / "3")
    with served(build(Deployment(bundle=folder / "3", spool=folder / "spool"))) as client:
        yield client


def waiting(client):
    return client.get("/ready").json()["waiting"]


def refused(client, rows, status=422):
    before = waiting(client)
    response = client.post("/predict/batch", json={"rows": rows})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert waiting(client) == before
    return response.json()


def test_a_batch_answers_as_one_by_one_bit_for_bit(client):
    rows = [row(number) for number in range(1, 201)]
    answer = client.post("/predict/batch", json={"rows": rows}).json()
    assert answer["model_version"] == "3"
    assert [one["idx"] for one in answer["predictions"]] == list(range(1, 201))
    assert len({one["prediction_id"] for one in answer["predictions"]}) == 200
    for asked, found in zip(rows, answer["predictions"], strict=True):
        alone = client.post("/predict", json=asked).json()
        assert (found["probability"], found["label"]) == (alone["probability"], alone["label"])


def test_the_largest_batch_is_answered_and_on_record(client):
    before = waiting(client)
    rows = [row(number) for number in range(MOST_ROWS)]
    response = client.post("/predict/batch", json={"rows": rows})
    assert len(response.json()["predictions"]) == MOST_ROWS
    assert waiting(client) == before + MOST_ROWS
    problem = refused(client, [*rows, row(0)])
    assert (problem["field"], problem["pointer"]) == ("rows", "#/rows")


def test_a_batch_in_the_warehouse_is_what_was_answered(warehouse, served, bundle_folder, tmp_path):
    deployment = Deployment(
        bundle=bundle_folder, spool=tmp_path / "spool", database_url=warehouse.url
    )
    rows = [row(number) for number in range(1000)]
    with served(build(deployment)) as client:
        answer = client.post("/predict/batch", json={"rows": rows}).json()
    with warehouse.transaction() as transaction:
        logged = transaction.rows("SELECT * FROM gristmill.predictions ORDER BY entity::int")
    told = [
        (str(one["idx"]), asked["features"], one["probability"], one["label"], one["prediction_id"])
        for asked, one in zip(rows, answer["predictions"], strict=True)
    ]
    columns = ("entity", "features", "probability", "label")
    found = [(*(one[name] for name in columns), str(one["prediction_id"])) for one in logged]
    assert found == told


@pytest.mark.parametrize(
    ("wrong", "kind", "field", "pointer"),
    [
        (row(1, attr_a="1"), "invalid-feature", "attr_a", "#/rows/3/features/attr_a"),
        (row(1, **{"a/b~ü": 1}), "invalid-feature", "a/b~ü", "#/rows/3/features/a~1b~0%C3%BC"),
        (row(1) | {"idx": "1"}, "invalid-request", "idx", "#/rows/3/idx"),
        (row(1) | {"more": 1}, "invalid-request", "more", "#/rows/3/more"),
        ({"idx": 1}, "invalid-request", "features", "#/rows/3/features"),
        ({"idx": 1, "features": []}, "invalid-request", "features", "#/rows/3/features"),
        ([], "invalid-request", None, "#/rows/3"),
        (None, "invalid-request", None, "#/rows/3"),
    ],
)
def test_one_wrong_row_refuses_all_and_is_named(client, wrong, kind, field, pointer):
    rows = [row(number) for number in range(3)]
    problem = refused(client, [*rows, wrong, *rows, wrong])
    assert problem["type"] == f"/docs#{kind}"
    assert (problem.get("field"), problem["pointer"], problem["row"]) == (field, pointer, 3)


@pytest.mark.parametrize(
    "body", [{}, {"rows": []}, {"rows": {}}, {"rows": None}, {"rows": [row(1)], "more": 1}, row(1)]
)
def test_what_is_no_batch(client, body):
    response = client.post("/predict/batch", json=body)
    assert response.status_code == 422
    assert response.json()["type"] == "/docs#invalid-request"


def test_a_batch_that_is_too_large(client):
    big = b" " * (LARGEST_BATCH_BODY + 1)
    response = client.post("/predict/batch", content=big, headers=JSON)
    assert (response.status_code, response.json()["type"]) == (413, "/docs#too-large")
    body = json.dumps({"rows": [row(1)]}).encode().ljust(LARGEST_BATCH_BODY)
    assert client.post("/predict/batch", content=body, headers=JSON).status_code == 200


def test_a_key_gives_a_batch_once(client):
    before = waiting(client)
    request = {"json": {"rows": [row(1), row(2)]}, "headers": {"Idempotency-Key": "batch-1"}}
    first = client.post("/predict/batch", **request)
    assert client.post("/predict/batch", **request).content == first.content
    assert waiting(client) == before + 2
    other = request | {"json": {"rows": [row(1)]}}
    response = client.post("/predict/batch", **other)
    assert (response.status_code, response.json()["type"]) == (422, "/docs#key-reused")
    response = client.post("/predict", json=row(1), headers={"Idempotency-Key": "x" * 256})
    assert response.json()["field"] == "Idempotency-Key"
