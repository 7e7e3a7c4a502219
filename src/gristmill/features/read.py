"""The only two ways out of the features: `training_set` for training, `latest` for answering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from gristmill.project.features import Feature


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """One row per label: the features as of the time the label was known."""

    entity: str
    """The name of the entity's column."""
    features: tuple[Feature, ...]
    """The model's inputs, in order."""
    label: str
    """The name of the label's column: integers 0 and 1, no null."""
    table: pa.Table
    """The columns entity, features…, label, and `as_of` where the project names one."""
    build: int
    """The build it was read from."""
