"""Clips that come with the package: four seconds each of Freedoom scores that are never trained on.

Freedoom's scores (3-clause BSD) as written, on FluidR3 GM (MIT), rendered by `data`: for tests,
examples and the demonstration.
"""

from __future__ import annotations

from pathlib import Path

from ctrlgen.domains.audio.files import Recording, read

__all__ = ["NAMES", "example", "path"]

_FOLDER = Path(__file__).parent / "heldout"

NAMES = ("freedoom-27", "freedoom-45")


def path(name: str) -> Path:
    """The file of a clip.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in NAMES:
        raise ValueError(f"name: expected one of {', '.join(NAMES)}, got {name!r}")
    return _FOLDER / f"{name}.flac"


def example(name: str) -> Recording:
    """A clip, mono at 16 kHz.

    Raises:
        ValueError: there is none of that name.
        MissingExtra: soundfile is not installed.
    """
    return read(path(name))
