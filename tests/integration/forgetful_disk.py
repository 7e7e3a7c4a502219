"""A process's system calls as they happen, and the disk as a power cut would leave it.

The process is traced with ptrace. What it writes counts as being on the disk once it has synced it:
`Disk.survives` is what a disk holds that forgets everything else. No program but Linux is needed.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import platform
import re
import signal
import socket
import sqlite3
import struct
import sys
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long

TRACEME, CONT, SYSCALL, SETOPTIONS, GET_SYSCALL_INFO = 0, 7, 24, 0x4200, 0x420E
OPTIONS = 0x1 | 0x2 | 0x4 | 0x8 | 0x100000
"""Mark stops at system calls; follow fork, vfork and clone; kill the traced when we end."""
ALL_THREADS = 0x40000000
NUMBERS = {
    "x86_64": {"write": 1, "pwrite64": 18, "writev": 20, "sendto": 44, "sendmsg": 46,
               "fsync": 74, "fdatasync": 75, "ftruncate": 77, "unlink": 87, "unlinkat": 263},
    "aarch64": {"write": 64, "pwrite64": 68, "writev": 66, "sendto": 206, "sendmsg": 211,
                "fsync": 82, "fdatasync": 83, "ftruncate": 46, "unlinkat": 35},
}  # fmt: skip
"""By which number each processor's kernel knows the calls."""


@dataclass
class File:
    """One file's content, and what of it would survive."""

    now: bytearray = field(default_factory=bytearray)
    synced: bytes = b""

    def write(self, content: bytes, at: int) -> None:
        if len(self.now) < at:
            self.now.extend(bytes(at - len(self.now)))
        self.now[at : at + len(content)] = content


@dataclass
class Disk:
    """The files of one folder."""

    folder: Path
    files: dict[str, File] = field(default_factory=dict)
    entries: frozenset[str] = frozenset()
    """The names that the folder's own last sync put on the disk."""
    syncs: int = 0

    def file(self, path: str) -> File | None:
        """The file at a path; None where it is none of the folder's."""
        if Path(path).parent != self.folder:
            return None
        return self.files.setdefault(Path(path).name, File())

    def survives(self, into: Path) -> None:
        """Write what a power cut would leave into another folder."""
        for name, file in self.files.items():
            if file.synced and name in self.entries:
                (into / name).write_bytes(file.synced)


@dataclass
class _Call:
    name: str
    arguments: Sequence[int]
    content: bytes = b""
    """What a sync found to be put on the disk: what came meanwhile may be missed."""


