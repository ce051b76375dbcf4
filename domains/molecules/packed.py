r"""QM9 as one file of 14 MB: positions in steps of 0.5 mA, everything else as it was.

Positions are rounded to int16 multiples of 0.5 mA (0.25 mA off at most, a hundredth of a thermal
vibration), stored coordinate by coordinate. Numbers, hydrogens, indices and properties are exact.
Splits are drawn by row (`splits`): a machine with this file alone trains every molecular network.

    ctrlgen train molecules/qm9 --data data/qm9 --pack qm9.safetensors
    ctrlgen train molecules/qm9 --data qm9.safetensors --minutes 10 --device cuda
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.training.packed import read_packed, write_packed

__all__ = ["RESOLUTION", "load", "save"]

RESOLUTION = 5e-4
"""Angstrom of one step of the packed positions."""

_NAMES = {"numbers", "positions", "counts", "attached", "index", *PROPERTIES}


def save(arrays: Mapping[str, np.ndarray], path: str | Path) -> Path:
    """Write the flat arrays of `data.pack`.

    Raises:
        ValueError: an atom lies further from the centre than int16 reaches, 16.38 A.
    """
    steps = np.rint(arrays["positions"].astype(np.float64) / RESOLUTION)
    if np.abs(steps).max() > np.iinfo(np.int16).max:
        reach = np.iinfo(np.int16).max * RESOLUTION
        far = np.abs(arrays["positions"]).max()
        raise ValueError(f"positions: expected within {reach:.2f} A, got one at {far:.2f} A")
    return write_packed(path, "qm9", {**arrays, "positions": steps.astype(np.int16).T})


def load(path: str | Path) -> dict[str, np.ndarray]:
    """The flat arrays, each molecule centred again.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not packed QM9, or damaged.
    """
    arrays = read_packed(path, "qm9")
    if set(arrays) != _NAMES:
        raise ValueError(f"{path}: expected arrays {sorted(_NAMES)}, got {sorted(arrays)}")
    counts = arrays["counts"].astype(np.int64)
    atoms = arrays["numbers"].shape
    if (
        counts.ndim != 1
        or (counts < 1).any()
        or atoms != (counts.sum(),)
        or arrays["positions"].shape != (3, *atoms)
    ):
        raise ValueError(
            f"{path}: expected positions (3, atoms), numbers (atoms,) and counts (molecules,) of "
            f"them, got {arrays['positions'].shape}, {atoms} and {counts.shape}"
        )
    places = arrays["positions"].T.astype(np.float64) * RESOLUTION
    starts = np.concatenate(([0], counts.cumsum()[:-1]))
    centres = np.add.reduceat(places, starts, axis=0) / counts[:, None]
    arrays["positions"] = (places - np.repeat(centres, counts, axis=0)).astype(np.float32)
    return arrays
