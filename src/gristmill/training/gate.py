"""Judges whether a model may ship: better than chance, better than the champion, and no leak.

Pure: it is given numbers and gives a verdict with its reasons. It promotes nothing itself.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gristmill.training.improvement import Improvement, Scored, improvement
from gristmill.training.signal import (
    chance_deviation,
    chance_p_value,
    detectable_auc,
    smallest_auc,
)
from gristmill.training.spending import Allowance

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from gristmill.project.model import Metric
    from gristmill.training.evaluate import Evaluation
    from gristmill.training.leak import Leak

Decision = Literal["promote", "refuse", "cannot tell"]

WORTH_HAVING = 0.6
"""An area under the ROC curve: only where the rows rule so much out is a model refused as noise."""
RULED_OUT = 0.999
"""How sure that has to be, one-sided: a model worth having is refused once in a thousand times."""
FEWEST_PAIRS = 20
"""Rows of each label that neither model was trained on, or they are not compared."""
MARGIN: Mapping[Metric, float] = {
    "roc_auc": 0.01,
    "average_precision": 0.01,
    "balanced_accuracy": 0.01,
    "f1": 0.01,
    "log_loss": 0.005,
    "brier": 0.002,
}
"""Two models that differ by less count as equally good, where that is sure."""
SURE = 0.975
"""One-sided: the bounds are those of the 95% interval that is told."""

_METRIC_NAMES: Mapping[Metric, str] = {
    "roc_auc": "the area under the ROC curve",
    "average_precision": "average precision",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "log_loss": "log loss",
    "brier": "the Brier score",
}
_SEVERITY: tuple[Decision, ...] = ("promote", "cannot tell", "refuse")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the gate says of a model version, and why."""

    decision: Decision
    reasons: tuple[str, ...]
    """Sentences with the numbers that decided; what decided stands last."""
    no_signal: bool
    """Whether the scores were not shown to be better than chance."""
    p_value: float
    """How likely scores without any signal would order the holdout as well."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """The numbers behind the reasons as JSON has them: `signal`, `attempt`, `champion`, `leaks`."""

    def noting(self, name: str, value: object, sentence: str) -> Verdict:
        """The same with one more piece of evidence, which did not decide."""
        return replace(
            self,
            reasons=(*self.reasons[:-1], *([sentence] if sentence else []), self.reasons[-1]),
            evidence={**self.evidence, name: value},
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Rival:
    """The champion, scored on holdout rows that trained neither it nor the candidate."""

    version: str
    rows: NDArray[np.int64]
    """The places of those rows in the holdout."""
    scored: Scored
    """Its answers for these rows."""
    obstacle: str = ""
    """Why the two cannot be compared at all, as a sentence; empty where they can."""
    lost: tuple[str, ...] = ()
    """Features that it needs and that are gone: its answers are those on record, and there will be
    no new ones, so that a successor need only be no worse."""
    bundle_lost: bool = False
    """Whether its bundle is missing or damaged, which comes to the same."""
    leaks: frozenset[str] = frozenset()
    """Features that its own verdict names as leaks: who promoted it all the same accepted them."""


@dataclass(frozen=True, kw_only=True)
class _Finding:
    decision: Decision
    sentence: str


def judge(
    evaluation: Evaluation,
    *,
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
    metric: Metric = "roc_auc",
    champion: Rival | None = None,
    leaks: Sequence[Leak] = (),
    no_signal: Literal["refuse", "serve"] = "refuse",
    allowance: Allowance | None = None,
    objection: str = "",
) -> Verdict:
    """Judge a candidate by its scores for the holdout and the champion's on the same rows.

    Labels and scores, probabilities of label 1, have shape (rows,). `metric` decides between
    candidate and champion. `allowance` is the significance that this attempt may spend; by default
    that of the only one. `objection` is a sentence that says why its answers are not to be used, if
    there is one. With `no_signal="serve"` a lack of signal does not stop a version, but marks it.
    """
    allowed = allowance or Allowance()
    candidate = Scored(probabilities=scores, threshold=evaluation.threshold)
    p_value = chance_p_value(labels, scores)
    compared = _compare(labels, candidate, champion, metric)
    findings = [
        _against_chance(evaluation, p_value, allowed, serve=no_signal == "serve"),
        *(_of_leak(leak, champion) for leak in leaks),
        *([_Finding(decision="refuse", sentence=objection)] if objection else []),
        *([_against_champion(champion, compared, candidate, allowed)] if champion else []),
    ]
    decision = max((one.decision for one in findings), key=_SEVERITY.index)
    if champion is None and decision == "promote":
        alone = "There is no champion to compare with."
        findings.append(_Finding(decision="promote", sentence=alone))
    # What decided stands last; where nothing stands against it, the order is that of the questions.
    findings.sort(key=lambda one: decision != "promote" and one.decision == decision)
    return Verdict(
        decision=decision,
        reasons=tuple(one.sentence for one in findings),
        no_signal=p_value > allowed.chance,
        p_value=p_value,
        evidence={
            "signal": _signal_evidence(evaluation, p_value, allowed),
            "attempt": asdict(allowed),
            "champion": _champion_evidence(champion, compared, allowed),
            "leaks": [asdict(leak) for leak in leaks],
        },
    )


# Chance


def _against_chance(
    evaluation: Evaluation, p_value: float, allowed: Allowance, *, serve: bool
) -> _Finding:
    area = evaluation.roc_auc
    negatives = evaluation.rows - evaluation.positives
    found = (
        f"On {evaluation.rows:,} held-out rows ({evaluation.positives:,} positive) the area under "
        f"the ROC curve is {area.value:.3f} (95% interval {area.low:.3f} to {area.high:.3f})"
    )
    room = f"attempt {allowed.attempt} on this holdout allows {_probability(allowed.chance)}."
    if not allowed.chance_spent:
        room = f"beside a champion with signal {_probability(allowed.chance)} is allowed each time."
    spent = f"Scores without signal do as well with probability {_probability(p_value)}; {room}"
    if p_value <= allowed.chance:
        return _Finding(decision="promote", sentence=f"{found}: better than chance. {spent}")
    least = smallest_auc(evaluation.positives, negatives, alpha=allowed.chance)
    shown = f"With {evaluation.rows:,} rows an area below {least:.2f} cannot be told from chance"
    deviation = chance_deviation(evaluation.positives, negatives)
    highest = area.value + NormalDist().inv_cdf(RULED_OUT) * deviation
    if highest < WORTH_HAVING:
        decision: Decision = "refuse"
        sentence = (
            f"{found}: no better than chance. {spent} {shown}, and a true one of "
            f"{WORTH_HAVING:g} is ruled out: these features say nothing worth having about this "
            "label."
        )
    else:
        decision = "cannot tell"
        sentence = (
            f"{found}: not shown to be better than chance. {spent} {shown}. Bring more labels."
        )
    if serve:
        served = 'The project serves such a model all the same (no_signal = "serve").'
        return _Finding(decision="promote", sentence=f"{sentence} {served}")
    return _Finding(decision=decision, sentence=sentence)


def _signal_evidence(evaluation: Evaluation, p_value: float, allowed: Allowance) -> dict[str, Any]:
    positives, negatives = evaluation.positives, evaluation.rows - evaluation.positives
    return {
        "rows": evaluation.rows,
        "positives": positives,
        **asdict(evaluation.roc_auc),
        "p_value": p_value,
        "allowed": allowed.chance,
        "smallest": smallest_auc(positives, negatives, alpha=allowed.chance),
        "detectable": detectable_auc(positives, negatives, alpha=allowed.chance),
    }


# Leaks


def _of_leak(leak: Leak, champion: Rival | None) -> _Finding:
    if champion and leak.feature in champion.leaks:
        return _Finding(
            decision="promote", sentence=f"{leak.sentence} So it does in the champion's verdict."
        )
    return _Finding(
        decision="refuse",
        sentence=f"{leak.sentence} It seems to know what is to be predicted: leave it out. If it "
        "is really known by the time of asking, promote by hand; from then on it stops no version.",
    )


# The champion


def _compare(
    labels: NDArray[np.int64], candidate: Scored, champion: Rival | None, metric: Metric
) -> Improvement | None:
    """The candidate's advantage on the rows they share; None where they cannot be compared."""
    if champion is None or champion.obstacle:
        return None
    shared = labels[champion.rows]
    positives = int(shared.sum())
    if min(positives, len(shared) - positives) < FEWEST_PAIRS:
        return None
    same_rows = replace(candidate, probabilities=candidate.probabilities[champion.rows])
    return improvement(metric, shared, same_rows, champion.scored)


