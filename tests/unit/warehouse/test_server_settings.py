"""The server's share of memory follows the machine, and durability follows nothing."""

import os

import pytest

from gristmill.warehouse import server_settings


@pytest.mark.parametrize(
    ("memory", "shared_buffers"), [(512, "64MB"), (8 * 1024, "1024MB"), (512 * 1024, "1024MB")]
)
def test_memory_is_an_eighth_and_at_most_a_gigabyte(
    monkeypatch: pytest.MonkeyPatch, memory: int, shared_buffers: str
) -> None:
    monkeypatch.setattr(server_settings, "_memory", lambda: memory * 1024 * 1024)
    found = server_settings.settings()
    assert found["shared_buffers"] == shared_buffers
    assert found["fsync"] == "on"
    assert "synchronous_commit" not in found


def test_a_container_never_counts_more_than_the_machine_has() -> None:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < server_settings._memory() <= machine
