"""A draft of a project → the text of its gristmill.toml, with a comment at each doubtful line."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gristmill.project.table import Dialect

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gristmill.project.features import Features
    from gristmill.project.infer import Doubt
    from gristmill.project.table import Column, Table

LINE_LENGTH = 100


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A project to be, as far as files can tell."""

    name: str
    source: str
    tables: tuple[Table, ...]
    features: Features | None
    as_of: str | None
    """A column that may say when the label was known, written as a comment."""
    doubts: tuple[Doubt, ...]
    """Every one stands in the text, at its place."""
    left_out: tuple[tuple[str, str], ...]
    """Files that are in no table, and why."""


def render(draft: Draft) -> str:
    """The project file. What read_project makes of it are the draft's own tables and features."""
    page = _Page(draft.doubts)
    page.comment("Drafted by `gristmill init` from the files themselves. Read it, correct it, and")
    page.comment("look at every `unsure` first; then `gristmill check` and `gristmill load`.")
    page.blank()
    page.section("project", "project")
    page.values("project", [("name", string(draft.name)), ("source", string(draft.source))])
    for table in draft.tables:
        _write_table(page, table)
    _write_features(page, draft)
    page.blank()
    page.section("database", "database")
    page.values("database", [("name", string(draft.name))])
    page.comment("[database.users]                  # who else may look, or write")
    page.comment('analyst = { may = "read" }')
    if draft.left_out:
        page.blank()
        page.comment("Files that are in no table:")
        for path, reason in draft.left_out:
            page.comment(f"  {path}: {reason}")
    return page.text()


def string(text: str) -> str:
    """A text as a basic string of TOML."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def key(name: str) -> str:
    """A name as a key of TOML, quoted where it has to be."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else string(name)


class _Page:
    """Lines, with the doubts above the line that they are about."""

    def __init__(self, doubts: Iterable[Doubt]) -> None:
        self._lines: list[str] = []
        self._doubts: dict[str, list[str]] = {}
        for doubt in doubts:
            self._doubts.setdefault(doubt.at, []).append(doubt.message)

    def blank(self) -> None:
        self._lines.append("")

    def comment(self, text: str) -> None:
        # A comment in TOML has no control characters.
        self._lines.append("# " + re.sub(r"[\x00-\x1f\x7f]", "·", text))

    def doubts_at(self, at: str) -> None:
        for message in self._doubts.pop(at, []):
            self.comment(f"unsure: {message}")

    def section(self, header: str, at: str) -> None:
        self.doubts_at(at)
        self._lines.append(f"[{header}]")

    def values(self, at: str, pairs: list[tuple[str, str]]) -> None:
        """Keys and values, one under the other, their equal signs too."""
        width = max((len(name) for name, _ in pairs), default=0)
        for name, value in pairs:
            self.doubts_at(f"{at}.{_bare(name)}")
            self._lines.append(f"{name:<{width}} = {value}")

    def text(self) -> str:
        for at in list(self._doubts):
            self.doubts_at(at)
        return "\n".join(self._lines) + "\n"


def _bare(name: str) -> str:
    return str(json.loads(name)) if name.startswith('"') else name


def _write_table(page: _Page, table: Table) -> None:
    at = f"tables.{table.name}"
    page.blank()
    page.section(at, at)
    pairs = [("path", string(table.path))]
    if table.key:
        pairs.append(("key", _list(table.key)))
    if table.valid:
        pairs.append(("valid", _list(table.valid)))
    if table.period:
        column = f", column = {string(table.period.column)}" if table.period.column else ""
        pairs.append(("period", f"{{ every = {string(table.period.every)}{column} }}"))
    if table.references:
        inside = ", ".join(
            f"{key(one.column)} = {string(f'{one.table}.{one.to_column}')}"
            for one in table.references
        )
        pairs.append(("references", f"{{ {inside} }}"))
    if table.dialect != Dialect():
        pairs.append(("csv", _csv(table.dialect)))
    if table.max_rejects != 0.01:
        pairs.append(("max_rejects", str(table.max_rejects)))
    page.values(at, pairs)
    for part in ("key", "valid", "period", "references", "csv", "max_rejects", "columns"):
        page.doubts_at(f"{at}.{part}")
    page.section(f"{at}.columns", f"{at}.columns")
    page.values(f"{at}.columns", [(key(one.name), _declaration(one)) for one in table.columns])


def _csv(dialect: Dialect) -> str:
    usual = Dialect()
    parts = [
        f"{name} = {string(value)}"
        for name in ("delimiter", "encoding", "decimal")
        if (value := getattr(dialect, name)) != getattr(usual, name)
    ]
    if dialect.nulls:
        parts.append(f"nulls = {_list(dialect.nulls)}")
    return f"{{ {', '.join(parts)} }}"


def _declaration(column: Column) -> str:
    if not column.allowed:
        return string(column.declaration)
    allowed = ", ".join(json.dumps(value, ensure_ascii=False) for value in column.allowed)
    return f"{{ type = {string(column.declaration)}, in = [{allowed}] }}"


def _write_features(page: _Page, draft: Draft) -> None:
    features = draft.features
    page.blank()
    if features is None:
        page.doubts_at("features")
        page.doubts_at("features.label")
        page.doubts_at("features.features")
        for line in ("[features]", 'entity   = "table.key"', 'features = ["table.column"]',
                     'label    = "table.column"', "[model]"):  # fmt: skip
            page.comment(line)
        return
    page.section("features", "features")
    pairs = [
        ("table", string(features.table)),
        ("entity", string(str(features.entity))),
        ("features", _list([str(one) for one in features.features], indent="    ")),
    ]
    if features.label:
        pairs.append(("label", string(str(features.label))))
    if features.as_of:
        pairs.append(("as_of", string(str(features.as_of))))
    page.values("features", pairs)
    page.doubts_at("features.label")
    if draft.as_of:
        page.comment(f"as_of = {string(draft.as_of)}    # if that is when each label was known")
    page.blank()
    if features.label is None:
        page.comment("[model]                           # once there is a label")
        return
    page.section("model", "model")
    page.values(
        "model",
        [
            ("candidates", '["logistic", "gradient_boosting", "blend"]'),
            ("metric", '"roc_auc"'),
            ("holdout", "0.2"),
        ],
    )


def _list(values: Iterable[str], *, indent: str = "") -> str:
    """A list on one line, or over several where it is long and may be indented."""
    written = [string(value) for value in values]
    line = f"[{', '.join(written)}]"
    if not indent or len(line) <= LINE_LENGTH - 12:
        return line
    return "[\n" + "\n".join(f"{indent}{row}" for row in _wrapped(written)) + "\n]"


def _wrapped(written: list[str]) -> Iterator[str]:
    row = ""
    for one in written:
        if row and len(row) + len(one) > LINE_LENGTH - 8:
            yield row.rstrip()
            row = ""
        row += f"{one}, "
    yield row.rstrip()
