"""What is predicted, for whom, and from which columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TRAINING_SET = "training_set"
"""The name under which people query the training set."""
AS_OF = "as_of"
"""The training set's column that holds the moment of each row."""

FeatureType = Literal["integer", "number", "text", "date", "timestamp", "boolean"]


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One input of a model."""

    name: str
    type: FeatureType


@dataclass(frozen=True, kw_only=True)
class ColumnReference:
    """A column of a table or derived table, written `table.column`."""

    table: str
    column: str

    def __str__(self) -> str:
        return f"{self.table}.{self.column}"


@dataclass(frozen=True, kw_only=True)
class Features:
    """The feature store: one row per entity, with its features and, where known, its label."""

    table: str
    """The name under which people query the feature store."""
    entity: ColumnReference
    """The table that lists who there is, and its key."""
    features: tuple[ColumnReference, ...]
    label: ColumnReference | None = None
    as_of: ColumnReference | None = None
    """When each label was known: a training row holds what was valid then."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The tables it reads, the entity's first, each once."""
        references = [self.entity, *self.features]
        references += [column for column in (self.label, self.as_of) if column]
        return tuple(dict.fromkeys(reference.table for reference in references))
