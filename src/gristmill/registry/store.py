"""Which model versions exist and which one answers: recorded in the warehouse, mirrored in MLflow.

The tables `gristmill.model_versions` and `gristmill.promotions` are the truth. A version exists
once its row does, which is written last; what MLflow says may be lost without harm.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import pwd
import shutil
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING, Any

from gristmill.errors import NoChampion, RegistryError, VersionNotFound
from gristmill.registry import problems
from gristmill.registry.bundle import sweep_partial, verify_bundle
from gristmill.registry.tracking import Tracking, tracking_url
from gristmill.registry.version import ModelVersion, Promotion
from gristmill.training.auc import Estimate
from gristmill.warehouse.queries import load_queries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

    from gristmill.registry.problems import Problem
    from gristmill.training.evaluate import Evaluation
    from gristmill.training.fit import FittedModel
    from gristmill.training.gate import Verdict
    from gristmill.training.proof import Parity
    from gristmill.warehouse.connection import Transaction, Warehouse

_queries = load_queries("gristmill.registry", "store.sql")

_TAGS = ("version", "verdict", "no_signal", "build", "code_version")
"""What of a version's row is shown beside its run."""

_LIBRARIES = (
    "numpy", "scipy", "pyarrow", "scikit-learn", "onnx", "skl2onnx", "onnxruntime", "mlflow",
)  # fmt: skip
"""Whose version may decide what a model is."""


