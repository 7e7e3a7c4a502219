"""`init` on five buckets, beside what is right for each; and every draft loads as it is."""

import csv
import gzip
import io
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from gristmill.bucket.bucket import open_bucket
from gristmill.bucket.sample import write_sample
from gristmill.errors import BucketError
from gristmill.flow import steps
from gristmill.flow.context import Context, Home
from gristmill.flow.init import draft_project
from gristmill.flow.report import Silence
from gristmill.project.read import read_project
from gristmill.warehouse.roles import AppliedUsers
from gristmill.warehouse.sql import SQL, Identifier

ROOT = Path(__file__).parents[2]
BUCKETS = ROOT / "tests" / "data" / "init"
DOCUMENT = (ROOT / "docs" / "init.md").read_text(encoding="utf-8")

MISSED = {
    "clients": set(),
    "cdnow": {
        "customers.first_purchase is a feature",
        "sales.money: number, not decimal(8,2)",
    },
    "flights": {
        "flights: key (), not (carrier, flight, time_hour)",
        "flights.origin: no reference to airports.faa",
    },
    "gapminder": set(),
    "mixed": {"Hospital_stays_Arizona.provnum is a feature"},
}
"""All that `init` gets wrong, or more than was declared."""


@pytest.fixture(params=sorted(MISSED))
def layout(request, tmp_path):
    """The name of a bucket, where it lies, and the project that is right for it."""
    name = request.param
    if name == "clients":
        folder = write_sample(tmp_path / "clients", customers=400, months=4).folder
        return name, folder, read_project(ROOT / "examples" / "clients")
    if name == "cdnow":
        return name, ROOT / "examples" / "cdnow" / "data", read_project(ROOT / "examples" / "cdnow")
    return name, BUCKETS / name, read_project(BUCKETS / f"{name}.toml")


def draft(folder, tmp_path):
    place = tmp_path / "project"
    place.mkdir()
    return draft_project(place, str(folder), Silence())


def differences(found, right):
    """What a drafted project says otherwise than the right one."""
    assert found.tables.keys() == right.tables.keys()
    for name, table in right.tables.items():
        yield from _table_differences(name, found.tables[name], table)
    if found.features is None or right.features is None:
        assert found.features == right.features
        return
    for part in ("entity", "label", "as_of"):
        assert getattr(found.features, part) == getattr(right.features, part)
    derived = {one for one in right.features.features if one.table in right.derived}
    for one in set(found.features.features) - set(right.features.features):
        yield f"{one} is a feature"
    for one in set(right.features.features) - set(found.features.features) - derived:
        yield f"{one} is no feature"


def _table_differences(name, found, right):
    assert [one.name for one in found.columns] == [one.name for one in right.columns]
    for mine, other in zip(found.columns, right.columns, strict=True):
        if mine.declaration != other.declaration:
            yield f"{name}.{mine.name}: {mine.declaration}, not {other.declaration}"
    if set(found.key) != set(right.key):
        yield f"{name}: key ({', '.join(found.key)}), not ({', '.join(right.key)})"
    for part in ("path", "valid", "period", "dialect"):
        if getattr(found, part) != getattr(right, part):
            yield f"{name}: {part} {getattr(found, part)}, not {getattr(right, part)}"
    for one in set(found.references) - set(right.references):
        yield f"{name}.{one.column}: a reference to {one.table}.{one.to_column}"
    for one in set(right.references) - set(found.references):
        yield f"{name}.{one.column}: no reference to {one.table}.{one.to_column}"


