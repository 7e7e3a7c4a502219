"""Judges whether a model may ship: better than chance, and not worse than the champion.

Pure: it is given numbers and gives a verdict with its reasons. It promotes nothing itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

from gristmill.training.auc import paired_difference
from gristmill.training.signal import chance_p_value, detectable_auc

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gristmill.training.evaluate import Evaluation

Decision = Literal["promote", "refuse", "cannot tell"]

ALPHA = 0.01
"""How often scores without any signal may pass for better than chance."""
MARGIN = 0.01
"""How much area under the ROC curve a new version may lose against the champion, unnoticed."""
CHAMPION_CONFIDENCE = 0.95
"""How sure it must be, one-sided, that no more than the margin is lost."""
WEAK_SIGNAL = 0.65
"""An area under the ROC curve; a holdout that could not show it is too small to refuse by."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the gate says of a model version, and why."""

    decision: Decision
    reasons: tuple[str, ...]
    """Sentences with the numbers that decided."""
    no_signal: bool
    """Whether the scores were not shown to be better than chance."""
    p_value: float
    """How likely scores without any signal would order the holdout as well."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rival:
    """The champion, scored on the same rows as the candidate."""

    version: str
    scores: NDArray[np.float64]


def judge(
    evaluation: Evaluation,
    *,
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
    champion: Rival | None = None,
    no_signal: Literal["refuse", "serve"] = "refuse",
    alpha: float = ALPHA,
) -> Verdict:
    """Judge a candidate by its scores on the holdout and the champion's on the same rows.

    Labels and scores have shape (rows,). `alpha` is the significance that may be spent on this
    attempt. With `no_signal="serve"` a lack of signal does not stop a version, but marks it; it
    must still not be worse than the champion.
    """
    p_value = chance_p_value(labels, scores)
    by_chance, chance_reason = _against_chance(evaluation, p_value, alpha)
    without_signal = by_chance != "promote"
    reasons = [chance_reason]
    decision = by_chance
    if without_signal and no_signal == "serve":
        decision = "promote"
        reasons.append('The project serves such a model all the same (no_signal = "serve").')
    if decision == "promote":
        decision, champion_reason = _against_champion(labels, scores, champion)
        reasons.append(champion_reason)
    return Verdict(
        decision=decision, reasons=tuple(reasons), no_signal=without_signal, p_value=p_value
    )


def _against_chance(evaluation: Evaluation, p_value: float, alpha: float) -> tuple[Decision, str]:
    area = evaluation.roc_auc
    found = (
        f"On {evaluation.rows:,} held-out rows ({evaluation.positives:,} positive) the area under "
        f"the ROC curve is {area.value:.3f} (95% interval {area.low:.3f} to {area.high:.3f}); "
        f"scores without signal do as well with probability {_probability(p_value)}"
    )
    if p_value <= alpha:
        return "promote", f"{found}, at most the {alpha:g} allowed: better than chance."
    negatives = evaluation.rows - evaluation.positives
    detectable = detectable_auc(evaluation.positives, negatives, alpha=alpha)
    if detectable > WEAK_SIGNAL:
        return "cannot tell", (
            f"{found}, more than the {alpha:g} allowed; but so few rows would only show an area "
            f"of {min(detectable, 1.0):.2f} or more. Bring more labels."
        )
    return "refuse", (
        f"{found}, more than the {alpha:g} allowed: no better than chance. So many rows would "
        f"have shown an area of {detectable:.2f}. These features say nothing about this label."
    )


def _against_champion(
    labels: NDArray[np.int64], scores: NDArray[np.float64], champion: Rival | None
) -> tuple[Decision, str]:
    if champion is None:
        return "promote", "There is no champion to compare with."
    difference = paired_difference(labels, scores, champion.scores)
    margin = NormalDist().inv_cdf(CHAMPION_CONFIDENCE) * difference.standard_error
    low, high = difference.value - margin, difference.value + margin
    found = (
        f"Its area minus that of the champion, version {champion.version}, on the same rows is "
        f"{difference.value:+.4f} (90% interval {low:+.4f} to {high:+.4f})"
    )
    if high < 0:
        return "refuse", f"{found}: worse than the champion."
    if low < -MARGIN:
        return "cannot tell", (
            f"{found}: it may have lost more than the {MARGIN:g} allowed. Bring more labels, or "
            "promote it by hand."
        )
    return "promote", f"{found}: not worse than the champion by more than {MARGIN:g}."


def _probability(value: float) -> str:
    return f"{value:.2g}" if value >= 1e-4 else "below 0.0001"
