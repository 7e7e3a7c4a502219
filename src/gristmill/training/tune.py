"""Which configurations are tried, in which order, and when the search ends.

The order follows from the seed alone, and a search is a beginning of it: so many trials of the same
seed and rows give the same model, however long they took.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gristmill.project.model import Model
    from gristmill.training.candidates import Configuration

EVERY_LOGISTIC = 6
"""One in so many drawn configurations is of logistic regression, which has but one number to it."""
LARGE = 20_000
"""From so many rows on, boosting learns in larger steps and larger trees."""


class Proposal(NamedTuple):
    """What is to be tried next."""

    candidate: str
    configuration: Configuration


def proposals(candidates: Sequence[str], *, rows: int, seed: int) -> Iterator[Proposal]:
    """First each candidate as it is by default, then configurations drawn by the seed, for ever.

    A project's own candidate has no other than its own. Ends after the defaults where nothing can
    be drawn.
    """
    for candidate in candidates:
        yield Proposal(candidate, default(candidate, rows))
    draws = {"logistic": _draw_logistic, "gradient_boosting": _draw_boosting}
    drawn = [candidate for candidate in candidates if candidate in draws]
    number = 0
    while drawn:
        number += 1
        candidate = drawn[-1]
        if len(drawn) == 2:
            turn = number % EVERY_LOGISTIC == 0
            candidate = "logistic" if turn else "gradient_boosting"
        # A generator per number: what one draws does not depend on what others drew.
        yield Proposal(candidate, draws[candidate](np.random.default_rng([seed, number])))


def default(candidate: str, rows: int) -> Configuration:
    """What a candidate is tried with first, and without `minutes` or `trials` alone."""
    if candidate != "gradient_boosting":
        return {}
    large = rows >= LARGE
    return {
        "learning_rate": 0.1 if large else 0.05,
        "max_leaf_nodes": 31 if large else 16,
        "min_samples_leaf": 20 if large else 10,
        "l2_regularization": 1.0,
        "max_features": 0.5,
    }


class Budget:
    """Says whether there is room for one more trial."""

    def __init__(self, model: Model, *, defaults: int, clock: Callable[[], float]) -> None:
        """Starts the clock, which counts seconds; the first `defaults` trials are always made."""
        self._clock = clock
        self._defaults = defaults
        self._trials = model.trials
        self._seconds = None if model.minutes is None else 60.0 * model.minutes
        self._started = self._last = clock()
        self._longest = 0.0
        self.done = 0
        """How many trials there were."""

    def allows(self) -> bool:
        """Whether to try the next one; the defaults always are.

        A trial that would likely end after the time is up is not begun.
        """
        if self.done < self._defaults:
            return True
        if self._trials is None and self._seconds is None:
            return False
        if self._trials is not None and self.done >= self._trials:
            return False
        spent = self._last - self._started
        return self._seconds is None or spent + self._longest <= self._seconds

    def prepared(self) -> None:
        """What is done once has been done: it took of the time, but no trial will take as long."""
        self._last = self._clock()

    def count(self) -> None:
        """One trial ended."""
        now = self._clock()
        self._longest = max(self._longest, now - self._last)
        self._last = now
        self.done += 1


def _draw_logistic(random: np.random.Generator) -> Configuration:
    return {"C": _between(random, 1e-3, 1e2)}


def _draw_boosting(random: np.random.Generator) -> Configuration:
    return {
        "learning_rate": _between(random, 0.02, 0.2),
        "max_leaf_nodes": round(_between(random, 3, 64)),
        "min_samples_leaf": round(_between(random, 3, 100)),
        "l2_regularization": _between(random, 1e-2, 30),
        "max_features": float(random.uniform(0.2, 1.0)),
    }


def _between(random: np.random.Generator, low: float, high: float) -> float:
    """A number of the range, its logarithm evenly distributed."""
    return math.exp(random.uniform(math.log(low), math.log(high)))
