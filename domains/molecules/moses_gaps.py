"""Labels of MOSES's conformers by GFN2-xTB: the gap between HOMO and LUMO.

    python -m ctrlgen.domains.molecules.moses_gaps --data data/moses --molecules 20000

Hydrogens are placed on the heavy atoms of a shard as on those of a generated molecule, and a single
point gives the gap; the file of gaps beside the shard is written whole or not at all, those that
are there are left alone, and as many of these commands as there are processors share the shards
among them. What has no gap has the number of an unknown property. The shards come in their order,
those of the test split first, of which a guide keeps some to validate.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ctrlgen.domains.molecules import chemistry, moses_data
from ctrlgen.domains.molecules.perception import perceive
from ctrlgen.runs.outputs import Held, hold
from ctrlgen.training.packed import write_packed

__all__ = ["label", "label_all"]


def label(shard: Path) -> tuple[int, int]:
    """Write the gaps of a shard's molecules; how many have one, and how many have none."""
    arrays = moses_data.read_shard(shard)
    done = np.flatnonzero(arrays["status"] == 0)
    gaps = np.full(len(arrays["row"]), moses_data.UNKNOWN, np.int16)
    if len(done):
        part = {**arrays, "counts": arrays["counts"][done]}
        positions, classes, _ = moses_data.tensors(part)
        whole = chemistry.place_hydrogens(perceive(positions, classes, "moses-heavy"))
        values = np.array([answer.gap for answer in chemistry.xtb(whole)])
        known = np.isfinite(values) & (np.abs(values) < -moses_data.UNKNOWN)
        gaps[done] = np.where(known, values.round(), moses_data.UNKNOWN).astype(np.int16)
    write_packed(moses_data.gaps_of(shard), "moses-gaps", {"gap": gaps})
    labelled = int((gaps != moses_data.UNKNOWN).sum())
    return labelled, len(gaps) - labelled


def label_all(
    folder: Path,
    molecules: int,
    minutes: float | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> int:
    """Label the first molecules of train, and a thirtieth as many of test.

    Args:
        folder: of the shards.
        molecules: of train, in whole shards.
        minutes: no shard is begun after these; None for no limit.
        say: takes a line about the progress after each shard.

    Returns:
        Molecules that this call has labelled.

    Raises:
        ValueError: molecules below one.
        FileNotFoundError: there are no shards.
    """
    if molecules < 1:
        raise ValueError(f"molecules: expected at least 1, got {molecules}")
    began, total = time.monotonic(), 0
    for split, number in (("test", -(-molecules // 30)), ("train", molecules)):
        earlier = 0
        for shard in moses_data.present(folder, split):
            if earlier >= number or (minutes and time.monotonic() - began > 60 * minutes):
                break
            earlier += len(moses_data.read_shard(shard)["row"])
            try:
                with hold(moses_data.gaps_of(shard)):
                    if moses_data.gaps_of(shard).is_file():
                        continue
                    labelled, failed = label(shard)
            except Held:  # another process has it
                continue
            total += labelled
            speed = total / (time.monotonic() - began)
            say(f"{shard.name}: {labelled} gaps, {failed} without one; {speed:.2f} a second")
    return total


def main() -> None:
    """Command line: label conformers of MOSES, or go on."""
    parser = argparse.ArgumentParser(description="Gaps of MOSES's conformers by GFN2-xTB.")
    parser.add_argument("--data", type=Path, default=Path("data") / "moses", help="folder")
    parser.add_argument("--molecules", type=int, default=20_000, help="of train")
    parser.add_argument("--minutes", type=float, default=None, help="begin no shard after these")
    options = parser.parse_args()
    total = label_all(
        options.data,
        options.molecules,
        options.minutes,
        lambda text: print(text, file=sys.stderr, flush=True),
    )
    print(f"gaps: {total}")


if __name__ == "__main__":
    main()
