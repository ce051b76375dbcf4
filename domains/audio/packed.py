r"""Music as one file, for a machine without sound font and synthesiser.

    ctrlgen train audio/freedoom-music --data data/audio --pack music.safetensors --samples 3000
    ctrlgen train audio/freedoom-music --data music.safetensors --minutes 8 --device cuda

The file holds pieces of twelve seconds, evenly spread over the music of each split, as int16
samples; with it alone a machine trains codec and prior, on clips that begin anywhere in a piece.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch

from ctrlgen.domains.audio.data import RATE, Music, Split
from ctrlgen.training.packed import read_packed, write_packed

__all__ = ["LENGTH", "load", "save"]

LENGTH = 12 * RATE
"""Samples of a packed piece."""

_NAME, _SPLITS = "freedoom-music", ("train", "held-out")


def save(music: Music, held: Music, path: str | Path, samples: int | None = None) -> Path:
    """Write pieces of both splits.

    Args:
        music: to train on.
        held: to validate on; a tenth as many pieces are taken of it.
        path: file to write.
        samples: pieces to train on; as many as cover the music once when None.

    Raises:
        ValueError: more pieces than the music holds, or music without a whole one.
    """
    most = sum(len(piece) // LENGTH for piece in music.pieces)
    if samples is not None and not 1 <= samples <= most:
        raise ValueError(f"samples: expected 1..{most} pieces of twelve seconds, got {samples}")
    count = samples or most
    arrays = {}
    for split, part, size in (("train", music, count), ("held-out", held, max(1, count // 10))):
        places = (torch.arange(size, dtype=torch.float64) + 0.5) / size
        rows = [(part.clips(p, LENGTH) * 32768).round().short() for p in places.split(64)]
        arrays[split] = torch.cat(rows).numpy()
    return write_packed(path, _NAME, arrays, zlib.Z_RLE)


def load(path: str | Path, split: Split) -> Music:
    """The pieces of one split.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no packed music, or damaged.
    """
    arrays = read_packed(path, _NAME)
    whole = set(arrays) == set(_SPLITS) and all(
        array.dtype == np.int16 and array.ndim == 2 and array.shape[1] == LENGTH
        for array in arrays.values()
    )
    if not whole:
        forms = {name: (str(array.dtype), array.shape) for name, array in arrays.items()}
        raise ValueError(
            f"{path}: expected int16 pieces of {LENGTH} samples of each split, got {forms}"
        )
    pieces = tuple(arrays[split])
    return Music(pieces, tuple(f"{split}-{i}" for i in range(len(pieces))))