def _against_champion(
    champion: Rival, compared: Improvement | None, candidate: Scored, allowed: Allowance
) -> _Finding:
    if compared is None:
        why = champion.obstacle or (
            f"Only {len(champion.rows):,} of the held-out rows can compare it with the champion, "
            f"version {champion.version}; {FEWEST_PAIRS} of each label are the fewest that do."
        )
        return _Finding(
            decision="cannot tell", sentence=f"{why} Bring more labels, or promote by hand."
        )
    if np.array_equal(candidate.probabilities[champion.rows], champion.scored.probabilities):
        return _Finding(
            decision="refuse",
            sentence=f"It answers all {compared.pairs:,} held-out rows exactly as the champion, "
            f"version {champion.version}, does: there is nothing to gain.",
        )
    found = (
        f"On {compared.pairs:,} rows that trained neither, its advantage over the champion, "
        f"version {champion.version}, in {_METRIC_NAMES[compared.metric]} is {compared.value:+.4f} "
        f"(95% interval {compared.bound(1 - SURE):+.4f} to {compared.bound(SURE):+.4f})"
    )
    if champion.lost or champion.bundle_lost:
        return _succeeding(found, champion, compared, allowed)
    return _challenging(found, compared, allowed)


def _challenging(found: str, compared: Improvement, allowed: Allowance) -> _Finding:
    """A champion that works yields only to a version that was shown to be better."""
    margin = MARGIN[compared.metric]
    highest = compared.bound(SURE)
    if compared.p_value <= allowed.champion:
        return _Finding(decision="promote", sentence=f"{found}: better. {_paid(compared, allowed)}")
    if highest < 0:
        return _Finding(decision="refuse", sentence=f"{found}: worse than the champion.")
    if highest < margin:
        return _Finding(
            decision="refuse",
            sentence=f"{found}: no better than the champion by as much as {margin:g}, so it stays.",
        )
    return _Finding(
        decision="cannot tell",
        sentence=f"{found}: not shown to be better. {_paid(compared, allowed)} "
        "Bring more labels, or promote by hand.",
    )


