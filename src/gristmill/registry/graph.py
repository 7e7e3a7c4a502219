"""What an ONNX graph asks for, read from its bytes before any runtime sees it.

It refuses what could reach beyond the graph: custom operators, functions, branches and loops, and
tensors that lie in other files (a runtime given such bytes opens those files).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gristmill.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
"""The operators that ONNX itself defines, and no others."""

# Field numbers of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto), and what
# lies in them; fields that are not named hold nothing that could refer to anything.
_CHILDREN: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 8: "operator set"},
    "operator set": {},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 10: "tensor", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_REFUSED: Mapping[tuple[str, int], str] = {
    ("model", 20): "instructions for training",
    ("model", 25): "a function of its own",
    ("attribute", 6): "a branch or a loop",
    ("attribute", 11): "a branch or a loop",
    ("tensor", 13): "a tensor that lies in another file",
}
_DOMAIN_FIELDS = {("operator set", 1), ("node", 7)}
_DATA_LOCATION = ("tensor", 14)


def check_graph(graph: bytes) -> None:
    """Raise BundleError where a graph does more than compute with ONNX's own operators."""
    _check(memoryview(graph), "model")


class _Field(NamedTuple):
    """One field of a protobuf message: its number, and its bytes or its integer."""

    number: int
    value: memoryview | int


def _check(message: memoryview, kind: str) -> None:
    for number, value in _fields(message):
        place = (kind, number)
        if place in _REFUSED:
            raise BundleError(f"model.onnx holds {_REFUSED[place]}; only plain graphs are run.")
        if place == _DATA_LOCATION and value != 0:
            raise BundleError("model.onnx holds a tensor that lies in another file.")
        if place in _DOMAIN_FIELDS and isinstance(value, memoryview):
            domain = bytes(value).decode(errors="replace")
            if domain not in DOMAINS:
                raise BundleError(
                    f"model.onnx uses operators of the domain {domain!r}; "
                    "only ONNX's own (ai.onnx, ai.onnx.ml) are run."
                )
        child = _CHILDREN[kind].get(number)
        if child is not None:
            if not isinstance(value, memoryview):
                raise _malformed()
            _check(value, child)


def _fields(message: memoryview) -> Iterator[_Field]:
    """The fields of a protobuf message (https://protobuf.dev/programming-guides/encoding)."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            integer, position = _varint(message, position)
            yield _Field(number, integer)
            continue
        if wire_type == 2:
            length, position = _varint(message, position)
        elif wire_type in {1, 5}:
            length = 8 if wire_type == 1 else 4
        else:
            raise _malformed()
        if position + length > len(message):
            raise _malformed()
        yield _Field(number, message[position : position + length])
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """The integer at a position, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise _malformed()
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _malformed()


def _malformed() -> BundleError:
    return BundleError("model.onnx is no ONNX graph: its bytes are malformed.")
