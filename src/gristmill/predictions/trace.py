"""A prediction back to the files and lines that it came from, and to those of its model.

It tells what was used then and whether that is still so. It never guesses: what is no longer kept
is said to be.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from gristmill.errors import BuildError, PredictionNotFound, VersionNotFound
from gristmill.features.builds import loads_of
from gristmill.predictions.origins import Origins
from gristmill.predictions.spool import find_waiting
from gristmill.predictions.traced_files import TracedLoad, look_at_files
from gristmill.registry.code import described
from gristmill.training.split import entity_fractions
from gristmill.warehouse.queries import load_queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from gristmill.bucket.bucket import Bucket
    from gristmill.predictions.origins import TracedRow
    from gristmill.predictions.spool import Waiting
    from gristmill.project.features import Features
    from gristmill.project.project import Project
    from gristmill.registry.store import Registry
    from gristmill.registry.version import ModelVersion
    from gristmill.warehouse.connection import Transaction, Warehouse

    Part = Literal["training", "holdout"]

_queries = load_queries("gristmill.predictions", "trace.sql")


@dataclass(frozen=True, kw_only=True)
class TracedFeature:
    """One feature as it was given, as the feature store had it, as the model may have seen it."""

    name: str
    given: Any
    """What the answer was computed from."""
    stored: Any
    """What the feature store's row of the entity holds; None where it has none."""
    trained: Any
    """What the training set's row of the entity holds; None where it has none."""
    differs: bool
    """Whether a stored row is there and was not what was given."""


@dataclass(frozen=True, kw_only=True)
class TracedVersion:
    """The model version that answered."""

    version: str
    candidate: str
    verdict: str
    registered_at: datetime
    build: int
    """The build of its training set."""
    code_version: str
    seed: int
    project: str
    """The commit and a digest of the project's files that it was made by, where they are known."""
    run_id: str
    loads: tuple[int, ...]
    """Every load that it was trained on."""
    part: Part | None
    """Whether the entity, where it had a label, was trained on or held out; None if not known."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Where an answer came from."""

    prediction_id: UUID
    entity_name: str
    entity: str
    label: int
    probability: float
    predicted_at: datetime
    latency_ms: float
    model_version: str
    features: tuple[TracedFeature, ...]
    stored: TracedRow | None
    """The entity's row in the feature store that was shown then; in the present one, where that is
    no longer kept."""
    trained: TracedRow | None
    """The entity's row in the training set of the version."""
    version: TracedVersion | None
    """None where the version is not on record here."""
    loads: tuple[TracedLoad, ...]
    """Every load that is named above, with what became of it and of its file."""
    notes: tuple[str, ...]
    """What is no longer as it was, and what could not be told, in sentences."""


def parse_prediction_id(text: str) -> UUID:
    """An id as people copy it; raises PredictionNotFound where it is none."""
    try:
        return UUID(text.strip())
    except ValueError as error:
        raise PredictionNotFound(
            f"{text!r} is not the id of a prediction: that is a UUID such as "
            "01a206cc-36a7-70d5-8e59-ebb8c933f363. Every answer carries its own."
        ) from error


def trace(
    prediction_id: UUID,
    *,
    project: Project,
    warehouse: Warehouse,
    bucket: Bucket,
    registry: Registry,
    spool: Path,
) -> Trace:
    """Follow a prediction back to files and lines; the bucket is only looked at.

    Raises PredictionNotFound where it is not on record, or waits in a spool of this machine yet;
    BuildError where the project declares no features.
    """
    if project.features is None:
        raise BuildError("The project declares no [features], so no prediction can be traced.")
    found = _on_record(prediction_id, warehouse)
    waiting = find_waiting(spool, prediction_id) if found is None else None
    if found is None and waiting is None:
        # It may have been shipped between the two looks.
        found = _on_record(prediction_id, warehouse)
    if found is None:
        raise _not_found(prediction_id, spool, waiting)
    version = _version(registry, found["model_version"])
    with warehouse.transaction() as transaction:
        tracing = _Tracing(transaction, project, project.features, found, version)
        stored, trained = tracing.stored(), tracing.trained()
        used = {load for row in (stored, trained) if row
                for source in row.every_source() for load in source.loads}  # fmt: skip
        training_loads = tracing.training_loads()
        rows = transaction.rows(_queries.loads, {"loads": sorted(used | set(training_loads))})
        notes = list(tracing.notes(stored, trained))
    loads, problems = look_at_files(rows, bucket)
    return Trace(
        **{name: found[name] for name in
           ("prediction_id", "entity", "label", "probability", "predicted_at", "latency_ms",
            "model_version")},
        entity_name=project.features.entity.column,
        features=tuple(_features(found["features"], project.features, stored, trained)),
        stored=stored,
        trained=trained,
        version=_traced_version(version, found["entity"], training_loads) if version else None,
        loads=loads,
        notes=(*notes, *_load_notes(loads, stored, trained, version), *problems),
    )  # fmt: skip


