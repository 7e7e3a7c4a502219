"""`gristmill.toml` → Project. Every mistake is an error with the file, the key and a hint."""

from __future__ import annotations

import difflib
import re
import tomllib
from datetime import date
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gristmill.errors import ProjectError
from gristmill.project.check import check_project
from gristmill.project.features import ColumnReference, Features
from gristmill.project.model import BUILT_IN_CANDIDATES, Aim, Costs, Gate, Metric, Model
from gristmill.project.project import Database, Derived, Project, User, Workflow
from gristmill.project.serving import LogPolicy, Serving
from gristmill.project.table import (
    Column,
    ColumnType,
    Dialect,
    Period,
    Reference,
    Scalar,
    Table,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DEFAULT_FILE = "gristmill.toml"

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,47}$")]
Dotted = Annotated[str, Field(pattern=r"^[^.]+\.[^.]+$")]


def _written(value: object) -> object:
    """A date or time that TOML knows as one, as the text that the other values are."""
    return value.isoformat() if isinstance(value, date) else value


Value = Annotated[Scalar, BeforeValidator(_written)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _ProjectSection(_Section):
    name: Name
    source: str = Field(min_length=1)


class _ColumnSection(_Section):
    type: str
    allowed: list[Value] = Field(default=[], alias="in")
    min: Value | None = None
    max: Value | None = None
    matches: str | None = None


class _PeriodSection(_Section):
    every: Literal["day", "month", "year"]
    column: str | None = None
    missing: list[str] = []


class _CsvSection(_Section):
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    encoding: str = "utf-8"
    nulls: list[str] = []
    decimal: Literal[".", ","] = "."


class _TableSection(_Section):
    path: str = Field(min_length=1)
    columns: dict[str, str | _ColumnSection] = Field(min_length=1)
    key: list[str] = []
    valid: list[str] = Field(default=[], max_length=2)
    period: _PeriodSection | None = None
    references: dict[str, Dotted] = {}
    csv: _CsvSection = _CsvSection()
    max_rejects: float = Field(default=0.01, ge=0, le=1)


class _DerivedSection(_Section):
    sql: str
    sources: list[str] = Field(alias="from", min_length=1)
    period: str | None = None
    key: list[str] = []
    valid: list[str] = Field(default=[], max_length=2)


class _FeaturesSection(_Section):
    entity: Dotted
    features: list[Dotted] = Field(min_length=1)
    table: Name = "feature_store"
    label: Dotted | None = None
    as_of: Dotted | None = None


class _GateSection(_Section):
    no_signal: Literal["refuse", "serve"] = "refuse"


class _CostsSection(_Section):
    false_positive: float = Field(gt=0, allow_inf_nan=False)
    false_negative: float = Field(gt=0, allow_inf_nan=False)


class _ModelSection(_Section):
    candidates: list[str] = Field(default=[*BUILT_IN_CANDIDATES], min_length=1)
    metric: Metric = "roc_auc"
    threshold: Literal["balanced_accuracy", "f1"] | _CostsSection | None = None
    minutes: float | None = Field(default=None, gt=0, le=7 * 24 * 60)
    trials: int | None = Field(default=None, ge=1)
    holdout: float = Field(default=0.2, gt=0, lt=1)
    seed: int = Field(default=0, ge=0, lt=2**32)
    gate: _GateSection = _GateSection()


class _ServingSection(_Section):
    log: LogPolicy = "durable"


class _UserSection(_Section):
    role: Name | None = None
    may: Literal["read", "write"] = "read"


class _DatabaseSection(_Section):
    name: Name | None = None
    owner: Name = "gristmill"
    users: dict[Name, _UserSection] = {}


class _WorkflowSection(_Section):
    steps: list[str] = Field(min_length=1)
    tables: list[str] = []
    schedule: str | None = None
    after: list[str] = []


class _File(_Section):
    project: _ProjectSection
    tables: dict[Name, _TableSection] = Field(min_length=1)
    derived: dict[Name, _DerivedSection] = {}
    features: _FeaturesSection | None = None
    model: _ModelSection | None = None
    serving: _ServingSection = _ServingSection()
    database: _DatabaseSection = _DatabaseSection()
    workflows: dict[Name, _WorkflowSection] = {}


def read_project(path: Path, *, source: str | None = None) -> Project:
    """Read a project file; `source` overrides the bucket it names.

    Raises ProjectError with every mistake found, a line each: file, key, what is wrong, a hint.
    """
    if path.is_dir():
        path = path / DEFAULT_FILE
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ProjectError(
            f"There is no project file {path}. Name one with --project, "
            "or write one with `gristmill init`."
        ) from error
    except OSError as error:
        raise ProjectError(f"The project file {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ProjectError(f"{path}: not UTF-8 at byte {error.start}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ProjectError(f"{path}: not TOML: {error}.") from error
    try:
        parsed = _File.model_validate(content)
    except ValidationError as error:
        raise ProjectError(_all_problems(path.name, content, error)) from error
    mistakes = _Mistakes(path.name)
    project = _project(parsed, path, source, mistakes)
    for key, message in check_project(project):
        mistakes.add(key, message)
    mistakes.raise_any()
    return project


class _Mistakes:
    """What is wrong with a file, found one after the other and told together."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._lines: list[str] = []

    def add(self, key: str, message: str) -> None:
        self._lines.append(f"{self._file}: {key}: {message}")

    def raise_any(self) -> None:
        if self._lines:
            raise ProjectError("\n".join(self._lines))


def _project(parsed: _File, path: Path, source: str | None, mistakes: _Mistakes) -> Project:
    root = path.resolve().parent
    features, model = parsed.features, parsed.model
    return Project(
        name=parsed.project.name,
        source=source or parsed.project.source,
        root=root,
        file=path.name,
        tables={name: _table(name, section, mistakes) for name, section in parsed.tables.items()},
        derived={
            name: _derived(name, section, root, mistakes)
            for name, section in parsed.derived.items()
        },
        features=_features(features) if features else None,
        model=Model(
            candidates=tuple(model.candidates),
            metric=model.metric,
            threshold=_aim(model.threshold),
            minutes=model.minutes,
            trials=model.trials,
            holdout=model.holdout,
            seed=model.seed,
            gate=Gate(no_signal=model.gate.no_signal),
        )
        if model
        else None,
        serving=Serving(log=parsed.serving.log),
        database=Database(
            name=parsed.database.name or parsed.project.name,
            owner=parsed.database.owner,
            users=tuple(
                User(name=name, role=user.role, may=user.may)
                for name, user in parsed.database.users.items()
            ),
        ),
        workflows={
            name: Workflow(
                name=name,
                steps=tuple(section.steps),
                tables=tuple(section.tables),
                schedule=section.schedule,
                after=tuple(section.after),
            )
            for name, section in parsed.workflows.items()
        },
    )


def _table(name: str, section: _TableSection, mistakes: _Mistakes) -> Table:
    columns = []
    for column, declared in section.columns.items():
        written = (
            declared if isinstance(declared, _ColumnSection) else _ColumnSection(type=declared)
        )
        parsed = _column(column, written)
        if parsed is None:
            mistakes.add(f"tables.{name}.columns.{column}", _unknown_type(written.type))
        else:
            columns.append(parsed)
    references = []
    for column, target in section.references.items():
        reference = _reference(target)
        references.append(
            Reference(column=column, table=reference.table, to_column=reference.column)
        )
    return Table(
        name=name,
        path=section.path,
        columns=tuple(columns),
        key=tuple(section.key),
        valid=tuple(section.valid),
        period=Period(
            every=section.period.every,
            column=section.period.column,
            missing=tuple(section.period.missing),
        )
        if section.period
        else None,
        references=tuple(references),
        dialect=Dialect(
            delimiter=section.csv.delimiter,
            encoding=section.csv.encoding,
            nulls=tuple(section.csv.nulls),
            decimal=section.csv.decimal,
        ),
        max_rejects=section.max_rejects,
    )


_TYPE = re.compile(
    r"(?P<type>integer|number|text|date|timestamp|boolean"
    r"|decimal\(\s*(?P<precision>\d+)\s*,\s*(?P<scale>\d+)\s*\))(?P<null>\?)?"
)


def _column(name: str, section: _ColumnSection) -> Column | None:
    match = _TYPE.fullmatch(section.type)
    if match is None:
        return None
    types: dict[str, ColumnType] = {known: known for known in get_args(ColumnType)}
    return Column(
        name=name,
        type=types[match["type"].split("(")[0]],
        nullable=match["null"] is not None,
        precision=int(match["precision"] or 0),
        scale=int(match["scale"] or 0),
        allowed=tuple(section.allowed),
        minimum=section.min,
        maximum=section.max,
        matches=section.matches,
    )


def _unknown_type(written: str) -> str:
    known = ["decimal(p,s)" if name == "decimal" else name for name in get_args(ColumnType)]
    return (
        f"{written!r} is no type{_nearest(written.rstrip('?'), known)}. "
        f"Types: {', '.join(known)}; a trailing ? allows null."
    )


def _derived(name: str, section: _DerivedSection, root: Path, mistakes: _Mistakes) -> Derived:
    try:
        sql = (root / section.sql).read_text(encoding="utf-8").strip().rstrip(";")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        mistakes.add(f"derived.{name}.sql", f"{section.sql} cannot be read: {reason}.")
        sql = ""
    return Derived(
        name=name,
        sql=sql,
        file=section.sql,
        sources=tuple(section.sources),
        period=section.period,
        key=tuple(section.key),
        valid=tuple(section.valid),
    )


def _features(section: _FeaturesSection) -> Features:
    return Features(
        table=section.table,
        entity=_reference(section.entity),
        features=tuple(_reference(feature) for feature in section.features),
        label=_reference(section.label) if section.label else None,
        as_of=_reference(section.as_of) if section.as_of else None,
    )


def _aim(threshold: Literal["balanced_accuracy", "f1"] | _CostsSection | None) -> Aim | None:
    if isinstance(threshold, _CostsSection):
        return Costs(
            false_positive=threshold.false_positive, false_negative=threshold.false_negative
        )
    return threshold


def _reference(dotted: str) -> ColumnReference:
    table, column = dotted.split(".")
    return ColumnReference(table=table, column=column)


_EXPECTED = {
    "string_type": "a text",
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a section",
    "model_type": "a section",
}


def _all_problems(file: str, content: dict[str, object], error: ValidationError) -> str:
    """Pydantic's errors in our words: a line for each key that is wrong."""
    if not content:
        return f"{file}: the file is empty."
    expected: dict[str, list[str]] = {}
    problems: dict[str, str] = {}
    unknown = []
    for problem in error.errors(include_url=False):
        kind = problem["type"]
        location = _location(problem["loc"], content)
        if kind == "missing":
            location.append(str(problem["loc"][-1]))
        key = ".".join(location)
        if kind in _EXPECTED:
            expected.setdefault(key, []).append(_EXPECTED[kind])
        else:
            problems[key] = _problem(kind, problem["msg"], location, problem)
        if kind == "extra_forbidden":
            unknown.append(key)
    for key, kinds in expected.items():
        problems.setdefault(key, f"it has to be {' or '.join(dict.fromkeys(kinds))}.")
    # What a section lacks may be what an unknown key was meant to be; and where something inside
    # a section is wrong, it was meant to be a section.
    wrong = unknown or [
        key for key in problems if not any(other.startswith(f"{key}.") for other in problems)
    ]
    return "\n".join(f"{file}: {key}: {problems[key]}" for key in wrong)


def _location(parts: Sequence[int | str], content: object) -> list[str]:
    """Where in the file a problem is: Pydantic's path without the branches that it tried."""
    location = []
    for part in parts:
        if isinstance(content, dict) and part in content:
            content = content[part]
            location.append(str(part))
        elif isinstance(content, list) and isinstance(part, int) and part < len(content):
            content = content[part]
            location.append(str(part + 1))
    return location


def _problem(kind: str, message: str, location: list[str], problem: object) -> str:
    context = problem.get("ctx", {}) if isinstance(problem, dict) else {}
    if kind == "extra_forbidden":
        return f"unknown key{_nearest(location[-1], _keys_beside(location))}."
    if kind == "missing":
        return "missing, and it has no default."
    if kind == "string_pattern_mismatch" and context.get("pattern") == r"^[^.]+\.[^.]+$":
        return 'write it as "table.column".'
    if kind == "string_pattern_mismatch":
        return "a name is letters, digits and _, begins with no digit and has at most 48 of them."
    text = message.replace("Input should", "it should")
    return f"{text[0].lower()}{text[1:]}."


def _keys_beside(location: list[str]) -> list[str]:
    """The keys that the section of a misplaced key knows."""
    section: type[BaseModel] = _File
    for part in location[:-1]:
        field = next(
            (field for name, field in section.model_fields.items() if part in (name, field.alias)),
            None,
        )
        if field is None:
            continue
        found = [
            model
            for model in _Section.__subclasses__()
            if re.search(rf"\b{model.__name__}\b", str(field.annotation))
        ]
        section = found[0] if found else section
    return [field.alias or name for name, field in section.model_fields.items()]


def _nearest(written: str, known: list[str]) -> str:
    close = difflib.get_close_matches(written, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f" (known here: {', '.join(known)})"
