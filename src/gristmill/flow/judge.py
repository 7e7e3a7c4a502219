"""The judging steps of training: what the verdict is given on, gathered from where it lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gristmill.errors import BundleError, PredictionError
from gristmill.predictions.predictor import load_predictor
from gristmill.predictions.replay import replay
from gristmill.training.attempts import Asked, attempt, scores_of
from gristmill.training.gate import Rival, judge
from gristmill.training.improvement import Scored
from gristmill.training.leak import find_leaks
from gristmill.training.out_of_time import moments, out_of_time
from gristmill.training.split import entity_fractions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from gristmill.features.read import TrainingSet
    from gristmill.flow.context import Context
    from gristmill.predictions.predictor import Predictor
    from gristmill.predictions.replay import Replay
    from gristmill.project.model import Model
    from gristmill.registry.bundle import Bundle, Manifest
    from gristmill.registry.version import ModelVersion
    from gristmill.training.evaluate import Evaluation
    from gristmill.training.fit import FittedModel
    from gristmill.training.gate import Verdict
    from gristmill.training.out_of_time import OutOfTime
    from gristmill.training.spending import Allowance
    from gristmill.training.split import Split


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A fitted model with all that it is judged by."""

    known: TrainingSet
    parts: Split
    model: Model
    fitted: FittedModel
    predictor: Predictor
    """What would answer."""
    scores: NDArray[np.float64]
    """Its probabilities for the holdout's rows, of shape (rows,)."""
    evaluation: Evaluation


def holdout_lineage(context: Context, known: TrainingSet, model: Model) -> dict[str, object]:
    """Who was held out of a version, and of what; later ones need it to compare fairly."""
    return {
        "salt": context.project.name,
        "share": model.holdout,
        "entity": known.entity,
        "label": known.label,
    }


def judge_candidate(context: Context, candidate: Candidate) -> tuple[Verdict, int]:
    """The gate's verdict on a candidate, on record as an attempt, and the attempt's number."""
    champion = context.registry.champion()
    labels, evaluation = candidate.parts.holdout.labels, candidate.evaluation
    rival = _rival(context, champion, candidate) if champion else None
    leaks = find_leaks(candidate.parts.training, candidate.known.features)
    later = out_of_time(
        candidate.parts, candidate.known.features, candidate.model, candidate.fitted.candidate
    )
    replayed, objection = _replayed(context, candidate)

    def decide(allowance: Allowance) -> Verdict:
        verdict = judge(
            evaluation,
            labels=labels,
            scores=candidate.scores,
            metric=candidate.model.metric,
            champion=rival,
            leaks=leaks,
            no_signal=candidate.model.gate.no_signal,
            allowance=allowance,
            objection=objection,
        )
        return _with_notes(verdict, evaluation, later, replayed)

    return attempt(
        context.warehouse,
        Asked(
            entities=_held_out(candidate),
            labels=labels,
            scores=candidate.scores,
            champion=champion.version if champion else None,
            chance_spent=champion is None or champion.no_signal,
            moments=moments(candidate.parts.holdout),
        ),
        decide,
    )


def _with_notes(
    verdict: Verdict, evaluation: Evaluation, later: OutOfTime | None, replayed: Replay | None
) -> Verdict:
    """What is told beside the reasons, and decides nothing."""
    if later:
        verdict = verdict.noting("out_of_time", later.to_dict(), later.sentence(evaluation.roc_auc))
    if replayed:
        verdict = verdict.noting("replay", replayed.to_dict(), replayed.sentence)
    return verdict


def _held_out(candidate: Candidate) -> list[str]:
    column = candidate.parts.holdout.table.column(candidate.known.entity)
    return [str(entity) for entity in column.to_pylist()]


def _replayed(context: Context, candidate: Candidate) -> tuple[Replay | None, str]:
    """The latest predictions answered again, and what there is to object to the answers."""
    try:
        return replay(candidate.predictor, context.warehouse), ""
    except PredictionError as error:
        return None, f"It cannot answer what was asked lately: {error}"


# The champion


def _rival(context: Context, champion: ModelVersion, candidate: Candidate) -> Rival:
    """The champion's answers for the rows that were held out of both."""
    obstacle = _obstacle(champion, candidate)
    if obstacle:
        return _incomparable(champion, obstacle)
    try:
        bundle: Bundle | None = champion.open_bundle()
    except BundleError:
        bundle = None
    entities = _held_out(candidate)
    shared = np.flatnonzero(_held_out_of(champion, entities))
    lost = _lost(bundle.manifest, candidate) if bundle else ()
    if bundle and not lost:
        rows = candidate.parts.holdout.table.take(shared)
        try:
            probabilities = load_predictor(bundle).probabilities(rows)
        except (BundleError, PredictionError) as error:
            return _incomparable(
                champion, f"The champion, version {champion.version}, cannot answer: {error}"
            )
        rival_rows = shared
    else:
        rival_rows, probabilities = _on_record(context, champion, entities, shared)
    return Rival(
        version=champion.version,
        rows=rival_rows,
        scored=Scored(
            probabilities=probabilities, threshold=float(champion.evaluation["threshold"])
        ),
        lost=lost,
        bundle_lost=bundle is None,
        leaks=_accepted_leaks(bundle.manifest.verdict if bundle else {}),
    )


def _obstacle(champion: ModelVersion, candidate: Candidate) -> str:
    """Why the champion cannot be compared with at all; empty where it can."""
    name = f"The champion, version {champion.version},"
    holdout = champion.lineage.get("holdout")
    if holdout is None:
        return f"{name} does not say who was held out of it."
    for of_champion, of_candidate, verb in (
        (holdout["entity"], candidate.known.entity, "is about"),
        (holdout["label"], candidate.known.label, "predicts"),
    ):
        if of_champion != of_candidate:
            return f"{name} {verb} {of_champion}, not {of_candidate}."
    return ""


def _incomparable(champion: ModelVersion, obstacle: str) -> Rival:
    return Rival(
        version=champion.version,
        rows=np.empty(0, dtype=np.int64),
        scored=Scored(probabilities=np.empty(0), threshold=0.5),
        obstacle=obstacle,
    )


def _held_out_of(champion: ModelVersion, entities: list[str]) -> NDArray[np.bool_]:
    """Who was held out of the champion too: its salt and share may have been others."""
    holdout = champion.lineage["holdout"]
    salt, share = str(holdout["salt"]), float(holdout["share"])
    return entity_fractions(entities, salt=salt) < share


def _lost(manifest: Manifest, candidate: Candidate) -> tuple[str, ...]:
    """The champion's features that the training set does not have, or has as another type."""
    types = {feature.name: feature.type for feature in candidate.known.features}
    return tuple(
        feature.name for feature in manifest.features if types.get(feature.name) != feature.type
    )


def _on_record(
    context: Context, champion: ModelVersion, entities: list[str], shared: NDArray[np.intp]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The champion's answers of when it was judged, for those of the rows that it was judged on."""
    number = champion.lineage.get("attempt")
    scores: Mapping[str, float] = scores_of(context.warehouse, number) if number else {}
    rows = [row for row in shared.tolist() if entities[row] in scores]
    found = [scores[entities[row]] for row in rows]
    return np.array(rows, dtype=np.int64), np.array(found, dtype=np.float64)


def _accepted_leaks(verdict: Mapping[str, object]) -> frozenset[str]:
    """The leaks that the champion's own verdict names."""
    evidence = verdict.get("evidence")
    leaks = evidence.get("leaks", []) if isinstance(evidence, dict) else []
    return frozenset(leak["feature"] for leak in leaks)
