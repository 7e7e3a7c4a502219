"""Every error Gristmill raises on purpose. Each says what was asked, what was found, what to do.

GristmillError
├── ProjectError               the project file is wrong
├── BucketError                the bucket cannot be read
│   ├── ObjectNotFound         … it has no such object
│   └── ObjectChanged          … the object is no longer the one that was looked at
├── WarehouseError             the database refused or failed
│   ├── WarehouseUnreachable   … it does not answer
│   ├── StatementFailed        … a statement failed; carries the SQLSTATE
│   └── EmbeddedServerError    … the embedded server cannot start or stop
├── LoadError                  a load failed
│   └── LoadRefused            … because rows broke the contract
├── BuildError                 a derived table, the feature store or a training set failed
├── TrainingError              no model can be trained from this
│   └── ExportError            … or none that can be served exactly
├── RegistryError              the record of model versions refused
│   ├── NoChampion             … no version answers yet
│   └── VersionNotFound        … there is no such version
├── BundleError                a bundle is not what its manifest says
├── PredictionError            no answer can be given
│   ├── InvalidFeatures        … because of one field of the request
│   ├── PredictionNotFound     … because none of that id is on record
│   ├── EntityNotFound         … because the entity is unknown
│   ├── SpoolError             … because it could not be put on record
│   ├── KeyReused              … because its key came with another request before
│   ├── KeyInUse               … because its key's first request is not answered yet
│   ├── InvalidOutcome         … and none can be recorded: what is told of it is wrong
│   └── OutcomesRefused        … of a file: its lines are wrong
├── ServingError               the API cannot run
│   └── PortTaken              … its port is in use
└── OrchestrationError         Airflow cannot be installed, started or stopped
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class GristmillError(Exception):
    """Gristmill could not do what was asked."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__)


class ProjectError(GristmillError):
    """The project file is wrong."""


class BucketError(GristmillError):
    """The bucket cannot be read."""


class ObjectNotFound(BucketError):
    """The bucket has no such object."""


class ObjectChanged(BucketError):
    """The object changed while it was read; load it again."""


class WarehouseError(GristmillError):
    """The database refused or failed."""


class WarehouseUnreachable(WarehouseError):
    """The database does not answer."""


class StatementFailed(WarehouseError):
    """A statement failed in the database."""

    def __init__(
        self,
        message: str | None = None,
        *,
        sqlstate: str = "",
        detail: str = "",
        constraint: str = "",
    ) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.detail = detail
        self.constraint = constraint


class EmbeddedServerError(WarehouseError):
    """The embedded PostgreSQL server cannot start or stop."""


class LoadError(GristmillError):
    """The load failed; what was there before is unchanged."""


class LoadRefused(LoadError):
    """Rows broke the table's contract; what was there before is unchanged."""


class BuildError(GristmillError):
    """The build failed; what was there before is unchanged."""


class TrainingError(GristmillError):
    """No model can be trained from this training set."""


class ExportError(TrainingError):
    """The fitted model cannot be turned into a graph that answers exactly the same."""


class RegistryError(GristmillError):
    """The record of model versions refused."""


class NoChampion(RegistryError):
    """No model version is in service yet: run `gristmill train`, then `gristmill models`."""


class VersionNotFound(RegistryError):
    """There is no such model version: `gristmill models` lists them."""


class BundleError(GristmillError):
    """The bundle is not what its manifest says."""


class PredictionError(GristmillError):
    """No answer can be given."""


class InvalidFeatures(PredictionError):
    """A field of the request is wrong."""

    def __init__(self, message: str | None = None, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class EntityNotFound(PredictionError):
    """The entity is not in the feature store."""


class PredictionNotFound(PredictionError):
    """No prediction of that id is on record."""


class SpoolError(PredictionError):
    """The prediction could not be put on record, so it is not given."""


class KeyReused(PredictionError):
    """This Idempotency-Key came with another request before; a new request takes a new key."""


class KeyInUse(PredictionError):
    """The first request with this Idempotency-Key is not answered yet; send it again later."""


class InvalidOutcome(PredictionError):
    """What is told of an outcome is wrong."""

    def __init__(self, message: str | None = None, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class OutcomesRefused(PredictionError):
    """A file of outcomes is wrong; nothing of it is recorded."""

    def __init__(self, message: str | None = None, *, lines: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.lines = tuple(lines)


class ServingError(GristmillError):
    """The API cannot run."""


class PortTaken(ServingError):
    """The API's port is in use; choose another with --port."""


class OrchestrationError(GristmillError):
    """Airflow cannot be installed, started or stopped."""
