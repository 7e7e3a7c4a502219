"""How much memory the embedded server may take, and other settings that suit this work."""

from __future__ import annotations

import os
from pathlib import Path

_MEGABYTE = 1024 * 1024


def settings() -> dict[str, str]:
    """PostgreSQL settings for loading much and reading much on the machine or container we are in.

    `wal_level=minimal` lets a COPY into a table made in the same transaction skip the log; the
    table's file is synced at commit instead, so it is as durable.
    """
    memory = _memory() // _MEGABYTE
    return {
        "fsync": "on",
        "wal_level": "minimal",
        "max_wal_senders": "0",
        "max_wal_size": "4GB",
        "shared_buffers": f"{max(32, min(1024, memory // 8))}MB",
        "maintenance_work_mem": f"{max(32, min(256, memory // 16))}MB",
        "work_mem": f"{max(8, min(64, memory // 64))}MB",
        "max_parallel_maintenance_workers": "2",
        "jit": "off",
        "TimeZone": "UTC",
        "log_timezone": "UTC",
        "lc_messages": "C",
        "log_line_prefix": "%m [%p] %q%u@%d ",
        "log_checkpoints": "off",
        # A failed statement and the details of its error hold people's data: not for a log.
        "log_min_error_statement": "panic",
        "log_error_verbosity": "terse",
    } | _shared_memory()


def _memory() -> int:
    """Bytes of the machine, or of the container where that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return machine
    return min(machine, limit)


def _shared_memory() -> dict[str, str]:
    """In a container /dev/shm often has 64 MB, too little for parallel work: files do instead."""
    try:
        found = os.statvfs("/dev/shm")  # noqa: S108 (only measured)
    except OSError:
        return {}
    small = found.f_frsize * found.f_blocks < 512 * _MEGABYTE
    return {"dynamic_shared_memory_type": "mmap"} if small else {}