class Tracer:
    """Runs a program and follows all its threads and children, from the thread that made it."""

    def __init__(self, arguments: Sequence[str], disk: Disk) -> None:
        self._names = {number: name for name, number in NUMBERS[platform.machine()].items()}
        self._disk = disk
        self._calls: dict[int, _Call] = {}
        self._status = 0
        self.pid = os.fork()
        if self.pid == 0:
            _ptrace(TRACEME, 0)
            os.execv(arguments[0], arguments)
        os.waitpid(self.pid, 0)
        _ptrace(SETOPTIONS, self.pid, data=OPTIONS)
        _ptrace(SYSCALL, self.pid)

    def run(self, sent: Callable[[bytes], None]) -> int:
        """Follow until the program ends; `sent` is called before bytes go out. Its exit status."""
        while True:
            pid, status = os.waitpid(-1, ALL_THREADS)
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                if pid == self.pid:
                    return os.waitstatus_to_exitcode(status)
                continue
            number = os.WSTOPSIG(status)
            passed_on = 0
            if number == signal.SIGTRAP | 0x80:
                self._at_system_call(pid, sent)
            elif number not in (signal.SIGTRAP, signal.SIGSTOP):
                passed_on = number
            try:
                _ptrace(SYSCALL, pid, data=passed_on)
            except ProcessLookupError:
                continue

    def _at_system_call(self, pid: int, sent: Callable[[bytes], None]) -> None:
        info = ctypes.create_string_buffer(88)
        _ptrace(GET_SYSCALL_INFO, pid, len(info), ctypes.addressof(info))
        kind = info.raw[0]
        if kind == 1:
            number, *arguments = struct.unpack_from("=7Q", info.raw, 24)
            name = self._names.get(number)
            if name:
                call = _Call(name, arguments)
                self._calls[pid] = call
                if name in ("write", "sendto", "writev", "sendmsg"):
                    self._before_sending(pid, call, sent)
                elif name in ("fsync", "fdatasync"):
                    file = self._disk.file(_path(pid, arguments[0]))
                    call.content = bytes(file.now) if file else b""
        elif kind == 2 and pid in self._calls:
            (result,) = struct.unpack_from("=q", info.raw, 24)
            call = self._calls.pop(pid)
            if result >= 0:
                self._done(pid, call, result)

    def _before_sending(self, pid: int, call: _Call, sent: Callable[[bytes], None]) -> None:
        if not _path(pid, call.arguments[0]).startswith("socket:"):
            return
        address, length = call.arguments[1], call.arguments[2]
        if call.name == "sendmsg":
            address, length = struct.unpack("=2Q", _memory(pid, address + 16, 16))
        if call.name in ("writev", "sendmsg"):
            vectors = _memory(pid, address, length * 16)
            sent(b"".join(_memory(pid, *pair) for pair in struct.iter_unpack("=2Q", vectors)))
        else:
            sent(_memory(pid, address, length))

    def _done(self, pid: int, call: _Call, result: int) -> None:
        if call.name in ("unlink", "unlinkat"):
            self._disk.files.pop(Path(_text(pid, call.arguments[call.name == "unlinkat"])).name, "")
            return
        path = _path(pid, call.arguments[0])
        if path == str(self._disk.folder) and call.name == "fsync":
            self._disk.entries = frozenset(each.name for each in Path(path).iterdir())
        file = self._disk.file(path)
        if file is None:
            return
        if call.name == "pwrite64":
            file.write(_memory(pid, call.arguments[1], result), call.arguments[3])
        elif call.name == "write":
            content = _memory(pid, call.arguments[1], result)
            file.write(content, _position(pid, call.arguments[0]) - result)
        elif call.name == "ftruncate":
            size = call.arguments[1]
            file.now = file.now[:size].ljust(size, b"\0")
        elif call.name in ("fsync", "fdatasync"):
            file.synced = call.content
            self._disk.syncs += 1
        else:
            raise AssertionError(f"{call.name} is not how the spool was known to write")


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> None:
    if _libc.ptrace(request, pid, address, data) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _path(pid: int, descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{descriptor}")  # noqa: PTH115  (a socket is no path)
    except OSError:
        return ""


def _position(pid: int, descriptor: int) -> int:
    first = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text().splitlines()[0]
    return int(first.removeprefix("pos:"))


def _text(pid: int, address: int) -> str:
    # A page at a time: what follows the text may not be there.
    text = b""
    while b"\0" not in text:
        text += _memory(pid, address + len(text), 4096 - (address + len(text)) % 4096)
    return os.fsdecode(text[: text.index(b"\0")])


def _memory(pid: int, address: int, length: int) -> bytes:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:  # noqa: PTH123
        return os.pread(memory.fileno(), length, address)


# --- The proof: a program of its own, for it waits for every child of its process -----------------

SERVER = """
import sys
from pathlib import Path
from gristmill.predictions import spool
from gristmill.serving.server import Deployment, serve

bundle, folder, port, careless = sys.argv[1:]
spool.CHECKPOINT_PAGES = 16  # so that some happen
connect = spool._connect

def connect_carelessly(path):
    connection = connect(path)
    connection.execute("PRAGMA synchronous = OFF")
    return connection

if careless == "careless":
    spool._connect = connect_carelessly
serve(Deployment(bundle=Path(bundle), spool=Path(folder)), host="127.0.0.1", port=int(port))
"""


def prove(bundle: str, folder: str, careless: str) -> dict[str, int]:
    """Serve under trace, ask, and compare each answer with what a power cut would have left."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    disk = Disk(folder=Path(folder))
    arguments = [sys.executable, "-c", SERVER, bundle, folder, str(port), careless]
    tracer = Tracer(arguments, disk)
    found = {"answers": 0, "lost": 0}
    clients = [threading.Thread(target=_ask, args=(port,)) for _ in range(CLIENTS)]

    def ask_and_stop() -> None:
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        os.kill(tracer.pid, signal.SIGTERM)

    def sent(content: bytes) -> None:
        for given in re.findall(rb'"prediction_id":"([^"]+)"', content):
            found["answers"] += 1
            found["lost"] += given.decode() not in _surviving(disk)

    threading.Thread(target=ask_and_stop).start()
    status = tracer.run(sent)
    return {**found, "syncs": disk.syncs, "status": status}


def _ask(port: int) -> None:
    features = {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "scd_b": 3}
    body = json.dumps({"idx": 1, "features": features})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    answered = 0
    while answered < REQUESTS:
        try:
            connection.request("POST", "/predict", body, {"content-type": "application/json"})
            answered += connection.getresponse().read().count(b"prediction_id")
        except OSError:
            connection.close()
            time.sleep(0.1)
    connection.close()


def _surviving(disk: Disk) -> set[str]:
    """The predictions that SQLite finds on what survives."""
    with tempfile.TemporaryDirectory() as folder:
        disk.survives(Path(folder))
        found = set()
        for path in Path(folder).glob("*.spool"):
            with closing(sqlite3.connect(path)) as connection:
                try:
                    rows = connection.execute("SELECT records FROM groups").fetchall()
                except sqlite3.OperationalError:
                    rows = []
            found |= {each["prediction_id"] for (records,) in rows for each in json.loads(records)}
        return found


CLIENTS, REQUESTS = 4, 40

if __name__ == "__main__":
    print(json.dumps(prove(*sys.argv[1:])))
