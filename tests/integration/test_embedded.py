"""The embedded server through kills, copies, strangers and awkward paths, with real servers."""

import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from gristmill.errors import EmbeddedServerError
from gristmill.warehouse import embedded, place, programs
from gristmill.warehouse.connection import Warehouse
from gristmill.warehouse.credentials import read_passwords

ROOT = os.geteuid() == 0
NOBODY = pwd.getpwnam("nobody")

CHILD = """
import encodings.ascii, encodings.idna, os, sys, json, resource, socket, subprocess, tempfile
from pathlib import Path
import psycopg
from gristmill.errors import GristmillError
from gristmill.warehouse import embedded, programs
try:
    psycopg.connect("host=127.0.0.1 port=1")
except psycopg.OperationalError:
    pass
home = Path(sys.argv[1])
def start():
    return embedded.start(home, database="companydata", owner="admin")
def become_nobody(uid, gid):
    if os.geteuid() == 0:
        os.setgroups([]); os.setgid(gid); os.setuid(uid)
"""
"""What a child imports while it still can: root's interpreter is closed to other users."""

Start = Callable[..., Warehouse]


@pytest.fixture
def home(passable: Path) -> Iterator[Path]:
    folder = passable / ".gristmill"
    yield folder
    embedded.stop(folder)


def start(home: Path, port: int | None = None) -> Warehouse:
    return embedded.start(home, database="companydata", owner="admin", port=port)


