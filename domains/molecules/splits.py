"""QM9's splits of the conditional-generation literature, and the two halves of its training set.

Sources: Hoogeboom et al. (arXiv 2203.17003), section 5 and appendix E: 100,000 training molecules,
17,748 for validation, 13,083 for test, drawn from the 130,831 characterised ones, and the training
set cut in two halves: the property classifier learns on the first (D_a), the generator on the
second (D_b). With numpy's legacy generator,

    p = RandomState(0).permutation(130831),   train = sort(p[:100000]),   valid = sort(p[100000:
    117748]),   test = sort(p[117748:]),
    q = RandomState(42).permutation(100000),   D_a = train[q[:50000]],   D_b = train[q[50000:]].

Molecules are counted by increasing QM9 index; train is sorted before it is halved because the
original walks through the archive in file order. The atom-count histograms of train and D_b then
agree with the published ones bin for bin.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

__all__ = ["MOLECULES", "SPLITS", "Split", "split_rows"]

Split = Literal["train", "valid", "test", "D_a", "D_b", "all"]

SPLITS: tuple[str, ...] = get_args(Split)
"""Names of the splits."""

MOLECULES = 130_831
"""Molecules of QM9 without the 3,054 uncharacterised ones."""

_TRAIN, _VALID = 100_000, 17_748


def split_rows(split: str) -> np.ndarray:
    """Rows of a split among the 130,831 molecules by increasing QM9 index, int64.

    Args:
        split: "train", "valid", "test", the halves "D_a" and "D_b" of train, or "all".

    Raises:
        ValueError: for another name.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    if split == "all":
        return np.arange(MOLECULES)
    rows = np.random.RandomState(0).permutation(MOLECULES)
    if split == "valid":
        return np.sort(rows[_TRAIN : _TRAIN + _VALID])
    if split == "test":
        return np.sort(rows[_TRAIN + _VALID :])
    train = np.sort(rows[:_TRAIN])
    half = np.random.RandomState(42).permutation(_TRAIN)
    if split == "D_a":
        return train[half[: _TRAIN // 2]]
    return train[half[_TRAIN // 2 :]] if split == "D_b" else train
