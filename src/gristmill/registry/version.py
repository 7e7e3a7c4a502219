"""What is known of a model version: what it is, how good, what was judged of it, made from what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from gristmill.training.gate import Decision


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """A fitted classifier on record."""

    version: str
    """A number, counted up; some may be missing."""
    registered_at: datetime
    candidate: str
    """The candidate that won the comparison."""
    verdict: Decision
    reasons: tuple[str, ...]
    """The gate's sentences."""
    no_signal: bool
    """Whether it was not shown to be better than chance."""
    evaluation: Mapping[str, Any]
    """`training.evaluate.Evaluation` as plain values."""
    build: int
    """The build of the training set."""
    lineage: Mapping[str, Any]
    """What else it was made from: at least the loads."""
    run_id: str
    """The tracking server's run."""
    bundle: Path
    """The folder that answers are computed from."""
    code_version: str
    """The Gristmill that trained it."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """One change of champion."""

    version: str
    promoted_at: datetime
    by: str
    why: str
    rolled_back: bool
    """Whether it took the promotion before it back, rather than being one of its own."""
