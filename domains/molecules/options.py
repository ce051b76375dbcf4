"""The options that the commands for molecules share, and what their words mean."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rdkit.Chem import Mol
    from torch import Tensor

    from ctrlgen.domains.molecules.wishes import Wish

__all__ = ["Run", "Wanted", "check_files", "read_molecules", "scorer", "seeds_of", "wish_of"]

WISH, RUN, OUTPUT = "What is wanted", "The run", "Output"


def _option(panel: str, *names: str, **about: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, **about)


class Wanted:
    """Options that say what molecules should be like."""

    Property = Annotated[
        list[str] | None,
        _option(
            WISH,
            "--property",
            "-p",
            help="With its unit: gap=6.8eV, gap=6..7eV, gap>=6eV, mu=3D, alpha=90Bohr^3; repeat "
            "for several. See `ctrlgen molecule properties`.",
        ),
    ]
    Weight = Annotated[
        list[str] | None, _option(WISH, help="NAME=W: weight of a property, 1 by default.")
    ]
    Maximise = Annotated[
        list[str] | None,
        _option(
            WISH, help="A property to make large, up to what QM9 has; gap=9eV sets that limit."
        ),
    ]
    Minimise = Annotated[list[str] | None, _option(WISH, help="A property to make small.")]
    Formula = Annotated[str | None, _option(WISH, help="Exact composition, e.g. C7H10O2.")]
    Element = Annotated[
        list[str] | None, _option(WISH, help="Limit on an element: N<=2, O>=1, F=0; repeat.")
    ]
    Fragment = Annotated[
        Path | None,
        _option(WISH, help="SDF of a piece that every molecule is to hold; hydrogens are open."),
    ]
    Similar = Annotated[Path | None, _option(WISH, help="SDF of a molecule to resemble.")]
    Resemblance = Annotated[float, _option(WISH, min=0, help="Weight of --similar.")]
    Far = Annotated[
        bool, _option(WISH, "--far", help="Allow targets far outside the data of training.")
    ]


class Run:
    """Options of the run and its output."""

    Prior = Annotated[
        str,
        _option(
            RUN,
            help="qm9-heavy (heavy atoms, then hydrogens; quick) or qm9 (all atoms), or a card.",
        ),
    ]
    Guide = Annotated[
        str | None, _option(RUN, help="Property network that steers; by default the prior's.")
    ]
    Evaluator = Annotated[
        str | None, _option(RUN, help="Property network that judges; qm9-evaluator by default.")
    ]
    Number = Annotated[int | None, _option(RUN, "--number", "-n", min=1, help="How many.")]
    Seeds = Annotated[str | None, _option(RUN, help="Their seeds instead, e.g. 3,5,8.")]
    Steps = Annotated[int, _option(RUN, min=1, help="Midpoint steps of the flow.")]
    Iterations = Annotated[int, _option(RUN, min=0, help="L-BFGS iterations per start.")]
    Tolerance = Annotated[
        float,
        _option(RUN, help="Stop a molecule at this error, in mean absolute deviations of QM9."),
    ]
    Normalise = Annotated[
        str,
        _option(
            RUN, help="Of the source: none (a penalty on its radius), isotropic or feature (paper)."
        ),
    ]
    Restarts = Annotated[
        int, _option(RUN, min=0, help="Further starts of molecules that miss or fall apart.")
    ]
    Rank = Annotated[
        str | None,
        _option(
            RUN,
            help="FILE.py:NAME, a function of a list of RDKit molecules (None among them) that "
            "returns one number each; of all starts the lowest is kept.",
        ),
    ]
    Batch = Annotated[int, _option(RUN, min=1, help="Molecules at a time.")]
    Device = Annotated[str, _option(RUN, help="cpu, cuda, ...")]
    Data = Annotated[
        Path | None,
        _option(
            RUN,
            help="Folder of QM9, whose training molecules are not novel; by default a table.",
        ),
    ]
    Out = Annotated[
        Path | None,
        _option(
            OUTPUT,
            "--out",
            "-o",
            help="FILE.sdf; .xyz, .csv, .json and .png are written beside it. By default in a new "
            "folder under runs/.",
        ),
    ]
    Overwrite = Annotated[bool, _option(OUTPUT, "--overwrite", help="Replace earlier results.")]
    Json = Annotated[bool, _option(OUTPUT, "--json", help="Print the numbers as JSON.")]


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
    spec = importlib.util.spec_from_file_location(f"_ctrlgen_user_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"rank: {file} cannot be imported: {error}") from error
    function = getattr(module, word, None)
    if not callable(function):
        raise ValueError(f"rank: {file} has no function {word!r}")

    def rank(signals: Tensor) -> Tensor:
        values = function(score(signals, name).mols)
        if len(values) != len(signals):
            raise ValueError(f"rank: expected {len(signals)} numbers, got {len(values)}")
        return BlackBoxCost(lambda _: list(values))(signals.double())

    return rank