class Registry:
    """The model versions of one project."""

    def __init__(
        self,
        *,
        warehouse: Warehouse,
        name: str,
        bundles: Path,
        artifacts: Path,
    ) -> None:
        """Bundles and MLflow's artifacts lie in folders; `name` is the project's.

        MLflow's own records are in the warehouse, in the schema `mlflow`.
        """
        self._warehouse = warehouse
        self._bundles = bundles
        self._name = name
        self._artifacts = artifacts

    def register(
        self,
        model: FittedModel,
        evaluation: Evaluation,
        verdict: Verdict,
        *,
        build: int,
        lineage: Mapping[str, Any],
        parity: Parity,
        code_version: str,
        log: str,
        write_bundle: Callable[[Path, str], object],
    ) -> ModelVersion:
        """Record a fitted model as a new version, all or nothing; it is not promoted by this.

        `write_bundle(folder, version)` is called to write its bundle into a folder that does not
        exist yet. `lineage` names the loads and whatever else it was made from, to which the
        libraries' versions are added; `log` is the text shown beside the run. Raises RegistryError
        where MLflow fails, BundleError where no bundle was written; no version remains then.
        """
        lineage = {**lineage, "libraries": libraries()}
        found = lineage.get("project", {}).get("commit")
        commit = {"mlflow.source.git.commit": found} if found else {}
        with self._warehouse.transaction() as transaction:
            transaction.execute(_queries.lock)
            sweep_partial(self._bundles)
            last = transaction.value(_queries.last_version)
            with self._tracking().run(user=operating_user()) as run:
                version = str(max(run.version, last + 1))
                row = {
                    "version": version,
                    "candidate": model.candidate,
                    "verdict": verdict.decision,
                    "reasons": json.dumps(verdict.reasons),
                    "no_signal": verdict.no_signal,
                    "evaluation": json.dumps(evaluation.to_dict(), allow_nan=False),
                    "build": build,
                    "lineage": json.dumps(lineage),
                    "run_id": run.run_id,
                    "bundle": version,
                    "code_version": code_version,
                    "seed": model.seed,
                }
                with self._folder(version) as folder:
                    write_bundle(folder, version)
                    row["bundle_digest"] = verify_bundle(folder)
                    run.log(
                        parameters=_parameters(model, parity),
                        metrics=_metrics(model, evaluation, verdict),
                        tags={**lineage, **{name: row[name] for name in _TAGS}, **commit},
                        lineage={**lineage, "build": build, "code_version": code_version},
                        text=log,
                        bundle=folder,
                    )
                    transaction.execute(_queries.insert_version, row)
        self.mend_mirror()
        return self.version(version)

    def versions(self) -> list[ModelVersion]:
        """Every version, the oldest first."""
        with self._warehouse.transaction() as transaction:
            return [self._version(row) for row in transaction.rows(_queries.versions)]

    def version(self, version: str) -> ModelVersion:
        """One version; raises VersionNotFound."""
        with self._warehouse.transaction() as transaction:
            return self._find(transaction, version)

    def champion(self) -> ModelVersion | None:
        """The version that answers; None before the first promotion."""
        with self._warehouse.transaction() as transaction:
            row = transaction.row(_queries.champion)
        return self._version(row) if row else None

    def require_champion(self) -> ModelVersion:
        """The version that answers; raises NoChampion before the first promotion."""
        champion = self.champion()
        if champion is None:
            raise NoChampion
        return champion

    def promotions(self) -> list[Promotion]:
        """Every change of champion, the oldest first."""
        with self._warehouse.transaction() as transaction:
            return [Promotion(**row) for row in transaction.rows(_queries.promotions)]

    def recent_champions(self, count: int) -> list[ModelVersion]:
        """The champion and those before it that were not taken back, the newest first."""
        standing = dict.fromkeys(reversed(_standing(self.promotions())))
        return [self.version(version) for version in list(standing)[:count]]

    def in_use(self) -> list[ModelVersion]:
        """The versions that what they were made of is kept for, each once.

        The champion, the one before it, to which a rollback returns, and the newest, which may be
        promoted by hand yet.
        """
        found = [*self.recent_champions(2), *self.versions()[-1:]]
        return list({version.version: version for version in found}.values())

    def answered(self, version: str) -> tuple[datetime | None, datetime | None]:
        """When a version answered first and last, by what is in the warehouse."""
        with self._warehouse.transaction() as transaction:
            row = transaction.row(_queries.answered, {"version": version})
        return (row["first"], row["last"]) if row else (None, None)

    def problems(self) -> list[Problem]:
        """What versions and predictions refer to and is not there as it was, by version."""
        versions, champion = self.versions(), self.champion()
        in_use = {version.version for version in self.in_use()}
        found = list(problems.bundle_problems(versions, artifacts=self._artifacts, name=self._name))
        with self._warehouse.transaction() as transaction:
            found += problems.mirror_problems(
                transaction, versions, champion=champion, name=self._name
            )
            found += problems.data_problems(transaction, versions, in_use=in_use)
            found += problems.answer_problems(transaction)
        return found

    def promote(self, version: str, *, by: str, why: str, force: bool = False) -> ModelVersion:
        """Make a version the champion; where it is already, nothing changes.

        Raises VersionNotFound, RegistryError where the gate did not say `promote` of it and it is
        not forced, BundleError where its bundle is not what was registered: it could not answer.
        """
        with self._warehouse.transaction() as transaction:
            transaction.execute(_queries.lock)
            chosen = self._find(transaction, version)
            if chosen.verdict != "promote" and not force:
                raise RegistryError(
                    f"The gate's verdict on version {version} is {chosen.verdict!r}: "
                    f"{' '.join(chosen.reasons)} To promote it all the same, use --force."
                )
            verify_bundle(chosen.bundle, digest=chosen.bundle_digest)
            current = transaction.row(_queries.champion)
            if current is None or current["version"] != version:
                _promote(transaction, version, by=by, why=why)
        self.mend_mirror()
        return chosen

    def promote_as_judged(self, chosen: ModelVersion) -> bool:
        """Make a version the champion because the gate says `promote`; whether it is now.

        It is not where another champion reigns by now than the one it was compared with: the
        verdict says nothing of that one. Raises BundleError where its bundle is spoilt.
        """
        with self._warehouse.transaction() as transaction:
            transaction.execute(_queries.lock)
            verify_bundle(chosen.bundle, digest=chosen.bundle_digest)
            current = transaction.row(_queries.champion)
            compared = transaction.row(
                _queries.compared, {"attempt": chosen.lineage.get("attempt")}
            )
            if compared is None or compared["champion"] != (current and current["version"]):
                return False
            _promote(transaction, chosen.version, by="gate", why=chosen.reasons[-1])
        self.mend_mirror()
        return True

    def rollback(self, *, by: str, why: str) -> ModelVersion:
        """Take the last promotion back: the champion before it answers again.

        Once more takes back the one before that. Raises NoChampion where none was ever promoted,
        RegistryError where there is none before, BundleError where the one before could not answer.
        """
        with self._warehouse.transaction() as transaction:
            transaction.execute(_queries.lock)
            standing = _standing(
                [Promotion(**row) for row in transaction.rows(_queries.promotions)]
            )
            if not standing:
                raise NoChampion
            if len(standing) == 1:
                raise RegistryError(
                    f"Version {standing[0]} is the first champion: there is none before it to "
                    "return to. `gristmill promote N` promotes another."
                )
            chosen = self._find(transaction, standing[-2])
            verify_bundle(chosen.bundle, digest=chosen.bundle_digest)
            _promote(transaction, chosen.version, by=by, why=why, rolled_back=True)
        self.mend_mirror()
        return chosen

    def mend_mirror(self) -> bool:
        """Make MLflow's alias `champion` say what is so; whether it does now.

        MLflow is imported only where it does not. Where MLflow fails that is logged, not raised:
        it decides nothing.
        """
        champion = self.champion()
        if champion is None:
            return True
        with self._warehouse.transaction() as transaction:
            if problems.mirrored_champion(transaction, self._name) == champion.run_id:
                return True
        try:
            self._tracking().point_alias(champion.run_id, version=champion.version)
        except RegistryError as error:
            logging.getLogger(__name__).warning("MLflow's alias is not up to date. %s", error)
            return False
        return True

    def user_interface(self, *, port: int) -> tuple[list[str], dict[str, str]]:
        """The command that shows MLflow's pages on this machine, and its environment."""
        self.mend_mirror()
        return self._tracking().user_interface(port=port)

    @contextmanager
    def _folder(self, version: str) -> Iterator[Path]:
        """Where a new version's bundle goes; nothing stays there if what follows fails."""
        folder = self._bundles / version
        # A folder by this name without a row is what a killed process left behind.
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _tracking(self) -> Tracking:
        url = tracking_url(self._warehouse.url)
        return Tracking(url=url, artifacts=self._artifacts, name=self._name)

    def _find(self, transaction: Transaction, version: str) -> ModelVersion:
        row = transaction.row(_queries.version, {"version": version})
        if row is None:
            known = [row["version"] for row in transaction.rows(_queries.versions)]
            raise VersionNotFound(
                f"There is no model version {version}; there "
                + (f"are {', '.join(known[-10:])}." if known else "is none: run `gristmill train`.")
            )
        return self._version(row)

    def _version(self, row: Mapping[str, Any]) -> ModelVersion:
        fields = {**row, "reasons": tuple(row["reasons"]), "bundle": self._bundles / row["bundle"]}
        return ModelVersion(**fields)


