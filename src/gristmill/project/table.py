"""Tables and their contracts, as the project declares them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection

ColumnType = Literal["integer", "number", "decimal", "text", "date", "timestamp", "boolean"]
Scalar = str | int | float | bool

ALL = "all"
"""The name of the one period of a table that has none."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table, with the rules its values keep."""

    name: str
    type: ColumnType
    nullable: bool = False
    precision: int = 0
    """Digits in all, for `decimal(p,s)`."""
    scale: int = 0
    """Digits after the point, for `decimal(p,s)`."""
    allowed: tuple[Scalar, ...] = ()
    """The rule `in`: the values that may occur; empty allows any."""
    minimum: Scalar | None = None
    maximum: Scalar | None = None
    matches: str | None = None
    """A regular expression that the whole of a text matches."""

    @property
    def declaration(self) -> str:
        """The type as the project file writes it: `decimal(10,2)?`."""
        size = f"({self.precision},{self.scale})" if self.type == "decimal" else ""
        return f"{self.type}{size}{'?' if self.nullable else ''}"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A column whose values occur in a column of another table."""

    column: str
    table: str
    to_column: str


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a table's CSV differs from RFC 4180 in UTF-8."""

    delimiter: str = ","
    encoding: str = "utf-8"
    nulls: tuple[str, ...] = ()
    """Unquoted words that mean null, beside the empty field."""
    decimal: Literal[".", ","] = "."


_PERIOD_FORMATS = {"day": "%Y-%m-%d", "month": "%Y-%m", "year": "%Y"}
_NAME_LENGTHS = {"day": 10, "month": 7, "year": 4}


@dataclass(frozen=True, kw_only=True)
class Period:
    """What one file of a family covers, and the column whose values lie in it."""

    every: Literal["day", "month", "year"]
    column: str | None = None
    missing: tuple[str, ...] = ()
    """Periods that are known to have no file: a gap there is none."""

    def name(self, moment: date) -> str:
        """The period that holds a day: `2020-01` where every file covers a month."""
        return moment.isoformat()[: _NAME_LENGTHS[self.every]]

    def parse(self, text: str) -> str:
        """A period as a person writes it (`2020-01`, or any day in it) as its name; ValueError."""
        for pattern in (_PERIOD_FORMATS[self.every], "%Y-%m-%d"):
            try:
                return self.name(datetime.strptime(text, pattern).date())
            except ValueError:
                continue
        raise ValueError(f"{text!r} is not a {self.every} such as {self.name(date(2020, 1, 31))}")

    def is_name(self, text: str) -> bool:
        """Whether a text is a period's name, exactly."""
        try:
            return self.parse(text) == text
        except ValueError:
            return False

    def bounds(self, name: str) -> tuple[date, date]:
        """The first day of a period and the first day after it."""
        first = datetime.strptime(name, _PERIOD_FORMATS[self.every]).date()
        reach = {"day": 1, "month": 31, "year": 366}[self.every]
        after = first + timedelta(days=reach)
        return first, {
            "day": after,
            "month": after.replace(day=1),
            "year": after.replace(month=1, day=1),
        }[self.every]

    def following(self, name: str) -> str:
        """The period after this one."""
        return self.name(self.bounds(name)[1])

    def gaps(self, names: Collection[str]) -> list[str]:
        """The periods between the first and the last of some that are neither there nor known
        to be missing."""
        found = []
        period = min(names, default="")
        while period < max(names, default=""):
            if period not in names and period not in self.missing:
                found.append(period)
            period = self.following(period)
        return found


_PLACEHOLDER = re.compile(r"\{period:([^}]*)\}")
_DIRECTIVES = {"%Y": "[0-9]{4}", "%m": "[0-9]{2}", "%d": "[0-9]{2}"}


@dataclass(frozen=True, kw_only=True)
class Table:
    """A declared CSV file, or a family of periodic ones, with its contract."""

    name: str
    path: str
    """Where its file lies in the bucket; `{period:%Y-%m-%d}` stands for the period."""
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    valid: tuple[str, ...] = ()
    """The columns `valid_from` and, where there is one, `valid_to` of a history."""
    period: Period | None = None
    references: tuple[Reference, ...] = ()
    dialect: Dialect = field(default_factory=Dialect)
    max_rejects: float = 0.01
    """The share of a file's rows that may break a rule before the load is refused."""

    def column(self, name: str) -> Column | None:
        """The column of that name."""
        return next((column for column in self.columns if column.name == name), None)

    def bearable(self, rows: int) -> int:
        """How many of a file's rows may break a rule: the share as it is written, not as a float.

        As floats, 0.29 of 100 is less than 29.
        """
        return math.floor(Fraction(str(self.max_rejects)) * rows)

    @property
    def prefix(self) -> str:
        """The folder under which all its files lie, for listing."""
        fixed = self.path.split("{", 1)[0]
        return fixed.rsplit("/", 1)[0] + "/" if "/" in fixed else ""

    def path_of(self, period: str) -> str:
        """The path of a period's file."""
        if self.period is None:
            return self.path
        year, month, day = self.period.bounds(period)[0].isoformat().split("-")
        parts = {"%Y": year, "%m": month, "%d": day}
        return _PLACEHOLDER.sub(
            lambda match: re.sub("%[Ymd]", lambda directive: parts[directive[0]], match[1]),
            self.path,
        )

    def period_of(self, path: str) -> str | None:
        """The period whose file this path is; None for a path of something else."""
        if self.period is None:
            return ALL if path == self.path else None
        match = _path_pattern(self.path).fullmatch(path)
        if match is None:
            return None
        year, month, day = (int(match.groupdict().get(part) or 1) for part in "Ymd")
        try:
            period = self.period.name(date(year, month, day))
            self.period.bounds(period)
        except (ValueError, OverflowError):
            return None
        return period


def path_problem(path: str, period: Period | None) -> str | None:
    """What is wrong with a path template, in words; None where nothing is."""
    placeholders = _PLACEHOLDER.findall(path)
    rest = _PLACEHOLDER.sub("", path)
    if "{" in rest or "}" in rest:
        return "write the period as {period:%Y-%m-%d}; no other braces are known"
    if period is None:
        return "it names a {period:…}, but the table declares no period" if placeholders else None
    directives = set(re.findall(r"%.", "".join(placeholders)))
    needed = {"day": {"%Y", "%m", "%d"}, "month": {"%Y", "%m"}, "year": {"%Y"}}[period.every]
    if not needed <= directives or not directives <= set(_DIRECTIVES):
        return (
            f"the table has a period every {period.every}, so the path needs "
            f"{{period:…}} with {', '.join(sorted(needed))} (known: %Y, %m, %d)"
        )
    return None


def _path_pattern(path: str) -> re.Pattern[str]:
    """The paths of a family: year, month and day are groups, and alike wherever they recur."""
    pattern = ""
    seen: set[str] = set()
    for index, part in enumerate(_PLACEHOLDER.split(path)):
        for text in re.split("(%[Ymd])", part) if index % 2 else [part]:
            if index % 2 == 0 or text not in _DIRECTIVES:
                pattern += re.escape(text)
            elif text in seen:
                pattern += f"(?P={text[1]})"
            else:
                pattern += f"(?P<{text[1]}>{_DIRECTIVES[text]})"
                seen.add(text)
    return re.compile(pattern)
