"""A run's folder: manifest, shards, tensors and result, written whole and read without loading all.

    store = Store.open("runs/inpaint-photo")
    for record in store.records(): ...
    result, table = store.result(), store.to_pandas()

What the folder holds is in `ctrlgen.runs.schema`. Writing takes its lock (`ctrlgen.runs.locks`).
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from safetensors.torch import load as load_tensors
from torch import Tensor

from ctrlgen.extras import require
from ctrlgen.methods.result import Result
from ctrlgen.priors.documents import write_whole
from ctrlgen.rows.counts import Evaluations
from ctrlgen.rows.errors import ResultError
from ctrlgen.runs import manifest as manifests
from ctrlgen.runs.joining import join, result_of
from ctrlgen.runs.json_files import dumps
from ctrlgen.runs.locks import lock_folder
from ctrlgen.runs.schema import RESULT, SCHEMA, SHARDS, TENSORS, Header, Record
from ctrlgen.runs.shards import Shard, packed, read_lines, read_tensors

__all__ = ["Rows", "Store"]


class Rows(NamedTuple):
    """What one unit came to: ids of its samples, their records and their tensors."""

    ids: range
    records: list[Record]
    tensors: dict[str, Tensor]


class Store:
    """The folder of a run.

    Args:
        folder: of it.
        manifest: what it holds; see `open` and `create`.

    Attributes:
        key: digest of the manifest's key.
        warnings: what was wrong and could be mended, such as a damaged manifest.
        damaged: reasons, by unit, why a shard counts as unfinished; filled as shards are read.
        partial: a unit that was cut off, with what its samples had until then; never written.
    """

    def __init__(self, folder: Path | str, manifest: Mapping[str, Any]) -> None:
        self.folder, self.manifest = Path(folder), dict(manifest)
        self.key = manifests.digest(self.manifest["key"])
        self.warnings: list[str] = []
        self.damaged: dict[int, str] = {}
        self.partial: Shard | None = None

    @classmethod
    def open(cls, folder: Path | str) -> Store:
        """The run of a folder.

        Raises:
            ResultError: if it holds none, or its manifest and the backup are damaged.
        """
        manifest, wrong = manifests.read(Path(folder))
        store = cls(folder, manifest)
        if wrong is not None:
            store.warnings.append(f"{wrong}; its backup serves")
        return store

    @classmethod
    def create(cls, folder: Path | str, manifest: Mapping[str, Any]) -> Store:
        """The run of a folder, begun where there is none.

        Args:
            folder: made where there is none.
            manifest: of the run; the one that is there must have its key, and serves then.

        Raises:
            OtherRun: if the folder holds another run; the message says what differs.
            OSError: if nothing can be written there.
        """
        place, fresh = Path(folder), cls(folder, manifest)
        place.mkdir(parents=True, exist_ok=True)
        try:
            manifests.write(place, manifest, fresh=True)
        except FileExistsError:
            try:
                store = cls.open(place)
            except ResultError as error:  # both are damaged, and what they said is told again
                manifests.write(place, manifest)
                fresh.warnings.append(f"{str(error).split(';')[0]}; written again")
                return fresh
            manifests.check_key(store.manifest["key"], manifest["key"], place)
            if store.warnings:
                manifests.write(place, store.manifest)
            return store
        return fresh

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def seeds(self) -> Sequence[int]:
        """One per sample."""
        return manifests.seeds_in(self.manifest)

    @property
    def units(self) -> int:
        """Their number."""
        return -(-len(self) // int(self.manifest["unit"]))

    def ids(self, unit: int) -> range:
        """The samples of a unit."""
        size = int(self.manifest["unit"])
        return range(unit * size, min((unit + 1) * size, len(self)))

    @contextmanager
    def writing(self, part: str = "") -> Iterator[None]:
        """Keep the folder for this process, rid of what a killed one left half written.

        Args:
            part: of a job array, e.g. "2-of-4"; the parts write side by side.

        Raises:
            Held: if another process writes there.
        """
        with lock_folder(self.folder, part):
            (self.folder / SHARDS).mkdir(exist_ok=True)
            if not part:
                for folder in (self.folder, self.folder / SHARDS):
                    for file in folder.glob(".*.partial"):
                        file.unlink(missing_ok=True)
            yield

    def write(self, shard: Shard) -> None:
        """Write a finished unit; where memory ran out, the manifest remembers how many fit."""
        (self.folder / SHARDS).mkdir(exist_ok=True)
        shard.write(self.folder)
        self.damaged.pop(shard.header["unit"], None)
        if shard.header["chunk"] < self.manifest["chunk"]:
            self.manifest["chunk"] = shard.header["chunk"]
            manifests.write(self.folder, self.manifest)

    def discard(self) -> None:
        """Forget all that is finished."""
        for file in (self.folder / SHARDS).iterdir():
            file.unlink()

    def put(self, **tensors: Tensor | None) -> None:
        """Write what the samples share or are compared with: measurement, truth, baseline."""
        given = {name: value for name, value in tensors.items() if value is not None}
        if given:
            write_whole(self.folder / TENSORS, packed(given))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What `put` wrote."""
        file = self.folder / TENSORS
        return load_tensors(file.read_bytes()) if file.is_file() else {}

    def _lines(self, unit: int) -> tuple[Header, list[Record]] | None:
        """Header and records of a unit; None where it is not finished, or damaged."""
        try:
            return read_lines(self.folder, unit, self.key)
        except FileNotFoundError:
            return None
        except ValueError as error:
            self.damaged[unit] = str(error)
            return None

    def headers(self) -> Iterator[tuple[Header, list[Record]]]:
        """Headers and records of the finished units, and of one that was cut off."""
        for unit in range(self.units):
            if (lines := self._lines(unit)) is not None:
                yield lines
            elif self.partial is not None and self.partial.header["unit"] == unit:
                yield self.partial.header, self.partial.records

    def records(self) -> Iterator[Record]:
        """The records of all samples that are there."""
        for _, records in self.headers():
            yield from records

    def rows(self) -> Iterator[Rows]:
        """Unit after unit, with its tensors.

        Raises:
            ResultError: if the tensors of a unit are damaged.
        """
        for header, records in self.headers():
            if self.partial is not None and header["unit"] == self.partial.header["unit"]:
                tensors = self.partial.tensors
            else:
                tensors = read_tensors(self.folder, header["unit"], header["tensors_sha256"])
            first = header["first"]
            yield Rows(range(first, first + len(records)), records, tensors)

    def pending(self) -> list[int]:
        """The units that are still to be computed."""
        return [unit for unit in range(self.units) if self._lines(unit) is None]

    @property
    def missing(self) -> list[int]:
        """Seeds of the samples of which nothing is there."""
        there = {record["id"] for record in self.records()}
        return [seed for id, seed in enumerate(self.seeds) if id not in there]

    def result(self) -> Result:
        """All samples that are there, in their order, on the CPU.

        Raises:
            ResultError: if nothing is, or some is damaged.
        """
        parts = [
            result_of(header, rows.tensors)
            for (header, _), rows in zip(self.headers(), self.rows(), strict=True)
        ]
        if not parts:
            raise ResultError(f"{self.folder}: nothing is finished yet")
        return join(parts)

    def to_pandas(self) -> Any:
        """The records as a data frame, one row per sample; metrics are columns of their names.

        Raises:
            MissingExtra: if pandas is not installed.
        """
        pandas = require("pandas", "tables")
        flat = ({**record, **record["metrics"]} for record in self.records())
        frame = pandas.DataFrame([{k: v for k, v in r.items() if k != "metrics"} for r in flat])
        return frame.set_index("id") if len(frame) else frame

    def summary(self) -> dict[str, Any]:
        """The run in numbers, as `Result.summary`, from the records alone."""
        costs, network, method, seconds = array("d"), Evaluations(), "", 0.0
        names = ("evaluations", "backward_passes", "objective_calls")
        counts = {name: array("q") for name in names}
        status: Counter[str] = Counter()
        for header, records in self.headers():
            network += Evaluations(**header["network"])
            method, seconds = method or header["method"], seconds + header["seconds"]
            for record in records:
                cost = record["cost"]
                costs.append(math.inf if cost is None else cost)
                status[record["status"]] += 1
                for name, column in counts.items():
                    column.append(record[name])  # type: ignore[literal-required]
        if not costs:
            return {"samples": 0, "status": {}, "network": vars(network), "method": method}
        return {
            "samples": len(costs),
            "status": dict(status),
            "cost": {"median": median(costs), "worst": max(costs), "best": min(costs)},
            **{k: {"median": median(v), "total": sum(v)} for k, v in counts.items()},
            "network": vars(network).copy(),
            "method": method,
            "seconds": round(seconds, 3),
        }

    def write_result(self, **more: Any) -> None:
        """Write `result.json`, sample by sample.

        Args:
            **more: what else it says.
        """
        missing, summary = self.missing, self.summary()
        head = dumps(
            {
                "schema": SCHEMA,
                "kind": "ctrlgen-result",
                "complete": not missing and self.partial is None,
                "missing": missing,
                "method": summary["method"],
                "seconds": summary.get("seconds", 0.0),
                **more,
                "summary": summary,
            }
        )

        def parts() -> Iterator[bytes]:
            yield head.removesuffix("\n}").encode() + b',\n  "samples": ['
            comma = "\n"
            for record in self.records():
                yield f"{comma}    {dumps(record, indent=None)}".encode()
                comma = ",\n"
            yield b"\n  ]\n}\n"

        write_whole(self.folder / RESULT, parts())
