"""What a model would have answered to the latest predictions on record: which decisions would flip.

It reads the record and changes nothing of it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gristmill.errors import InvalidFeatures
from gristmill.warehouse.queries import load_queries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gristmill.predictions.predictor import Answer, Predictor
    from gristmill.warehouse.connection import Warehouse

MOST = 10_000
"""So many of the latest predictions are replayed."""
NAMED = 10
"""So many entities whose decisions would flip are named, those with the most first."""

_queries = load_queries("gristmill.predictions", "replay.sql")


@dataclass(frozen=True, kw_only=True)
class Replay:
    """How a model's answers differ from those that were given."""

    replayed: int
    since: str
    """When the oldest of them was given, ISO 8601."""
    to_one: int
    """Decisions that were 0 and would be 1."""
    to_zero: int
    """Decisions that were 1 and would be 0."""
    largest_change: float
    """The greatest difference of two probabilities; 0.0 where all are equal to the last bit."""
    mean_change: float
    flipped: int
    """How many entities have a decision that would flip."""
    entities: tuple[tuple[str, int], ...]
    """Whose decisions would flip most often, and how often."""
    not_replayed: int
    """Predictions that do not hold what the model needs."""
    missing: tuple[str, ...]
    """The features that none of those has."""

    def to_dict(self) -> dict[str, Any]:
        """As plain lists, numbers and texts, for JSON."""
        return asdict(self)

    @property
    def sentence(self) -> str:
        """What it says, in words."""
        lacking = f" ({', '.join(self.missing)} is not in them)" if self.missing else ""
        left_out = f" {self.not_replayed:,} more do not hold what it needs{lacking}."
        rest = left_out if self.not_replayed else ""
        if self.replayed == 0:
            return f"None of the latest predictions can be replayed:{rest}"
        flips = self.to_one + self.to_zero
        if flips == 0:
            return f"It would decide the latest {self.replayed:,} predictions as they were.{rest}"
        return (
            f"Of the latest {self.replayed:,} predictions it would decide {flips:,} otherwise "
            f"({flips / self.replayed:.1%}): {self.to_one:,} from 0 to 1, {self.to_zero:,} from 1 "
            f"to 0, those of {self.flipped:,} entities.{rest}"
        )


def replay(predictor: Predictor, warehouse: Warehouse, *, most: int = MOST) -> Replay | None:
    """Answer the latest predictions again; None where none is on record.

    Raises PredictionError where the model computes no finite probability.
    """
    with warehouse.transaction() as transaction:
        logged = transaction.rows(_queries.latest, {"most": most})
    if not logged:
        return None
    names = [feature.name for feature in predictor.features]
    whole = [row for row in logged if all(name in row["features"] for name in names)]
    asked = [{name: row["features"][name] for name in names} for row in whole]
    answers = _answers(predictor, asked)
    pairs = [
        (row, answer) for row, answer in zip(whole, answers, strict=True) if answer is not None
    ]
    changes = [abs(answer.probability - row["probability"]) for row, answer in pairs]
    flipped = Counter(row["entity"] for row, answer in pairs if answer.label != row["label"])
    return Replay(
        replayed=len(pairs),
        since=min(row["predicted_at"] for row in logged).isoformat(),
        to_one=sum(answer.label > row["label"] for row, answer in pairs),
        to_zero=sum(answer.label < row["label"] for row, answer in pairs),
        largest_change=max(changes, default=0.0),
        mean_change=sum(changes) / len(changes) if changes else 0.0,
        flipped=len(flipped),
        entities=tuple(sorted(flipped.items(), key=lambda one: (-one[1], one[0]))[:NAMED]),
        not_replayed=len(logged) - len(pairs),
        missing=tuple(name for name in names if all(name not in row["features"] for row in logged)),
    )


def _answers(predictor: Predictor, asked: Sequence[Mapping[str, object]]) -> list[Answer | None]:
    """An answer for each; None where a feature was of another type when it was logged."""
    try:
        return list(predictor.answers(asked))
    except InvalidFeatures:
        if len(asked) == 1:
            return [None]
        middle = len(asked) // 2
        return _answers(predictor, asked[:middle]) + _answers(predictor, asked[middle:])
