"""A load that fills the database's disk: one message, nothing changed, and on it goes."""

import os
import subprocess

import pytest

MEGABYTES = 220
ALLOWANCE = 40
"""What the server's own log may take meanwhile."""

TOML = """
[project]
name = "full"
source = "bucket"

[tables.readings]
path = "readings.csv"
key = ["idx"]
[tables.readings.columns]
idx = "integer"
note = "text"
"""


def write(path, rows):
    with path.open("w") as file:
        file.write("idx,note\n")
        for number in range(rows):
            file.write(f"{number},{number:0>300}\n")


def free(folder):
    """Megabytes."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_bsize >> 20


@pytest.fixture
def small_disk(install):
    """An installation whose database lies on a disk of its own, with little room."""
    made = install("clients")
    made.home.mkdir(mode=0o711)
    size = ["-o", f"size={MEGABYTES}m,mode=0711"]
    subprocess.run(["mount", "-t", "tmpfs", *size, "tmpfs", str(made.home)], check=True)
    yield made
    made.run("down")
    subprocess.run(["umount", str(made.home)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_is_one_message_and_nothing_changes(small_disk, tmp_path):
    (tmp_path / "bucket").mkdir()
    (tmp_path / "gristmill.toml").write_text(TOML)
    readings = tmp_path / "bucket" / "readings.csv"
    made = type(small_disk)(project=tmp_path / "gristmill.toml", home=small_disk.home)
    write(readings, 1000)
    made.run("load")
    before = free(made.home)

    write(readings, 500_000)
    message = made.run("load", expect=1)

    assert "disk is full" in message
    assert "Nothing changed" in message
    assert "Traceback" not in message
    with made.connect() as connection:
        assert connection.execute("SELECT count(*) FROM readings").fetchone() == (1000,)
        assert connection.execute("SELECT count(*) FROM gristmill.loads").fetchone() == (1,)
        tables = "SELECT count(*) FROM pg_class WHERE relname ~ '^readings_\\d+$'"
        assert connection.execute(tables).fetchone() == (1,)
    assert free(made.home) > before - ALLOWANCE

    write(readings, 2000)
    made.run("load")
    with made.connect() as connection:
        assert connection.execute("SELECT count(*) FROM readings").fetchone() == (2000,)
