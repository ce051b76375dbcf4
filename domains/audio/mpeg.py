"""How long an MP3 is: its frames counted, whatever its header says.

An MPEG audio frame begins with eleven set bits; version, bit rate and sampling rate of layer III
give its length in bytes (ISO/IEC 11172-3, 2.4.2.3; 13818-3 for the lower rates),

    ⌊n/8 · bit rate / rate⌋ + padding,     n = 1152 samples of version 1, 576 of 2 and 2.5.

The first frame may hold a header of an encoder (Xing, Info) with a count of frames that decoders
trust; a wrong one makes them stop early, or promise what isn't there.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Counted", "count"]

_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_FIRST = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_SECOND = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


class Counted(NamedTuple):
    """What lies in an MP3: samples of all frames, the header's among them, and of one frame."""

    samples: int
    frame: int


def count(payload: bytes) -> Counted | None:
    """Count the frames of layer III; None where there is none.

    Args:
        payload: the file.
    """
    at, frames, size = _tag(payload), 0, 0
    while (length := _frame(payload, at)) is not None:
        if at + length[0] > len(payload):  # cut off
            break
        at, frames, size = at + length[0], frames + 1, length[1]
    return Counted(frames * size, size) if frames else None


def _tag(payload: bytes) -> int:
    """Bytes of the ID3v2 tags before the first frame."""
    at = 0
    while payload[at : at + 3] == b"ID3" and len(payload) >= at + 10:
        size = 0
        for byte in payload[at + 6 : at + 10]:
            size = size << 7 | byte & 0x7F
        at += size + 10
    return at


def _frame(payload: bytes, at: int) -> tuple[int, int] | None:
    """Bytes and samples of the frame that begins here."""
    head = payload[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:  # layer III
        return None
    version, place = head[1] >> 3 & 3, head[2] >> 2 & 3
    bits = head[2] >> 4
    if version == 1 or place == 3 or bits in (0, 15):
        return None
    size = 1152 if version == 3 else 576
    kilobits = (_FIRST if version == 3 else _SECOND)[bits]
    return size // 8 * kilobits * 1000 // _RATES[version][place] + (head[2] >> 1 & 1), size
