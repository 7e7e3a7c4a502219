"""Sets entities aside for the holdout: the same ones for ever, whatever else the data does.

An entity's side follows from the salt and its key alone, so it does not move when rows are added,
ordered otherwise or trained on again; hence no version ever trained on the entities that a later
version is compared on.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from gristmill.errors import TrainingError
from gristmill.features.encode import encode_table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from gristmill.features.read import TrainingSet

FEWEST_IN_TRAINING = 20
"""Rows of each label without which no candidate is fitted and cross-validated."""
FEWEST_IN_HOLDOUT = 5
"""Rows of each label without which nothing can be said about a model."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Rows as a model sees them, in an order that depends on their entities alone."""

    inputs: dict[str, NDArray[Any]]
    """Each feature's encoded values, of shape (rows, 1)."""
    labels: NDArray[np.int64]
    """0 or 1, of shape (rows,)."""
    table: pa.Table
    """The same rows as they were read: entity, features, label."""

    @property
    def positives(self) -> int:
        """How many rows have label 1."""
        return int(self.labels.sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """A training set in two parts that share no entity."""

    training: Sample
    holdout: Sample


def split(training_set: TrainingSet, *, salt: str, share: float) -> Split:
    """Part the entities into those that train and those that judge.

    The rows of either part come in the order of their entities' hashes, so the same rows read in
    another order give the same model. Raises TrainingError where a label is not 0 or 1, or where
    either part has too few rows of a label; InvalidFeatures where a feature cannot be encoded.
    """
    _check_labels(training_set)
    table = training_set.table
    fractions = entity_fractions(table.column(training_set.entity).to_pylist(), salt=salt)
    order = np.argsort(fractions, kind="stable")
    held_out = int(np.count_nonzero(fractions < share))
    parts = Split(
        training=_sample(training_set, order[held_out:]),
        holdout=_sample(training_set, order[:held_out]),
    )
    _check_size(parts.training, "to train on", FEWEST_IN_TRAINING)
    _check_size(parts.holdout, "held out to judge by", FEWEST_IN_HOLDOUT)
    return parts


def entity_fractions(entities: Iterable[object], *, salt: str) -> NDArray[np.float64]:
    """Where each entity stands between 0 and 1: held out is who stands below the holdout's share.

    It is the first 8 bytes of blake2b("salt:entity") as a fraction of 2**64; the salt is the
    project's name. A greater share therefore holds out the same entities and more. Entities count
    by their text: 7 and "7" are the same.
    """
    # One hash state with the salt in it, copied: the salt is not hashed again for every entity.
    salted = hashlib.blake2b(f"{salt}:".encode(), digest_size=8)
    digests = bytearray()
    for entity in entities:
        state = salted.copy()
        state.update(str(entity).encode())
        digests += state.digest()
    return np.frombuffer(bytes(digests), dtype=">u8").astype(np.float64) / 2.0**64


def _sample(training_set: TrainingSet, rows: NDArray[np.int64]) -> Sample:
    table = training_set.table.take(pa.array(rows))
    return Sample(
        inputs=encode_table(table, training_set.features),
        labels=table.column(training_set.label).to_numpy().astype(np.int64),
        table=table,
    )


def _check_labels(training_set: TrainingSet) -> None:
    labels = training_set.table.column(training_set.label)
    if not pa.types.is_integer(labels.type):
        raise TrainingError(
            f"The label {training_set.label} must be an integer, 0 or 1; found {labels.type}. "
            "Declare or cast it so."
        )
    strange = sorted(
        (value for value in labels.unique().to_pylist() if value not in (0, 1)),
        key=lambda value: (value is None, value),
    )
    if strange:
        found = ", ".join("null" if value is None else str(value) for value in strange[:5])
        raise TrainingError(
            f"The label {training_set.label} must be 0 or 1; found {found}. "
            "Only a label with two values can be predicted: map it in a derived table, "
            "or declare it with `in = [0, 1]` and see which rows are refused."
        )


def _check_size(sample: Sample, purpose: str, fewest: int) -> None:
    found = {1: sample.positives, 0: len(sample.labels) - sample.positives}
    for label, count in found.items():
        if count < fewest:
            raise TrainingError(
                f"Of the rows {purpose}, {count:,} have label {label} and {found[1 - label]:,} "
                f"have label {1 - label}; at least {fewest} of each are needed. "
                "Load more labels, or change `holdout` in [model]."
            )
