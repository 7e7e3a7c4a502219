"""A bucket → a draft project: lists it, reads samples of its files, writes gristmill.toml.

It never writes over a project file that is there, and reads no more than it has memory for.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gristmill.bucket.bucket import open_bucket
from gristmill.errors import LoadError, ProjectError
from gristmill.flow.samples import Opened, open_sample, read_sample, rejected
from gristmill.project.draft import Draft, render
from gristmill.project.families import Family, Grouped, group, table_name
from gristmill.project.infer import (
    Doubt,
    InferredTable,
    declarable,
    header_is_data,
    infer_dialect,
    infer_table,
)
from gristmill.project.read import DEFAULT_FILE, read_project
from gristmill.project.relate import relate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gristmill.bucket.bucket import Bucket, BucketObject
    from gristmill.flow.report import Report
    from gristmill.project.infer import FileSample
    from gristmill.project.project import Project

READ_BYTES = 192 * 1024 * 1024
"""How much is read of all files together, unpacked: it bounds memory and time."""
MOST_OF_A_TABLE = 24 * 1024 * 1024
LEAST_OF_A_TABLE = 256 * 1024
MOST_FILES_OF_A_FAMILY = 36
MOST_TABLES = 500
MOST_TOLD = 5
"""How many files are named that are left out for the same reason."""


@dataclass(frozen=True, kw_only=True)
class Drafted:
    """What `init` wrote."""

    file: Path
    project: Project
    """The file, read back."""
    doubts: tuple[Doubt, ...]
    left_out: tuple[tuple[str, str], ...]
    """Files that are in no table, and why."""


def draft_project(
    place: Path,
    source: str,
    report: Report,
    *,
    relative_to: Path | None = None,
    aws: Mapping[str, str] | None = None,
) -> Drafted:
    """Draft the project file `place` (a folder, or the file) from the bucket at `source`.

    A folder is relative to `relative_to`, or else to the project's folder. Raises ProjectError
    where the file exists or nothing can be drafted, BucketError where the bucket cannot be read.
    """
    file = place / DEFAULT_FILE if place.is_dir() else place
    if file.exists():
        raise ProjectError(f"{file} exists already, and is not written over: name another place.")
    if not file.parent.is_dir():
        raise ProjectError(f"There is no folder {file.parent} to write {file.name} to: create it.")
    root = file.parent.resolve()
    source = _seen_from(root, source, relative_to)
    bucket = open_bucket(source, root=root, options=aws)
    tables, left_out = _read_tables(bucket, report)
    related = relate(tuple(tables))
    draft = Draft(
        name=_project_name(bucket.url, root),
        source=source,
        tables=tuple(one.table for one in related.tables),
        features=related.features,
        as_of=related.as_of,
        doubts=(*(doubt for one in related.tables for doubt in one.doubts), *related.doubts),
        left_out=left_out,
    )
    project = _write(file, render(draft))
    return Drafted(file=file, project=project, doubts=draft.doubts, left_out=left_out)


def _seen_from(root: Path, source: str, relative_to: Path | None) -> str:
    """The source as the project file has to name it, which counts from its own folder."""
    if "://" in source or relative_to is None or Path(source).is_absolute():
        return source
    return os.path.relpath(relative_to.resolve() / source, root)


def _project_name(url: str, root: Path) -> str:
    """The bucket's or folder's own name, unless that says nothing: then the project folder's."""
    own = Path(url).name
    says_nothing = own.lower() in {"data", "bucket", "files", "csv", "raw", "input"}
    return table_name(root.name if says_nothing and root.name else own)


