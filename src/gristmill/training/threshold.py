"""Where the answer turns from 0 to 1: chosen on rows that the scoring models had not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gristmill.project.model import Costs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gristmill.project.model import Aim

SMALLEST_GAP = 1e-9
"""The threshold keeps half of this from every training row's probability, if it can."""


def best_threshold(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], *, aim: Aim
) -> float:
    """The threshold, midway between neighbouring probabilities, that serves the aim best.

    The aim is the best balanced accuracy, the best f1, or the least cost of wrong answers. For
    costs, all rows may come out on one side; for the other two there are rows on both.
    """
    order = np.argsort(probabilities, kind="stable")
    ordered = probabilities[order]
    cuts = np.flatnonzero(np.diff(ordered)) + 1
    if isinstance(aim, Costs):
        cuts = np.concatenate([[0], cuts, [len(labels)]])
    if len(cuts) == 0:
        return midway(probabilities, 0.5)
    # A cut at c answers 0 to the c rows with the least probabilities.
    positives = int(labels.sum())
    missed = np.concatenate([[0], np.cumsum(labels[order])])[cuts]
    found = positives - missed
    false_alarms = len(labels) - cuts - found
    if isinstance(aim, Costs):
        goodness = -(aim.false_positive * false_alarms + aim.false_negative * missed)
    elif aim == "f1":
        goodness = 2 * found / (len(labels) - cuts + positives)
    else:
        goodness = found / positives + (cuts - missed) / (len(labels) - positives)
    cut = int(cuts[int(np.argmax(goodness))])
    # Beyond the outermost rows there is room for rows that are further out still.
    below = ordered[cut - 1] if cut else 0.0
    above = ordered[cut] if cut < len(ordered) else 1.0
    return float((below + above) / 2)


def midway(probabilities: NDArray[np.float64], near: float) -> float:
    """The threshold moved to the middle of the gap between probabilities that it lies in.

    A gap too narrow for the runtime's rounding (see SMALLEST_GAP) is passed over for the nearest
    one that is not. Where all probabilities lie on one side, or are equal, the threshold answers
    as `near` would.
    """
    known = np.unique(probabilities)
    if len(known) == 1 or not known[0] < near <= known[-1]:
        outermost = float(known[0] if near <= known[0] else known[-1])
        return outermost / 2 if near <= outermost else (1 + outermost) / 2
    gaps = np.diff(known)
    inside = int(np.searchsorted(known, near)) - 1
    wide = np.flatnonzero(gaps >= min(SMALLEST_GAP, gaps.max()))
    gap = wide[int(np.argmin(np.abs(wide - inside)))]
    return float((known[gap] + known[gap + 1]) / 2)