def _on_record(prediction_id: UUID, warehouse: Warehouse) -> dict[str, Any] | None:
    with warehouse.transaction() as transaction:
        return transaction.row(_queries.prediction, {"prediction_id": prediction_id})


def _not_found(prediction_id: UUID, spool: Path, waiting: Waiting | None) -> PredictionNotFound:
    if waiting is None:
        return PredictionNotFound(
            f"There is no prediction {prediction_id} on record, and none waits in {spool}. Look at "
            "the id again; one that another machine gave may wait in that machine's spool yet."
        )
    if waiting.failures:
        return PredictionNotFound(
            f"The prediction {prediction_id} was given and is safe in {waiting.path}, but the "
            f"database refused to take it {waiting.failures} times: the server's log says why."
        )
    return PredictionNotFound(
        f"The prediction {prediction_id} was given and waits in {waiting.path} to be brought into "
        "the database: within a second where the API runs and reaches it, else by the next "
        "command that does. Trace it then."
    )


def _version(registry: Registry, number: str) -> ModelVersion | None:
    try:
        return registry.version(number)
    except VersionNotFound:
        return None


def _traced_version(version: ModelVersion, entity: str, loads: Sequence[int]) -> TracedVersion:
    return TracedVersion(
        version=version.version,
        candidate=version.candidate,
        verdict=version.verdict,
        registered_at=version.registered_at,
        build=version.build,
        code_version=version.code_version,
        seed=version.seed,
        project=described(version.lineage.get("project")),
        run_id=version.run_id,
        loads=tuple(loads),
        part=_part(version.lineage, entity),
    )


def _part(lineage: Mapping[str, Any], entity: str) -> Part | None:
    """The side of the split that an entity stands on, which its key alone decides."""
    holdout = lineage.get("holdout")
    if holdout is None:
        return None
    (fraction,) = entity_fractions([entity], salt=holdout["salt"])
    return "holdout" if fraction < holdout["share"] else "training"