def child(home: Path, script: str, *arguments: object) -> subprocess.Popen[str]:
    """Run a script in a process of its own, after `CHILD`."""
    command = [sys.executable, "-c", CHILD + script, home, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def output(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip()


def server_uid(home: Path) -> int:
    """The user id that a project's server has to run as."""
    if not ROOT:
        return os.geteuid()
    return home.stat().st_uid or pwd.getpwnam("gristmill").pw_uid


def as_server_user(home: Path) -> dict[str, int]:
    return {"user": server_uid(home)} if ROOT else {}


def superuser(home: Path) -> psycopg.Connection:
    server = embedded.find(home)
    assert server is not None
    password = read_passwords(home / "credentials.json")["postgres"]
    return psycopg.connect(
        f"host=127.0.0.1 port={server.port} user=postgres dbname=postgres password={password}",
        autocommit=True,
    )


def fill(warehouse: Warehouse) -> None:
    with warehouse.transaction() as transaction:
        transaction.execute("CREATE TABLE public.kept AS SELECT generate_series(1, 1000) AS number")


def check_filled(warehouse: Warehouse) -> None:
    with warehouse.transaction() as transaction:
        assert transaction.value("SELECT sum(number) FROM public.kept") == 500_500


def postmasters(home: Path) -> list[int]:
    """The processes that were started as a server of this home, whatever they answer."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"/postgres") and os.fsencode(home / "postgres" / "data") in words:
            found.append(int(entry.name))
    return found


def kill_all(home: Path) -> None:
    """End every process of a home's server at once, as a power cut would."""
    server = embedded.find(home)
    assert server is not None
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    for pid in [server.pid, *map(int, children)]:
        os.kill(pid, signal.SIGKILL)
    while any(Path(f"/proc/{pid}/cwd").exists() for pid in [server.pid, *children]):
        time.sleep(0.01)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# --- Starting -------------------------------------------------------------------------------------


def test_from_nothing_to_a_database_that_its_owner_owns(home: Path) -> None:
    warehouse = start(home)
    with warehouse.transaction() as transaction:
        assert transaction.row(
            "SELECT current_user::text AS me, current_database()::text AS here, rolsuper,"
            " rolcreaterole, pg_get_userbyid(datdba)::text AS owner,"
            " pg_encoding_to_char(encoding)::text AS encoding"
            " FROM pg_roles, pg_database"
            " WHERE rolname = current_user AND datname = current_database()"
        ) == {
            "me": "admin",
            "here": "companydata",
            "rolsuper": False,
            "rolcreaterole": True,
            "owner": "admin",
            "encoding": "UTF8",
        }
        assert transaction.value("SELECT lower('ÄÖÜ')") == "äöü"
        settings = {
            name: transaction.value("SELECT current_setting(%s)", [name])
            for name in ("fsync", "data_checksums", "wal_level", "listen_addresses", "TimeZone")
        }
    assert settings == {
        "fsync": "on",
        "data_checksums": "on",
        "wal_level": "minimal",
        "listen_addresses": "127.0.0.1",
        "TimeZone": "UTC",
    }
    with superuser(home) as connection:
        methods = connection.execute("SELECT DISTINCT auth_method FROM pg_hba_file_rules")
        assert methods.fetchall() == [("scram-sha-256",)]


def test_the_server_runs_as_an_ordinary_user_and_keeps_its_files_to_itself(home: Path) -> None:
    start(home)
    server = embedded.find(home)
    assert server is not None
    assert Path(f"/proc/{server.pid}").stat().st_uid == server_uid(home) != 0
    assert mode(server.data) == mode(server.socket) == mode(server.data.parent) == 0o700
    assert mode(home / "credentials.json") == 0o600
    assert mode(home / "log" / "postgres.log") == 0o600
    assert mode(home) & 0o066 == 0
    assert "Warehouse()" in repr(start(home))


def test_it_belongs_to_no_terminal_and_to_no_command(home: Path) -> None:
    url = output(child(home, "print(start().url)"))
    server = embedded.find(home)
    assert server is not None
    assert os.getsid(server.pid) != os.getsid(0)
    assert start(home).url == url
    assert embedded.find(home) == server


def test_two_starts_at_once_end_with_one_server(home: Path) -> None:
    both = [child(home, "print(start().url)") for _ in range(2)]
    one, other = (output(process) for process in both)
    assert one == other
    server = embedded.find(home)
    assert server is not None
    assert postmasters(home) == [server.pid]


@pytest.mark.parametrize(
    "folder", ["with spaces and ümlauts, 'quoted'", "/".join(["a-rather-long-name"] * 8)]
)
def test_awkward_paths(passable: Path, folder: str) -> None:
    home = passable / folder / ".gristmill"
    try:
        fill(start(home))
        server = embedded.find(home)
        assert server is not None
        assert len(os.fsencode(server.socket / ".s.PGSQL.65535")) <= 107
        assert mode(server.socket) == 0o700
        assert embedded.stop(home)
        check_filled(start(home))
        again = embedded.find(home)
        assert again is not None
        assert again.socket == server.socket
    finally:
        embedded.stop(home)
        shutil.rmtree(json.loads((home / "postgres.json").read_text())["socket"])


def test_a_socket_folder_that_is_not_ours_is_not_trusted(passable: Path) -> None:
    home = passable / ("long" * 30) / ".gristmill"
    start(home)
    embedded.stop(home)
    first = Path(json.loads((home / "postgres.json").read_text())["socket"])
    shutil.rmtree(first)
    first.mkdir()
    if ROOT:
        os.chown(first, NOBODY.pw_uid, NOBODY.pw_gid)
        first.chmod(0o700)
    else:
        first.chmod(0o777)
    try:
        start(home)
        server = embedded.find(home)
        assert server is not None
        assert server.socket != first
        assert list(first.iterdir()) == []
        shutil.rmtree(server.socket, ignore_errors=False)
    finally:
        embedded.stop(home)
        shutil.rmtree(first)


def test_a_moved_project_keeps_its_data(passable: Path) -> None:
    before, after = passable / "before" / ".gristmill", passable / "after" / ".gristmill"
    fill(start(before))
    embedded.stop(before)
    before.parent.rename(after.parent)
    try:
        check_filled(start(after))
    finally:
        embedded.stop(after)


def test_a_home_that_the_servers_user_cannot_reach(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    modes = {folder: mode(folder) for folder in [closed, *closed.parents]}
    home = closed / ".gristmill"
    data = None
    try:
        fill(start(home))
        server = embedded.find(home)
        assert server is not None
        data = server.data.parent
        assert (place.SHARED if ROOT else home) in data.parents
        assert embedded.stop(home)
        check_filled(start(home))
        assert {folder: mode(folder) for folder in modes} == modes
    finally:
        embedded.stop(home)
        if ROOT and data:
            shutil.rmtree(data)


def test_a_home_is_served_as_its_owner(passable: Path) -> None:
    home = passable / ".gristmill"
    home.mkdir()
    owner = NOBODY.pw_uid if ROOT else os.getuid()
    os.chown(home, owner, -1)
    try:
        start(home)
        server = embedded.find(home)
        assert server is not None
        assert Path(f"/proc/{server.pid}").stat().st_uid == owner
        assert (home / "credentials.json").stat().st_uid == owner
    finally:
        embedded.stop(home)


def test_an_ordinary_user_needs_nobody_elses_help(passable: Path) -> None:
    wheel = programs.copied(programs.find_programs(), passable / "wheel").folder.parent
    (wheel / "__init__.py").touch()
    home = passable / "ordinary" / ".gristmill"
    home.parent.mkdir()
    uid, gid = (NOBODY.pw_uid, NOBODY.pw_gid) if ROOT else (os.getuid(), os.getgid())
    os.chown(home.parent, uid, gid)
    script = """
become_nobody(int(sys.argv[2]), int(sys.argv[3]))
sys.path.insert(0, sys.argv[4])
with start().transaction() as transaction:
    print(transaction.value("SELECT current_user::text"), embedded.find(home).pid)
assert embedded.stop(home) and not embedded.stop(home)
start()
"""
    try:
        user, pid = output(child(home, script, uid, gid, wheel.parent)).split()
        assert user == "admin"
        server = embedded.find(home)
        assert server is not None
        assert server.pid != int(pid)
        assert Path(f"/proc/{server.pid}").stat().st_uid == uid
        assert {path.stat().st_uid for path in home.iterdir()} == {uid}
    finally:
        embedded.stop(home)


def test_programs_that_the_servers_user_cannot_reach_are_copied(
    passable: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = passable / "closed"
    closed.mkdir(mode=0o700)
    inside = programs.copied(programs.find_programs(), closed / "wheel")
    monkeypatch.setattr(embedded, "find_programs", lambda major=None: inside)
    monkeypatch.setattr(embedded, "SHARED", passable / "shared")
    monkeypatch.setattr(place, "SHARED", passable / "shared")
    start(home)
    server = embedded.find(home)
    assert server is not None
    running = Path(f"/proc/{server.pid}/exe").resolve()
    assert (passable / "shared" if ROOT else closed) in running.parents
    assert mode(closed) == 0o700


# --- Ports ----------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_a_port_that_is_taken_is_named_with_the_way_to_another(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedServerError, match="GRISTMILL_DATABASE_PORT") as caught:
            start(home, port)
    assert str(port) in str(caught.value)
    assert embedded.find(home) is None
    assert urlsplit(start(home, port).url).port == port


def test_without_a_port_it_takes_the_last_one_or_any_that_is_free(home: Path) -> None:
    port = free_port()
    start(home, port)
    embedded.stop(home)
    assert urlsplit(start(home).url).port == port
    embedded.stop(home)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        warehouse = start(home)
    assert urlsplit(warehouse.url).port != port
    assert urlsplit(start(home).url).port == urlsplit(warehouse.url).port


def test_another_port_than_the_running_servers_is_refused(home: Path) -> None:
    running = urlsplit(start(home).url).port
    with pytest.raises(EmbeddedServerError, match=rf"already runs on port {running}.*down"):
        start(home, free_port())


# --- Stopping, dying, coming back -----------------------------------------------------------------


def test_stop_then_start_keeps_the_data(home: Path) -> None:
    assert not embedded.stop(home)
    assert embedded.find(home) is None
    warehouse = start(home)
    fill(warehouse)
    with psycopg.connect(warehouse.url) as idle:
        idle.execute("INSERT INTO public.kept VALUES (0)")
        assert embedded.stop(home)
        with pytest.raises(psycopg.OperationalError):
            idle.execute("SELECT 1")
    assert embedded.find(home) is None
    assert not embedded.stop(home)
    check_filled(start(home))


def test_a_postmaster_killed_in_a_transaction_while_its_children_live_on(home: Path) -> None:
    warehouse = start(home)
    fill(warehouse)
    server = embedded.find(home)
    assert server is not None
    connection = psycopg.connect(warehouse.url)
    connection.execute("CREATE TABLE public.lost AS SELECT generate_series(1, 1000)")
    backend = connection.info.backend_pid
    os.kill(backend, signal.SIGSTOP)  # It cannot notice that its postmaster dies.
    os.kill(server.pid, signal.SIGKILL)
    with start(home).transaction() as transaction:
        assert transaction.value("SELECT to_regclass('public.lost')::text") is None
    connection.close()
    assert not Path(f"/proc/{backend}/cwd").exists()
    check_filled(start(home))
    again = embedded.find(home)
    assert again is not None
    assert postmasters(home) == [again.pid] != [server.pid]


def test_a_power_cut_loses_nothing_that_was_committed(home: Path) -> None:
    fill(start(home))
    kill_all(home)
    assert embedded.find(home) is None
    check_filled(start(home))


@pytest.mark.parametrize("zombie", [False, True])
def test_a_pid_that_another_process_has_by_now(home: Path, zombie: bool) -> None:
    """The stranger runs as the server's own user, in its very folder: kill(pid, 0) succeeds."""
    fill(start(home))
    kill_all(home)
    data = home / "postgres" / "data"
    stranger = subprocess.Popen(["sleep", "600"], cwd=data, **as_server_user(home))
    try:
        if zombie:
            stranger.kill()
            while Path(f"/proc/{stranger.pid}/stat").read_text().split()[2] != "Z":
                time.sleep(0.01)
        sockets = [path for path in (data.parent / "socket").iterdir() if path.suffix == ".lock"]
        for path in (data / "postmaster.pid", *sockets):
            lines = path.read_text().splitlines()
            path.write_text("\n".join([str(stranger.pid), *lines[1:], ""]))
        assert len(sockets) == 1
        assert embedded.find(home) is None
        assert not embedded.stop(home)
        check_filled(start(home))
        assert zombie or stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("with_it", [False, True], ids=["command", "command and initdb"])
def test_killed_while_it_initialises(home: Path, with_it: bool) -> None:
    command = child(home, "start()")
    unfinished = home / "postgres" / "initialising" / "data" / "base"
    while not unfinished.exists():
        assert command.poll() is None
        time.sleep(0.001)
    assert not (home / "postgres" / "data").exists()
    command.kill()
    command.communicate()
    if with_it:
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if os.fsencode(unfinished.parent) in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError):
                continue
    fill(start(home))
    assert not unfinished.parents[1].exists()
    check_filled(start(home))


def test_killed_while_it_recovers(home: Path) -> None:
    """The second command meets a server that the first one started and never saw answer."""
    fill(start(home))
    kill_all(home)
    command = child(home, "start()")
    while not postmasters(home):
        assert command.poll() is None
        time.sleep(0.001)
    command.kill()
    command.communicate()
    check_filled(start(home))
    assert len(postmasters(home)) == 1


# --- Failing clearly ------------------------------------------------------------------------------


def test_a_full_disk_while_initialising_is_told_and_leaves_nothing_half_made(home: Path) -> None:
    script = """
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
try:
    start()
except GristmillError as error:
    print(type(error).__name__, error)
"""
    said = output(child(home, script))
    assert said.startswith("EmbeddedServerError The database's files cannot be made in")
    assert "Check the disk's space" in said
    assert not (home / "postgres" / "data").exists()
    fill(start(home))


def test_a_server_that_does_not_start_shows_the_end_of_its_log(home: Path) -> None:
    start(home)
    embedded.stop(home)
    control = home / "postgres" / "data" / "global" / "pg_control"
    control.rename(control.with_name("moved"))
    with pytest.raises(EmbeddedServerError, match=r"(?s)did not start.*could not .*pg_control"):
        start(home)
    control.with_name("moved").rename(control)
    start(home)


def test_lost_passwords_are_named_and_no_data_is_touched(home: Path) -> None:
    fill(start(home))
    credentials = home / "credentials.json"
    kept = credentials.read_text()
    credentials.write_text("{}")
    with pytest.raises(EmbeddedServerError, match=r"no password of .*'postgres'.*Restore"):
        start(home)
    credentials.write_text(kept[:20])
    with pytest.raises(Exception, match="is not what was written") as caught:
        start(home)
    assert kept[10:20] not in str(caught.value)
    credentials.write_text(kept)
    check_filled(start(home))


def test_an_owner_whose_password_was_changed_is_mended(home: Path) -> None:
    warehouse = start(home)
    fill(warehouse)
    with warehouse.transaction() as transaction:
        transaction.execute("ALTER ROLE admin PASSWORD 'another'")
    assert start(home).url == warehouse.url
    check_filled(warehouse)


def test_a_database_of_another_owner_is_not_taken(home: Path) -> None:
    start(home)
    with pytest.raises(EmbeddedServerError, match="'admin' does"):
        embedded.start(home, database="companydata", owner="somebody")


@pytest.mark.parametrize(("database", "owner"), [("companydata", "postgres"), ("postgres", "me")])
def test_names_that_postgresql_keeps_are_refused(home: Path, database: str, owner: str) -> None:
    with pytest.raises(EmbeddedServerError, match="choose another"):
        embedded.start(home, database=database, owner=owner)
    assert not home.exists()


# --- Strangers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "socket"])
@pytest.mark.parametrize("password", [None, "", "postgres"])
@pytest.mark.parametrize("user", ["postgres", "admin"])
def test_nobody_connects_without_the_password(
    warehouse_home: Path, host: str, password: str | None, user: str
) -> None:
    server = embedded.find(warehouse_home)
    assert server is not None
    with pytest.raises(psycopg.OperationalError, match=r"no password supplied|authentication fai"):
        psycopg.connect(
            host=str(server.socket) if host == "socket" else host,
            port=server.port,
            user=user,
            password=password,
            dbname="postgres",
            passfile="/nonexistent",
        )


def test_another_user_of_the_machine_reads_nothing_and_enters_nowhere(home: Path) -> None:
    """As an ordinary user we cannot become another: then the modes alone must say it."""
    start(home)
    server = embedded.find(home)
    assert server is not None
    secrets = [home / "credentials.json", home / "log" / "postgres.log", server.data / "PG_VERSION"]
    script = """
become_nobody(int(sys.argv[2]), int(sys.argv[3]))
for path in sys.argv[5:]:
    try:
        if os.getuid() == int(sys.argv[2]):
            Path(path).open().close()
            print("read", path)
    except PermissionError:
        pass
try:
    psycopg.connect(host=sys.argv[4], port=5432, user="postgres", password="x", dbname="postgres")
except psycopg.OperationalError as error:
    print("Permission denied" in str(error))
try:
    start()
except GristmillError as error:
    print(type(error).__name__, "another user of this machine" in str(error))
"""
    said = output(child(home, script, NOBODY.pw_uid, NOBODY.pw_gid, server.socket, *secrets))
    if ROOT:
        assert said.splitlines() == ["True", "EmbeddedServerError True"]
    for path in [*secrets, server.socket, server.data]:
        closing = path if path.is_dir() else path.parent
        assert mode(path) & 0o077 == 0 or mode(closing) & 0o077 == 0


def test_an_impostor_on_the_port_is_not_told_the_password(home: Path) -> None:
    """A program that took the dead server's port and asks for the password in the clear."""
    start(home, free_port())
    server = embedded.find(home)
    assert server is not None
    pid_file = (server.data / "postmaster.pid").read_text()
    embedded.stop(home)
    (server.data / "postmaster.pid").write_text(pid_file)
    with socket.create_server(("127.0.0.1", server.port)) as impostor:
        looking = child(home, "print(embedded.find(home))")
        heard = b""
        while looking.poll() is None:
            impostor.settimeout(0.2)
            try:
                connection, _ = impostor.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(5)
                request = connection.recv(4096)
                if request[4:8] in (b"\x04\xd2\x16\x2f", b"\x04\xd2\x16\x30"):  # TLS or GSS?
                    connection.sendall(b"N")
                    request = connection.recv(4096)
                connection.sendall(b"R\x00\x00\x00\x08\x00\x00\x00\x03")  # The password, please.
                heard += request + connection.recv(4096)
        assert output(looking) == "None"
    assert b"postgres" in heard
    assert read_passwords(home / "credentials.json")["postgres"].encode() not in heard
