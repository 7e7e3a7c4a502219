"""The training step: a training set becomes a judged model version."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gristmill import __version__
from gristmill.errors import TrainingError
from gristmill.features import builds
from gristmill.features.read import entity_type, training_set
from gristmill.flow.judge import Candidate, holdout_lineage, judge_candidate
from gristmill.predictions.predictor import Predictor, answer_samples, sample_inputs
from gristmill.project.features import TRAINING_SET
from gristmill.project.table import ALL
from gristmill.registry.bundle import Entity, Manifest, write_bundle
from gristmill.registry.code import project_code
from gristmill.registry.reference import reference_table
from gristmill.training.evaluate import evaluate
from gristmill.training.export import export
from gristmill.training.fit import fit
from gristmill.training.own import importable, own_sources
from gristmill.training.report.examine import examine
from gristmill.training.report.model import model_report
from gristmill.training.split import split

if TYPE_CHECKING:
    from pathlib import Path

    from gristmill.features.read import TrainingSet
    from gristmill.flow.context import Context
    from gristmill.flow.report import Report
    from gristmill.project.features import Features
    from gristmill.project.model import Model
    from gristmill.registry.bundle import Bundle
    from gristmill.registry.version import ModelVersion
    from gristmill.training.evaluate import Evaluation
    from gristmill.training.fit import FittedModel
    from gristmill.training.gate import Verdict
    from gristmill.training.split import Split


def train_version(context: Context, report: Report) -> ModelVersion:
    """Fit the candidates, judge the best on the holdout, and put it on record as a version.

    Raises BuildError without a training set, TrainingError where nothing can be learned from it.
    """
    with importable(context.project.root):
        return _train(context, report)


def _train(context: Context, report: Report) -> ModelVersion:
    features, model = _declared(context)
    known = training_set(features, context.warehouse)
    report.begin("training", 0)
    parts = split(known, salt=context.project.name, share=model.holdout)
    fitted = fit(parts.training, known.features, model)
    exported = export(fitted, parts.training)
    # Judged is what will answer: the graph, not the fitted model that it was made from.
    predictor = Predictor(graph=exported.graph, features=known.features, threshold=fitted.threshold)
    scores = predictor.probabilities(parts.holdout.table)
    evaluation = evaluate(parts.holdout.labels, scores, threshold=fitted.threshold)
    report.done(f"training: {fitted.candidate}, AUC {evaluation.roc_auc.value:.3f} on the holdout")
    report.begin("judging and registering", 0)
    candidate = Candidate(
        known=known,
        parts=parts,
        model=model,
        fitted=fitted,
        predictor=predictor,
        scores=scores,
        evaluation=evaluation,
    )
    verdict, attempt = judge_candidate(context, candidate)
    lineage = _lineage(context, known, model, attempt)
    examined = examine(
        project=context.project.name,
        known=known,
        parts=parts,
        fitted=fitted,
        evaluation=evaluation,
        verdict=_portable(verdict),
        model=predictor,
        scores=scores,
    )

    def write(folder: Path, version: str) -> Bundle:
        manifest = _manifest(context, features, known, fitted, evaluation, verdict, lineage)
        manifest = replace(manifest, version=version)
        return write_bundle(
            folder,
            manifest=manifest,
            graph=exported.graph,
            samples=answer_samples(
                graph=exported.graph,
                features=known.features,
                threshold=fitted.threshold,
                rows=sample_inputs(parts.training.table, known.features),
            ),
            reference=reference_table(parts.training.table, known.features),
            report=model_report(
                examined,
                version=version,
                created_at=manifest.created_at,
                lineage=manifest.lineage,
            ),
        )

    version = context.registry.register(
        fitted,
        evaluation,
        verdict,
        build=known.build,
        lineage=lineage,
        parity=exported.parity,
        code_version=__version__,
        log=_log(known, parts, fitted, evaluation, verdict),
        write_bundle=write,
    )
    report.done(f"version {version.version}: {verdict.decision}")
    for reason in verdict.reasons:
        report.done(f"  {reason}")
    return version


def trained_already(context: Context) -> ModelVersion | None:
    """The newest version, where it was trained on the current training set as now declared."""
    _, model = _declared(context)
    versions = context.registry.versions()
    if not versions:
        return None
    with context.warehouse.transaction() as transaction:
        current = builds.current_builds(transaction, TRAINING_SET).get(ALL)
    newest = versions[-1]
    same = current and newest.build == current.build
    with importable(context.project.root):
        same_code = newest.lineage.get("model") == _digest(model)
    return newest if same and same_code else None


def _declared(context: Context) -> tuple[Features, Model]:
    features, model = context.project.features, context.project.model
    if features is None or model is None:
        raise TrainingError("The project declares no [model], so there is nothing to train.")
    return features, model


def _digest(model: Model) -> str:
    declared = [asdict(model), __version__]
    if own := own_sources(model.candidates):
        declared.append(own)
    text = json.dumps(declared, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _lineage(context: Context, known: TrainingSet, model: Model, attempt: int) -> dict[str, Any]:
    with context.warehouse.transaction() as transaction:
        loads = builds.loads_of(transaction, known.build)
        used = builds.builds_of(transaction, known.build)
    return {
        "builds": used,
        "loads": loads,
        "model": _digest(model),
        "seed": model.seed,
        "holdout": holdout_lineage(context, known, model),
        "attempt": attempt,
        "project": _project_code(context, model),
    }


def _project_code(context: Context, model: Model) -> dict[str, Any]:
    project = context.project
    files = [project.file, *(derived.file for derived in project.derived.values())]
    return project_code(project.root, files, own_sources(model.candidates))


def _manifest(
    context: Context,
    features: Features,
    known: TrainingSet,
    fitted: FittedModel,
    evaluation: Evaluation,
    verdict: Verdict,
    lineage: dict[str, Any],
) -> Manifest:
    return Manifest(
        project=context.project.name,
        version="",
        created_at=datetime.now(UTC),
        entity=Entity(name=known.entity, type=entity_type(features, context.warehouse)),
        features=known.features,
        label=known.label,
        threshold=fitted.threshold,
        candidate=fitted.candidate,
        metrics=evaluation.to_dict(),
        no_signal=verdict.no_signal,
        verdict=_portable(verdict),
        lineage={**lineage, "code_version": __version__},
        feature_store=features.table,
        log=context.project.serving.log,
    )


def _portable(verdict: Verdict) -> dict[str, Any]:
    """The verdict as a bundle carries it to other machines: without the keys of entities."""
    record = asdict(verdict)
    if "replay" in record["evidence"]:
        del record["evidence"]["replay"]["entities"]
    return record


def _reliability(fitted: FittedModel) -> list[str]:
    """What calibration mended, measured in cross-validation."""
    measured = (("as scored", fitted.before), ("as answered", fitted.after))
    return [
        f"probabilities {when}: log loss {found.log_loss:.4f}, Brier {found.brier:.4f}, "
        f"calibration error {found.calibration_error:.4f}"
        for when, found in measured
        if found is not None
    ]


def _log(
    known: TrainingSet,
    parts: Split,
    fitted: FittedModel,
    evaluation: Evaluation,
    verdict: Verdict,
) -> str:
    """What the tracking server shows beside the run."""
    lines = [
        f"training set: build {known.build}, {known.table.num_rows:,} rows",
    ]
    lines += [
        f"{name}: {len(part.labels):,} rows, {part.positives:,} positive"
        for name, part in (("training part", parts.training), ("holdout", parts.holdout))
    ]
    lines += [
        f"cross-validation: {result.candidate}: {result.mean:.4f} ± {result.deviation:.4f}"
        for result in fitted.results
    ]
    lines += [
        f"configurations tried: {fitted.trials}",
        f"chosen: {fitted.candidate}, threshold {fitted.threshold:.6f}",
        *_reliability(fitted),
        f"holdout AUC: {evaluation.roc_auc.value:.4f} "
        f"({evaluation.roc_auc.low:.4f} to {evaluation.roc_auc.high:.4f})",
        f"verdict: {verdict.decision}",
        *verdict.reasons,
    ]
    return "\n".join(lines) + "\n"
