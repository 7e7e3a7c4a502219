"""What no single section can know: whether the parts of a project fit together."""

from __future__ import annotations

import math
import re
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from gristmill.project.features import AS_OF, TRAINING_SET
from gristmill.project.model import BUILT_IN_CANDIDATES
from gristmill.project.schedule import PRESETS, is_schedule
from gristmill.project.table import path_problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from gristmill.project.features import ColumnReference, Features
    from gristmill.project.project import Derived, Project, Workflow
    from gristmill.project.table import Column, Scalar, Table

Mistake = tuple[str, str]
"""The key of the project file, and what is wrong there."""

RESERVED = {"_load", "_line", "_build", "_entity"}
SYSTEM_COLUMNS = {"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}
"""The columns that every table of PostgreSQL has."""
MOST_DIGITS = 38
"""The most digits of a decimal that the way to the database carries."""


def check_project(project: Project) -> Iterator[Mistake]:
    """Every mistake that shows only where two sections meet."""
    for table in project.tables.values():
        yield from _check_table(table, project)
    for derived in project.derived.values():
        yield from _check_derived(derived, project)
    yield from _check_circles(project)
    yield from _check_reference_circles(project)
    if project.features:
        yield from _check_features(project.features, project)
    yield from _check_names(project)
    if project.model:
        yield from _check_model(project)
    yield from _check_database(project)
    yield from _check_workflows(project)


def _check_table(table: Table, project: Project) -> Iterator[Mistake]:
    at = f"tables.{table.name}"
    names = _names(table)
    problem = path_problem(table.path, table.period)
    if problem:
        yield f"{at}.path", f"{table.path!r}: {problem}."
    for column in table.columns:
        yield from _check_column(column, f"{at}.columns.{column.name}")
    yield from _missing_columns(f"{at}.key", table.key, names)
    yield from _missing_columns(f"{at}.valid", table.valid, names)
    for column_name in table.key:
        column_of_key = table.column(column_name)
        if column_of_key and column_of_key.nullable:
            yield f"{at}.key", f"{column_name!r} allows null, and a key does not."
    yield from _check_validity(table, at)
    yield from _check_period(table, at)
    yield from _check_references(table, project, at)
    yield from _check_dialect(table, f"{at}.csv")


def _check_dialect(table: Table, at: str) -> Iterator[Mistake]:
    dialect = table.dialect
    try:
        "a".encode(dialect.encoding)
    except (LookupError, UnicodeError):
        yield f"{at}.encoding", f"{dialect.encoding!r} is no encoding of text that Python knows."
    if dialect.delimiter in '"\r\n\0' or not dialect.delimiter.isascii():
        yield (
            f"{at}.delimiter",
            f"{dialect.delimiter!r}: it has to be one ASCII character, no quote.",
        )
    if dialect.delimiter == dialect.decimal:
        yield at, "delimiter and decimal are the same character."


def _check_period(table: Table, at: str) -> Iterator[Mistake]:
    if table.period is None:
        return
    for name in table.period.missing:
        if not table.period.is_name(name):
            yield f"{at}.period.missing", f"{name!r} is no {table.period.every} as it is named."
    if table.period.column is None:
        return
    found = table.column(table.period.column)
    if found is None:
        yield from _missing_columns(f"{at}.period.column", (table.period.column,), _names(table))
    elif found.type not in ("date", "timestamp"):
        yield f"{at}.period.column", f"{found.name!r} is {found.type}, not date or timestamp."


def _check_references(table: Table, project: Project, at: str) -> Iterator[Mistake]:
    for reference in table.references:
        yield from _missing_columns(f"{at}.references", (reference.column,), _names(table))
        target = project.tables.get(reference.table)
        where = f"{at}.references.{reference.column}"
        if target is None:
            yield where, f"there is no table {reference.table!r}{_known(project.tables)}."
            continue
        column, referred = table.column(reference.column), target.column(reference.to_column)
        if referred is None:
            yield where, f"{reference.table!r} has no column {reference.to_column!r}."
        elif column and column.type != referred.type:
            told = f"{reference.table}.{reference.to_column} is {referred.type}"
            yield where, f"{column.name!r} is {column.type}, and {told}."


def _check_reference_circles(project: Project) -> Iterator[Mistake]:
    """Of two tables that refer to each other, neither could be loaded first."""
    reads = {
        table.name: [one.table for one in table.references if one.table != table.name]
        for table in project.tables.values()
    }
    for name, circle in _circles(reads):
        yield f"tables.{name}.references", f"they lead back to it: {circle}."


def _check_validity(table: Table, at: str) -> Iterator[Mistake]:
    if not table.valid:
        return
    moments = [column for name in table.valid if (column := table.column(name))]
    for column in moments:
        if column.type not in ("date", "timestamp"):
            yield f"{at}.valid", f"{column.name!r} is {column.type}, not date or timestamp."
    if moments and moments[0].nullable:
        yield f"{at}.valid", f"{moments[0].name!r} allows null, and a row begins at some time."
    if table.valid[0] not in table.key:
        yield f"{at}.valid", f"{table.valid[0]!r} belongs into the key of a history."


def _check_column(column: Column, at: str) -> Iterator[Mistake]:
    if column.name in RESERVED:
        yield at, "this name is kept for Gristmill's own columns."
    if column.name in SYSTEM_COLUMNS:
        yield at, "every table of PostgreSQL has a column of this name already."
    if not column.name or len(column.name.encode()) > 63 or "\0" in column.name:
        yield at, "a column's name has 1 to 63 bytes, none of them NUL, as in PostgreSQL."
    if column.type == "decimal" and not (
        column.scale <= column.precision and 1 <= column.precision <= MOST_DIGITS
    ):
        limits = f"the scale is at most the precision, which is 1 to {MOST_DIGITS}"
        yield at, f"{column.declaration!r}: {limits}."
    if column.matches is not None:
        if column.type != "text":
            yield at, f"`matches` is a rule for text, and this is {column.type}."
        try:
            re.compile(column.matches)
        except re.error as error:
            yield at, f"`matches` is no regular expression: {error}."
    for rule, value in (
        *(("in", value) for value in column.allowed),
        ("min", column.minimum),
        ("max", column.maximum),
    ):
        if value is not None and not _fits(column, value):
            yield at, f"`{rule}` has {value!r}, which is no {column.declaration.rstrip('?')}."


def _fits(column: Column, value: Scalar) -> bool:
    """Whether a rule's value is one that the column could hold."""
    if column.type == "boolean" or isinstance(value, bool):
        return column.type == "boolean" and isinstance(value, bool)
    if column.type == "integer":
        return isinstance(value, int) and -(2**63) <= value < 2**63
    if column.type in ("number", "decimal"):
        if isinstance(value, str) or not math.isfinite(Decimal(str(value))):
            return False
        return column.type == "number" or _fits_decimal(column, Decimal(str(value)))
    return isinstance(value, str) and (column.type == "text" or _is_moment(column, value))


def _fits_decimal(column: Column, value: Decimal) -> bool:
    whole, fraction = f"{abs(value):f}".partition(".")[::2]
    return (
        len(fraction.rstrip("0")) <= column.scale
        and len(whole.lstrip("0")) <= column.precision - column.scale
    )


def _is_moment(column: Column, text: str) -> bool:
    try:
        (date if column.type == "date" else datetime).fromisoformat(text)
    except ValueError:
        return False
    return True


def _check_derived(derived: Derived, project: Project) -> Iterator[Mistake]:
    at = f"derived.{derived.name}"
    known = {*project.tables, *project.derived}
    for source in derived.sources:
        if source not in known:
            yield f"{at}.from", f"there is no table {source!r}{_known(known)}."
    if derived.period is not None:
        periodic = project.tables.get(derived.period)
        if periodic is None or periodic.period is None:
            yield f"{at}.period", f"{derived.period!r} is no table with a period."
        elif derived.period not in derived.sources:
            yield f"{at}.period", f"{derived.period!r} is not in `from`."
    if derived.valid and derived.valid[0] not in derived.key:
        yield f"{at}.valid", f"{derived.valid[0]!r} belongs into the key of a history."


def _check_circles(project: Project) -> Iterator[Mistake]:
    reads = {derived.name: derived.sources for derived in project.derived.values()}
    for name, circle in _circles(reads):
        yield f"derived.{name}.from", f"it reads itself: {circle}."


def _circles(reads: Mapping[str, Iterable[str]]) -> Iterator[tuple[str, str]]:
    """Each name found to lead back to itself, and the way."""
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        if name in above:
            yield name, " → ".join((*above[above.index(name) :], name))
        elif name in reads and name not in done:
            for other in reads[name]:
                yield from visit(other, (*above, name))
            done.add(name)

    for name in reads:
        yield from visit(name, ())


def _check_names(project: Project) -> Iterator[Mistake]:
    """Every table, derived table and feature store has a view of its own name."""
    named = [(f"tables.{name}", name) for name in project.tables]
    named += [(f"derived.{name}", name) for name in project.derived]
    if project.features:
        named.append(("features.table", project.features.table))
        if project.features.label:
            named.append(("features.label", TRAINING_SET))
    taken: dict[str, str] = {}
    for at, name in named:
        if name in taken:
            what = "the training set's name" if name == TRAINING_SET else f"{name!r}"
            yield at, f"{what} is taken by {taken[name]} already."
        taken.setdefault(name, at)
        stem = re.fullmatch(r"(.+?)(_until)?_[0-9]+", name)
        if stem and any(stem[1] == other for _, other in named):
            yield (
                at,
                f"{name!r} could be the name of one load or build of {stem[1]!r}: take another.",
            )


def _check_features(features: Features, project: Project) -> Iterator[Mistake]:
    entity_table = project.tables.get(features.entity.table)
    named = [("entity", features.entity), *(("features", one) for one in features.features)]
    named += [(key, one) for key in ("label", "as_of") if (one := getattr(features, key))]
    for key, reference in named:
        yield from _check_reference(f"features.{key}", reference, project)
    if features.entity.table in project.derived:
        yield (
            "features.entity",
            f"{features.entity.table!r} is derived; entities come from a table.",
        )
    yield from _check_as_of(features, project)
    if entity_table and entity_table.key != (features.entity.column,):
        yield "features.entity", f"{features.entity} has to be the whole key of its table."
    names = [reference.column for reference in features.features]
    taken = {features.entity.column, features.label.column if features.label else None}
    taken |= {AS_OF} if features.as_of else set()
    for name in dict.fromkeys(names):
        if names.count(name) > 1 or name in taken:
            yield "features.features", f"two columns of the feature store would be named {name!r}."
    for source in features.sources:
        yield from _check_join(source, features, project)


def _check_as_of(features: Features, project: Project) -> Iterator[Mistake]:
    if features.as_of is None:
        return
    if not features.label or features.as_of.table != features.label.table:
        yield "features.as_of", "it has to be a column of the label's table."
    table = project.tables.get(features.as_of.table)
    column = table.column(features.as_of.column) if table else None
    if column and column.type not in ("date", "timestamp"):
        yield "features.as_of", f"{features.as_of} is {column.type}, not date or timestamp."
    if column and column.nullable:
        yield (
            "features.as_of",
            f"{features.as_of} allows null; say when each was known.",
        )


def _check_reference(at: str, reference: ColumnReference, project: Project) -> Iterator[Mistake]:
    if reference.table in project.derived:
        return  # a derived table's columns are known when it is built
    table = project.tables.get(reference.table)
    if table is None:
        known = _known([*project.tables, *project.derived])
        yield at, f"{reference}: there is no table {reference.table!r}{known}."
        return
    yield from _missing_columns(at, (reference.column,), _names(table))
    if table.period:
        yield at, f"{reference}: a table with a period feeds features through a derived table."


def _check_join(source: str, features: Features, project: Project) -> Iterator[Mistake]:
    """A source is joined by its entity column, which has to single out one row at a time."""
    table = project.tables.get(source) or project.derived.get(source)
    if table is None:
        return
    column = join_column(source, features, project)
    if column is None:
        yield (
            "features",
            f"{source!r} has neither a column {features.entity.column!r} "
            f"nor a reference to {features.entity}.",
        )
    elif not table.key:
        yield "features", f"{source!r} needs a `key` to feed features."
    elif set(table.key) != {column, *table.valid[:1]}:
        wanted = [column, *table.valid[:1]]
        yield "features", f"the key of {source!r} has to be {wanted} to give one row per entity."


def join_column(source: str, features: Features, project: Project) -> str | None:
    """The column of a source that holds the entity: of the same name, or that references it."""
    table = project.tables.get(source)
    if table is None:
        derived = project.derived.get(source)
        return features.entity.column if derived and features.entity.column in derived.key else None
    for reference in table.references:
        if (reference.table, reference.to_column) == (
            features.entity.table,
            features.entity.column,
        ):
            return reference.column
    return features.entity.column if table.column(features.entity.column) else None


def _check_model(project: Project) -> Iterator[Mistake]:
    model = project.model
    if model is None:
        return
    if project.features is None or project.features.label is None:
        yield "model", "a model needs [features] with a `label`."
    else:
        label = project.features.label
        table = project.tables.get(label.table)
        column = table.column(label.column) if table else None
        if column and column.type not in ("integer", "boolean"):
            yield "features.label", f"{label} is {column.type}; a label is 0 or 1."
    for candidate in model.candidates:
        if candidate not in BUILT_IN_CANDIDATES and not re.fullmatch(r"[\w.]+:\w+", candidate):
            yield (
                "model.candidates",
                f"{candidate!r} is none of {', '.join(BUILT_IN_CANDIDATES)}, "
                "nor written as package.module:make_estimator.",
            )


def _check_database(project: Project) -> Iterator[Mistake]:
    database = project.database
    roles = {user.role for user in database.users if user.role}
    for user in database.users:
        if user.name == database.owner or user.name in roles:
            yield f"database.users.{user.name}", "this name is the owner's or a role's."
        if user.role == database.owner:
            yield f"database.users.{user.name}.role", "the owner cannot be somebody's role."


def _check_workflows(project: Project) -> Iterator[Mistake]:
    for workflow in project.workflows.values():
        at = f"workflows.{workflow.name}"
        for step in workflow.steps:
            yield from ((f"{at}.steps", problem) for problem in _problems_of_step(step, project))
        for table in workflow.tables:
            if table not in project.tables:
                yield f"{at}.tables", f"there is no table {table!r}{_known(project.tables)}."
        for other in workflow.after:
            if other not in project.workflows:
                yield f"{at}.after", f"there is no workflow {other!r}{_known(project.workflows)}."
        yield from _check_start(workflow, at)
    for name, circle in _circles({one.name: one.after for one in project.workflows.values()}):
        yield f"workflows.{name}.after", f"it waits for itself: {circle}."


def _problems_of_step(step: str, project: Project) -> Iterator[str]:
    commands = {"load", "build", "train", "run", "score", "show", "notice"}
    command, _, rest = step.partition(" ")
    if command not in commands:
        yield f"{step!r} is no step (known: {', '.join(sorted(commands))})."
    elif command == "show" and rest and rest not in project.derived:
        yield f"there is no derived table {rest!r}."
    elif command == "load" and rest:
        yield f"{step!r}: which tables it loads stands in `tables`."


def _check_start(workflow: Workflow, at: str) -> Iterator[Mistake]:
    if "notice" in workflow.steps and (len(workflow.steps) > 1 or not workflow.schedule):
        yield f"{at}.steps", "`notice` stands alone, with a schedule."
    if workflow.schedule is not None and not is_schedule(workflow.schedule):
        yield (
            f"{at}.schedule",
            f"{workflow.schedule!r} is none of {', '.join(PRESETS)}, "
            'nor five fields of cron such as "0 6 * * *".',
        )


def _names(table: Table) -> list[str]:
    return [column.name for column in table.columns]


def _missing_columns(at: str, wanted: Iterable[str], names: list[str]) -> Iterator[Mistake]:
    for name in wanted:
        if name not in names:
            yield at, f"there is no column {name!r} (columns: {', '.join(names)})."


def _known(names: Iterable[str]) -> str:
    return f" (known: {', '.join(sorted(names))})"