def operating_user() -> str:
    """Whom the machine takes this process for; no variable of the environment can say otherwise."""
    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # as in a container that runs under a number alone
        return f"user {number}"


def libraries() -> dict[str, str]:
    """The versions of Python and of what decides a model, as far as they are installed."""
    installed = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def _promote(
    transaction: Transaction, version: str, *, by: str, why: str, rolled_back: bool = False
) -> None:
    parameters = {
        "version": version,
        "by": by,
        "os_user": operating_user(),
        "why": why,
        "rolled_back": rolled_back,
    }
    transaction.execute(_queries.insert_promotion, parameters)


def _standing(promotions: list[Promotion]) -> list[str]:
    """The champions one after the other, without those that were taken back."""
    standing: list[str] = []
    for promotion in promotions:
        if promotion.rolled_back:
            standing.pop()
        else:
            standing.append(promotion.version)
    return standing


def _parameters(model: FittedModel, parity: Parity) -> dict[str, object]:
    """What the run is shown to have been made with."""
    shown: dict[str, object] = {
        "candidate": model.candidate,
        "candidates": ", ".join(result.candidate for result in model.results),
        "metric": model.results[0].metric,
        "seed": model.seed,
        "rows": model.rows,
        "features": ", ".join(f"{feature.name} {feature.type}" for feature in model.features),
        "threshold": model.threshold,
        "calibration_slope": model.calibration.slope,
        "calibration_intercept": model.calibration.intercept,
        "trials": model.trials,
    }
    for result in model.results:
        shown[f"configuration.{result.candidate}"] = dict(result.configuration)
        shown[f"folds.{result.candidate}"] = ", ".join(f"{fold:.6f}" for fold in result.folds)
    shown |= {f"library.{name}": version for name, version in libraries().items()}
    return shown | {f"parity.{key}": value for key, value in asdict(parity).items()}


def _metrics(model: FittedModel, evaluation: Evaluation, verdict: Verdict) -> dict[str, float]:
    """The holdout's numbers, each interval as two more, and every candidate's cross-validation."""
    shown = {"p_value": verdict.p_value}
    for name in evaluation.to_dict():
        value = getattr(evaluation, name)
        if isinstance(value, Estimate):
            shown |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        elif isinstance(value, (int, float)):
            shown[name] = float(value)
    for when, reliability in (("before", model.before), ("after", model.after)):
        if reliability is not None:
            measured = asdict(reliability).items()
            shown |= {f"cross_validation.{when}.{name}": value for name, value in measured}
    for result in model.results:
        prefix = f"cross_validation.{result.candidate}.{result.metric}"
        shown |= {prefix: result.mean, f"{prefix}_deviation": result.deviation}
    return shown
