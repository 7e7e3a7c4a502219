"""Installations of the examples, and an Airflow that the tests of a run share."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .airflow_stack import airflow_stack
from .installation import EXAMPLES, Installation

__all__ = ["airflow_stack"]


@pytest.fixture(scope="module")
def install() -> Iterator[Callable[..., Installation]]:
    """Makes installations of an example or a project; their servers are stopped at the end."""
    made: list[Installation] = []

    def make(
        example: str, *, source: Path | None = None, project: Path | None = None
    ) -> Installation:
        # Not under pytest's folder, which root closes to the user that root's server runs as.
        home = Path(tempfile.mkdtemp(prefix="gristmill-acceptance-", dir="/tmp"))
        home.chmod(0o711 if os.geteuid() == 0 else 0o700)
        installation = Installation(
            project=project or EXAMPLES / example / "gristmill.toml",
            home=home / "home",
            source=source,
        )
        made.append(installation)
        return installation

    yield make
    for installation in made:
        installation.run("down")
        shutil.rmtree(installation.home.parent)