class _Tracing:
    """One prediction's rows in the builds, and what is to be said of them."""

    def __init__(
        self,
        transaction: Transaction,
        project: Project,
        features: Features,
        prediction: Mapping[str, Any],
        version: ModelVersion | None,
    ) -> None:
        self._transaction = transaction
        self._features = features
        self._prediction = prediction
        self._version = version
        self._origins = Origins(transaction, project, features, prediction["entity"])
        self._now = self._value(_queries.build_now)
        self._then = self._value(_queries.build_then)

    def stored(self) -> TracedRow | None:
        """The row of the feature store that was shown then; of the present one, if that is gone."""
        then = self._origins.row(self._then) if self._then else None
        if then and not then.dropped_at:
            return then
        return self._origins.row(self._now) if self._now else None

    def trained(self) -> TracedRow | None:
        return self._origins.row(self._version.build) if self._version else None

    def training_loads(self) -> list[int]:
        if self._version is None:
            return []
        return [row["load"] for row in loads_of(self._transaction, self._version.build)]

    def notes(self, stored: TracedRow | None, trained: TracedRow | None) -> Iterator[str]:
        """What is to be said of the version and the builds."""
        who = f"{self._features.entity.column} {self._prediction['entity']}"
        if self._version is None:
            yield (
                f"Version {self._prediction['model_version']} is not on record here: a bundle "
                "from elsewhere answered, so what it was trained on is told where it was made."
            )
        if stored is None:
            yield f"{self._features.table} was never built: nothing is stored to compare with."
            return
        if stored.build != self._then:
            yield (
                f"The {self._features.table} that was shown then"
                f"{f' (build {self._then})' if self._then else ''} is no longer kept; what is "
                f"told as stored is the present one, build {stored.build}."
            )
        if stored.values is None:
            yield (
                f"{self._features.table} (build {stored.build}) has no {who}: the features are "
                "those that the request carried, and come from no file."
            )
        elif self._now and self._now != stored.build:
            yield from self._since(stored.values)
        if trained and trained.dropped_at:
            yield (
                f"The training set of version {self._prediction['model_version']} (build "
                f"{trained.build}) was tidied away on {trained.dropped_at:%Y-%m-%d}: which row "
                f"{who} had in it is no longer known; the files are."
            )

    def _since(self, stored: Mapping[str, Any]) -> Iterator[str]:
        """What the feature store says now, where it was built anew since."""
        now = self._origins.row(self._now).values
        if now is None:
            yield f"{self._features.table} was built anew since (build {self._now}), without it."
            return
        changed = [
            f"{name} {now[name]}"
            for name in (one.column for one in self._features.features)
            if name in now and not same_value(now[name], stored.get(name))
        ]
        said = f"it now has {', '.join(changed)}" if changed else "with the same features"
        yield f"{self._features.table} was built anew since (build {self._now}): {said}."

    def _value(self, query: Any) -> Any:
        return self._transaction.value(
            query,
            {
                "name": self._features.table,
                "moment": self._prediction["predicted_at"],
                "model_version": self._prediction["model_version"],
            },
        )


def _features(
    given: Mapping[str, Any],
    features: Features,
    stored: TracedRow | None,
    trained: TracedRow | None,
) -> Iterator[TracedFeature]:
    """The features in the project's order, then those that it no longer declares."""
    declared = [one.column for one in features.features]
    names = [name for name in declared if name in given]
    values = stored.values if stored and stored.values else {}
    seen = trained.values if trained and trained.values else {}
    for name in [*names, *sorted(given.keys() - set(names))]:
        yield TracedFeature(
            name=name,
            given=given[name],
            stored=values.get(name),
            trained=seen.get(name),
            differs=name in values and not same_value(given[name], values[name]),
        )


def same_value(one: Any, other: Any) -> bool:
    """Whether a model sees two values as one: 1 and 1.0 are, and two ways to write a time."""
    one, other = (None if value == "NaN" else value for value in (one, other))
    if one == other:
        return True
    if isinstance(one, str) and isinstance(other, str):
        moments = _moment(one), _moment(other)
        return moments[0] is not None and moments[0] == moments[1]
    return False


def _moment(text: str) -> datetime | None:
    """A text that is a date with a time; a date alone has but one way to be written."""
    if len(text) <= len("2020-01-31"):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _load_notes(
    loads: Sequence[TracedLoad],
    stored: TracedRow | None,
    trained: TracedRow | None,
    version: ModelVersion | None,
) -> Iterator[str]:
    """What became of the loads: one sentence each where the entity's rows lie, else together."""
    holding = {row.load for place in (stored, trained) if place
               for source in place.every_source() for row in source.rows}  # fmt: skip
    lost = {load for place in (stored, trained) if place
            for source in place.every_source() for load in source.dropped}  # fmt: skip
    for load in loads:
        if load.load in holding:
            yield from load.notes()
        elif load.load in lost and load.dropped_at:
            yield (
                f"Load {load.load} of {load.table_name} is no longer kept (tidied away on "
                f"{load.dropped_at:%Y-%m-%d}): the lines in {load.file} are no longer known."
            )
    others = [load for load in loads if load.load not in holding and load.file_changed]
    if others and version:
        named = ", ".join(load.file for load in others[:3]) + (", …" if len(others) > 3 else "")
        yield (
            f"Of the other files that were used, {len(others)} changed since or are gone: {named}."
        )
