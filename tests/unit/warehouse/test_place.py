"""Where the server's files lie: kept on record, moved with the project, never shared by a copy."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from gristmill.errors import EmbeddedServerError
from gristmill.warehouse.place import Place, prepare, read_place, write_place


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "project" / ".gristmill"
    folder.mkdir(parents=True)
    return folder


def place_in(folder: Path, home: Path) -> Place:
    return Place(home=home, folder=folder, socket=folder / "socket", port=6543, user=None)


def test_what_lies_in_the_home_moves_with_it(home: Path) -> None:
    write_place(place_in(home / "postgres", home))
    moved = home.parent.rename(home.parent.with_name("moved")) / ".gristmill"
    found = read_place(moved)
    assert found is not None
    assert found.data == moved / "postgres" / "data"
    assert found.socket == moved / "postgres" / "socket"
    assert found.port == 6543


def test_what_lies_outside_follows_a_move_and_not_a_copy(home: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    write_place(place_in(outside, home))
    other = home.parent.with_name("other") / ".gristmill"
    other.mkdir(parents=True)
    (other / "postgres.json").write_bytes((home / "postgres.json").read_bytes())
    with pytest.raises(EmbeddedServerError, match=r"copy of .*project.*Delete"):
        read_place(other)
    (home / "postgres.json").unlink()
    found = read_place(other)
    assert found is not None
    assert found.data == outside / "data"


def test_a_home_without_a_server_has_no_place(home: Path) -> None:
    assert read_place(home) is None


@pytest.mark.parametrize("wrong", ["open", "link"])
def test_a_folder_that_others_can_enter_is_refused(home: Path, tmp_path: Path, wrong: str) -> None:
    if wrong == "open":
        (home / "postgres").mkdir()
        (home / "postgres").chmod(0o755)
    else:
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        (home / "postgres").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EmbeddedServerError, match="does not belong to the server's user alone"):
        prepare(place_in(home / "postgres", home))


@pytest.mark.parametrize("name", ["a" * 100, "a,b", "ü", "@a"])
def test_a_socket_gets_a_short_plain_path_that_is_kept(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    home.mkdir()
    first = prepare(place_in(home / "postgres", home))
    try:
        assert first.socket.parent == Path("/tmp")
        assert len(os.fsencode(first.socket)) < 40
        write_place(first)
        assert json.loads((home / "postgres.json").read_text())["socket"] == str(first.socket)
        assert prepare(first) == first
        first.socket.chmod(0o755)
        second = prepare(first)
        assert second.socket != first.socket
        second.socket.rmdir()
    finally:
        first.socket.rmdir()


def test_the_socket_lies_beside_the_data_where_its_path_is_short(tmp_path: Path) -> None:
    folder = Path("/tmp") / f"gristmill-test-{os.getpid()}"
    folder.mkdir()
    try:
        found = prepare(place_in(folder / "postgres", folder))
        assert found.socket == folder / "postgres" / "socket"
        assert prepare(replace(found, socket=tmp_path)).socket == found.socket
    finally:
        (folder / "postgres" / "socket").rmdir()
        (folder / "postgres").rmdir()
        folder.rmdir()
