"""What is known of a model version: what it is, how good, what was judged of it, made from what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gristmill.registry.bundle import read_bundle

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from gristmill.registry.bundle import Bundle
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
    bundle_digest: str | None
    """What its manifest's SHA-256 has to be; None for one registered before that was recorded."""
    code_version: str
    """The Gristmill that trained it."""
    seed: int

    def open_bundle(self) -> Bundle:
        """Its bundle, verified to be the one that was registered; raises BundleError."""
        return read_bundle(self.bundle, digest=self.bundle_digest)


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """One change of champion."""

    version: str
    promoted_at: datetime
    by: str
    """`gate`, or the user of the machine who did it by hand."""
    os_user: str | None
    """The user of the machine whose process it was; None of old ones."""
    database_user: str | None
    """The user of the database, as the database itself noted; None of old ones."""
    why: str
    rolled_back: bool
    """Whether it took the promotion before it back, rather than being one of its own."""
