"""Finds and runs the programs that rehearse a deployment. A missing one fails the test."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SOURCES = {
    "terraform": "https://developer.hashicorp.com/terraform/install",
    "docker": "apt-get install docker.io",
    "docker-compose": "apt-get install docker-compose",
    "dockerd": "apt-get install docker.io",
    "git": "apt-get install git",
    "ip": "apt-get install iproute2",
    "iptables": "apt-get install iptables",
    "mmdebstrap": "apt-get install mmdebstrap",
    "nsenter": "apt-get install util-linux",
    "pebble": "apt-get install pebble",
    "pebble-challtestsrv": "apt-get install pebble",
    "rsync": "apt-get install rsync",
    "ssh-keygen": "apt-get install openssh-client",
    "systemd-nspawn": "apt-get install systemd-container",
}
"""Where a program comes from that the lock file's group `deploy` does not bring."""


def need(name: str) -> str:
    """A program's path: beside the running Python, where the lock file puts it, or on the PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        source = SOURCES.get(name, "uv sync --locked --all-extras --group deploy --inexact")
        pytest.fail(f"The program {name} is missing: {source}", pytrace=False)
    return found


def run(*command: object) -> None:
    """Run a command, which must succeed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def in_memory(folder: Path, size: str) -> None:
    """Keep what is written to a folder in memory, until it is unmounted."""
    run("mount", "-t", "tmpfs", "-o", f"mode=755,size={size}", "tmpfs", folder)
