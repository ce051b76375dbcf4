"""Conformers of MOSES, made in worker processes and written as they come.

    python -m ctrlgen.domains.molecules.conformers --data data/moses --molecules 300000 --workers 16

Molecules are taken in the order of `moses.order`, of the two test splits a thirtieth of train's
number each, and shards of 200 are written whole or not at all (`moses_data`): the command killed at
any time goes on where it was, and a larger number continues a smaller one. What comes out does not
depend on the workers. A molecule that fails has its reason in the shard: no positions, no
parameters, no convergence, more than 30 seconds, a crash, or an atom that the alphabet lacks.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import local
from typing import Any, NamedTuple

import numpy as np

from ctrlgen.domains.molecules import moses
from ctrlgen.domains.molecules.elements import DRUG, MAX_ATOMS, NUMBERS
from ctrlgen.domains.molecules.moses_data import (
    STATUSES,
    assemble,
    read_shard,
    shard_of,
    write_shard,
)
from ctrlgen.domains.molecules.subprocesses import Helper, HelperError
from ctrlgen.runs.outputs import hold

__all__ = ["Shard", "build", "conformer", "plan"]

SHARD = 200
_HELD = 30  # one molecule of a test split for so many of train
_CLASSES = {(NUMBERS[symbol], count): place for place, (symbol, count) in enumerate(DRUG)}


class Shard(NamedTuple):
    """A part of a split: where it is written, and the molecules' rows and SMILES."""

    file: Path
    rows: list[int]
    smiles: list[str]


def plan(folder: Path, molecules: int, size: int = SHARD) -> list[Shard]:
    """Shards of a number of molecules of train and of its share of the test splits.

    They come mixed, so that all splits are there at any time; each begins with its first shard.

    Raises:
        ValueError: fewer than one molecule, or more than MOSES has.
    """
    parts = list[tuple[float, Shard]]()
    for split in moses.SPLITS:
        texts = moses.smiles(folder, split)
        number = molecules if split == "train" else -(-molecules // _HELD)
        if not 0 < number <= len(texts):
            raise ValueError(f"molecules: expected 1 to {len(texts)}, got {molecules}")
        rows = moses.order(texts)[:number].tolist()
        for start in range(0, number, size):
            own = rows[start : start + size]
            file = shard_of(folder, split, start // size)
            parts.append((start / number, Shard(file, own, [texts[row] for row in own])))
    return [shard for _, shard in sorted(parts, key=lambda part: part[0])]


def conformer(helper: Helper, smiles: str) -> tuple[int, dict[str, Any]]:
    """Index in `STATUSES` of what became of a molecule, and what the helper says of it."""
    try:
        told = helper.ask("conformer", smiles=smiles)
    except HelperError as error:
        late = "no answer within" in str(error)
        return STATUSES.index("time limit" if late else "crashed"), {}
    if told["status"] == "done":
        classes = [
            _CLASSES.get(atom) for atom in zip(told["numbers"], told["attached"], strict=True)
        ]
        if None in classes or not 1 < len(classes) <= MAX_ATOMS["moses-heavy"]:
            return STATUSES.index("no class"), {"scores": told["scores"]}
        told["classes"] = classes
    return STATUSES.index(told["status"]), told


def _held(shard: Shard) -> np.ndarray | None:
    """Statuses of a shard that is there with these molecules; None where it is to be made."""
    if not shard.file.is_file():
        return None
    arrays = read_shard(shard.file)
    return arrays["status"] if arrays["row"].tolist() == shard.rows else None


def build(
    folder: Path,
    molecules: int,
    workers: int = 1,
    *,
    minutes: float | None = None,
    timeout: float = 30.0,
    size: int = SHARD,
    say: Callable[[str], None] = lambda text: None,
) -> Counter[str]:
    """Make the shards that are missing.

    Args:
        folder: with the wheel; shards come beside it.
        molecules: of train.
        workers: processes.
        minutes: no shard is begun after these; None for no limit.
        timeout: seconds for one molecule.
        size: molecules of a shard.
        say: takes a line about the progress after each shard.

    Returns:
        Molecules by status, of all shards that are there.

    Raises:
        ValueError: a number out of its range.
    """
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    total, waiting = Counter[str](), list[Shard]()
    for shard in plan(folder, molecules, size):
        statuses = _held(shard)
        if statuses is None:
            waiting.append(shard)
        else:
            total.update(_names(statuses))
    earlier, left = sum(total.values()), sum(len(shard.rows) for shard in waiting)
    own, helpers, began = local(), list[Helper](), time.monotonic()

    def make(shard: Shard) -> np.ndarray:
        if not hasattr(own, "helper"):
            own.helper = Helper(timeout)
            helpers.append(own.helper)
        answers = [conformer(own.helper, text) for text in shard.smiles]
        statuses, told = [status for status, _ in answers], [answer for _, answer in answers]
        arrays = assemble(shard.rows, statuses, told)
        write_shard(shard.file, arrays)
        return arrays["status"]

    try:
        for statuses in _each(make, waiting, workers, minutes):
            total.update(_names(statuses))
            done = sum(total.values()) - earlier
            speed = done / (time.monotonic() - began)
            failed = ", ".join(f"{n} {why}" for why, n in sorted(total.items()) if why != "done")
            say(
                f"{earlier + done:,} of {earlier + left:,} molecules, {speed:.1f} a second, "
                f"{(left - done) / speed / 60:.0f} minutes to go; failed: {failed or 'none'}"
            )
    finally:
        for helper in helpers:
            helper.close()
    return total


def _names(statuses: np.ndarray) -> list[str]:
    return [STATUSES[status] for status in statuses.tolist()]


def _each(
    make: Callable[[Shard], np.ndarray], shards: list[Shard], workers: int, minutes: float | None
) -> Iterator[np.ndarray]:
    """What is made of shards as it comes; none is begun after the time is over."""
    ends = time.monotonic() + (np.inf if minutes is None else 60 * minutes)
    rest, running = iter(shards), set[Future[np.ndarray]]()
    with ThreadPoolExecutor(workers) as pool:
        while True:
            while len(running) < workers and time.monotonic() < ends:
                shard = next(rest, None)
                if shard is None:
                    break
                running.add(pool.submit(make, shard))
            if not running:
                return
            ready, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ready:
                yield future.result()


def main() -> None:
    """Command line: make conformers of MOSES, or go on."""
    parser = argparse.ArgumentParser(description="Conformers of MOSES by ETKDGv3 and MMFF94s.")
    parser.add_argument("--data", type=Path, default=Path("data") / "moses", help="folder")
    parser.add_argument("--molecules", type=int, default=300_000, help="of train")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--minutes", type=float, default=None, help="begin no shard after these")
    options = parser.parse_args()
    moses.fetch(options.data)
    with hold(options.data):
        total = build(
            options.data,
            options.molecules,
            options.workers,
            minutes=options.minutes,
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )
    for status, number in total.most_common():
        print(f"{status}: {number}")


if __name__ == "__main__":
    main()
