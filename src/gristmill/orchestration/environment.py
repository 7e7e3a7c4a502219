"""Airflow's own Python environment: installed once for a user, from a locked list with hashes.

Keyed by the list's digest, it serves every project; one that was not finished is never used.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gristmill.errors import OrchestrationError
from gristmill.warehouse.files import locked

if TYPE_CHECKING:
    from gristmill.flow.report import Report

LIST = Path(__file__).with_name("airflow.txt")
"""The locked list: every package with its version and the digests of its files."""
DISK = 1_200_000_000
"""Bytes that an installation takes for a moment: the environment and what was downloaded for it."""
_LAST_LINES = 12
_PAUSE = 0.2


@dataclass(frozen=True, kw_only=True)
class Environment:
    """An installed Airflow."""

    folder: Path
    """Where it lies."""
    version: str
    """Which Airflow it is."""
    locked_list: Path
    """What it is made of."""

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def command(self, *arguments: str) -> list[str]:
        """A command of Airflow's, to run with a project's configuration."""
        return [str(self.python), "-m", "airflow", *arguments]


def ensure_environment(cache: Path, report: Report, *, locked_list: Path = LIST) -> Environment:
    """The environment in a cache folder, installed where it is missing; two at once install once.

    Takes `uv` where it is in PATH, else venv and pip. Raises OrchestrationError with the last lines
    that the installer said.
    """
    digest = hashlib.sha256(locked_list.read_bytes()).hexdigest()[:12]
    found = re.search(r"^apache-airflow==(\S+)", locked_list.read_text("utf-8"), re.MULTILINE)
    assert found is not None  # The list is made for it.
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = cache / f"airflow-{found[1]}-{digest}-python{python}"
    environment = Environment(folder=folder, version=found[1], locked_list=locked_list)
    if _works(environment):
        return environment
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(cache / f"{folder.name}.lock"):
            if not _works(environment):
                _install(environment, report)
    except OSError as error:
        raise OrchestrationError(
            f"Airflow cannot be installed in {folder}: {error.strerror or error}. Choose a folder "
            "that is yours to write with XDG_CACHE_HOME."
        ) from error
    return environment


def _works(environment: Environment) -> bool:
    """Whether an installation was finished, and its interpreter is still there."""
    if not _finished(environment).exists():
        return False
    try:
        done = subprocess.run([environment.python, "-c", ""], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def _finished(environment: Environment) -> Path:
    return environment.folder / "installed"


def _install(environment: Environment, report: Report) -> None:
    """Make the environment anew; the file that says that it is whole is written as the last act."""
    free = shutil.disk_usage(environment.folder.parent).free
    if free < DISK:
        raise OrchestrationError(
            f"Airflow needs {DISK / 1e9:.1f} GB to be installed in {environment.folder.parent}; "
            f"{free / 1e9:.1f} GB are free there. Free some, or choose another folder with "
            "XDG_CACHE_HOME."
        )
    shutil.rmtree(environment.folder, ignore_errors=True)
    text = environment.locked_list.read_text("utf-8")
    names = len(re.findall(r"^[a-z][\w.-]*==", text, re.MULTILINE))
    report.begin(f"installing Airflow {environment.version}, this once", names)
    uv = shutil.which("uv")
    for command in _with_uv(uv, environment) if uv else _with_pip(environment):
        _run(command, environment, report)
    with _finished(environment).open("w", encoding="utf-8") as file:
        file.write(f"{environment.version}\n")
        file.flush()
        os.fsync(file.fileno())
    report.done(f"Airflow {environment.version}: installed in {environment.folder}")


def _with_uv(uv: str, environment: Environment) -> list[list[str]]:
    return [
        [uv, "venv", "--quiet", "--python", sys.executable, str(environment.folder)],
        [
            uv, "pip", "install", "--quiet", "--python", str(environment.python),
            "--require-hashes", "--no-deps", "--no-build", "--compile-bytecode",
            "--requirement", str(environment.locked_list),
        ],
    ]  # fmt: skip


def _with_pip(environment: Environment) -> list[list[str]]:
    return [
        [sys.executable, "-m", "venv", str(environment.folder)],
        [
            str(environment.python), "-m", "pip", "install", "--quiet", "--require-hashes",
            "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check",
            "--requirement", str(environment.locked_list),
        ],
    ]  # fmt: skip


def _run(command: list[str], environment: Environment, report: Report) -> None:
    """Run an installer, counting what it has installed so far."""
    told = 0
    # Not in the project's folder: a pyproject.toml there would be taken for the installer's own.
    with (
        tempfile.TemporaryFile() as output,
        subprocess.Popen(
            command,
            cwd=environment.folder.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        while True:
            try:
                process.wait(_PAUSE)
                break
            except subprocess.TimeoutExpired:
                there = sum(1 for _ in environment.folder.glob("lib/*/site-packages/*.dist-info"))
                report.advance(max(there - told, 0))
                told = max(there, told)
        output.seek(0)
        lines = output.read().decode(errors="replace").strip().splitlines()[-_LAST_LINES:]
    if process.returncode != 0:
        raise OrchestrationError(
            f"Airflow {environment.version} cannot be installed in {environment.folder}. "
            f"`{' '.join(command[:4])} …` ended with {process.returncode}:\n"
            + "\n".join(lines)
            + "\nIt needs the package index that your pip or uv is set to, a Python with its "
            "module venv (Debian: python3-venv), and space on the disk. Retry: nothing half-made "
            "is used."
        )
