"""What is asked of Amazon before a bucket is opened; what Azure answers otherwise."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from gristmill.bucket.bucket import open_bucket
from gristmill.bucket.object_store import bucket_region
from gristmill.errors import BucketError, ObjectChanged


class Redirecting(BaseHTTPRequestHandler):
    """Answers as S3 does for a bucket of another region."""

    def do_HEAD(self) -> None:
        known = self.path == "/elsewhere"
        self.send_response(301 if known else 404)
        if known:
            self.send_header("x-amz-bucket-region", "eu-west-1")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Redirecting) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_region_is_read_from_the_refusal(endpoint: str) -> None:
    assert bucket_region("elsewhere", endpoint=endpoint) == "eu-west-1"


def test_an_unknown_bucket_has_no_region(endpoint: str) -> None:
    assert bucket_region("nowhere", endpoint=endpoint) is None


def test_without_a_network_there_is_no_region() -> None:
    assert bucket_region("mine", endpoint="http://127.0.0.1:9") is None


LISTING = """<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="mine">
<Blobs><Blob><Name>a.csv</Name><Properties><Etag>0x8DC0FFEE</Etag>
<Last-Modified>Mon, 23 Nov 2026 11:27:13 GMT</Last-Modified><Content-Length>4</Content-Length>
<Content-Type>text/csv</Content-Type><BlobType>BlockBlob</BlobType></Properties>
</Blob></Blobs><NextMarker /></EnumerationResults>"""
REFUSAL = """<?xml version="1.0" encoding="utf-8"?><Error><Code>ContainerNotFound</Code></Error>"""


class Azure(BaseHTTPRequestHandler):
    """Answers as Azure does: an etag has its quotes in a header, and not in a listing."""

    etag = '"0x8DC0FFEE"'

    def do_GET(self) -> None:
        if "/mine" not in self.path:
            self.answer(404, REFUSAL.encode())
        elif "comp=list" in self.path:
            self.answer(200, LISTING.encode())
        elif self.headers.get("If-Match", self.etag) != self.etag:
            self.answer(412, b"")
        else:
            self.answer(200, b"a\n1\n")

    def answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Last-Modified", "Mon, 23 Nov 2026 11:27:13 GMT")
        self.send_header("ETag", self.etag)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    monkeypatch.setattr(Azure, "etag", Azure.etag)
    with HTTPServer(("127.0.0.1", 0), Azure) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield {
            "AZURE_STORAGE_ACCOUNT_NAME": "account",
            "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{server.server_port}/account",
            "AZURE_SKIP_SIGNATURE": "true",
        }
        server.shutdown()


def test_what_azure_lists_can_be_read(azure: dict[str, str]) -> None:
    bucket = open_bucket("az://mine", root=Path(), options=azure)
    [found] = bucket.list()
    assert (found.path, found.etag) == ("a.csv", '"0x8DC0FFEE"')
    assert b"".join(bytes(chunk) for chunk in bucket.stream(found)) == b"a\n1\n"
    Azure.etag = '"0x8DC0DECAF"'
    with pytest.raises(ObjectChanged):
        list(bucket.stream(found))


def test_a_container_that_there_is_not(azure: dict[str, str]) -> None:
    with pytest.raises(BucketError, match="There is no such container"):
        open_bucket("az://other", root=Path(), options=azure).list()
