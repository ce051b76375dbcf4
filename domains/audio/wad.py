r"""Lumps of a WAD, the archive of Doom's engine, in which Freedoom ships its music.

    header      "IWAD" or "PWAD", number of lumps, offset of the directory    (12 bytes)
    directory   offset, size, name of eight bytes, one entry a lump           (16 bytes each)

all numbers little-endian 32-bit integers (Fabien Sanglard, Game Engine Black Book: DOOM, 2018).
A lump whose first four bytes are "MThd" is a Standard MIDI File.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Lump", "lumps", "scores"]


class Lump(NamedTuple):
    """One file of the archive: its name, upper case, and its bytes."""

    name: str
    content: bytes


def lumps(file: str | Path) -> Iterator[Lump]:
    """The lumps of a WAD in the order of its directory.

    Args:
        file: a WAD.

    Raises:
        ValueError: the file is no WAD, or its directory points outside of it.
    """
    content = Path(file).read_bytes()
    if len(content) < 12 or content[:4] not in (b"IWAD", b"PWAD"):
        raise ValueError(f"file: expected a WAD, got {file}")
    count, start = struct.unpack_from("<ii", content, 4)
    if count < 0 or start < 12 or start + 16 * count > len(content):
        raise ValueError(f"file: the directory of {file} lies outside of it")
    for entry in range(count):
        offset, size, name = struct.unpack_from("<ii8s", content, start + 16 * entry)
        if offset < 0 or size < 0 or offset + size > len(content):
            raise ValueError(f"file: lump {entry} of {file} lies outside of it")
        label = name.split(b"\0")[0].decode("ascii", "replace").upper()
        yield Lump(label, content[offset : offset + size])


def scores(*files: str | Path) -> list[Lump]:
    """The distinct MIDI files of WADs, in the order in which they first occur.

    Raises:
        ValueError: a file is no WAD.
    """
    distinct: dict[str, Lump] = {}
    for file in files:
        for lump in lumps(file):
            if lump.content[:4] == b"MThd":
                distinct.setdefault(hashlib.sha256(lump.content).hexdigest(), lump)
    return list(distinct.values())
