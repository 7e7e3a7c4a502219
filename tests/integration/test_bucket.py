"""One suite over all that stands behind Bucket: a folder, and S3's protocol from a moto server."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import boto3
import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

from gristmill.bucket.bucket import Bucket, open_bucket
from gristmill.errors import BucketError, ObjectChanged, ObjectNotFound
from gristmill.loading.tables import find_files
from gristmill.project.table import Column, Period, Table

KEYS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
}
ODD_NAMES = ["a b.csv", "sales/2020 é/日本 #1.csv", "100%25+x?.csv", "tilde~'(1)&=.csv"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A bucket and a way around it to put things there."""

    bucket: Bucket
    put: Callable[[str, bytes], None]
    remove: Callable[[str], None]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def client(endpoint: str):
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    )


def folder_place(tmp_path: Path) -> Place:
    root = tmp_path / "bucket"
    root.mkdir()

    def put(path: str, data: bytes) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)

    bucket = open_bucket("bucket", root=tmp_path)
    return Place(bucket=bucket, put=put, remove=lambda path: (root / path).unlink())


def s3_place(tmp_path: Path, endpoint: str) -> Place:
    amazon = client(endpoint)
    name = f"b{abs(hash(tmp_path))}"
    amazon.create_bucket(Bucket=name)
    amazon.put_object(Bucket=name, Key="outside.csv", Body=b"not in the folder")
    return Place(
        bucket=open_bucket(
            f"s3://{name}/in a/folder é",
            root=tmp_path,
            options={**KEYS, "AWS_ENDPOINT_URL": endpoint},
        ),
        put=lambda path, data: amazon.put_object(
            Bucket=name, Key=f"in a/folder é/{path}", Body=data
        ),
        remove=lambda path: amazon.delete_object(Bucket=name, Key=f"in a/folder é/{path}"),
    )


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, s3: str) -> Place:
    return folder_place(tmp_path) if request.param == "folder" else s3_place(tmp_path, s3)


def test_an_empty_bucket_lists_nothing(place: Place) -> None:
    place.put("a.csv", b"")
    place.remove("a.csv")

    assert place.bucket.list() == []
    assert place.bucket.list("sales") == []


def test_a_listing_is_sorted_and_agrees_with_stat(place: Place) -> None:
    for path in ("stores.csv", "sales/2020-02/sales.csv", "sales/2020-01/sales.csv", "Z.csv"):
        place.put(path, path.encode())

    listed = place.bucket.list()

    assert [item.path for item in listed] == [
        "Z.csv",
        "sales/2020-01/sales.csv",
        "sales/2020-02/sales.csv",
        "stores.csv",
    ]
    assert [place.bucket.stat(item.path) for item in listed] == listed
    assert all(item.size == len(item.path) for item in listed)
    assert all(item.modified_at.utcoffset() is not None for item in listed)


def test_more_periods_are_listed_than_a_page_holds(place: Place) -> None:
    """S3 answers a listing a thousand keys at a time."""
    sales = Table(
        name="sales",
        path="sales/{period:%Y-%m-%d}.csv",
        columns=(Column(name="value", type="integer"),),
        period=Period(every="day"),
    )
    first = date(2020, 1, 1)
    days = [(first + timedelta(days=number)).isoformat() for number in range(1_005)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda day: place.put(f"sales/{day}.csv", b"value\n1\n"), days))

    assert list(find_files(sales, place.bucket)) == days


def test_a_prefix_is_a_folder(place: Place) -> None:
    for path in ("sales/1.csv", "sales/deep/2.csv", "sales.csv", "sales2/3.csv"):
        place.put(path, b"x")

    inside = ["sales/1.csv", "sales/deep/2.csv"]

    assert [item.path for item in place.bucket.list("sales")] == inside
    assert [item.path for item in place.bucket.list("sales/")] == inside
    assert place.bucket.list("sal") == []


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_names(place: Place, name: str) -> None:
    place.put(name, name.encode())

    (item,) = place.bucket.list()

    assert item.path == name
    assert place.bucket.stat(name) == item
    assert b"".join(place.bucket.stream(item)) == name.encode()


@pytest.mark.parametrize("path", ["/a.csv", "../a.csv", "a//b.csv", "a/./b.csv", "", "a\0b"])
def test_what_is_no_path_inside_is_refused(place: Place, path: str) -> None:
    with pytest.raises(BucketError, match="not a path inside a bucket"):
        place.bucket.stat(path)


def test_a_missing_object_is_not_found(place: Place) -> None:
    place.put("there.csv", b"x")

    with pytest.raises(ObjectNotFound, match=r"'here\.csv'.*bucket"):
        place.bucket.stat("here.csv")


@pytest.mark.parametrize("size", [0, 1, 99_999, 3_500_000])
def test_a_stream_is_the_file_in_pieces(place: Place, size: int) -> None:
    data = os.urandom(size)
    place.put("a.csv", data)

    chunks = [bytes(chunk) for chunk in place.bucket.stream(place.bucket.stat("a.csv"))]

    assert b"".join(chunks) == data
    assert size < 2_000_000 or len(chunks) > 1


