"""Packed data sets: what is written is read, and a damaged file is refused."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from ctrlgen.training.packed import read_packed, write_packed

ARRAYS = {
    "steps": np.arange(-300, 300, dtype=np.int16).reshape(3, 200),
    "bytes": np.random.default_rng(0).integers(0, 256, 1000).astype(np.uint8),
    "values": np.linspace(0, 1, 7, dtype=np.float32),
    "index": np.arange(5, dtype=np.int64),
}


@pytest.mark.parametrize("strategy", [zlib.Z_DEFAULT_STRATEGY, zlib.Z_RLE])
def test_arrays_come_back(tmp_path: Path, strategy: int) -> None:
    path = write_packed(tmp_path / "new" / "toy.safetensors", "toy", ARRAYS, strategy)
    found = read_packed(path, "toy")
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert [file.name for file in path.parent.iterdir()] == ["toy.safetensors"]


def test_slow_bytes_are_put_apart(tmp_path: Path) -> None:
    """int16 numbers of a slow change take less than half their bytes."""
    steps = (1000 * np.sin(np.arange(20000) / 3000)).astype(np.int16)
    path = write_packed(tmp_path / "slow", "slow", {"steps": steps})
    assert path.stat().st_size < steps.nbytes / 2


def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    path = write_packed(tmp_path / "toy", "toy", ARRAYS)
    whole = path.read_bytes()
    for place in np.linspace(0, len(whole) - 1, 60).astype(int):
        broken = bytearray(whole)
        broken[place] ^= 0x55
        path.write_bytes(bytes(broken))
        with pytest.raises(ValueError, match="toy"):
            read_packed(path, "toy")
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="expected a packed file of 'toy'"):
        read_packed(path, "toy")


def test_other_data_is_refused_by_name(tmp_path: Path) -> None:
    path = write_packed(tmp_path / "toy", "toy", ARRAYS)
    with pytest.raises(ValueError, match="expected packed data of 'qm9', got toy"):
        read_packed(path, "qm9")
    (tmp_path / "text").write_text("not packed")
    with pytest.raises(ValueError, match="text: expected a packed file of 'toy'"):
        read_packed(tmp_path / "text", "toy")
    with pytest.raises(FileNotFoundError, match="none is there"):
        read_packed(tmp_path / "absent", "toy")
