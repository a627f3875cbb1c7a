"""Reads tensors and the wiring out of an ONNX file: as much of the format as taking weights out of one needs.

The file is a protocol buffer (https://protobuf.dev/programming-guides/encoding); field numbers are those of onnx.proto3
(https://github.com/onnx/onnx). The package `onnx` would bring compiled code for the sake of this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tensor: TypeAlias = NDArray[Any]

__all__ = ["Graph", "Node", "read_graph"]

DTYPES = {
    1: "<f4",
    2: "u1",
    3: "i1",
    4: "<u2",
    5: "<i2",
    6: "<i4",
    7: "<i8",
    9: "?",
    10: "<f2",
    11: "<f8",
    12: "<u4",
    13: "<u8",
}
GRAPH, NODES, INITIALIZERS = 7, 1, 5
INPUTS, OUTPUTS, OPERATOR, ATTRIBUTES = 1, 2, 4, 5
NAME_OF_ATTRIBUTE, NUMBER_OF_ATTRIBUTE, TENSOR_OF_ATTRIBUTE = 1, 2, 5
DIMS, DTYPE, FLOATS, INT32S, INT64S, NAME, RAW = 1, 2, 4, 5, 7, 8, 9

Value: TypeAlias = "int | memoryview"


@dataclass(frozen=True, slots=True)
class Node:
    """One operation: its inputs and outputs by name."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Tensor | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Graph:
    """`tensors` are the initializers and constants by name."""

    tensors: dict[str, Tensor]
    nodes: tuple[Node, ...]


def read_graph(path: Path) -> Graph:
    """The graph in the ONNX file at `path`.

    Raises OSError when it can't be read, ValueError when it is no ONNX file, or one with tensors of unusual types.
    """
    content = memoryview(path.read_bytes())
    try:
        graph = next(value for number, value in _fields(content) if number == GRAPH and isinstance(value, memoryview))
        nodes = tuple(_node(each) for each in _parts(graph, NODES))
        tensors = dict(_tensor(each) for each in _parts(graph, INITIALIZERS))
    except (IndexError, KeyError, TypeError, StopIteration, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no ONNX file that can be read ({error!r})") from error
    constants = {node.outputs[0]: node.attributes.get("value") for node in nodes if node.operator == "Constant"}
    tensors |= {name: each for name, each in constants.items() if not isinstance(each, float | None)}
    return Graph(tensors, nodes)


def _node(content: memoryview) -> Node:
    texts = {number: tuple(_text(each) for each in _parts(content, number)) for number in (INPUTS, OUTPUTS, OPERATOR)}
    attributes = dict(_attribute(each) for each in _parts(content, ATTRIBUTES))
    return Node("".join(texts[OPERATOR]), texts[INPUTS], texts[OUTPUTS], attributes)


def _attribute(content: memoryview) -> tuple[str, Tensor | float]:
    import numpy as np

    values = dict(_fields(content))
    name, tensor, number = (values.get(at) for at in (NAME_OF_ATTRIBUTE, TENSOR_OF_ATTRIBUTE, NUMBER_OF_ATTRIBUTE))
    if isinstance(tensor, memoryview):
        return _text(name), _tensor(tensor)[1]
    return _text(name), float(np.frombuffer(number, "<f4")[0]) if isinstance(number, memoryview) else 0.0


def _tensor(content: memoryview) -> tuple[str, Tensor]:
    """A TensorProto's name and values."""
    import numpy as np

    found: dict[int, Any] = {}
    dims: list[int] = []
    for number, value in _fields(content):
        if number == DIMS:
            dims += [value] if isinstance(value, int) else _varints(value)
        else:
            found[number] = value
    dtype = np.dtype(DTYPES[found[DTYPE]])
    if RAW in found:
        flat = np.frombuffer(found[RAW], dtype)
    elif FLOATS in found:
        flat = np.frombuffer(found[FLOATS], "<f4")
    else:
        flat = np.array([_signed(each) for each in _varints(found.get(INT32S, found.get(INT64S, b"")))]).astype(dtype)
    return _text(found.get(NAME)), flat.reshape(dims)


def _text(value: Any) -> str:
    return bytes(value).decode() if isinstance(value, memoryview) else ""


def _parts(content: memoryview, wanted: int) -> Iterator[memoryview]:
    return (value for number, value in _fields(content) if number == wanted and isinstance(value, memoryview))


def _fields(content: memoryview) -> Iterator[tuple[int, Value]]:
    """The fields of a message, in order: numbers as int, all else as bytes."""
    place = 0
    while place < len(content):
        key, place = _varint(content, place)
        match key & 7:
            case 0:
                value, place = _varint(content, place)
                yield key >> 3, value
                continue
            case 1:
                length = 8
            case 2:
                length, place = _varint(content, place)
            case 5:
                length = 4
            case kind:
                raise IndexError(f"wire type {kind}")
        if place + length > len(content):
            raise IndexError("cut off")
        yield key >> 3, content[place : place + length]
        place += length


def _varints(content: memoryview | bytes) -> list[int]:
    found, place = [], 0
    while place < len(content):
        number, place = _varint(content, place)
        found.append(number)
    return found


def _varint(content: memoryview | bytes, place: int) -> tuple[int, int]:
    """The number at `place`, and the place behind it."""
    number = shift = 0
    while True:
        byte = content[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & 0xFFFF_FFFF_FFFF_FFFF, place
        shift += 7


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number
