"""What the words of the commands for molecules mean: files, seeds, wishes, a user's score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctrlgen import plugins

if TYPE_CHECKING:
    from rdkit.Chem import Mol
    from torch import Tensor

    from ctrlgen.domains.molecules.wishes import Wish

__all__ = ["check_files", "read_molecules", "scorer", "seeds_of", "wish_of"]

SUFFIXES = (".sdf", ".xyz", ".csv", ".json", ".png")


def check_files(out: Path | None, stem: str, overwrite: bool) -> Path:
    """The SDF file to write, refused before any compute where it cannot be.

    Raises:
        ValueError: another suffix, no such folder, or files that are there already.
    """
    from ctrlgen.domains.molecules.files import check_destination
    from ctrlgen.outputs import new_folder

    if out is None:
        return new_folder(stem) / "molecules.sdf"
    file = check_destination(out)
    there = [file.with_suffix(s) for s in SUFFIXES if file.with_suffix(s).exists()]
    if there and not overwrite:
        raise ValueError(f"out: {there[0]} exists; name another file or add --overwrite")
    return file


def seeds_of(text: str | None, number: int | None, default: int) -> list[int]:
    """Seeds 0 to N − 1, or those that are named.

    Raises:
        ValueError: both, no integers, or one twice.
    """
    if text is None:
        return list(range(number or default))
    if number is not None:
        raise ValueError("seeds: expected one of --seeds and --number")
    try:
        seeds = [int(word) for word in text.split(",")]
    except ValueError as error:
        raise ValueError(f"seeds: expected integers as in 3,5,8, got {text!r}") from error
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds: expected integers >= 0, each once, got {text!r}")
    return seeds


def read_molecules(file: Path, what: str) -> list[Mol]:
    """Molecules of an SDF or XYZ file, with positions; bonds of XYZ by the distance table.

    Raises:
        ValueError: no such file, another suffix, or something broken in it.
    """
    import numpy as np
    import torch

    from ctrlgen.domains.molecules.elements import NUMBERS, classes_of
    from ctrlgen.domains.molecules.files import read_sdf, read_xyz
    from ctrlgen.domains.molecules.graphs import mols

    if not file.is_file():
        raise ValueError(f"{what}: there is no file {file}")
    if file.suffix.lower() not in (".sdf", ".mol", ".xyz"):
        raise ValueError(f"{what}: expected an SDF or XYZ file, got {file}")
    if file.suffix.lower() != ".xyz":
        found = [entry.mol for entry in read_sdf(file)]
    else:
        found = []
        for frame in read_xyz(file):
            strange = sorted(set(frame.symbols) - set(NUMBERS))
            if strange:
                raise ValueError(
                    f"{what}: expected elements H, C, N, O, F, got {', '.join(strange)}"
                )
            numbers = torch.tensor([[NUMBERS[symbol] for symbol in frame.symbols]])
            place = torch.from_numpy(np.asarray(frame.positions)).float()[None]
            found += mols(place, classes_of(numbers)) if frame.symbols else [None]
    kept = [mol for mol in found if mol is not None and mol.GetNumAtoms()]
    if len(kept) < len(found) or not kept:
        raise ValueError(f"{what}: expected a molecule in every record of {file}")
    return kept


def wish_of(
    properties: Sequence[str] | None,
    weights: Sequence[str] | None = None,
    maximise: Sequence[str] | None = None,
    minimise: Sequence[str] | None = None,
    formula: str | None = None,
    elements: Sequence[str] | None = None,
    fragment: Path | None = None,
    similar: Path | None = None,
    resemblance: float = 1.0,
    far: bool = False,
) -> Wish:
    """The wish that the options of `Wanted` say.

    Raises:
        ValueError: something that cannot be read, or contradicts itself.
    """
    from ctrlgen.domains.molecules.composition import parse_formula, parse_limit
    from ctrlgen.domains.molecules.properties import parse_request
    from ctrlgen.domains.molecules.wishes import Wish, parse_extreme

    if formula is not None and elements:
        raise ValueError("element: --formula says everything already; give one of the two")
    limits = parse_formula(formula) if formula is not None else {}
    for text in elements or []:
        for symbol, (low, high) in parse_limit(text).items():
            known = limits.get(symbol, (0.0, float("inf")))
            limits[symbol] = (max(low, known[0]), min(high, known[1]))
            if limits[symbol][0] > limits[symbol][1]:
                raise ValueError(f"element: the limits on {symbol} contradict each other")
    return Wish(
        requests=tuple(map(parse_request, properties or [])),
        largest=dict(map(parse_extreme, maximise or [])),
        smallest=dict(map(parse_extreme, minimise or [])),
        weights=dict(map(_weight, weights or [])),
        limits=limits,
        fragment=None if fragment is None else read_molecules(fragment, "fragment")[0],
        like=None if similar is None else read_molecules(similar, "similar")[0],
        resemblance=resemblance,
        far=far,
    )


def _weight(text: str) -> tuple[str, float]:
    name, equals, number = text.partition("=")
    try:
        return name.strip(), float(number if equals else "")
    except ValueError as error:
        raise ValueError(f"weight: expected NAME=NUMBER, got {text!r}") from error


def scorer(reference: str, name: str) -> Callable[[Tensor], Tensor]:
    """A user's function of molecules as a score of signals of an alphabet.

    Raises:
        ValueError: a reference that names no function, or a file that cannot be imported.
    """
    from ctrlgen.costs import BlackBoxCost
    from ctrlgen.domains.molecules.scoring import score

    place, colon, word = reference.rpartition(":")
    file = Path(place)
    if not (colon and file.suffix == ".py" and file.is_file()):
        raise ValueError(f"rank: expected FILE.py:NAME, got {reference!r}")
    function = getattr(plugins.load_file(file, "rank"), word, None)
    if not callable(function):
        raise ValueError(f"rank: {file} has no function {word!r}")

    def rank(signals: Tensor) -> Tensor:
        values = function(score(signals, name).mols)
        if len(values) != len(signals):
            raise ValueError(f"rank: expected {len(signals)} numbers, got {len(values)}")
        return BlackBoxCost(lambda _: list(values))(signals.double())

    return rank
