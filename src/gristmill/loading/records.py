"""Bytes → blocks of whole CSV records, each with its physical line. Knows RFC 4180, not types."""

from __future__ import annotations

import codecs
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gristmill.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

BLOCK_BYTES = 4 * 1024 * 1024
"""How much is parsed at a time: it bounds the memory, whatever the file's size."""

MAX_RECORD_BYTES = 16 * 1024 * 1024
"""A longer record is taken for a quote that was never closed."""

_QUOTE, _NEWLINE, _RETURN = b'"', b"\n", b"\r"


@dataclass(frozen=True, kw_only=True)
class Block:
    """A run of whole records."""

    data: bytes
    line: int
    """The physical line, from 1, on which it begins."""
    strict: bool
    """Whether every quote opens or closes a field, so that a fast parser reads it rightly."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record as the exact parser reads it."""

    line: int
    raw: bytes
    fields: tuple[tuple[bytes, bool], ...]
    """Each field's text, and whether it stood in quotes."""
    problem: str | None = None
    """What is wrong with its quoting; its fields are then not to be believed."""


def decoded(stream: Iterable[bytes | memoryview], *, path: str, encoding: str) -> Iterator[bytes]:
    """The stream as UTF-8 without gzip and byte-order mark; undecodable bytes stay as they are."""
    chunks: Iterable[bytes] = map(bytes, stream)
    if path.endswith(".gz"):
        chunks = _gunzipped(chunks, path)
    if codecs.lookup(encoding).name != "utf-8":
        chunks = _transcoded(chunks, encoding, path)
    start: bytes | None = b""
    for chunk in chunks:
        if start is None:
            yield chunk
        elif len(start + chunk) < len(codecs.BOM_UTF8):
            start += chunk
        else:
            yield (start + chunk).removeprefix(codecs.BOM_UTF8)
            start = None
    if start:
        yield start.removeprefix(codecs.BOM_UTF8)


def _gunzipped(chunks: Iterable[bytes], path: str) -> Iterator[bytes]:
    """The members of a gzip file one after the other, never more than a block at a time."""
    member = zlib.decompressobj(wbits=31)
    started = False
    try:
        for chunk in chunks:
            data = chunk
            while data:
                started = True
                yield member.decompress(data, BLOCK_BYTES)
                data = member.unconsumed_tail
                if member.eof:
                    data = member.unused_data
                    member, started = zlib.decompressobj(wbits=31), bool(data)
        yield member.flush()
    except zlib.error as error:
        raise LoadError(f"{path} is named .gz but is no whole gzip file: {error}.") from error
    if started:
        raise LoadError(f"{path} ends in the middle of its gzip stream: write it again, whole.")


def _transcoded(chunks: Iterable[bytes], encoding: str, path: str) -> Iterator[bytes]:
    """UTF-8; a byte that the encoding does not know stays as it is, where bytes can stand alone."""
    decoder = codecs.getincrementaldecoder(encoding)(errors="surrogateescape")
    try:
        for chunk in chunks:
            yield decoder.decode(chunk).encode("utf-8", errors="surrogateescape")
        yield decoder.decode(b"", final=True).encode("utf-8", errors="surrogateescape")
    except UnicodeError as error:
        raise LoadError(
            f"{path} is not {encoding}: {error}. Declare its encoding in `csv`."
        ) from error


def blocks(chunks: Iterable[bytes], delimiter: bytes, *, path: str) -> Iterator[Block]:
    """Cut a stream into blocks of whole records, each about BLOCK_BYTES.

    A record longer than MAX_RECORD_BYTES raises LoadError: a quote was opened and never closed.
    """
    pending, line = b"", 1
    held: list[bytes] = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size < BLOCK_BYTES:
            continue
        buffer = pending + b"".join(held)
        end, strict = _whole_records(buffer, delimiter, final=False)
        if end:
            yield Block(data=buffer[:end], line=line, strict=strict)
            line += buffer.count(_NEWLINE, 0, end)
        pending, held, size = buffer[end:], [], 0
        if len(pending) > MAX_RECORD_BYTES:
            raise LoadError(
                f"{path}, line {line}: the record that begins here is longer than "
                f"{MAX_RECORD_BYTES >> 20} MiB. Is a quote opened and never closed?"
            )
    buffer = pending + b"".join(held)
    if buffer:
        _, strict = _whole_records(buffer, delimiter, final=True)
        yield Block(data=buffer, line=line, strict=strict)


def record_lines(block: Block) -> NDArray[np.int32]:
    """The physical line on which each record of a strict block begins, by its newlines."""
    if _QUOTE not in block.data:
        count = block.data.count(_NEWLINE) + (not block.data.endswith(_NEWLINE))
        return np.arange(block.line, block.line + count, dtype=np.int32)
    array = np.frombuffer(block.data, dtype=np.uint8)
    quotes = np.flatnonzero(array == _QUOTE[0])
    newlines = np.flatnonzero(array == _NEWLINE[0])
    ends = np.flatnonzero(np.searchsorted(quotes, newlines) % 2 == 0) + 1
    starts = np.concatenate(([0], ends[:-1] if block.data.endswith(_NEWLINE) else ends))
    return (starts + block.line).astype(np.int32)


