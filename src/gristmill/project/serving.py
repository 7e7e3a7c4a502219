"""How answers are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LogPolicy = Literal["durable", "best_effort"]


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What comes first where the disk does not take the record of an answer."""

    log: LogPolicy = "durable"
    """`durable`: no answer without its record. `best_effort`: the answer, and it is counted."""
