"""The project: everything the user declares, cross-checked and frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from gristmill.project.serving import Serving

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gristmill.project.features import Features
    from gristmill.project.model import Model
    from gristmill.project.table import Table


@dataclass(frozen=True, kw_only=True)
class Derived:
    """A SELECT over tables, built period by period or whole."""

    name: str
    sql: str
    """The SELECT itself, read from the file that the project names."""
    file: str
    sources: tuple[str, ...]
    """The tables it reads: inside the SQL their names stand for their current rows."""
    period: str | None = None
    """The periodic table by whose periods it is built; that one is then this period only."""
    key: tuple[str, ...] = ()
    valid: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class User:
    """A user of the database, and what they may do."""

    name: str
    role: str | None = None
    may: Literal["read", "write"] = "read"


@dataclass(frozen=True, kw_only=True)
class Database:
    """The database's name, its owner and its users."""

    name: str
    owner: str
    users: tuple[User, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """Steps that an orchestrator runs, on a schedule or after other workflows."""

    name: str
    steps: tuple[str, ...]
    tables: tuple[str, ...] = ()
    schedule: str | None = None
    after: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Project:
    """What the user declares, in `gristmill.toml`."""

    name: str
    source: str
    """The bucket: a URL, or a folder relative to the project file."""
    root: Path
    """The folder of the project file."""
    tables: Mapping[str, Table]
    database: Database
    derived: Mapping[str, Derived] = field(default_factory=dict)
    features: Features | None = None
    model: Model | None = None
    workflows: Mapping[str, Workflow] = field(default_factory=dict)
    serving: Serving = field(default_factory=Serving)
    file: str = "gristmill.toml"
    """The project file's name in its folder."""
