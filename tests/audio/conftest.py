"""A small archive with one score, written byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest


def midi(*events: bytes, division: int = 480) -> bytes:
    """A Standard MIDI File of one track; events begin with their delta time."""
    track = b"".join(events) + b"\x00\xff\x2f\x00"
    header = b"MThd" + struct.pack(">IHHH", 6, 0, 1, division)
    return header + b"MTrk" + struct.pack(">I", len(track)) + track


def archive(*lumps: tuple[str, bytes]) -> bytes:
    """A WAD of named lumps."""
    body, directory, offset = b"", b"", 12
    for name, content in lumps:
        directory += struct.pack("<ii8s", offset, len(content), name.encode())
        body += content
        offset += len(content)
    return b"IWAD" + struct.pack("<ii", len(lumps), offset) + body + directory


@pytest.fixture()
def score() -> bytes:
    """Middle C and a drum for one beat of half a second, program 5 on the first channel."""
    return midi(
        b"\x00\xc0\x05",
        b"\x00\x90\x3c\x64",
        b"\x00\x99\x24\x64",
        b"\x83\x60\x80\x3c\x00",
        b"\x00\x89\x24\x00",
    )


@pytest.fixture()
def wad(tmp_path: Path, score: bytes) -> Path:
    """An archive that holds the score twice, and something else."""
    file = tmp_path / "music.wad"
    file.write_bytes(archive(("D_ONE", score), ("PLAYPAL", b"\0" * 48), ("D_TWO", score)))
    return file
