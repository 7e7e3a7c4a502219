"""Finds and runs the programs that rehearse a deployment. A missing one fails the test."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TERRAFORM = "https://developer.hashicorp.com/terraform/install"


def need(name: str) -> str:
    """A program's path: beside the running Python, where the lock file puts it, or on the PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        how = TERRAFORM if name == "terraform" else "make install-deploy && tests/programs deploy"
        pytest.fail(f"The program {name} is missing: {how}", pytrace=False)
    return found


def run(*command: object) -> None:
    """Run a command, which must succeed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def in_memory(folder: Path, size: str) -> None:
    """Keep what is written to a folder in memory, until it is unmounted."""
    run("mount", "-t", "tmpfs", "-o", f"mode=755,size={size}", "tmpfs", folder)
