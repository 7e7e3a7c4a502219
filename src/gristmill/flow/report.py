"""What a step tells while it works. The command line shows it as bars or lines."""

from __future__ import annotations

from typing import Protocol


class Report(Protocol):
    """Who listens to a step."""

    def begin(self, what: str, total: int) -> None:
        """Something that takes time begins; `total` is its size in its own unit, 0 if unknown."""

    def advance(self, amount: int) -> None:
        """That much more of it is done."""

    def done(self, line: str) -> None:
        """It is over; a line for people."""


class Silence:
    """Nobody listens."""

    def begin(self, what: str, total: int) -> None:
        """Say nothing."""

    def advance(self, amount: int) -> None:
        """Say nothing."""

    def done(self, line: str) -> None:
        """Say nothing."""