def test_what_is_inferred_beside_what_is_right(layout, tmp_path):
    name, folder, right = layout
    found = draft(folder, tmp_path)
    missed = set(differences(found.project, right))
    assert missed == MISSED[name]
    columns = sum(len(table.columns) for table in right.tables.values())
    types = columns - sum(", not " in one and "key" not in one for one in missed)
    keys = len(right.tables) - sum(": key" in one for one in missed)
    references = sum(len(table.references) for table in right.tables.values())
    seen = references - sum("no reference" in one for one in missed)
    # The document's table says the same.
    row = next(line for line in DOCUMENT.splitlines() if line.startswith(f"| `{name}` "))
    numbers = [cell.strip() for cell in row.split("|")[2:6]]
    assert numbers == [
        f"{len(right.tables)} of {len(right.tables)}",
        f"{types} of {columns}",
        f"{keys} of {len(right.tables)}",
        f"{seen} of {references}",
    ]
    assert row.split("|")[6].strip() == str(len(found.doubts))


def rows_in(folder, table):
    """How many rows a table's files have, counted by Python's own reader."""
    count = 0
    for file in folder.rglob("*"):
        if file.is_file() and table.period_of(str(file.relative_to(folder))):
            data = file.read_bytes()
            data = gzip.decompress(data) if file.suffix == ".gz" else data
            text = io.StringIO(data.decode(table.dialect.encoding), newline="")
            count += sum(1 for _ in csv.reader(text, delimiter=table.dialect.delimiter)) - 1
    return count


def opened(project, warehouse, tmp_path, aws=None):
    home = Home(path=tmp_path / "home")
    home.path.mkdir()
    return Context(
        project=project,
        warehouse=warehouse,
        bucket=open_bucket(project.source, root=project.root, options=aws),
        home=home,
        users=AppliedUsers(created=(), without_password=(), undeclared=()),
    )


def test_the_draft_loads_every_row_as_it_is(layout, tmp_path, warehouse):
    _, folder, _ = layout
    project = draft(folder, tmp_path).project
    steps.load(opened(project, warehouse, tmp_path), Silence())
    with warehouse.transaction() as transaction:
        for name, table in project.tables.items():
            query = SQL("SELECT count(*) FROM public.{}").format(Identifier(name))
            assert transaction.value(query) == rows_in(folder, table) > 0
        assert transaction.value("SELECT count(*) FROM gristmill.rejects") == 0


def test_the_drafted_features_can_be_built(tmp_path, warehouse):
    folder = write_sample(tmp_path / "clients", customers=300, months=2).folder
    context = opened(draft(folder, tmp_path).project, warehouse, tmp_path)
    steps.load(context, Silence())
    steps.build(context, Silence())
    with warehouse.transaction() as transaction:
        assert transaction.value("SELECT count(*) FROM public.feature_store") == 300
        known = transaction.value("SELECT count(*) FROM public.feature_store WHERE label = 1")
        ones = transaction.value("SELECT count(*) FROM public.labels WHERE label = 1")
        assert known == ones > 0


@pytest.fixture
def store(monkeypatch):
    """A bucket behind HTTP: its address, what opens it, and a client to write with."""
    server = ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        aws = {
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        }  # fmt: skip
        client = boto3.client(
            "s3", endpoint_url=aws["AWS_ENDPOINT_URL"], region_name="us-east-1",
            aws_access_key_id="key", aws_secret_access_key="secret",
        )  # fmt: skip
        client.create_bucket(Bucket="shop")
        yield "s3://shop", aws, client
    finally:
        server.stop()


def test_an_object_store_is_drafted_like_a_folder(store, tmp_path):
    address, aws, client = store
    for file in (BUCKETS / "flights").rglob("*.csv"):
        key = str(file.relative_to(BUCKETS / "flights"))
        client.put_object(Bucket="shop", Key=key, Body=file.read_bytes())
    (tmp_path / "there").mkdir()
    there = draft_project(tmp_path / "there", address, Silence(), aws=aws).project
    here = draft(BUCKETS / "flights", tmp_path).project
    assert there.source == "s3://shop"
    assert there.tables == here.tables


def test_a_store_that_does_not_have_the_bucket_is_said_so(store, tmp_path):
    _, aws, _ = store
    with pytest.raises(BucketError, match="no such bucket"):
        draft_project(tmp_path, "s3://nothing", Silence(), aws=aws)
    assert list(tmp_path.iterdir()) == []
