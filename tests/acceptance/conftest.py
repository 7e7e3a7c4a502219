"""The command line as a person uses it: a process of its own, with a home of its own."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass(frozen=True, kw_only=True)
class Installation:
    """A project on this machine: its file, where it keeps its state, and its bucket."""

    project: Path
    home: Path
    source: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str]:
        """The environment of its commands: this one's, without settings for another project."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("GRISTMILL_")
        }
        ours = {"GRISTMILL_HOME": str(self.home), **self.environment}
        if self.source:
            ours["GRISTMILL_SOURCE"] = str(self.source)
        return {**inherited, **ours}

    def command(self, *arguments: str) -> list[str]:
        """The words of a command, for this project."""
        return [sys.executable, "-m", "gristmill", "--project", str(self.project), *arguments]

    def run(self, *arguments: str, expect: int = 0) -> str:
        """What a command prints; fails where it exits otherwise than expected."""
        done = subprocess.run(
            self.command(*arguments), env=self.variables, capture_output=True, text=True
        )
        assert done.returncode == expect, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout if expect == 0 else done.stderr

    def connect(self, *user: str) -> psycopg.Connection:
        """A connection as the owner, or as a user of the project."""
        return psycopg.connect(self.run("connect", *user).strip(), autocommit=True)


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
