r"""Music to train on: Freedoom's scores (BSD) on the FluidR3 sound font (MIT), in variations.

    apt-get install freedoom freedm fluidsynth fluid-soundfont-gm
    python -m ctrlgen.domains.audio.data data/audio --variations 8 --workers 2

renders the 94 distinct scores of the three WADs, each as written and in further variations
(`arrangement`), one file of int16 samples per piece, and a manifest with the licences and the
sha256 of everything that went in. A piece depends on (seed, score, variation) alone; pieces that
are there are kept, so an interrupted build goes on. Scores 0, 9, 18, ... are held out: they are
never trained on, in no variation.

Clips of a fixed length start anywhere in a piece; which, is a function of (seed, step).
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ctrlgen.domains.audio.arrangement import variation
from ctrlgen.domains.audio.synthesis import LEVEL, SOUND_FONT, render
from ctrlgen.domains.audio.wad import scores
from ctrlgen.runs.json_files import read_json, write_json

__all__ = ["RATE", "WADS", "Music", "build", "read", "starts_of"]

RATE = 16000
"""Hz."""

WADS = tuple(
    Path("/usr/share/games/doom") / f"{name}.wad" for name in ("freedoom1", "freedoom2", "freedm")
)
"""Where Debian's freedoom and freedm lie."""

Split = Literal["train", "held-out"]

_MANIFEST, _HELD_OUT = "manifest.json", 9
_LICENCES = {
    "scores": "Freedoom, 3-clause BSD (Debian: freedoom, freedm)",
    "sound_font": "FluidR3 GM by Frank Wen, MIT (Debian: fluid-soundfont-gm)",
}


