r"""MOSES's conformers as arrays: shards as they are made, one packed file, padded tensors.

A shard holds the molecules of a part of a split, done or failed (`conformers`), a packed file those
that are done of all splits, in 121 bytes each:

    status, row, counts, qed, logp, sa, gap   one entry a molecule
    classes                                   one entry a heavy atom: its class in `elements.DRUG`
    steps (3, atoms)                          int16, in mA: from the atom before, and of the first
                                              atom from the centre of its molecule

Positions are rounded to 1 mA, 0.5 mA off at most (half a hundredth of a thermal vibration), when a
shard is written, so that folder and packed file train the same network. QED, logP and SA are in
thousandths, the gap of GFN2-xTB in meV, and what is unknown is the least int16.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ctrlgen.domains.molecules.data import Molecules
from ctrlgen.domains.molecules.elements import MAX_ATOMS
from ctrlgen.domains.molecules.moses import SPLITS
from ctrlgen.training.packed import read_packed, write_packed

__all__ = [
    "RESOLUTION",
    "SCORES",
    "STATUSES",
    "UNKNOWN",
    "assemble",
    "gaps_of",
    "load",
    "pack_file",
    "positions_of",
    "present",
    "read",
    "read_shard",
    "shard_of",
    "tensors",
    "write_shard",
]

RESOLUTION = 1e-3
"""Angstrom of one step of the positions."""

STATUSES: tuple[str, ...] = (
    "done", "not read", "no positions", "no parameters", "not converged", "time limit", "crashed",
    "no class",
)  # fmt: skip
"""What became of a molecule, by the number that a shard holds."""

SCORES: dict[str, float] = {"qed": 1e3, "logp": 1e3, "sa": 1e3, "gap": 1.0}
"""Properties, and what one of each is in the numbers of a file; the gap in meV."""

UNKNOWN = int(np.iinfo(np.int16).min)
"""What a file holds of a property that is not known."""

_ROWWISE = ("row", "status", "counts", "qed", "logp", "sa")


def shard_of(folder: str | Path, split: str, number: int) -> Path:
    """File of a part of a split; its gaps are beside it, as `gaps_of` says."""
    return Path(folder) / f"{split}-{number:05d}.safetensors"


def gaps_of(shard: Path) -> Path:
    """File of the gaps of a shard's molecules."""
    return shard.with_name(f"gap-{shard.name}")


def assemble(
    rows: Sequence[int], statuses: Sequence[int], molecules: Sequence[Mapping[str, object]]
) -> dict[str, np.ndarray]:
    """The arrays of a shard.

    Args:
        rows: in the split's file, (M,).
        statuses: (M,) indices of `STATUSES`.
        molecules: by molecule, classes and positions in A where it is done, scores where they are
            known.
    """
    done = [m for m, status in zip(molecules, statuses, strict=True) if status == 0]
    counts = [len(m["classes"]) if s == 0 else 0 for m, s in zip(molecules, statuses, strict=True)]  # type: ignore[arg-type]
    told: list[Mapping[str, float]] = [m.get("scores", {}) for m in molecules]  # type: ignore[misc]
    steps = [np.empty((0, 3))]
    for molecule in done:
        places = np.array(molecule["positions"], dtype=np.float64)
        grid = np.rint((places - places.mean(0)) / RESOLUTION)
        steps.append(np.diff(grid, axis=0, prepend=0))
    walk = np.concatenate(steps)
    if np.abs(walk).max(initial=0) > np.iinfo(np.int16).max:
        raise ValueError(f"positions: expected steps within 32.7 A, got {np.abs(walk).max():g} mA")
    return {
        "row": np.array(rows, np.int32),
        "status": np.array(statuses, np.uint8),
        "counts": np.array(counts, np.uint8),
        **{name: _whole([t.get(name) for t in told], name) for name in ("qed", "logp", "sa")},
        "classes": np.array([c for m in done for c in m["classes"]], np.uint8),  # type: ignore[attr-defined]
        "steps": np.ascontiguousarray(walk.astype(np.int16).T),
    }


