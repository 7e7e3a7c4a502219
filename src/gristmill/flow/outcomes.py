"""Outcomes from a file, onto the record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gristmill.errors import GristmillError
from gristmill.predictions.outcomes import record_outcomes_file
from gristmill.registry.bundle import Entity

if TYPE_CHECKING:
    from pathlib import Path

    from gristmill.flow.context import Context
    from gristmill.predictions.outcomes import Recorded


def record_outcomes(context: Context, file: Path) -> Recorded:
    """Put what turned out to be true on record, all of a CSV file or nothing.

    Raises OutcomesRefused, which names the wrong lines.
    """
    features = context.project.features
    if features is None:
        raise GristmillError("The project declares no [features], so there is nobody to tell of.")
    column = context.project.tables[features.entity.table].column(features.entity.column)
    assert column is not None  # The entity is checked when the project is read.
    entity = Entity(name=column.name, type=column.type)
    return record_outcomes_file(context.warehouse, file, entity, now=context.now())
