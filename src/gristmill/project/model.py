"""How the model is chosen and when it may ship."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

Metric = Literal["roc_auc", "average_precision", "balanced_accuracy", "f1", "log_loss", "brier"]
METRICS: tuple[str, ...] = get_args(Metric)
BUILT_IN_CANDIDATES = ("logistic", "gradient_boosting", "blend")


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a wrong answer costs, in any unit."""

    false_positive: float
    """Answered 1 where the outcome is 0."""
    false_negative: float
    """Answered 0 where the outcome is 1."""


Aim = Literal["balanced_accuracy", "f1"] | Costs
"""What the threshold is chosen by."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What the gate does where the data shows nothing to learn."""

    no_signal: Literal["refuse", "serve"] = "refuse"


@dataclass(frozen=True, kw_only=True)
class Model:
    """The candidates, the metric that chooses among them, and the gate."""

    candidates: tuple[str, ...] = BUILT_IN_CANDIDATES
    """Built-in names, or `package.module:make_estimator`."""
    metric: Metric = "roc_auc"
    threshold: Aim | None = None
    """None: f1 where that is the metric, balanced accuracy otherwise."""
    minutes: float | None = None
    """How long configurations are tried; None tries each candidate's own and no others."""
    trials: int | None = None
    """After how many configurations the search ends, however much time is left."""
    holdout: float = 0.2
    """The share of entities that never train any model."""
    seed: int = 0
    gate: Gate = field(default_factory=Gate)

    @property
    def aim(self) -> Aim:
        """What the threshold is chosen by."""
        return self.threshold or ("f1" if self.metric == "f1" else "balanced_accuracy")
