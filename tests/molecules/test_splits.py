"""The splits of the literature, by digest everywhere and bin for bin where QM9 is there."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from ctrlgen.domains.molecules.data import read
from ctrlgen.domains.molecules.splits import MOLECULES, SPLITS, split_rows

# Molecules by number of atoms, 3..29, as published with EDM (28 does not occur).
TRAIN = {
    3: 1, 4: 4, 5: 5, 6: 9, 7: 16, 8: 49, 9: 124, 10: 362, 11: 807, 12: 1689, 13: 3060, 14: 5136,
    15: 7796, 16: 10644, 17: 13025, 18: 13364, 19: 13832, 20: 9482, 21: 9970, 22: 3393, 23: 4848,
    24: 539, 25: 1506, 26: 48, 27: 266, 29: 25,
}  # fmt: skip
SECOND_HALF = {
    3: 1, 4: 3, 5: 3, 6: 5, 7: 7, 8: 25, 9: 62, 10: 178, 11: 412, 12: 845, 13: 1541, 14: 2587,
    15: 3865, 16: 5344, 17: 6461, 18: 6695, 19: 6944, 20: 4794, 21: 4962, 22: 1701, 23: 2380,
    24: 267, 25: 754, 26: 17, 27: 132, 29: 15,
}  # fmt: skip


def test_sizes_and_partition() -> None:
    rows = {name: split_rows(name) for name in SPLITS}
    sizes = [len(rows[name]) for name in ("train", "valid", "test", "D_a", "D_b", "all")]
    assert sizes == [100_000, 17_748, 13_083, 50_000, 50_000, MOLECULES]
    whole = np.concatenate([rows[name] for name in ("train", "valid", "test")])
    assert np.array_equal(np.sort(whole), np.arange(MOLECULES))
    halves = np.concatenate([rows["D_a"], rows["D_b"]])
    assert np.array_equal(np.sort(halves), rows["train"])


@pytest.mark.parametrize(
    ("split", "digest"),
    [
        ("train", "368c4051b47e5aac"),
        ("valid", "d9a5a5b68bbc9c28"),
        ("test", "a9cfff3884f7d75a"),
        ("D_a", "82fa638cc11274d5"),
        ("D_b", "378fa42dac30e0b7"),
    ],
)
def test_rows_are_those_of_the_verified_splits(split: str, digest: str) -> None:
    rows = split_rows(split).astype("<i8")
    assert hashlib.sha256(rows.tobytes()).hexdigest()[:16] == digest


def test_unknown_split() -> None:
    with pytest.raises(ValueError, match="split: expected one of train, valid"):
        split_rows("validation")


@pytest.mark.parametrize(("split", "published"), [("train", TRAIN), ("D_b", SECOND_HALF)])
def test_histograms_bin_for_bin(qm9_folder: str, split: str, published: dict[int, int]) -> None:
    counts = read("qm9", qm9_folder, split).counts  # type: ignore[arg-type]
    sizes, molecules = counts.unique(return_counts=True)
    assert dict(zip(sizes.tolist(), molecules.tolist(), strict=True)) == published


@pytest.mark.parametrize(
    ("name", "mean", "deviation"),
    [
        ("alpha", 75.373, 6.273),
        ("gap", 6863.2, 1061.9),
        ("homo", -6538.6, 439.6),
        ("lumo", 324.6, 1033.8),
        ("mu", 2.6751, 1.1757),
        ("cv", 31.620, 3.2118),
    ],
)
def test_statistics_of_valid(qm9_folder: str, name: str, mean: float, deviation: float) -> None:
    values = read("qm9-heavy", qm9_folder, "valid").properties[name].double()
    assert float(values.mean()) == pytest.approx(mean, rel=1e-4, abs=1e-4)
    assert float((values - values.mean()).abs().mean()) == pytest.approx(deviation, rel=1e-4)