def write_shard(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays of a shard; those of no atom at all are left away."""
    write_packed(path, "moses-shard", {name: a for name, a in arrays.items() if a.size})


def read_shard(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a shard.

    Raises:
        ValueError: it is damaged.
    """
    none: dict[str, np.ndarray] = {}
    none |= {"classes": np.empty(0, np.uint8), "steps": np.empty((3, 0), np.int16)}
    return {**none, **read_packed(path, "moses-shard")}


def _whole(values: Sequence[float | None], name: str) -> np.ndarray:
    """Values in the numbers of a file, int16."""
    scaled = [UNKNOWN if value is None else round(value * SCORES[name]) for value in values]
    return np.array(scaled, np.int64).clip(UNKNOWN, -UNKNOWN - 1).astype(np.int16)


def positions_of(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Positions (atoms, 3) in A of molecules of `counts` atoms, each centred, float32."""
    counts = arrays["counts"][arrays["counts"] > 0].astype(np.int64)
    starts = np.concatenate(([0], counts.cumsum()[:-1]))
    walked = arrays["steps"].T.astype(np.int64).cumsum(0)
    before = np.concatenate((np.zeros((1, 3), np.int64), walked))[starts]
    places = (walked - np.repeat(before, counts, axis=0)).astype(np.float64)
    centres = np.add.reduceat(places, starts, axis=0) / counts[:, None]
    return ((places - np.repeat(centres, counts, axis=0)) * RESOLUTION).astype(np.float32)


def _joined(files: Iterable[Path]) -> dict[str, np.ndarray]:
    """Arrays of shards, one after the other, with the gaps that are there."""
    parts = []
    for file in files:
        part = read_shard(file)
        gaps = gaps_of(file)
        labels = read_packed(gaps, "moses-gaps")["gap"] if gaps.is_file() else np.empty(0, np.int16)
        unknown = np.full(len(part["row"]) - len(labels), UNKNOWN, np.int16)
        parts.append({**part, "gap": np.concatenate((labels, unknown))})
    joined = {key: np.concatenate([p[key] for p in parts]) for key in (*_ROWWISE, "classes", "gap")}
    return {**joined, "steps": np.concatenate([part["steps"] for part in parts], axis=1)}


def present(folder: str | Path, split: str) -> list[Path]:
    """Files of a split that are there, in order.

    Raises:
        ValueError: another split.
        FileNotFoundError: there is none; the command that makes them is named.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    files = sorted(Path(folder).glob(f"{split}-[0-9]*.safetensors"))
    if not files:
        raise FileNotFoundError(
            f"MOSES: no conformers of {split!r} in {folder}; make them, or go on, with "
            f"`python -m ctrlgen.domains.molecules.conformers --data {folder} --molecules 300000`"
        )
    return files


def load(folder: str | Path, split: str) -> dict[str, np.ndarray]:
    """Arrays of the shards of a split that are there, done and failed; raises as `present`, and
    ValueError for a damaged shard.
    """
    return _joined(present(folder, split))


def pack_file(folder: str | Path, path: str | Path, samples: int | None = None) -> Path:
    """Write the conformers of a folder to one packed file; returns its path.

    Args:
        folder: with shards of all splits.
        path: file to write.
        samples: molecules of train, the first ones; all that are done when None.

    Raises:
        ValueError: fewer molecules than asked for.
    """
    content: dict[str, np.ndarray] = {}
    for split in SPLITS:
        arrays = load(folder, split)
        failed = np.bincount(arrays["status"], minlength=len(STATUSES))
        arrays = _first(arrays, samples if split == "train" else None)
        content[f"{split}.attempts"] = failed.astype(np.int64)
        del arrays["status"]
        content |= {f"{split}.{name}": array for name, array in arrays.items()}
    return write_packed(path, "moses", content)


def _first(arrays: Mapping[str, np.ndarray], count: int | None) -> dict[str, np.ndarray]:
    """The first molecules that are done."""
    done = np.flatnonzero(arrays["status"] == 0)
    if not len(done):
        raise ValueError(f"MOSES: expected molecules, all {len(arrays['status'])} have failed")
    if count is not None and not 0 < count <= len(done):
        raise ValueError(f"samples: expected 1 to {len(done)}, the molecules, got {count}")
    done = done[:count]
    atoms = int(arrays["counts"][done].astype(np.int64).sum())
    told = {name: arrays[name][done] for name in (*_ROWWISE, "gap")}
    return {
        **told,
        "classes": arrays["classes"][:atoms],
        "steps": arrays["steps"][:, :atoms],
    }


def _arrays(source: Path, split: str) -> dict[str, np.ndarray]:
    if not source.is_file():
        return _first(load(source, split), None)
    content = read_packed(source, "moses")
    arrays = {
        name.split(".")[1]: array for name, array in content.items() if name.split(".")[0] == split
    }
    expected = {*_ROWWISE, "classes", "gap", "steps", "attempts"} - {"status"}
    if set(arrays) != expected:
        raise ValueError(f"{source}: expected {sorted(expected)} of {split}, got {sorted(arrays)}")
    return arrays


def tensors(arrays: Mapping[str, np.ndarray]) -> tuple[Tensor, Tensor, Tensor]:
    """Positions (N, A, 3) in A, classes (N, A), -1 on padding, and counts (N,) of molecules that
    are done, A = 27.
    """
    counts = torch.from_numpy(arrays["counts"].astype(np.int64))
    size = MAX_ATOMS["moses-heavy"]
    present = torch.arange(size) < counts.unsqueeze(1)
    positions = torch.zeros(len(counts), size, 3)
    positions[present] = torch.from_numpy(positions_of(arrays))
    classes = torch.full((len(counts), size), -1)
    classes[present] = torch.from_numpy(arrays["classes"].astype(np.int64))
    return positions, classes, counts


def read(source: str | Path, split: str = "train") -> Molecules:
    """Molecules of the alphabet `moses-heavy` with qed, logp, sa and gap (meV), NaN if unknown.

    Args:
        source: folder of shards, or a packed file.
        split: "train", "test" or "test_scaffolds"; molecules in the order of `moses.order`.

    Raises:
        ValueError: another split, or a file that is damaged.
        FileNotFoundError: nothing there.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    arrays = _arrays(Path(source), split)
    positions, classes, counts = tensors(arrays)
    properties = {}
    for name, scale in SCORES.items():
        values = torch.from_numpy(arrays[name].astype(np.float32))
        properties[name] = torch.where(values == UNKNOWN, torch.nan, values / scale)
    index = torch.from_numpy(arrays["row"].astype(np.int64))
    return Molecules(positions, classes, counts, properties, index, "moses-heavy", split)
