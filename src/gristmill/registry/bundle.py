"""A model version as a folder that can move to another machine and executes no code.

Alone knows the folder's files. It parses nothing whose digest is not the manifest's, and refuses
files that the manifest does not name, links, and graphs that reach beyond themselves.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Mapping  # noqa: TC003  (pydantic reads the records' types)
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime  # noqa: TC003
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from gristmill.errors import BundleError
from gristmill.project.features import ColumnReference, Feature, Features
from gristmill.project.serving import LogPolicy  # noqa: TC001
from gristmill.project.table import ColumnType  # noqa: TC001
from gristmill.registry.graph import check_graph
from gristmill.registry.reference import from_parquet, to_parquet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

MANIFEST: Final = "manifest.json"
GRAPH: Final = "model.onnx"
SAMPLES: Final = "samples.json"
REFERENCE: Final = "reference.parquet"
REPORT: Final = "report.html"

REQUIRED = frozenset({GRAPH, SAMPLES, REFERENCE})
OPTIONAL = frozenset({REPORT})

_EXACTLY = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Pydantic reads these records as they are declared: no other key, no infinite number."""

LARGEST_MANIFEST = 1 << 20
"""Bytes of a manifest that are read; a longer one is none of ours."""
LARGEST_FILE = 1 << 30
"""Bytes of any other file that are read into memory."""


@dataclass(frozen=True, kw_only=True)
class Entity:
    """Who is predicted: the name and the type of the key."""

    __pydantic_config__: ClassVar[ConfigDict] = _EXACTLY

    name: str
    type: ColumnType


