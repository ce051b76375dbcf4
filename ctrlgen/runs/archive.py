r"""Results on disk: numbers in safetensors, everything else in strict JSON beside them.

    first.json           format, method, counts of the run, sha256 of
    first.safetensors    one tensor per field of the result, and per name of its history

Both are written whole or not at all, the JSON last: where it is, the numbers are. A file that is
damaged, of a newer format or of something else is refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ctrlgen.priors.documents import plain_name, read_object, write_whole
from ctrlgen.priors.flows import Evaluations
from ctrlgen.rows.errors import ResultError, short

if TYPE_CHECKING:
    from ctrlgen.methods.result import Result

__all__ = ["load", "save"]

FORMAT = 1
_LARGEST = 2**20  # bytes of the JSON
_COUNTS = tuple(field.name for field in fields(Evaluations))
_FIELDS = {"format_version", "kind", "method", "network", "rounds", "sha256"}


def save(result: Result, file: Path | str, overwrite: bool = False) -> Path:
    """Write a result; see `Result.save`."""
    file = _named(file)
    numbers = file.with_suffix(".safetensors")
    there = [each for each in (file, numbers) if each.exists()]
    if there and not overwrite:
        raise ResultError(f"file: {there[0]} is there already; overwrite=True replaces it")
    tensors = {name: getattr(result, name) for name in result.per_sample}
    tensors |= {f"history.{name}": value for name, value in result.history.items()}
    held = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    payload = save_tensors(held)
    content = {
        "format_version": FORMAT,
        "kind": "result",
        "method": result.method,
        "network": {name: getattr(result.network, name) for name in _COUNTS},
        "rounds": {k: len(v) for k, v in result.history.items()},
        "sha256": hashlib.sha256(payload).hexdigest(),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(numbers, payload)
    write_whole(file, text.encode())
    return file


def load(file: Path | str) -> dict[str, Any]:
    """The fields of a result that `save` wrote.

    Raises:
        ResultError: if there is none, or it is damaged.
    """
    file = _named(file)
    try:
        content = read_object(file, _LARGEST)
        _check(content)
        tensors = _numbers(file.with_suffix(".safetensors"), content["sha256"])
        made = _fields(content, tensors)
    except ValueError as error:
        raise ResultError(f"result {short(str(file))[1:-1]}: {error}") from error
    return made


def _named(file: Any) -> Path:
    """The path of the JSON."""
    if not isinstance(file, str | Path) or not plain_name(Path(file).name):
        raise ResultError(f"file: expected the path of a result, got {short(file)}")
    place = Path(file)
    return place if place.suffix == ".json" else place.with_name(f"{place.name}.json")


def _check(content: dict[str, Any]) -> None:
    """Raise ValueError where the JSON is not that of a result."""
    version = content.get("format_version")
    if type(version) is not int or version != FORMAT or content.get("kind") != "result":
        raise ValueError(f"expected a result of format_version {FORMAT}, got {short(version)}")
    for name in sorted(_FIELDS ^ set(content)):
        state = "is missing" if name in _FIELDS else "is no field of a result"
        raise ValueError(f"{short(name)[1:-1]}: {state}")
    for name in ("method", "sha256"):
        if not isinstance(content[name], str):
            raise ValueError(f"{name}: expected text, got {short(content[name])}")
    for name, keys in (("network", set(_COUNTS)), ("rounds", None)):
        value = content[name]
        good = isinstance(value, dict) and (keys is None or set(value) == keys)
        if not good or any(type(n) is not int or n < 0 for n in value.values()):
            raise ValueError(f"{name}: expected counts, got {short(value)}")


def _numbers(file: Path, sha256: str) -> dict[str, Tensor]:
    try:
        payload = file.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {file} ({error.strerror or error})") from error
    if hashlib.sha256(payload).hexdigest() != sha256:
        raise ValueError(f"expected sha256 {short(sha256)}, {file} has another: it is damaged")
    try:
        return load_tensors(payload)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"{file} is no safetensors file") from error


def _fields(content: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    from ctrlgen.methods.result import Result
    from ctrlgen.rows.status import Status

    rounds = content["rounds"]
    expected = {*Result.per_sample, *(f"history.{name}" for name in rounds)}
    for name in sorted(expected ^ set(tensors)):
        state = "is missing" if name in expected else "is no field of a result"
        raise ValueError(f"{short(name)[1:-1]}: {state}")
    rows = tensors["seeds"].shape[:1]
    for name in Result.per_sample:
        value = tensors[name]
        whole = name not in ("samples", "controls", "costs")
        shape = value.shape[:1] if name in ("samples", "controls") else value.shape
        if shape != rows or len(rows) != 1 or whole == value.is_floating_point():
            raise ValueError(
                f"{name}: expected {'integers' if whole else 'numbers'}, one row per seed, got "
                f"{value.dtype} of shape {tuple(value.shape)}"
            )
    codes = {int(code) for code in Status}
    strange = sorted(set(tensors["status"].tolist()) - codes)
    if strange:
        raise ValueError(f"status: expected codes of Status, got {strange[0]}")
    history = {name: tensors[f"history.{name}"] for name in rounds}
    for name, value in history.items():
        if tuple(value.shape) != (rounds[name], *rows):
            raise ValueError(
                f"history: {short(name)}: expected shape {(rounds[name], *rows)}, "
                f"got {tuple(value.shape)}"
            )
    return {
        **{name: tensors[name] for name in Result.per_sample},
        "network": Evaluations(**content["network"]),
        "history": history,
        "method": content["method"],
    }
