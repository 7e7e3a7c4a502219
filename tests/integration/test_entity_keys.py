"""An entity's key that is a text: what is answered can be put on record, whatever it is."""

import random

import psycopg

from gristmill.predictions.prediction import LONGEST_TEXT_KEY
from gristmill.registry.bundle import Entity
from gristmill.serving.entry import build
from gristmill.serving.server import Deployment

FEATURES = {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "scd_b": 3}
RANDOM = random.Random(20)
LONGEST = "".join(chr(RANDOM.randint(0x10000, 0x10FFFF)) for _ in range(LONGEST_TEXT_KEY))
"""Of four bytes each, and nothing that could be compressed."""


def outcome(key):
    return {"idx": key, "outcome": 1, "observed_at": "2026-01-01T00:00:00Z"}


def test_the_longest_is_answered_and_reaches_the_warehouse(
    warehouse, example_model, served, tmp_path
):
    manifest = example_model.manifest(entity=Entity(name="idx", type="text"))
    example_model.write(tmp_path / "3", manifest=manifest)
    deployment = Deployment(
        bundle=tmp_path / "3", spool=tmp_path / "spool", database_url=warehouse.url
    )
    with served(build(deployment)) as client:
        for path, right in (
            ("/predict", {"idx": LONGEST, "features": FEATURES}),
            ("/outcomes", outcome(LONGEST)),
        ):
            assert client.post(path, json=right).status_code == 200
            wrong = client.post(path, json=right | {"idx": LONGEST + "x"})
            assert (wrong.status_code, wrong.json()["field"]) == (422, "idx")
        assert client.get(f"/predict/{'x' * (LONGEST_TEXT_KEY + 1)}").status_code == 422
    # The server has stopped: all is shipped that can be.
    with psycopg.connect(warehouse.url) as connection:
        found = "SELECT entity FROM gristmill.predictions UNION ALL SELECT entity FROM {}"
        rows = connection.execute(found.format("gristmill.outcomes")).fetchall()
    assert rows == [(LONGEST,), (LONGEST,)]