@dataclass(frozen=True, kw_only=True)
class FileDigest:
    """What one file of the bundle must be."""

    __pydantic_config__: ClassVar[ConfigDict] = _EXACTLY

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One input with its exact answer, recomputed whenever the bundle is loaded."""

    __pydantic_config__: ClassVar[ConfigDict] = _EXACTLY

    features: Mapping[str, Any]
    """Every feature by name, as JSON has it: dates and times are ISO 8601 texts."""
    probability: float
    label: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle says of itself."""

    __pydantic_config__: ClassVar[ConfigDict] = _EXACTLY

    project: str
    version: str
    """The model version, as the registry names it."""
    created_at: datetime
    entity: Entity
    features: tuple[Feature, ...]
    """The model's inputs, in order."""
    label: str
    """The name of the label's column."""
    threshold: float
    """The label is 1 from this probability on."""
    candidate: str
    """What the model was fitted as: `logistic`, `gradient_boosting`, `package.module:name`."""
    metrics: Mapping[str, Any]
    """The evaluation on the holdout."""
    no_signal: bool
    """Whether it is served although the data shows nothing to learn."""
    verdict: Mapping[str, Any]
    """The gate's decision, with its reasons."""
    lineage: Mapping[str, Any]
    """The build and loads it was trained on, and by which code."""
    feature_store: str | None = None
    """The view in the database that holds every entity's latest features."""
    log: LogPolicy = "durable"
    """Whether answers wait for their record: what the project said when it was trained."""
    files: Mapping[str, FileDigest] = field(default_factory=dict)
    """Every other file of the bundle; filled in when it is written."""
    format: Literal[1] = 1

    @property
    def stored_features(self) -> Features | None:
        """What the model takes, as the feature store has it; None where there is none."""
        store = self.feature_store
        if store is None:
            return None
        return Features(
            table=store,
            entity=ColumnReference(table=store, column=self.entity.name),
            features=tuple(
                ColumnReference(table=store, column=feature.name) for feature in self.features
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle that was read and is what its manifest says."""

    manifest: Manifest
    graph: bytes = field(repr=False)
    """The ONNX graph: one input per feature, of its name; the output `probability`."""
    samples: tuple[Sample, ...] = field(repr=False)
    reference_bytes: bytes = field(repr=False)
    digest: str
    """The SHA-256 of its manifest, which holds those of all its files."""
    report: bytes | None = field(default=None, repr=False)
    """The page that shows what is known of the version, where it has one."""

    @property
    def reference(self) -> pa.Table:
        """How the features were distributed in the training rows (see `reference_table`)."""
        return from_parquet(self.reference_bytes)


def write_bundle(
    folder: Path,
    *,
    manifest: Manifest,
    graph: bytes,
    samples: Sequence[Sample],
    reference: pa.Table,
    report: str | None = None,
) -> Bundle:
    """Write a bundle to a folder that does not exist yet: whole and durable, or not at all.

    The manifest's `files` are filled in here. Raises BundleError where the folder is there already
    or where what would be written could not be read back.
    """
    files = {
        GRAPH: graph,
        SAMPLES: _to_json([asdict(sample) for sample in samples]),
        REFERENCE: to_parquet(reference),
    }
    if report is not None:
        files[REPORT] = report.encode()
    digests = {
        name: FileDigest(sha256=_digest(content), bytes=len(content))
        for name, content in files.items()
    }
    record = asdict(replace(manifest, files=digests))
    record["created_at"] = manifest.created_at.isoformat()
    _write_files(folder, {MANIFEST: _to_json(record), **files})
    return read_bundle(folder)


def read_bundle(folder: Path, *, digest: str | None = None) -> Bundle:
    """Read a bundle and verify it, its digests before anything else.

    Raises BundleError, naming the file, what was expected and what was found. `digest` is what a
    bundle from elsewhere must be: its manifest's SHA-256.
    """
    files = _read_files(folder, digest)
    return _parse(files)


def verify_bundle(folder: Path, *, digest: str | None = None) -> str:
    """The digest of a bundle whose files are what its manifest says, none of them parsed.

    Raises BundleError as `read_bundle` does.
    """
    return _digest(_read_files(folder, digest)[MANIFEST])


def sweep_partial(folder: Path) -> None:
    """Remove what a killed process left half-written among the bundles of a folder.

    Only for who knows that nobody is writing one there.
    """
    for partial in folder.glob(".*.partial"):
        shutil.rmtree(partial, ignore_errors=True)


def copy_bundle(folder: Path, target: Path, *, digest: str | None = None) -> Bundle:
    """Copy a bundle, verified, to a folder that does not exist yet; `digest` as `read_bundle`."""
    files = _read_files(folder, digest)
    _parse(files)
    _write_files(target, files)
    return read_bundle(target)


# Parsing: only what was verified


def _parse(files: Mapping[str, bytes]) -> Bundle:
    check_graph(files[GRAPH])
    samples = _from_json(files[SAMPLES], SAMPLES, _SAMPLES)
    if not samples:
        raise BundleError("samples.json holds no sample, so the answers cannot be checked.")
    return Bundle(
        manifest=_from_json(files[MANIFEST], MANIFEST, _MANIFEST),
        graph=files[GRAPH],
        samples=samples,
        reference_bytes=files[REFERENCE],
        digest=_digest(files[MANIFEST]),
        report=files.get(REPORT),
    )


_Record = TypeVar("_Record")
_MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Manifest)
_SAMPLES: TypeAdapter[tuple[Sample, ...]] = TypeAdapter(tuple[Sample, ...])


def _from_json(content: bytes, name: str, kind: TypeAdapter[_Record]) -> _Record:
    try:
        return kind.validate_json(content, strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise BundleError(f"{name} is wrong at {place or 'its top'}: {problem['msg']}.") from error


def _to_json(value: object) -> bytes:
    try:
        return json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False).encode()
    except ValueError as error:
        raise BundleError(f"A bundle holds finite numbers and plain texts only: {error}") from error


# Files


def _read_files(folder: Path, digest: str | None) -> dict[str, bytes]:
    """Every file of a bundle, each as its digest says."""
    with _opened(folder) as descriptor:
        content = _read_file(descriptor, MANIFEST, LARGEST_MANIFEST)
        if digest is not None and _digest(content) != digest:
            raise _differs(MANIFEST, f"SHA-256 {digest}", _digest(content))
        named = _from_json(content, MANIFEST, _MANIFEST).files
        present = os.listdir(descriptor)  # noqa: PTH208  (by descriptor: the folder held open)
        _check_names(set(named), set(present))
        files = {MANIFEST: content}
        for name, expected in named.items():
            files[name] = _read_file(descriptor, name, min(expected.bytes, LARGEST_FILE))
            found = _digest(files[name])
            if (found, len(files[name])) != (expected.sha256, expected.bytes):
                raise _differs(
                    name,
                    f"SHA-256 {expected.sha256}, {expected.bytes} bytes",
                    f"{found}, {len(files[name])} bytes",
                )
    return files


def _check_names(named: set[str], present: set[str]) -> None:
    """A bundle has the files it must have, and no others."""
    if missing := REQUIRED - named:
        raise BundleError(f"manifest.json names no {', '.join(sorted(missing))}.")
    if unknown := named - REQUIRED - OPTIONAL:
        raise BundleError(f"manifest.json names {sorted(unknown)!r}: no file of a bundle.")
    if extra := present - named - {MANIFEST}:
        raise BundleError(f"The bundle holds {sorted(extra)!r}, which manifest.json does not name.")


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """A folder held open, so that all its files are read from the same one."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise BundleError(
            f"There is no bundle at {folder}: {error.strerror}. `gristmill bundle DIR` writes one."
        ) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read_file(folder: int, name: str, limit: int) -> bytes:
    """At most `limit` bytes and one more of a plain file, never following a link."""
    # O_NONBLOCK, or a named pipe would hold us up before we see that it is one.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=folder)
    except OSError as error:
        raise BundleError(f"{name} of the bundle cannot be read: {error.strerror}.") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BundleError(f"{name} of the bundle is no plain file.")
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(limit + 1)
    if name == MANIFEST and len(content) > limit:
        raise BundleError(f"{name} is longer than {limit} bytes.")
    return content


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files into a new folder, which appears whole and durable, or not at all."""
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.partial")
    try:
        if folder.exists():
            raise BundleError(f"{folder} is there already; a bundle is never written over.")
        partial.mkdir(parents=True)
        for name, content in files.items():
            _write_file(partial / name, content)
        _synchronise(partial)
        _parse(_read_files(partial, None))
        partial.rename(folder)
        _synchronise(folder.parent)
    except OSError as error:
        raise BundleError(f"The bundle {folder} cannot be written: {error.strerror}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_file(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _synchronise(folder: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _differs(name: str, expected: str, found: str) -> BundleError:
    return BundleError(
        f"{name} is not what it should be.\nExpected: {expected}\nFound: {found}\n"
        "Copy the bundle again from where it was made."
    )
