"""The order of things: load, build, train, promote, score.

Each step is safe to call twice, even at once. What has been done is known from the ledger, never
from who calls.
"""

from __future__ import annotations

from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

from gristmill.errors import (
    BuildError,
    GristmillError,
    LoadError,
    ObjectChanged,
    ObjectNotFound,
)
from gristmill.features.build import TRAINING_SET, build_feature_store, build_training_set
from gristmill.features.builds import builds_of, loads_of
from gristmill.features.derive import build_derived
from gristmill.flow.champion import champion_bundle
from gristmill.flow.runs import recorded
from gristmill.flow.train import train_version, trained_already
from gristmill.loading import ledger
from gristmill.loading.tables import (
    Span,
    find_files,
    in_order,
    load_pending,
    noticed,
    pending_files,
    raise_all,
)
from gristmill.loading.tidy import tidy_builds, tidy_loads
from gristmill.predictions.score import score as score_everyone

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from gristmill.bucket.bucket import BucketObject
    from gristmill.features.builds import Built
    from gristmill.flow.context import Context
    from gristmill.flow.report import Report
    from gristmill.loading.ledger import CurrentLoad
    from gristmill.loading.load import Loaded
    from gristmill.predictions.score import Scored
    from gristmill.project.project import Project
    from gristmill.project.table import Table
    from gristmill.registry.version import ModelVersion

EVERY_PERIOD = Span()


def load(
    context: Context,
    report: Report,
    names: Sequence[str] = (),
    *,
    span: Span = EVERY_PERIOD,
    again: bool = False,
) -> list[Loaded]:
    """Load what is new or changed of the tables named (all, if none), references first.

    Raises LoadError for every file that was refused, once the others are in.
    """
    with recorded(context.warehouse, " ".join(["load", *names])):
        done: list[Loaded] = []
        failures: list[GristmillError] = []
        for table in _tables_to_load(context, names, span):
            try:
                done += _load_table(context, report, table, span=span, again=again)
            except (LoadError, ObjectNotFound, ObjectChanged) as error:
                failures.append(error)
        tidy(context)
        raise_all(failures)
        return done


def _tables_to_load(context: Context, names: Sequence[str], span: Span) -> list[Table]:
    project = context.project
    unknown = [name for name in names if name not in project.tables]
    if unknown:
        raise LoadError(
            f"There is no table {unknown[0]!r}; the project has {', '.join(project.tables)}."
        )
    asked = names or [
        name for name, table in project.tables.items() if table.period or span.is_open
    ]
    with context.warehouse.transaction() as transaction:
        loaded = [
            name
            for name, table in project.tables.items()
            if ledger.current_loads(transaction, table)
        ]
    return in_order(project, asked, loaded)


def _load_table(
    context: Context, report: Report, table: Table, *, span: Span, again: bool
) -> list[Loaded]:
    files = find_files(table, context.bucket)
    before = _current(context, table)
    pending = pending_files(table, span.choose(table, files), context.warehouse, again=again)
    done: list[Loaded] = []
    if not pending:
        report.done(f"{table.name}: unchanged")
        for note in noticed(table, files, before, before):
            report.done(f"  {note}")
        return done
    report.begin(f"loading {table.name}", sum(one.item.size for one in pending))
    try:
        load_pending(
            table,
            pending,
            files,
            context.bucket,
            context.warehouse,
            again=again,
            progress=report.advance,
            report=done.append,
        )
    except (LoadError, ObjectChanged):
        _tell_loaded(context, report, table, files, before, done)
        raise
    _tell_loaded(context, report, table, files, before, done)
    return done


def _tell_loaded(
    context: Context,
    report: Report,
    table: Table,
    files: dict[str, BucketObject],
    before: dict[str, CurrentLoad],
    done: list[Loaded],
) -> None:
    report.done(_loaded_line(table, done) if done else f"{table.name}: nothing was loaded")
    for note in noticed(table, files, before, _current(context, table)):
        report.done(f"  {note}")


def _current(context: Context, table: Table) -> dict[str, CurrentLoad]:
    with context.warehouse.transaction() as transaction:
        return ledger.current_loads(transaction, table)


def _loaded_line(table: Table, done: list[Loaded]) -> str:
    rows, rejected = sum(one.rows for one in done), sum(one.rejected for one in done)
    parts = [f"{rows:,} rows"]
    if table.period:
        parts.append(f"{len(done)} period{'s' * (len(done) != 1)}")
    if rejected:
        parts.append(f"{rejected:,} rejected (`gristmill rejects {table.name}`)")
    extra = sorted({column for one in done for column in one.extra_columns})
    if extra:
        parts.append(f"left out: {', '.join(extra)}")
    return f"{table.name}: loaded {', '.join(parts)}"


def build(context: Context, report: Report, names: Sequence[str] = ()) -> list[Built]:
    """Build what is new or stale: derived tables, then the feature store and the training set.

    Raises BuildError for all that failed, once what does not read them is built.
    """
    with recorded(context.warehouse, " ".join(["build", *names])):
        reads = _reads(context.project)
        now = context.now()
        done: list[Built] = []
        failures: dict[str, str] = {}
        for name in _names_to_build(reads, names):
            if failures.keys() & set(reads[name]):
                failures[name] = f"{name} was not built, for it reads what failed."
                continue
            report.begin(f"building {name}", 0)
            try:
                made = _build(context, report, name, now=now)
            except BuildError as error:
                failures[name] = str(error)
                report.done(f"{name}: failed")
            else:
                report.done(_built_line(name, made))
                done += made
        tidy(context)
        if failures:
            raise BuildError("\n".join(failures.values()))
        return done