def _read_tables(
    bucket: Bucket, report: Report
) -> tuple[list[InferredTable], tuple[tuple[str, str], ...]]:
    items = {item.path: item for item in bucket.list() if not _is_own(item.path)}
    if not items:
        raise ProjectError(f"{bucket.url} is empty, so there is nothing to draft a project from.")
    grouped = _grouped(bucket, items)
    allowed = min(MOST_OF_A_TABLE, max(LEAST_OF_A_TABLE, READ_BYTES // len(grouped.families)))
    report.begin("reading", len(grouped.families))
    tables: list[InferredTable] = []
    left_out = list(grouped.left_out)
    for family in grouped.families:
        try:
            tables.append(_infer(bucket, family, items, allowed))
        except LoadError as error:
            left_out.append((family.path, str(error)))
        report.advance(1)
    report.done(f"read {bucket.url}: {len(tables)} tables")
    if not tables:
        reasons = "\n".join(f"  {path}: {reason}" for path, reason in left_out[:10])
        raise ProjectError(f"No file in {bucket.url} can be a table:\n{reasons}")
    return tables, _shortened(left_out)


def _shortened(left_out: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Of many files that were left out for one reason, some examples and how many more."""
    kept = []
    for reason in dict.fromkeys(reason for _, reason in left_out):
        paths = [path for path, other in left_out if other == reason]
        few = paths if len(paths) <= MOST_TOLD else paths[: MOST_TOLD - 1]
        kept += [(path, reason) for path in few]
        if len(few) < len(paths):
            kept.append((f"and {len(paths) - len(few):,} more", reason))
    return tuple(kept)


def _is_own(path: str) -> bool:
    """Whether a path is the project's own, where it lies in the bucket itself."""
    return any(part.startswith(".") for part in path.split("/")) or path.endswith(".toml")


def _grouped(bucket: Bucket, items: Mapping[str, BucketObject]) -> Grouped:
    """Families of files; those whose files turn out to have other columns are taken apart."""
    grouped = group(items)
    apart: set[str] = set()
    for family in grouped.families:
        if len(family.files) > 1 and not _alike(bucket, family, items):
            apart.update(family.files)
    grouped = group(items, apart=frozenset(apart)) if apart else grouped
    if not grouped.families:
        listed = ", ".join(list(items)[:5])
        raise ProjectError(
            f"{bucket.url} has no CSV file (.csv, .csv.gz, .tsv, .tsv.gz); it has {listed}"
            f"{', …' if len(items) > 5 else ''}."
        )
    if len(grouped.families) > MOST_TABLES:
        raise ProjectError(
            f"{bucket.url} would be {len(grouped.families):,} tables, and init drafts up to "
            f"{MOST_TABLES}: name a folder in it."
        )
    return grouped


def _alike(bucket: Bucket, family: Family, items: Mapping[str, BucketObject]) -> bool:
    """Whether the first and the last file of a family share at least half of their columns."""
    headers = []
    for path in (family.files[0], family.files[-1]):
        try:
            headers.append(set(open_sample(bucket, items[path], limit=1 << 16).header))
        except LoadError:
            return True
    return len(headers[0] & headers[1]) * 2 >= len(headers[0] | headers[1])


def _infer(
    bucket: Bucket, family: Family, items: Mapping[str, BucketObject], allowed: int
) -> InferredTable:
    """The contract of one table from samples of its files, tried on them by the load's parser."""
    paths = _spread(family.files)
    limit = max(allowed // len(paths), LEAST_OF_A_TABLE // 4)
    opened = [open_sample(bucket, items[path], limit=limit) for path in paths]
    dialect = opened[0].dialect
    samples = [read_sample(one, dialect) for one in opened]
    samples, opened = _with_rows(samples, opened)
    if header_is_data(list(opened[0].header), samples[0].columns):
        shown = ",".join(opened[0].header)[:60]
        raise LoadError(f"it has no header: its first line is {shown!r}; write the names above it")
    dialect, doubts = infer_dialect(samples, dialect)
    if dialect.nulls:
        samples = [read_sample(one, dialect) for one in opened]
    whole = len(paths) == len(family.files) and all(one.whole for one in opened)
    inferred = infer_table(family, samples, dialect, whole=whole)
    at = f"tables.{family.name}"
    more = [Doubt(at=f"{at}.csv", message=message) for message in doubts]
    more += [
        Doubt(at=f"{at}.csv", message=f"{one.path}: {d}") for one in opened for d in one.doubts
    ]
    more += _doubts_of_header(at, opened[0])
    if not whole:
        size = sum(len(one.data) for one in opened) / 1e6
        told = f"read {size:.1f} MB, {len(paths)} of {len(family.files)} files: types and nulls"
        more.append(Doubt(at=at, message=f"{told} may differ in the rest"))
    return _tried(replace(inferred, doubts=(*inferred.doubts, *more)), opened)


def _spread(files: tuple[str, ...]) -> list[str]:
    """The first file, the last, and as many between them as are read of one family."""
    if len(files) <= MOST_FILES_OF_A_FAMILY:
        return list(files)
    step = (len(files) - 1) / (MOST_FILES_OF_A_FAMILY - 1)
    return [files[round(number * step)] for number in range(MOST_FILES_OF_A_FAMILY)]


def _with_rows(
    samples: list[FileSample], opened: list[Opened]
) -> tuple[list[FileSample], list[Opened]]:
    pairs = [(one, file) for one, file in zip(samples, opened, strict=True) if one.rows]
    if not pairs:
        raise LoadError("it has a header and no row")
    return [one for one, _ in pairs], [file for _, file in pairs]


def _doubts_of_header(at: str, opened: Opened) -> list[Doubt]:
    names, refused = declarable(list(opened.header))
    doubts = [Doubt(at=f"{at}.columns", message=f"left out: {told}") for told in refused.values()]
    numbers = [name for name in names if re.fullmatch(r"[+-]?[0-9.]+", name)]
    if numbers:
        told = f"columns named like values ({', '.join(numbers[:5])}): is the first line a header?"
        doubts.append(Doubt(at=f"{at}.columns", message=told))
    return doubts


def _tried(inferred: InferredTable, opened: list[Opened]) -> InferredTable:
    """The contract, with what a load of the samples would reject; LoadError where that is most."""
    worst, doubts = 0.0, []
    for one in opened:
        rows, counts, examples = rejected(inferred.table, one)
        bad = counts.total()
        if bad:
            worst = max(worst, bad / (rows + bad))
            first = examples[0]
            told = f"{one.path}: {bad} of {rows + bad} rows are rejected, line {first.line} first"
            doubts.append(
                Doubt(at=f"tables.{inferred.table.name}", message=f"{told}: {first.reason}")
            )
    if worst > 0.5:
        raise LoadError(f"most of its rows are no rows: {doubts[0].message}")
    table = inferred.table
    if worst > table.max_rejects:
        table = replace(table, max_rejects=min(1.0, round(worst * 1.5 + 0.005, 2)))
    return replace(inferred, table=table, doubts=(*inferred.doubts, *doubts[:5]))


def _write(file: Path, text: str) -> Project:
    """Write the project file, once it has been read back from another place in its folder."""
    try:
        with tempfile.TemporaryDirectory(prefix=".gristmill-init-", dir=file.parent) as folder:
            draft = Path(folder) / DEFAULT_FILE
            draft.write_text(text, encoding="utf-8")
            read_project(draft)
        with file.open("x", encoding="utf-8") as handle:
            handle.write(text)
    except FileExistsError as error:
        raise ProjectError(f"{file} exists already, and is not written over.") from error
    except OSError as error:
        raise ProjectError(f"{file} cannot be written: {error.strerror or error}.") from error
    return read_project(file)
