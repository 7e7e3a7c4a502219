"""Model versions as people read them in a terminal: all of them, or one."""

from __future__ import annotations

from dataclasses import fields
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from gristmill.console import terminal
from gristmill.console.terminal import shown
from gristmill.registry.bundle import REPORT
from gristmill.registry.code import described
from gristmill.training.evaluate import Confusion, Evaluation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gristmill.flow.models import Tenure, VersionDetails
    from gristmill.registry.problems import Problem

WIDTH = 80


def print_versions(found: Sequence[Mapping[str, Any]], problems: Sequence[Problem]) -> None:
    """Print a line for each version, and what is wrong with the record of any."""
    columns = ["version", "champion", "verdict", "value", "candidate", "registered_at"]
    metric = found[0]["metric"] if found else "value"
    headings = [metric if column == "value" else column for column in columns]
    terminal.print_table(headings, terminal.as_rows(found, columns))
    for problem in problems:
        terminal.print_error("\n".join(problem_lines(problem)))


def version_lines(details: VersionDetails) -> Iterator[str]:
    """Everything on record of one version, in lines of at most 80 columns where words allow it."""
    version = details.version
    yield f"version {version.version}: {version.candidate}, {_moment(version.registered_at)}"
    yield from _answers(details)
    yield ""
    yield f"verdict: {version.verdict}" + (" (no signal was shown)" if version.no_signal else "")
    for reason in version.reasons:
        yield from paragraph(reason, "  ")
    yield ""
    yield "on the holdout"
    yield from (f"  {line}" for line in _metrics(version.evaluation))
    yield ""
    yield f"trained on build {version.build}, made of"
    for load in details.loads:
        period = "" if load["period"] == "all" else f" {load['period']}"
        yield f"  load {load['load']}: {load['table_name']}{period}: {load['file']}"
    yield ""
    yield f"code     Gristmill {version.code_version}, seed {version.seed}"
    if project := described(version.lineage.get("project")):
        yield f"project  {project}"
    libraries = version.lineage.get("libraries", {})
    named = ", ".join(f"{name} {number}" for name, number in libraries.items())
    yield from paragraph(named, "         ", first="with     ")
    yield f"bundle   {version.bundle}"
    if (version.bundle / REPORT).exists():
        yield f"report   {version.bundle / REPORT}"
    yield f"digest   {version.bundle_digest or 'not recorded'}"
    yield f"run      {version.run_id}"
    yield from (line for problem in details.problems for line in problem_lines(problem))


def problem_lines(problem: Problem) -> Iterator[str]:
    """What is not as it was, under the version that it concerns."""
    return paragraph(f"version {problem.version}: {problem.message}", "  ", first="")


def paragraph(text: str, indent: str, *, first: str | None = None) -> Iterator[str]:
    """A text in lines of at most 80 columns; a longer word has its line to itself."""
    yield from wrap(
        text,
        WIDTH,
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _answers(details: VersionDetails) -> Iterator[str]:
    if not details.tenures:
        yield "never champion"
    for tenure in details.tenures:
        yield from _tenure(tenure)
    if details.first_answer and details.last_answer:
        first, last = _moment(details.first_answer), _moment(details.last_answer)
        yield f"answers on record from {first} to {last}"


def _tenure(tenure: Tenure) -> Iterator[str]:
    until = f" until {_moment(tenure.until)}" if tenure.until else ", and still is"
    how = "again" if tenure.rolled_back_to else "champion"
    yield f"{how} since {_moment(tenure.since)}{until}"
    users = [f"{tenure.os_user} on the machine" if tenure.os_user else ""]
    users += [f"{tenure.database_user} in the database" if tenure.database_user else ""]
    signed = ", ".join(filter(None, users)) or "not recorded"
    yield from paragraph(f"by {tenure.by} ({signed}): {tenure.why}", "  ")


def _metrics(evaluation: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    # The database gives them by the length of their names.
    order = [one.name for one in (*fields(Evaluation), *fields(Confusion))]
    names = sorted(evaluation, key=lambda name: order.index(name) if name in order else len(order))
    for name in names:
        value = evaluation[name]
        if isinstance(value, dict) and "value" in value:
            interval = f"  ({shown(value['low'])} to {shown(value['high'])})"
            yield f"{prefix + name:28} {shown(value['value']):>10}{interval}"
        elif isinstance(value, dict):
            yield from _metrics(value, f"{name}: ")
        elif value is None or isinstance(value, int | float | str):
            yield f"{prefix + name:28} {shown(value):>10}"


def _moment(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