def _whole_records(buffer: bytes, delimiter: bytes, *, final: bool) -> tuple[int, bool]:
    """Where the last whole record ends, and whether all quotes before it are well placed."""
    if _QUOTE not in buffer:
        return (len(buffer) if final else buffer.rfind(_NEWLINE) + 1), True
    array = np.frombuffer(buffer, dtype=np.uint8)
    quotes = np.flatnonzero(array == _QUOTE[0])
    newlines = np.flatnonzero(array == _NEWLINE[0])
    outside = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
    if final:
        end = len(buffer)
        complete = len(quotes) % 2 == 0
    else:
        end = int(outside[-1]) + 1 if len(outside) else 0
        complete = end > 0
    if complete and _well_placed(array, quotes[quotes < end], delimiter):
        return end, True
    if final:
        return end, False
    for record_end in _record_ends(buffer, delimiter):
        end = record_end
    return end, False


def _well_placed(array: NDArray[np.uint8], quotes: NDArray[np.intp], delimiter: bytes) -> bool:
    """Whether each quote opens a field, closes one, or is one of a doubled pair inside."""
    if len(quotes) == 0:
        return True
    edges = np.zeros(256, dtype=bool)
    edges[[delimiter[0], _NEWLINE[0]]] = True
    padded = np.concatenate(([_NEWLINE[0]], array, [_NEWLINE[0]])).astype(np.uint8)
    opening, closing = quotes[0::2], quotes[1::2]
    after_quote = np.zeros(len(opening), dtype=bool)
    after_quote[1:] = opening[1:] == closing[: len(opening) - 1] + 1
    before_quote = np.zeros(len(closing), dtype=bool)
    before_quote[: len(opening) - 1] = closing[: len(opening) - 1] + 1 == opening[1:]
    edges_after = edges.copy()
    edges_after[_RETURN[0]] = True
    return bool(
        np.all(edges[padded[opening]] | after_quote)
        and np.all(edges_after[padded[closing + 2]] | before_quote)
    )


def _record_ends(buffer: bytes, delimiter: bytes) -> Iterator[int]:
    """The ends of the records that the buffer surely holds whole, by the exact parser."""
    position = 0
    while position < len(buffer):
        end, _, _, open_quote = _scan(buffer, position, delimiter)
        if open_quote or buffer[end - 1 : end] != _NEWLINE:
            return
        yield end
        position = end


def records(block: Block, delimiter: bytes) -> Iterator[Record]:
    """The records of a block by the exact parser, blank lines passed over."""
    position, line = 0, block.line
    while position < len(block.data):
        end, fields, problem, open_quote = _scan(block.data, position, delimiter)
        if open_quote:
            problem = "a quote is opened and never closed"
            end = _line_end(block.data, position)
        raw = block.data[position:end].rstrip(b"\r\n")
        if raw:
            yield Record(line=line, raw=raw, fields=tuple(fields), problem=problem)
        line += block.data.count(_NEWLINE, position, end)
        position = end


def _scan(
    data: bytes, position: int, delimiter: bytes
) -> tuple[int, list[tuple[bytes, bool]], str | None, bool]:
    """One record: where it ends, its fields, what is wrong with it, and whether a quote is open.

    A field is quoted where its first character is a quote. After a mistake the record ends with
    its physical line.
    """
    fields: list[tuple[bytes, bool]] = []
    while True:
        if data[position : position + 1] == _QUOTE:
            text, after = _quoted(data, position)
            if after < 0:
                return len(data), fields, None, True
            fields.append((text, True))
        else:
            after = _unquoted_end(data, position, delimiter)
            text = data[position:after]
            if data[after : after + 1] != delimiter:
                text = text.removesuffix(_RETURN)
            if _QUOTE in text or _RETURN in text:
                mark = "quote" if _QUOTE in text else "carriage return"
                problem = f"a {mark} stands inside an unquoted field"
                return _line_end(data, after), fields, problem, False
            fields.append((text, False))
        following = data[after : after + 1]
        if following == delimiter:
            position = after + 1
        elif not following or following == _NEWLINE:
            return min(after + 1, len(data)), fields, None, False
        elif data[after : after + 2] == b"\r\n":
            return after + 2, fields, None, False
        else:
            return _line_end(data, after), fields, "text follows a closing quote", False


def _quoted(data: bytes, position: int) -> tuple[bytes, int]:
    """A quoted field's text and the position behind its closing quote; -1 where none closes it."""
    start = position + 1
    end = data.find(_QUOTE, start)
    while end >= 0 and data[end + 1 : end + 2] == _QUOTE:
        end = data.find(_QUOTE, end + 2)
    if end < 0:
        return b"", -1
    return data[start:end].replace(b'""', _QUOTE), end + 1


def _unquoted_end(data: bytes, position: int, delimiter: bytes) -> int:
    line_end = data.find(_NEWLINE, position)
    line_end = len(data) if line_end < 0 else line_end
    found = data.find(delimiter, position, line_end)
    return line_end if found < 0 else found


def _line_end(data: bytes, position: int) -> int:
    found = data.find(_NEWLINE, position)
    return len(data) if found < 0 else found + 1
