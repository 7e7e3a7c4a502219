"""The mirror of the record in MLflow, where people browse runs: never the truth about anything.

No fitted object is logged: what MLflow keeps of a model is its bundle, which executes no code.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gristmill.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

ALIAS = "champion"
BUNDLE_ARTIFACT = "bundle"
LOG_ARTIFACT = "training.log"
LINEAGE_ARTIFACT = "lineage.json"

_UNFIT_FOR_A_NAME = re.compile(r"[^\w\-. /]")
_LONGEST_PARAMETER = 6000
_LONGEST_TAG = 8000


def tracking_url(database_url: str) -> str:
    """Where MLflow keeps its records: the schema `mlflow` of the warehouse's own database.

    Raises RegistryError where MLflow is not installed.
    """
    try:
        from sqlalchemy.engine import make_url
    except ImportError as error:
        raise _not_installed() from error

    url = make_url(database_url).set(drivername="postgresql+psycopg")
    given = url.query.get("options", ())
    options = " ".join([*((given,) if isinstance(given, str) else given), "-csearch_path=mlflow"])
    return url.update_query_dict({"options": options}).render_as_string(hide_password=False)


def bundle_copy(artifacts: Path, name: str, run_id: str) -> Path:
    """Where MLflow keeps its copy of a run's bundle."""
    return artifacts / name / run_id / "artifacts" / BUNDLE_ARTIFACT


class Tracking:
    """One project's experiment and registered model in MLflow."""

    def __init__(self, *, url: str, artifacts: Path, name: str) -> None:
        """The artifacts lie in a local folder; experiment and model bear the project's name."""
        self._url = url
        self._artifacts = artifacts
        self._name = name
        self._client: Any = None

    @contextmanager
    def run(self, *, user: str) -> Iterator[Run]:
        """A run with a version of its own, withdrawn again where what it is for fails.

        Raises RegistryError where MLflow does not work.
        """
        with _translated():
            client = self._connected()
            tags = {"mlflow.user": user, "mlflow.source.name": "gristmill train"}
            started = client.create_run(self._experiment(client), tags=tags)
            version = self._create_version(client, started.info)
        run = Run(client=client, run_id=started.info.run_id, version=version)
        try:
            yield run
            with _translated():
                client.set_terminated(run.run_id, "FINISHED")
        except BaseException:
            self._withdraw(client, run)
            raise

    def point_alias(self, run_id: str, *, version: str) -> None:
        """Make the alias `champion` point at a run's version, made anew where it was deleted.

        Raises RegistryError, also where MLflow no longer knows the run.
        """
        with _translated():
            client = self._connected()
            found = client.search_model_versions(f"run_id = '{run_id}'")
            mirrored = next((int(one.version) for one in found if one.name == self._name), None)
            if mirrored is None:
                mirrored = self._create_version(client, client.get_run(run_id).info)
                # MLflow gives no number twice: the tag says which of ours it is.
                client.set_model_version_tag(self._name, str(mirrored), "version", version)
            client.set_registered_model_alias(self._name, ALIAS, str(mirrored))

    def _connected(self) -> Any:
        if self._client is None:
            from mlflow import MlflowClient

            # Importing it set these levels to its own.
            for chatty in ("mlflow", "alembic"):
                logging.getLogger(chatty).setLevel(logging.WARNING)
            self._client = MlflowClient(tracking_uri=self._url, registry_uri=self._url)
        return self._client

    def _experiment(self, client: Any) -> str:
        experiment = client.get_experiment_by_name(self._name)
        if experiment is None:
            location = (self._artifacts / self._name).resolve().as_uri()
            return str(client.create_experiment(self._name, artifact_location=location))
        if experiment.lifecycle_stage != "active":
            client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _create_version(self, client: Any, run: Any) -> int:
        if not client.search_registered_models(f"name = '{self._name}'"):
            client.create_registered_model(self._name)
        source = f"{run.artifact_uri}/{BUNDLE_ARTIFACT}"
        return int(
            client.create_model_version(self._name, source=source, run_id=run.run_id).version
        )

    def _withdraw(self, client: Any, run: Run) -> None:
        from mlflow.exceptions import MlflowException

        try:
            client.set_terminated(run.run_id, "FAILED")
            client.delete_model_version(self._name, str(run.version))
        except MlflowException:
            # What broke the run broke this too: MLflow keeps a run that says it still goes on.
            logging.getLogger(__name__).warning("MLflow's run %s could not be closed.", run.run_id)

    def user_interface(self, *, port: int) -> tuple[list[str], dict[str, str]]:
        """The command that shows MLflow's pages on this machine, and its environment.

        The address of the database goes by the environment, for it holds a password, which other
        users could read on a command line.
        """
        with _translated():
            self._connected()
        # One worker, and no jobs of MLflow's own: each is a process that imports all of it.
        server = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        environment = {
            "MLFLOW_BACKEND_STORE_URI": self._url,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        return [*server, "--host", "127.0.0.1", "--port", str(port)], environment


class Run:
    """One training, as MLflow shows it."""

    def __init__(self, *, client: Any, run_id: str, version: int) -> None:
        """Made by `Tracking.run`."""
        self._client = client
        self.run_id = run_id
        self.version = version

    def log(
        self,
        *,
        parameters: Mapping[str, object],
        metrics: Mapping[str, float],
        tags: Mapping[str, object],
        lineage: Mapping[str, object],
        text: str,
        bundle: Path,
    ) -> None:
        """Put on record what went in, what came out, what was said, and the bundle."""
        from mlflow.entities import Metric, Param, RunTag

        now = time.time_ns() // 1_000_000
        with _translated():
            self._client.log_batch(
                self.run_id,
                metrics=[Metric(_name(key), value, now, 0) for key, value in metrics.items()],
                params=[
                    Param(_name(key), str(value)[:_LONGEST_PARAMETER])
                    for key, value in parameters.items()
                ],
                tags=[RunTag(_name(key), str(value)[:_LONGEST_TAG]) for key, value in tags.items()],
            )
            self._client.log_text(self.run_id, text, LOG_ARTIFACT)
            self._client.log_text(self.run_id, _as_json(lineage), LINEAGE_ARTIFACT)
            self._client.log_artifacts(self.run_id, str(bundle), BUNDLE_ARTIFACT)


def _as_json(lineage: Mapping[str, object]) -> str:
    return json.dumps(lineage, indent=1, ensure_ascii=False) + "\n"


def _name(key: str) -> str:
    """A key that MLflow accepts."""
    return _UNFIT_FOR_A_NAME.sub("_", key)


@contextmanager
def _translated() -> Iterator[None]:
    # Without this MLflow reports usage to its makers from the moment it is imported.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    try:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        raise _not_installed() from error
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise RegistryError(f"MLflow, the record of runs, failed: {_first_line(error)}") from error


def _not_installed() -> RegistryError:
    return RegistryError(
        "Runs are recorded in MLflow, which is not installed here: install gristmill[train]."
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
