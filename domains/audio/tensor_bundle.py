r"""Tensors of a TensorFlow checkpoint (a "tensor bundle"), read without TensorFlow.

A checkpoint is an index, `.index`, and raw little-endian numbers, `.data-00000-of-00001`. The index
is a sorted string table as LevelDB writes it, uncompressed: it ends with a footer of 48 bytes

    handle of the meta index | handle of the index block | zeros | 8 bytes, the magic number,

a handle is (offset, size) as two varints, and a block is a run of entries

    shared, unshared, length (varints) | rest of the key | value

where a key begins with `shared` bytes of the one before it; restarts and their count follow, and a
byte with the compression and four of a checksum lie behind the block. Values of the index block are
the handles of data blocks. Each value there is a protocol buffer `BundleEntryProto`:

    1 dtype, 2 shape { 2 dim { 1 size } }, 3 shard, 4 offset, 5 size (bytes), 6 CRC32C.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["read_bundle"]

_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FLOAT = 1  # DT_FLOAT


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number and the place after it."""
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, place


def _handle(data: bytes, place: int = 0) -> tuple[int, int, int]:
    offset, place = _varint(data, place)
    size, place = _varint(data, place)
    return offset, size, place


def _entries(index: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block."""
    block = index[offset : offset + size]
    if len(block) < size or size < 4 or index[offset + size] != 0:
        raise ValueError("index: expected uncompressed blocks of a sorted string table")
    restarts = int.from_bytes(block[-4:], "little")
    place, end, key = 0, size - 4 * (restarts + 1), b""
    while place < end:
        shared, place = _varint(block, place)
        unshared, place = _varint(block, place)
        length, place = _varint(block, place)
        key = key[:shared] + block[place : place + unshared]
        place += unshared
        yield key, block[place : place + length]
        place += length


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of a protocol buffer's fields."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        kind = tag & 7
        value: int | bytes
        if kind == 0:
            value, place = _varint(message, place)
        elif kind in (1, 2, 5):
            length = {1: 8, 5: 4}.get(kind, 0)
            if kind == 2:
                length, place = _varint(message, place)
            value = message[place : place + length]
            place += length
        else:
            raise ValueError(f"index: expected a protocol buffer, got a field of kind {kind}")
        yield tag >> 3, value


def _shape(message: bytes) -> tuple[int, ...]:
    sizes = []
    for number, dim in _fields(message):
        if number == 2 and isinstance(dim, bytes):
            sizes.append(next((int(size) for key, size in _fields(dim) if key == 1), 0))
    return tuple(sizes)


def read_bundle(index: bytes, data: bytes) -> dict[str, Tensor]:
    """The float32 tensors of a checkpoint of one shard, by name; others are left out.

    Args:
        index: content of the `.index` file.
        data: content of the `.data-00000-of-00001` file.

    Raises:
        ValueError: the index is damaged or compressed, or the data are shorter than it says.
    """
    if len(index) < 48 or index[-8:] != _MAGIC:
        raise ValueError("index: expected a TensorFlow checkpoint's, it ends in another number")
    try:
        return _tensors(index, data)
    except IndexError as error:
        raise ValueError("index: it is cut off or damaged") from error


def _tensors(index: bytes, data: bytes) -> dict[str, Tensor]:
    footer = index[-48:]
    _, _, place = _handle(footer)
    offset, size, _ = _handle(footer, place)
    tensors = {}
    for _, handle in _entries(index, offset, size):
        for key, message in _entries(index, *_handle(handle)[:2]):
            if not key:  # the header of the bundle
                continue
            entry = dict(_fields(message))
            if entry.get(1) != _FLOAT:
                continue
            shape = _shape(entry.get(2, b""))  # type: ignore[arg-type]
            first, length = int(entry.get(4, 0)), int(entry.get(5, 0))
            if length != 4 * math.prod(shape) or first + length > len(data):
                raise ValueError(f"data: {key.decode()} of shape {shape} does not lie in them")
            raw = bytearray(data[first : first + length])
            tensors[key.decode()] = torch.frombuffer(raw, dtype=torch.float32).reshape(shape)
    return tensors
