"""What is asked of Amazon before a bucket is opened."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from gristmill.bucket.object_store import bucket_region


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