def _build(context: Context, report: Report, name: str, *, now: datetime) -> list[Built]:
    project, warehouse = context.project, context.warehouse
    if name in project.derived:
        return build_derived(
            project.derived[name], project, warehouse, now=now, report=lambda _: report.advance(1)
        )
    assert project.features is not None  # only then are other names wanted
    maker = build_training_set if name == TRAINING_SET else build_feature_store
    one = maker(project, project.features, warehouse, now=now)
    return [one] if one else []


def _reads(project: Project) -> dict[str, list[str]]:
    """What can be built, each with what it reads of it."""
    features = project.features
    reads = {
        name: [source for source in derived.sources if source in project.derived]
        for name, derived in project.derived.items()
    }
    if features:
        sources = [source for source in features.sources if source in project.derived]
        reads[features.table] = sources
        reads |= {TRAINING_SET: [*sources, features.table]} if features.label else {}
    return reads


def _names_to_build(reads: Mapping[str, Iterable[str]], names: Sequence[str]) -> list[str]:
    """What is to be built in the order in which it can be, with what it reads."""
    unknown = [name for name in names if name not in reads]
    if unknown:
        raise BuildError(f"{unknown[0]!r} is nothing that is built; there are {', '.join(reads)}.")
    wanted = set(names) or set(reads)
    order = list(TopologicalSorter(reads).static_order())
    for name in reversed(order):
        if name in wanted:
            wanted |= set(reads[name])
    return [name for name in order if name in wanted]


def _built_line(name: str, made: list[Built]) -> str:
    if not made:
        return f"{name}: unchanged"
    periods = f", {len(made)} periods" if len(made) > 1 else ""
    return f"{name}: built {sum(one.rows for one in made):,} rows{periods}"


def tidy(context: Context) -> None:
    """Drop superseded loads and builds, but for what versions in use were made of."""
    in_use = context.registry.in_use()
    with context.warehouse.transaction() as transaction:
        builds = {one for version in in_use for one in builds_of(transaction, version.build)}
        loads = {row["load"] for version in in_use for row in loads_of(transaction, version.build)}
    tidy_builds(context.warehouse, builds)
    tidy_loads(context.warehouse, loads)


def train(context: Context, report: Report) -> ModelVersion:
    """Train and judge a version, and promote it if the verdict says so.

    A verdict is a result, whatever it says. Raises BuildError, TrainingError, RegistryError.
    """
    with recorded(context.warehouse, "train"):
        version = train_version(context, report)
        if version.verdict == "promote":
            _promote_as_judged(context, report, version)
        return version


def _promote_as_judged(context: Context, report: Report, version: ModelVersion) -> None:
    if context.registry.promote_as_judged(version):
        report.done(f"version {version.version} is the champion")
    else:
        report.done(
            f"version {version.version} is not promoted: the champion has changed since they were "
            "compared. Train again, or promote by hand"
        )


def promote(
    context: Context, version: str, *, by: str, why: str, force: bool = False
) -> ModelVersion:
    """Make a version the champion; against the gate's verdict only by force."""
    return context.registry.promote(version, by=by, why=why, force=force)


def score(context: Context, report: Report, *, again: bool = False) -> Scored:
    """Put the champion's answer for everyone in the feature store on record, all or nothing.

    Where it has answered this feature store already, nothing is done, unless `again`. Raises
    NoChampion, BuildError, BundleError.
    """
    with recorded(context.warehouse, "score"):
        scored, now = score_everyone(
            champion_bundle(context),
            context.warehouse,
            again=again,
            begin=lambda entities: report.begin("scoring", entities),
            progress=report.advance,
        )
        report.done(f"score: {_scored_line(scored, now=now)}")
        return scored


def _scored_line(scored: Scored, *, now: bool) -> str:
    share = f", {scored.positives / scored.entities:.1%} of them 1" if scored.entities else ""
    whom = f"version {scored.model_version}, {scored.entities:,} entities{share}"
    if not now:
        return f"unchanged, {whom}, scored at {scored.scored_at:%Y-%m-%d %H:%M} UTC"
    return f"{whom}, {scored.entities / scored.seconds:,.0f} a second"


def run(context: Context, report: Report) -> None:
    """Load, build, and train where the training set or the declared model changed."""
    load(context, report)
    build(context, report)
    if context.project.model is not None:
        train_if_changed(context, report)


def train_if_changed(context: Context, report: Report) -> bool:
    """Train where the training set or the declared model changed; whether anything was done.

    One process at a time: a second waits for the first, and finds its version.
    """
    with context.warehouse.transaction() as held:
        held.execute("SELECT pg_advisory_xact_lock(hashtextextended('train', 0))")
        trained = trained_already(context)
        if trained is None:
            train(context, report)
            return True
        report.done(f"model: unchanged, version {trained.version} ({trained.verdict})")
        promoted = {one.version for one in context.registry.promotions()}
        if trained.verdict == "promote" and trained.version not in promoted:
            # A training that was killed after its verdict, before it was carried out.
            _promote_as_judged(context, report, trained)
            return True
        return False
