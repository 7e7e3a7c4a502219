"""An S3 server of this machine over a folder of files."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The source of a bucket that holds the folder's files, and the environment that reaches it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    rclone = Path(sys.executable).with_name("rclone")
    if not rclone.exists():
        raise SystemExit("rclone is missing: `make bench` installs it with the group `bench`.")
    address = f"127.0.0.1:{port}"
    command = [str(rclone), "serve", "s3", "--addr", address, "--auth-key", "benchmark,benchmark"]
    server = subprocess.Popen(
        [*command, str(folder.parent)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield (
            f"s3://{folder.name}",
            {
                "AWS_ACCESS_KEY_ID": "benchmark",
                "AWS_SECRET_ACCESS_KEY": "benchmark",
                "AWS_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": f"http://{address}",
            },
        )
    finally:
        server.kill()
        server.wait()