def _succeeding(found: str, champion: Rival, compared: Improvement, allowed: Allowance) -> _Finding:
    """A champion that cannot answer any more yields to any version that is not worse."""
    margin = MARGIN[compared.metric]
    why = "its bundle is missing or damaged"
    if champion.lost:
        verb = "is" if len(champion.lost) == 1 else "are"
        why = f"it needs {', '.join(champion.lost)}, which {verb} gone or of another type by now"
    told = (
        f"The champion, version {champion.version}, can give no new answers: {why}. Those on "
        f"record stand for it, and a successor need only be no worse. {found}"
    )
    if compared.bound(allowed.champion) > -margin:
        return _Finding(decision="promote", sentence=f"{told}: not worse by {margin:g}.")
    if compared.bound(SURE) < -margin:
        return _Finding(decision="refuse", sentence=f"{told}: worse than the champion.")
    return _Finding(
        decision="cannot tell",
        sentence=f"{told}: it may be worse by more than {margin:g}. Bring more labels, or promote "
        "by hand.",
    )


def _paid(compared: Improvement, allowed: Allowance) -> str:
    return (
        f"Equally good models differ so with probability {_probability(compared.p_value)}; "
        f"this attempt allows {_probability(allowed.champion)}."
    )


def _champion_evidence(
    champion: Rival | None, compared: Improvement | None, allowed: Allowance
) -> dict[str, Any] | None:
    if champion is None:
        return None
    evidence: dict[str, Any] = {
        "version": champion.version,
        "obstacle": champion.obstacle,
        "lost": list(champion.lost),
        **({"bundle_lost": True} if champion.bundle_lost else {}),
        "pairs": len(champion.rows),
    }
    if compared is None:
        return evidence
    return evidence | {
        "metric": compared.metric,
        "positives": compared.positives,
        "advantage": compared.value,
        "low": compared.bound(1 - SURE),
        "high": compared.bound(SURE),
        "p_value": compared.p_value,
        "allowed": allowed.champion,
    }


def _probability(value: float) -> str:
    return f"{value:.2g}" if value >= 1e-12 else "below 1e-12"
