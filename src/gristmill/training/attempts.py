"""The record of attempts on the holdout, in the warehouse: what each may spend, and what it said.

An attempt is on record, for ever, before anybody learns what came of it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gristmill.training.spending import Allowance, Attempt, allowance, generation_of
from gristmill.warehouse.queries import load_queries

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from gristmill.training.gate import Verdict
    from gristmill.warehouse.connection import Transaction, Warehouse

_queries = load_queries("gristmill.training", "attempts.sql")

KEPT = 20
"""Attempts whose scores are kept for their versions may still be promoted by hand."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """What is asked of the holdout."""

    entities: Sequence[str]
    """Who is held out, as text, row by row."""
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    """The candidate's probabilities, row by row."""
    champion: str | None
    """The version it is compared with."""
    chance_spent: bool
    """Whether no champion with signal reigns, so that it could become the first."""
    moments: NDArray[np.int64] | None = None
    """When each row's label was known, in microseconds since 1970, where the project says so."""

    @property
    def known_until(self) -> int | None:
        """When the youngest label was known."""
        return None if self.moments is None else int(self.moments.max())

    def rows_since(self, known_until: int | None) -> list[str]:
        """What tells the rows apart: an entity with a label of after a moment is a row of its own.

        A project that asks about the same entities every month asks anew each time.
        """
        if known_until is None or self.moments is None:
            return list(self.entities)
        return [
            f"{entity} {moment}" if moment > known_until else entity
            for entity, moment in zip(self.entities, self.moments.tolist(), strict=True)
        ]

    @property
    def digest(self) -> str:
        """The same for the same entities, labels and scores, in the same order."""
        state = hashlib.sha256(json.dumps(list(self.entities)).encode())
        state.update(np.ascontiguousarray(self.labels, dtype=np.int64).tobytes())
        state.update(np.ascontiguousarray(self.scores, dtype=np.float64).tobytes())
        return state.hexdigest()


def attempt(
    warehouse: Warehouse, asked: Asked, judge: Callable[[Allowance], Verdict]
) -> tuple[Verdict, int]:
    """Judge by what this attempt may spend, and put it on record; the verdict and its number.

    Attempts wait for one another, so that none spends what another has.
    """
    with warehouse.transaction() as transaction:
        transaction.execute(_queries.lock)
        allowed = _allowance(transaction, asked)
        verdict = judge(allowed)
        number = int(
            transaction.value(
                _queries.record,
                {
                    "generation": allowed.generation,
                    "answers": asked.digest,
                    "champion": asked.champion,
                    "chance_spent": asked.chance_spent,
                    "rows": len(asked.entities),
                    "decision": verdict.decision,
                    "reasons": json.dumps(verdict.reasons),
                    "evidence": json.dumps(
                        {**verdict.evidence, "known_until": asked.known_until}, allow_nan=False
                    ),
                },
            )
        )
        scores = {"entities": list(asked.entities), "scores": asked.scores.tolist()}
        transaction.execute(_queries.keep_scores, {"attempt": number, **scores})
        transaction.execute(_queries.forget_scores, {"attempt": number, "kept": KEPT})
    return verdict, number


def scores_of(warehouse: Warehouse, number: int) -> dict[str, float]:
    """What an attempt said of each entity; empty where that was let go of."""
    with warehouse.transaction() as transaction:
        row = transaction.row(_queries.scores, {"attempt": number})
    return dict(zip(row["entities"], row["scores"], strict=True)) if row else {}


def _allowance(transaction: Transaction, asked: Asked) -> Allowance:
    history = [Attempt(**row) for row in transaction.rows(_queries.history)]
    began = transaction.row(_queries.began_with)
    return allowance(
        history,
        generation=generation_of(
            asked.rows_since(began["known_until"] if began else None),
            last=history[-1].generation if history else 0,
            began_with=began["entities"] if began else asked.entities,
        ),
        answers=asked.digest,
        champion=asked.champion,
        chance_spent=asked.chance_spent,
    )
