"""How the model is chosen and when it may ship."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

Metric = Literal["roc_auc", "average_precision", "balanced_accuracy", "f1", "log_loss", "brier"]
METRICS: tuple[str, ...] = get_args(Metric)
BUILT_IN_CANDIDATES = ("logistic", "gradient_boosting")


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
    holdout: float = 0.2
    """The share of entities that never train any model."""
    seed: int = 0
    gate: Gate = field(default_factory=Gate)
