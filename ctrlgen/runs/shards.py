"""Shards: what one unit of a run came to, as two files that are there whole or not at all.

The tensors are written first and the JSON lines last: where the lines are, the tensors are, and the
lines hold their sha256. A shard whose lines do not add up, or whose tensors have another size, is
damaged and counts as unfinished; the sha256 of the tensors is compared whenever they are read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ctrlgen.methods.result import Result
from ctrlgen.priors.documents import write_whole
from ctrlgen.rows.errors import ResultError
from ctrlgen.rows.status import Status
from ctrlgen.runs.json_files import dumps
from ctrlgen.runs.schema import HISTORY, SCHEMA, Header, Record, shard_files

__all__ = ["Shard", "packed", "read_lines", "read_tensors", "records_of"]


@dataclass(frozen=True)
class Shard:
    """A finished unit, as it is written.

    Attributes:
        header: its first line.
        lines: its records, one JSON object each.
        payload: its tensors, safetensors.
        error: what was raised, where that was so for every one of its samples; not written.
    """

    header: Header
    lines: tuple[str, ...]
    payload: bytes
    error: Exception | None = None

    @classmethod
    def of(
        cls,
        result: Result,
        records: Sequence[Record],
        *,
        unit: int,
        first: int,
        key: str,
        seconds: float,
        chunk: int,
    ) -> Shard:
        """The shard of a unit's result.

        Args:
            result: of the unit.
            records: one per sample.
            unit: its number.
            first: id of its first sample.
            key: digest of the run's key.
            seconds: that it took.
            chunk: samples at a time.
        """
        tensors = {name: getattr(result, name) for name in result.per_sample}
        tensors |= {f"{HISTORY}{name}": value for name, value in result.history.items()}
        payload = packed(tensors)
        lines = tuple(dumps(record, indent=None) for record in records)
        header = Header(
            schema=SCHEMA,
            unit=unit,
            key=key,
            first=first,
            samples=len(records),
            seconds=round(seconds, 4),
            network=vars(result.network).copy(),
            method=result.method,
            chunk=chunk,
            bytes=len(payload),
            tensors_sha256=hashlib.sha256(payload).hexdigest(),
            records_sha256=_digest(lines),
        )
        return cls(header, lines, payload)

    @property
    def records(self) -> list[Record]:
        """The records of its samples."""
        return [cast(Record, json.loads(line)) for line in self.lines]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        return load_tensors(self.payload)

    def write(self, folder: Path) -> None:
        """Write it into a run folder.

        Raises:
            OSError: if that cannot be; nothing is left then.
        """
        numbers, lines = shard_files(folder, self.header["unit"])
        write_whole(numbers, self.payload)
        text = "\n".join((dumps(self.header, indent=None), *self.lines)) + "\n"
        try:
            write_whole(lines, text.encode())
        except BaseException:
            if not lines.exists():
                numbers.unlink(missing_ok=True)
            raise


def packed(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors of any device and layout as a safetensors file."""
    return save_tensors({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()})


def records_of(
    result: Result,
    first: int,
    seconds: float,
    metrics: Sequence[Mapping[str, Any]],
    flags: Sequence[list[str]],
    reasons: Sequence[str | None],
) -> list[Record]:
    """One record per sample.

    Args:
        result: of the samples.
        first: id of the first.
        seconds: of all of them.
        metrics: one mapping per sample, values by name.
        flags: one list per sample, beside what their status says.
        reasons: what was raised, one per sample.
    """
    columns = {
        name: getattr(result, name).tolist()
        for name in (
            "seeds", "status", "costs", "iterations", "evaluations", "backward_passes",
            "objective_calls",
        )
    }  # fmt: skip
    return [
        Record(
            id=first + row,
            seed=columns["seeds"][row],
            status=Status(columns["status"][row]).label,
            cost=columns["costs"][row],
            iterations=columns["iterations"][row],
            evaluations=columns["evaluations"][row],
            backward_passes=columns["backward_passes"][row],
            objective_calls=columns["objective_calls"][row],
            seconds=round(seconds / len(result), 4),
            metrics=dict(metrics[row]),
            flags=[*_FLAGS.get(columns["status"][row], ()), *flags[row]],
            reason=reasons[row],
        )
        for row in range(len(result))
    ]


_FLAGS = {
    int(Status.DIVERGED): ["diverged"],
    int(Status.FAILED): ["failed"],
    int(Status.RUNNING): ["cut off"],
}


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_lines(folder: Path, unit: int, key: str) -> tuple[Header, list[Record]]:
    """Header and records of a finished unit.

    Raises:
        FileNotFoundError: if it is not finished.
        ValueError: if it is damaged or of another run; says how.
    """
    numbers, file = shard_files(folder, unit)
    text = file.read_bytes()
    try:
        head, *lines = text.decode().splitlines()
        header: Header = json.loads(head)
        if header["schema"] > SCHEMA:
            raise ValueError(f"it has schema {header['schema']}, expected {SCHEMA}")
        whole = text.endswith(b"\n") and header["samples"] == len(lines)
        if not whole or header["records_sha256"] != _digest(lines):
            raise ValueError("its lines are cut off or changed")
        if header["key"] != key or header["unit"] != unit:
            raise ValueError("it belongs to another run")
        if not numbers.is_file() or numbers.stat().st_size != header["bytes"]:
            raise ValueError("its tensors are missing or cut off")
        return header, [json.loads(line) for line in lines]
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error) if type(error) is ValueError else "it is no shard"
        raise ValueError(f"{file}: {reason}") from error


def read_tensors(folder: Path, unit: int, sha256: str) -> dict[str, Tensor]:
    """Tensors of a finished unit, on the CPU.

    Raises:
        ResultError: if they are not what was written.
    """
    numbers, lines = shard_files(folder, unit)
    try:
        payload = numbers.read_bytes()
        if hashlib.sha256(payload).hexdigest() != sha256:
            raise ResultError(f"{numbers}: it is damaged")
        return load_tensors(payload)
    except (OSError, SafetensorError, ValueError) as error:
        raise ResultError(
            f"{numbers} is damaged or cannot be read; delete {lines.name} beside it and resume: "
            "the unit is computed again"
        ) from error
