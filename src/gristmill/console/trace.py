"""Where an answer came from, as people read it in a terminal of 80 columns."""

from __future__ import annotations

import json
from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING, Any

from gristmill.console.models import paragraph

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gristmill.predictions.origins import Source, SourceRow, TracedRow
    from gristmill.predictions.trace import Trace, TracedVersion
    from gristmill.predictions.traced_files import TracedLoad

MOST_ROWS = 12
"""Rows of one table that are printed; --json gives more."""
LONGEST = 24
"""Characters of a value in the table of features."""


def trace_lines(trace: Trace) -> Iterator[str]:
    """A prediction from its answer back to files and lines."""
    yield f"prediction {trace.prediction_id}"
    who = f"{trace.entity_name} {trace.entity}"
    yield f"  {who}: label {trace.label}, probability {trace.probability!r}"
    moment = trace.predicted_at.strftime("%Y-%m-%d %H:%M:%S UTC")
    yield f"  by version {trace.model_version}, {moment}, in {trace.latency_ms:.3g} ms"
    yield ""
    yield from _features(trace)
    if trace.stored:
        yield ""
        yield _heading("stored", trace.stored)
        yield from _sources(trace.stored.sources, "  ", told=())
    if trace.trained and trace.version:
        yield ""
        yield from _trained(trace, trace.trained, trace.version)
    yield from _files(trace)
    if trace.version:
        yield ""
        yield from _version(trace, trace.version)
    if trace.notes:
        yield ""
    for note in trace.notes:
        yield from paragraph(note, "  ", first="! ")


def _features(trace: Trace) -> Iterator[str]:
    """Given and stored side by side, and what the training set held; ≠ where they differ."""
    rows = [["feature", "given", "", "stored", "in training"]]
    rows += [
        [one.name, _short(one.given), "≠" if one.differs else "",
         _short(one.stored) if trace.stored and trace.stored.values else "",
         _short(one.trained) if trace.trained and trace.trained.values else ""]
        for one in trace.features
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield "  ".join(cells).rstrip()


def _heading(title: str, row: TracedRow) -> str:
    state = "shown now" if row.is_current else "no longer shown"
    moment = row.as_of if isinstance(row.as_of, str) else f"{row.as_of:%Y-%m-%d %H:%M} UTC"
    as_of = f" as of {moment}" if row.as_of else ""
    return f"{title}: {row.name}, build {row.build}{as_of} ({state})"


def _trained(trace: Trace, row: TracedRow, version: TracedVersion) -> Iterator[str]:
    yield _heading("in training", row)
    if row.values is None and not row.dropped_at:
        yield f"  {trace.entity_name} {trace.entity} has no row in it, for it had no label."
        return
    if row.values is not None and version.part:
        side = "trained on" if version.part == "training" else "held out: it trained no model"
        yield f"  {trace.entity_name} {trace.entity} was {side}"
    told = trace.stored.every_source() if trace.stored else []
    yield from _sources(row.sources, "  ", told=told)
    same = [source.name for source in row.every_source() if source in told]
    if same:
        yield from paragraph(f"{', '.join(same)}: the same rows as above", "    ", first="  ")


def _sources(sources: Sequence[Source], indent: str, *, told: Sequence[Source]) -> Iterator[str]:
    """The sources with their rows, but for those that were told before."""
    for source in sources:
        if source not in told:
            yield from _source(source, indent, told)


def _source(source: Source, indent: str, told: Sequence[Source]) -> Iterator[str]:
    deeper = f"{indent}  "
    built = "" if source.kind == "table" else f" (derived, {_numbers('build', source.builds)})"
    yield f"{indent}{source.name}{built}"
    if source.column is None:
        lost = len(source.dropped) == len(source.loads or source.builds)
        yield f"{deeper}{'no longer kept' if lost else 'holds no column for the entity'}"
    elif not source.rows:
        yield f"{deeper}no row with this {source.column}"
    else:
        yield from _rows(source, deeper)
    if any(one not in told for one in source.sources):
        yield f"{indent}which was made of"
        yield from _sources(source.sources, deeper, told=told)


def _rows(source: Source, indent: str) -> Iterator[str]:
    """The rows under the files that hold them; of a history whole only the one that counted."""
    history = any(row.counted is False for row in source.rows)
    whole = [row for row in source.rows if row.counted or not history][:MOST_ROWS]
    for (file, load), grouped in groupby(whole, key=lambda row: (row.file, row.load)):
        if file is not None:
            yield f"{indent}{file} (load {load})"
        for row in grouped:
            yield from _row(row, source, indent + ("  " if file is not None else ""), history)
    others = [row for row in source.rows if row.counted is False]
    for (file, load), grouped in groupby(others, key=lambda row: (row.file, row.load)):
        rows = list(grouped)
        said = f"{len(rows)} other row{'s' * (len(rows) > 1)}"
        if file is not None:
            lines = ", ".join(str(row.line) for row in rows[:MOST_ROWS])
            more = ", …" * (len(rows) > MOST_ROWS)
            said = f"line{'s' * (len(rows) > 1)} {lines}{more} of {file} (load {load})"
        yield from paragraph(f"not valid then: {said}", f"{indent}  ", first=indent)
    left = len(source.rows) - len(whole) - len(others)
    if left or source.more:
        yield f"{indent}… and {left}{' or more' if source.more else ''} others (see --json)"


def _row(row: SourceRow, source: Source, indent: str, history: bool) -> Iterator[str]:
    values = ", ".join(
        f"{name}={_plain(value)}" for name, value in row.values.items() if name != source.column
    )
    place = [f"line {row.line}"] if row.line is not None else []
    place += ["(valid then)"] if row.counted and history else []
    said = f"{' '.join(place)}: {values}" if place else values
    yield from paragraph(said, f"{indent}  ", first=indent)


def _files(trace: Trace) -> Iterator[str]:
    """The files that the rows told above lie in."""
    holding = {row.load for place in (trace.stored, trace.trained) if place
               for source in place.every_source() for row in source.rows}  # fmt: skip
    loads = [load for load in trace.loads if load.load in holding]
    if loads:
        yield ""
        yield "files of these rows"
    for load in loads:
        yield f"  {load.file} (load {load.load}): {_now(load)}"
        yield f"    etag {load.etag}"


def _now(load: TracedLoad) -> str:
    return "not looked at" if load.file_now == "unknown" else load.file_now


def _version(trace: Trace, version: TracedVersion) -> Iterator[str]:
    moment = version.registered_at.strftime("%Y-%m-%d %H:%M UTC")
    yield f"version {version.version}: {version.candidate}, {version.verdict}, {moment}"
    yield f"  Gristmill {version.code_version}, seed {version.seed}, MLflow run {version.run_id}"
    if version.project:
        yield f"  project: {version.project}"
    counts = Counter(_now(load) for load in trace.loads if load.load in version.loads)
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    files = f"{len(version.loads)} file{'s' * (len(version.loads) != 1)}"
    made = f"trained on build {version.build}, made of {files}: {states}"
    yield from paragraph(made, "    ", first="  ")


def _numbers(word: str, numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"{word} {numbers[0]}"
    return f"{len(numbers)} {word}s, {numbers[0]} to {numbers[-1]}"


def _plain(value: Any) -> str:
    """A value as it stands in a file, more or less: exactly, without quotes."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _short(value: Any) -> str:
    text = _plain(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
