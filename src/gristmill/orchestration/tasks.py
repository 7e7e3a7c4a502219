"""What an orchestrator runs: a project's workflows as graphs of tasks, in plain records.

Pure: it knows no orchestrator, and what a task does is a command of this product.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gristmill.project.project import Workflow
from gristmill.project.schedule import cadence
from gristmill.project.table import ALL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import date
    from typing import Literal

    from gristmill.project.project import Project

NOTICE = Workflow(name="notice_changes", steps=("notice",), schedule="*/10 * * * *")
"""Looks for files that nobody has loaded; a project may declare another schedule for it."""
AT_ONCE = 200
"""How many runs of a workflow one look starts, the oldest periods first; the next look goes on."""
CONDITIONAL = {"build", "train"}
"""Steps that run only where something is stale; the others know by themselves."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One command of a workflow."""

    name: str
    words: tuple[str, ...]
    """The command, without the program and the project."""
    may_skip: bool
    """Whether it says so where it had nothing to do."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """One workflow: tasks that run one after the other."""

    name: str
    tasks: tuple[Task, ...]
    schedule: str | None
    after: tuple[str, ...]
    """The workflows after any of which it runs."""
    is_awaited: bool
    """Whether others run after it."""
    notices: bool
    """Whether it looks for files to be loaded, and starts the workflows that load them."""
    loads: tuple[str, ...]
    """The tables that it loads."""
    period: Literal["day", "month", "year"] | None
    """Each run loads one such period, the one between the two starts of its schedule."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A run of a workflow that is to be started."""

    workflow: str
    run: str
    """Names the run; the same files give the same name on the same day, so they run once."""
    parameters: Mapping[str, str]


def graphs(project: Project) -> list[Graph]:
    """The workflows of a project, and one that notices changes where any loads by itself."""
    workflows = [*project.workflows.values()]
    awaited = {name for workflow in workflows for name in workflow.after}
    found = [_graph(one, project, is_awaited=one.name in awaited) for one in workflows]
    by_itself = any(one.loads and (one.schedule or one.after) for one in found)
    if by_itself and not any(one.notices for one in found):
        found.append(_graph(NOTICE, project, is_awaited=False))
    return found


def _graph(workflow: Workflow, project: Project, *, is_awaited: bool) -> Graph:
    commands = [shlex.split(step) for step in workflow.steps]
    loading = {"load", "run"} & {words[0] for words in commands}
    loads = (workflow.tables or tuple(project.tables)) if loading else ()
    graph = Graph(
        name=workflow.name,
        tasks=tuple(_task(words, loads) for words in commands if words[0] != "notice"),
        schedule=workflow.schedule,
        after=workflow.after,
        is_awaited=is_awaited,
        notices=any(words[0] == "notice" for words in commands),
        loads=loads,
        period=None,
    )
    every = {table.period.every for name in graph.loads if (table := project.tables[name]).period}
    if graph.schedule and every == {cadence(graph.schedule)} and loading == {"load"}:
        return replace(graph, period=every.pop())
    return graph


def _task(words: list[str], loads: tuple[str, ...]) -> Task:
    name = re.sub(r"\W+", "_", " ".join(words)).strip("_")
    if words[0] == "load":
        words = [*words, *loads]
    conditional = words[0] in CONDITIONAL
    if conditional:
        words = [words[0], "--if-needed", *words[1:]]
    return Task(name=name, words=tuple(words), may_skip=conditional)


def starts(found: Iterable[Mapping[str, Any]], graphs: Iterable[Graph], day: date) -> list[Start]:
    """The runs that bring pending files in: one for each period, one for all that have none.

    `found` are the files of `gristmill pending --json`. A period's run loads the tables beside it
    too; only where no period waits, one with the period `all` does. A file whose load failed is
    tried again by itself the next day.
    """
    loaders: dict[str, Graph] = {}
    for graph in graphs:
        for table in graph.loads if graph.schedule or graph.after else ():
            loaders.setdefault(table, graph)
    versions: dict[str, dict[str, list[str]]] = {}
    for file in found:
        loader = loaders.get(file["table"])
        if loader:
            period = file["period"] if loader.period else ALL
            periods = versions.setdefault(loader.name, {})
            periods.setdefault(period, []).append(f"{file['table']} {file['version']}")
    made = []
    for graph in {graph.name: graph for graph in loaders.values()}.values():
        periods = versions.get(graph.name, {})
        beside = periods.pop(ALL, []) if len(periods) > 1 else []
        made += [
            _start(graph, period, [*names, *beside])
            for period, names in sorted(periods.items())[:AT_ONCE]
        ]
    return [replace(one, run=f"{one.run}__{day}") for one in made]


def _start(graph: Graph, period: str, versions: list[str]) -> Start:
    digest = hashlib.sha256(" ".join(sorted(versions)).encode()).hexdigest()[:8]
    return Start(
        workflow=graph.name,
        run=f"noticed__{period}__{digest}",
        parameters={graph.period: period} if graph.period else {},
    )