def starts_of(sizes: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
    """How many clips of a length each piece holds, int64.

    Args:
        sizes: samples of each piece.
        length: samples of a clip.

    Raises:
        ValueError: no piece is as long as a clip.
    """
    starts = np.maximum(0, np.asarray(sizes) - length + 1)
    if not starts.any():
        raise ValueError(f"length: no piece has {length} samples")
    return starts


@dataclass(frozen=True)
class Music:
    """Pieces of one split, memory-mapped.

    Attributes:
        pieces: int16 samples of each piece, shape (L,).
        names: "<score>-<variation>" of each piece.
        rate: in Hz.
    """

    pieces: tuple[np.ndarray, ...]
    names: tuple[str, ...]
    rate: int = RATE

    @property
    def seconds(self) -> float:
        """Duration of all pieces."""
        return sum(len(piece) for piece in self.pieces) / self.rate

    def clips(self, places: Tensor, length: int) -> Tensor:
        """Clips that start at shares of the whole, shape (B, length), float32 in [-1, 1).

        Args:
            places: in [0, 1), shape (B,): every start that leaves a whole clip is as likely.
            length: samples of a clip.

        Raises:
            ValueError: no piece is as long as a clip.
        """
        starts = starts_of([len(piece) for piece in self.pieces], length)
        ends = starts.cumsum()
        chosen = np.minimum((places.double().numpy() * ends[-1]).astype(np.int64), ends[-1] - 1)
        owners = np.searchsorted(ends, chosen, side="right")
        rows = []
        for owner, place in zip(owners, chosen, strict=True):
            start = place - (ends[owner] - starts[owner])
            rows.append(np.asarray(self.pieces[owner][start : start + length]))
        return torch.from_numpy(np.stack(rows).astype(np.float32) / 32768)

    def blocks(self, length: int, count: int) -> Iterator[Tensor]:
        """Disjoint clips in the order of the pieces, in batches of at most `count`."""
        rows: list[np.ndarray] = []
        for piece in self.pieces:
            for start in range(0, len(piece) - length + 1, length):
                rows.append(np.asarray(piece[start : start + length]))
                if len(rows) == count:
                    yield torch.from_numpy(np.stack(rows).astype(np.float32) / 32768)
                    rows = []
        if rows:
            yield torch.from_numpy(np.stack(rows).astype(np.float32) / 32768)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _render(score: bytes, seed: int, track: int, number: int, file: Path) -> dict[str, Any]:
    """Render one piece into a file, atomically; what the manifest says of it."""
    torch.set_num_threads(1)
    change = variation(seed, track, number)
    samples = (render(score, change, rate=RATE) * 32767).round().to(torch.int16).numpy()
    partial = file.with_suffix(".partial")
    with partial.open("wb") as out:
        np.save(out, samples)
    os.replace(partial, file)
    return {"samples": len(samples), "variation": change.to_json()}


def _manifest(file: Path) -> dict[str, Any]:
    """What a manifest says.

    Raises:
        ValueError: it is damaged.
    """
    try:
        content = read_json(file)
        rate, pieces = content["rate"], content["pieces"]
        whole = isinstance(rate, int) and all(
            name.split("-")[0].isdecimal() and isinstance(piece["samples"], int)
            for name, piece in pieces.items()
        )
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
        whole = False
    if not whole:
        raise ValueError(f"folder: {file} is damaged; remove it and build again")
    return dict(content)


def build(
    folder: str | Path,
    *,
    variations: int = 8,
    seed: int = 0,
    workers: int = 1,
    wads: tuple[Path, ...] = WADS,
    report: Any = None,
) -> Path:
    """Render all pieces that the folder lacks; returns the path of the manifest.

    Args:
        folder: of the pieces; made if missing.
        variations: of every score, the score as written among them.
        seed: of the variations.
        workers: processes that render.
        wads: archives with the scores.
        report: called with (done, of) after each piece.

    Raises:
        FileNotFoundError: a package is missing; named.
        ValueError: the folder holds pieces of another recipe.
    """
    folder = Path(folder)
    missing = [str(file) for file in (*wads, SOUND_FONT) if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{', '.join(missing)}: not there; "
            "apt-get install freedoom freedm fluidsynth fluid-soundfont-gm"
        )
    tracks = scores(*wads)
    recipe: dict[str, Any] = {
        "format_version": 1,
        "rate": RATE,
        "level": LEVEL,
        "seed": seed,
        "licences": _LICENCES,
        "inputs": {file.name: _digest(file) for file in (*wads, SOUND_FONT)},
    }
    manifest = folder / _MANIFEST
    pieces: dict[str, Any] = {}
    if manifest.is_file():
        written = _manifest(manifest)
        pieces = written.pop("pieces")
        if written != recipe:
            raise ValueError(f"folder: {folder} holds pieces of another recipe")
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [(t, n) for n in range(variations) for t in range(len(tracks))]
    lacking = {
        f"{t:02d}-{n}": (t, n)
        for t, n in wanted
        if f"{t:02d}-{n}" not in pieces or not (folder / f"{t:02d}-{n}.npy").is_file()
    }
    with ProcessPoolExecutor(workers) as pool:
        jobs = {
            pool.submit(_render, tracks[t].content, seed, t, n, folder / f"{name}.npy"): name
            for name, (t, n) in lacking.items()
        }
        for done, job in enumerate(as_completed(jobs), 1):
            pieces[jobs[job]] = job.result()
            content = {**recipe, "pieces": dict(sorted(pieces.items()))}
            write_json(manifest, content, named=True, indent=1)
            if report is not None:
                report(done, len(lacking))
    return manifest


def read(folder: str | Path, split: Split = "train") -> Music:
    """The pieces of one split.

    Args:
        folder: of `build`.
        split: "train", or "held-out": every ninth score.

    Raises:
        FileNotFoundError: the folder has no manifest; the command that makes it is named.
        ValueError: an unknown split, or a damaged piece.
    """
    if split not in ("train", "held-out"):
        raise ValueError(f"split: expected 'train' or 'held-out', got {split!r}")
    folder = Path(folder)
    manifest = folder / _MANIFEST
    if not manifest.is_file():
        raise FileNotFoundError(
            f"{manifest}: not there; python -m ctrlgen.domains.audio.data {folder}"
        )
    described = _manifest(manifest)
    names = [
        name
        for name in described["pieces"]
        if (int(name.split("-")[0]) % _HELD_OUT == 0) == (split == "held-out")
    ]
    pieces = []
    for name in names:
        piece = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        samples = described["pieces"][name]["samples"]
        if piece.dtype != np.int16 or piece.shape != (samples,):
            raise ValueError(f"folder: piece {name} of {folder} is damaged; remove and build again")
        pieces.append(piece)
    return Music(tuple(pieces), tuple(names), described["rate"])


def _main() -> None:
    from rich.progress import Progress

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variations", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    with Progress() as bar:
        task = bar.add_task("rendering", total=None)
        build(
            options.folder,
            variations=options.variations,
            seed=options.seed,
            workers=options.workers,
            report=lambda done, of: bar.update(task, completed=done, total=of),
        )
    music = read(options.folder)
    print(f"{len(music.pieces)} pieces to train on, {music.seconds / 3600:.1f} hours")


if __name__ == "__main__":
    _main()
