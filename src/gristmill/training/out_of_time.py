"""What the chosen candidate would have been worth on labels younger than all it was trained on.

A second fit on the older labels alone, judged on the held-out entities of the youngest: answers
are about the future, and a holdout of the same time does not show what changes with it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gristmill.project.features import AS_OF
from gristmill.project.model import Model
from gristmill.training.auc import Estimate, roc_auc
from gristmill.training.fit import fit
from gristmill.training.split import FEWEST_IN_HOLDOUT, FEWEST_IN_TRAINING, Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gristmill.project.features import Feature
    from gristmill.training.split import Split

LATEST = 0.2
"""The share of labels that counts as the youngest."""
MOST_ROWS = 200_000
"""Training rows of the second fit, which comes on top of the first one's time."""


@dataclass(frozen=True, kw_only=True)
class OutOfTime:
    """How the youngest labels are predicted from the older ones."""

    since: str
    """The moment from which on labels count as the youngest, ISO 8601."""
    rows: int
    """Held-out rows since then."""
    positives: int
    roc_auc: Estimate | None
    """None where there are too few rows of a label before or since."""

    def to_dict(self) -> dict[str, Any]:
        """As plain dictionaries, numbers and nulls, for JSON."""
        return asdict(self)

    def sentence(self, in_time: Estimate) -> str:
        """What it says, beside the area on the whole holdout."""
        if self.roc_auc is None:
            return (
                f"How it would do out of time cannot be told: there are too few labels before or "
                f"since {self.since[:10]}."
            )
        worse = " That is worse: what it learned ages." if self.roc_auc.high < in_time.low else ""
        return (
            f"Out of time, trained on labels before {self.since[:10]} alone, its area on the "
            f"{self.rows:,} held-out rows since is {self.roc_auc.value:.3f} (95% interval "
            f"{self.roc_auc.low:.3f} to {self.roc_auc.high:.3f}).{worse}"
        )


def out_of_time(
    parts: Split, features: tuple[Feature, ...], model: Model, candidate: str
) -> OutOfTime | None:
    """Fit the candidate on the older labels and measure it on the youngest.

    None where labels have no moment (`as_of`), or all the same one.
    """
    before, held_out = moments(parts.training), moments(parts.holdout)
    if before is None or held_out is None:
        return None
    every = np.concatenate([before, held_out])
    since = np.quantile(every, 1 - LATEST, method="higher")
    if since == every.min():
        return None
    older = _where(parts.training, np.flatnonzero(before < since)[:MOST_ROWS])
    youngest = _where(parts.holdout, np.flatnonzero(held_out >= since))
    told = OutOfTime(
        since=_as_text(int(since)),
        rows=len(youngest.labels),
        positives=youngest.positives,
        roc_auc=None,
    )
    if _fewest(older) < FEWEST_IN_TRAINING or _fewest(youngest) < FEWEST_IN_HOLDOUT:
        return told
    # Without a search: what is asked is how much time takes away, not what is the best there is.
    plain = Model(candidates=(candidate,), metric=model.metric, seed=model.seed)
    fitted = fit(older, features, plain)
    return replace(told, roc_auc=roc_auc(youngest.labels, fitted.probabilities(youngest.inputs)))


def moments(sample: Sample) -> NDArray[np.int64] | None:
    """When each label was known, in microseconds since 1970; one without a moment comes first.

    None where the project does not say (`as_of`).
    """
    if AS_OF not in sample.table.column_names:
        return None
    column = pc.cast(sample.table.column(AS_OF), pa.timestamp("us", tz="UTC"))
    numbers = pc.fill_null(pc.cast(column, pa.int64()), np.iinfo(np.int64).min)
    return cast("NDArray[np.int64]", numbers.to_numpy())


def _as_text(since: int) -> str:
    moment = pa.scalar(since, pa.int64()).cast(pa.timestamp("us", tz="UTC")).as_py()
    return str(moment.isoformat())


def _where(sample: Sample, rows: NDArray[np.intp]) -> Sample:
    return Sample(
        inputs={name: column[rows] for name, column in sample.inputs.items()},
        labels=sample.labels[rows],
        table=sample.table.take(pa.array(rows)),
    )


def _fewest(sample: Sample) -> int:
    return min(sample.positives, len(sample.labels) - sample.positives)
