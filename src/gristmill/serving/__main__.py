"""`python -m gristmill.serving`: answer from the bundle that the environment names.

For machines that have neither a project nor a database of their own: a container, a host.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path

from gristmill.errors import GristmillError
from gristmill.serving.deployed import deployed
from gristmill.serving.server import serve, serve_at
from gristmill.settings import read_settings


def main() -> None:
    """Serve until stopped; exit 1 with one message where that cannot be."""
    parser = ArgumentParser(prog="python -m gristmill.serving", description=__doc__)
    parser.add_argument(
        "--socket", type=Path, metavar="PATH", help="a Unix socket instead of GRISTMILL_HOST, _PORT"
    )
    parser.add_argument("--workers", type=int, default=1, help="how many processes answer")
    given = parser.parse_args()
    if given.workers < 1:
        parser.error("--workers must be at least 1")
    try:
        settings = read_settings(Path.cwd())
        if given.socket:
            serve_at(deployed(settings), given.socket, workers=given.workers)
        else:
            serve(deployed(settings), host=settings.host, port=settings.port, workers=given.workers)
    except GristmillError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