def test_a_version_that_was_overwritten_is_not_read(place: Place) -> None:
    place.put("a.csv", b"one")
    looked_at = place.bucket.stat("a.csv")
    place.put("a.csv", b"two")

    with pytest.raises(ObjectChanged, match=r"a\.csv"):
        list(place.bucket.stream(looked_at))
    assert place.bucket.stat("a.csv").etag != looked_at.etag


def test_a_version_that_has_gone_is_not_found(place: Place) -> None:
    place.put("a.csv", b"one")
    looked_at = place.bucket.stat("a.csv")
    place.remove("a.csv")

    with pytest.raises(ObjectNotFound, match=r"a\.csv"):
        list(place.bucket.stream(looked_at))


def test_a_stream_that_is_given_up_leaves_the_bucket_usable(place: Place) -> None:
    place.put("a.csv", b"x" * 5_000_000)
    item = place.bucket.stat("a.csv")
    chunks = place.bucket.stream(item, chunk_size=1000)
    next(chunks)
    chunks.close()

    assert sum(len(chunk) for chunk in place.bucket.stream(item)) == 5_000_000


READ_AND_MEASURE = """
import json, pathlib, resource, sys
from gristmill.bucket.bucket import open_bucket
source, options = sys.argv[1], json.loads(sys.argv[2])
bucket = open_bucket(source, root=pathlib.Path("/"), options=options)
total = sum(len(c) for c in bucket.stream(bucket.stat("small")))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
total += sum(len(c) for c in bucket.stream(bucket.stat("large")))
print(total, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, s3: str, kind: str) -> None:
    small, large = 8_000_000, 128_000_000
    source, options = str(tmp_path), {}
    if kind == "s3":
        source, options = "s3://largefiles", {**KEYS, "AWS_ENDPOINT_URL": s3}
        client(s3).create_bucket(Bucket="largefiles")
        client(s3).put_object(Bucket="largefiles", Key="small", Body=bytes(small))
        client(s3).put_object(Bucket="largefiles", Key="large", Body=bytes(large))
    else:
        (tmp_path / "small").write_bytes(bytes(small))
        (tmp_path / "large").write_bytes(bytes(large))

    measured = subprocess.run(
        [sys.executable, "-c", READ_AND_MEASURE, source, json.dumps(options)],
        check=True,
        capture_output=True,
        text=True,
    )

    total, grown_megabytes = map(int, measured.stdout.split())
    assert total == small + large
    assert grown_megabytes < 24


# --- S3 alone -----------------------------------------------------------------------------


def at(endpoint: str, source: str, **options: str) -> Bucket:
    return open_bucket(source, root=Path("/"), options={"AWS_ENDPOINT_URL": endpoint, **options})


def test_objects_that_stand_for_folders_are_left_out(s3: str) -> None:
    client(s3).create_bucket(Bucket="markers")
    for key in ("in/", "in/sales/", "in/sales/1.csv", "in/empty.csv"):
        client(s3).put_object(Bucket="markers", Key=key, Body=b"x" * (key == "in/sales/1.csv"))

    paths = [item.path for item in at(s3, "s3://markers/in", **KEYS).list()]

    assert paths == ["empty.csv", "sales/1.csv"]


def test_more_objects_than_one_answer_holds_are_all_listed(s3: str) -> None:
    client(s3).create_bucket(Bucket="manyobjects")
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]  # by HTTP this takes 20 seconds
    for number in range(1005):
        backend.put_object("manyobjects", f"{number:04}.csv", b"")

    listed = at(s3, "s3://manyobjects", **KEYS).list()

    assert [item.path for item in listed] == [f"{number:04}.csv" for number in range(1005)]


def test_an_unusable_name_is_shown(s3: str) -> None:
    client(s3).create_bucket(Bucket="unusable")
    client(s3).put_object(Bucket="unusable", Key="a//b.csv", Body=b"x")

    with pytest.raises(BucketError, match=r"a//b\.csv.*rename"):
        at(s3, "s3://unusable", **KEYS).list()


def test_a_public_bucket_is_read_without_keys(s3: str) -> None:
    client(s3).create_bucket(Bucket="publicdata", ACL="public-read")
    client(s3).put_object(Bucket="publicdata", Key="a.csv", Body=b"x", ACL="public-read")
    bucket = at(s3, "s3://publicdata")

    (item,) = bucket.list()

    assert b"".join(bucket.stream(bucket.stat("a.csv"))) == b"x"
    assert item.path == "a.csv"


def test_a_private_object_without_keys_says_which_keys_to_set(s3: str) -> None:
    client(s3).create_bucket(Bucket="privatedata")
    client(s3).put_object(Bucket="privatedata", Key="a.csv", Body=b"x")

    with pytest.raises(BucketError, match=r"no keys has no right.*AWS_ACCESS_KEY_ID"):
        at(s3, "s3://privatedata").stat("a.csv")


def test_a_missing_bucket_is_not_a_missing_object(s3: str) -> None:
    bucket = at(s3, "s3://no-such-bucket", **KEYS)

    for ask in (bucket.list, lambda: bucket.stat("a.csv")):
        with pytest.raises(BucketError, match=r"s3://no-such-bucket.*no such bucket") as refusal:
            ask()
        assert not isinstance(refusal.value, ObjectNotFound)


@pytest.fixture
def signatures_checked(s3: str) -> Iterator[dict[str, str]]:
    """From here on moto checks signatures; the keys are of a user who may do nothing."""
    identity = boto3.client(
        "iam",
        endpoint_url=s3,
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    )
    client(s3).create_bucket(Bucket="guarded")
    identity.create_user(UserName="nobody")
    key = identity.create_access_key(UserName="nobody")["AccessKey"]
    _authorise_after(s3, 0)
    yield {
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
        "AWS_REGION": "us-east-1",
    }
    _authorise_after(s3, 10**9)


def _authorise_after(endpoint: str, actions: int) -> None:
    request = urllib.request.Request(
        f"{endpoint}/moto-api/reset-auth",
        data=str(actions).encode(),
        headers={"Content-Type": "text/plain"},
        method="POST",
    )
    urllib.request.urlopen(request, timeout=10).close()


def test_wrong_keys_are_told_apart(s3: str, signatures_checked: dict[str, str]) -> None:
    unknown = {**signatures_checked, "AWS_ACCESS_KEY_ID": "AKIAUNKNOWN"}
    wrong = {**signatures_checked, "AWS_SECRET_ACCESS_KEY": "verywrong"}
    for options, said in (
        (unknown, "check AWS_ACCESS_KEY_ID"),
        (wrong, "check AWS_SECRET_ACCESS_KEY"),
        (signatures_checked, "These keys have no right"),
    ):
        for ask in (lambda bucket: bucket.list(), lambda bucket: bucket.stat("a.csv")):
            with pytest.raises(BucketError, match=said) as refusal:
                ask(at(s3, "s3://guarded", **options))
            assert options["AWS_SECRET_ACCESS_KEY"] not in str(refusal.value)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_an_unreachable_server_is_one_clear_message(endpoint: str) -> None:
    with pytest.raises(BucketError, match=r"does not answer.*AWS_ENDPOINT_URL") as refusal:
        at(endpoint, "s3://mine", **KEYS).list()

    assert endpoint in str(refusal.value)
    assert "\n" not in str(refusal.value)


@dataclass
class Script:
    """How a server of our own answers GET: what it claims and what it sends."""

    data: bytes
    claimed: int
    sends: list[int] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)
    etag: str = '"v1"'


@pytest.fixture
def scripted() -> Iterator[Callable[[Script], Bucket]]:
    servers = []

    def start(script: Script) -> Bucket:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(script))
        Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return at(f"http://127.0.0.1:{server.server_port}", "s3://mine", **KEYS)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _handler(script: Script) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._headers(200, len(script.data))

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            script.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
            sent = script.sends.pop(0) if script.sends else 0
            if asked:
                self._headers(206, script.claimed - start, start)
            else:
                self._headers(200, script.claimed)
            self.wfile.write(script.data[start : start + sent])
            self.close_connection = True

        def _headers(self, status: int, length: int, start: int = 0) -> None:
            self.send_response(status)
            self.send_header("ETag", script.etag)
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            self.send_header("Content-Length", str(length))
            if status == 206:
                last = start + length - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{script.claimed}")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler


DATA = bytes(range(256)) * 1000


def test_a_connection_that_breaks_for_good_is_never_a_short_file(scripted) -> None:
    bucket = scripted(Script(data=DATA, claimed=len(DATA), sends=[100_000]))

    with pytest.raises(BucketError, match=r"s3://mine/a\.csv"):
        list(bucket.stream(bucket.stat("a.csv")))


def test_a_connection_that_breaks_once_is_taken_up_where_it_broke(scripted) -> None:
    script = Script(data=DATA, claimed=len(DATA), sends=[100_000, len(DATA)])
    bucket = scripted(script)

    assert b"".join(bucket.stream(bucket.stat("a.csv"))) == DATA
    assert script.ranges[0] is None
    assert script.ranges[1] is not None


def test_a_server_that_ignores_conditions_is_checked(scripted) -> None:
    script = Script(data=DATA, claimed=len(DATA), sends=[len(DATA)])
    bucket = scripted(script)
    looked_at = bucket.stat("a.csv")
    script.etag = '"v2"'

    with pytest.raises(ObjectChanged):
        list(bucket.stream(looked_at))


def test_an_answer_shorter_than_what_was_looked_at_is_noticed(scripted) -> None:
    bucket = scripted(Script(data=DATA, claimed=1000, sends=[1000]))

    with pytest.raises(ObjectChanged):
        list(bucket.stream(bucket.stat("a.csv")))
