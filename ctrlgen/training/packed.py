r"""Data sets as one small file, for a machine that has nothing else.

A packed file is safetensors: of every array the bytes of equal significance one after another
(of an int16, all low bytes, then all high bytes), deflated and held as uint8. The header
names the data set, dtypes, shapes and the sha256 of the arrays. What makes numbers small before
that (differences to neighbours, rounding) is the domain's business.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

__all__ = ["digest", "read_packed", "write_packed"]


_DAMAGE = (AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What a header that says something else than it should leads to."""


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 of names, dtypes, shapes and contents."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(f"{name} {arrays[name].dtype} {arrays[name].shape};".encode())
        total.update(np.ascontiguousarray(arrays[name]).tobytes())
    return total.hexdigest()


def write_packed(
    path: str | Path,
    data: str,
    arrays: Mapping[str, np.ndarray],
    strategy: int = zlib.Z_DEFAULT_STRATEGY,
) -> Path:
    """Write arrays of a data set as one file, whole or not at all.

    Args:
        path: file to write.
        data: name of the data set, which `read_packed` asks for.
        arrays: numbers of any dtype, none of them empty.
        strategy: of zlib; Z_RLE is fast and as good for noise-like bytes.
    """
    path = Path(path)
    packed = {}
    for name, array in arrays.items():
        planes = np.ascontiguousarray(array).reshape(-1, 1).view(np.uint8).T
        coder = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, strategy)
        packed[name] = np.frombuffer(coder.compress(planes.tobytes()) + coder.flush(), np.uint8)
    forms = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
    header = {"packed": data, "arrays": json.dumps(forms), "sha256": digest(arrays)}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(packed, partial, metadata=header)
    partial.chmod(0o644)
    os.replace(partial, path)
    return path


def read_packed(path: str | Path, data: str) -> dict[str, np.ndarray]:
    """The arrays of `write_packed`.

    Args:
        path: the file.
        data: name of the data set that is expected in it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no packed file, of another data set, or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a packed file of {data!r}, none is there")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises its own kind for a broken header
        raise ValueError(f"{path}: expected a packed file of {data!r} ({error})") from error
    if header.get("packed") != data:
        other = header.get("packed", "no packed data")
        raise ValueError(f"{path}: expected packed data of {data!r}, got {other}")
    arrays = {}
    try:
        for name, (dtype, shape) in json.loads(header["arrays"]).items():
            kind = np.dtype(dtype)
            size = kind.itemsize * math.prod(shape)
            if size <= 0:
                raise ValueError("an array without numbers")
            coder = zlib.decompressobj()  # no more than announced: few bytes may hold gigabytes
            content = coder.decompress(held[name].tobytes(), size + 1)
            if not coder.eof or len(content) != size:
                raise ValueError("an array of another size")
            planes = np.frombuffer(content, np.uint8)
            pieces = np.ascontiguousarray(planes.reshape(kind.itemsize, -1).T)
            arrays[name] = pieces.view(kind).reshape(shape)
        damaged = digest(arrays) != header["sha256"]
    except (*_DAMAGE, zlib.error) as error:
        raise ValueError(
            f"{path}: damaged: its header does not fit its contents; copy or pack it again"
        ) from error
    if damaged:
        raise ValueError(f"{path}: damaged: its contents differ from its sha256; pack it again")
    return arrays
