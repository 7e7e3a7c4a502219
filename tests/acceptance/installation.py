"""The command line as a person uses it: a process of its own, with a home of its own."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

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
        # The uv that the Makefile installs, where there is no other: Airflow is installed by it
        # in seconds, by pip in a minute and more.
        path = f"{os.environ['PATH']}:{EXAMPLES.parent / '.uv' / 'bin'}"
        ours = {"PATH": path, "GRISTMILL_HOME": str(self.home), **self.environment}
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
