"""What the words of the commands for molecules mean: files, seeds, wishes, a user's score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ctrlgen import plugins
from ctrlgen.rows.errors import HopelessError, concerning

if TYPE_CHECKING:
    from rdkit.Chem import Mol
    from torch import Tensor

    from ctrlgen.domains.molecules.readers import Record
    from ctrlgen.domains.molecules.requirements import Wish

__all__ = [
    "check_records",
    "forgiving",
    "read_molecule",
    "scorer",
    "wish_of",
]


def read_molecule(file: Path, what: str, *, piece: bool = False, only: bool = False) -> Mol:
    """The first molecule of a file, with positions; bonds of XYZ and PDB are perceived.

    Args:
        file: SDF, XYZ or another that `readers` takes.
        what: name of the argument, for errors.
        piece: it may be a part of a molecule.
        only: it is to be the only one of the file.

    Raises:
        ValueError: no such file, another suffix, or no molecule that the priors could write.
    """
    from ctrlgen.domains.molecules.readers import read_records

    records = read_records(file, what)
    if only and len(records) > 1:
        raise ValueError(f"{what}: expected one molecule in {file}, got {len(records)} records")
    records = records[:1]
    if records[0].mol is None or not piece:
        check_records(records, file, what, "qm9-heavy")
    return cast("Mol", records[0].mol)


def check_records(
    records: Sequence[Record], file: Path, what: str = "file", name: str = "qm9"
) -> None:
    """Refuse records that cannot be written in an alphabet.

    Raises:
        ValueError: the first one, with its number and title.
    """
    from ctrlgen.domains.molecules.rdkit import tensors

    for record in records:
        try:
            if record.mol is None:
                raise ValueError(record.reason)
            tensors([record.mol], name)
        except ValueError as error:
            reason = str(error).removeprefix("molecule 1: ")
            raise ValueError(f"{what}: {_where(file, record)}: {reason}") from error


def _where(file: Path, record: Record) -> str:
    title = f" ({record.title})" if record.title else ""
    return f"{file}, record {record.number}{title}"


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
    scaffold: Path | None = None,
    attach: str | None = None,
    scores: Sequence[str] | None = None,
) -> Wish:
    """The wish that the options of `Wanted` say.

    Raises:
        ValueError: something that cannot be read, or contradicts itself.
    """
    from ctrlgen.domains.molecules.composition import parse_formula, parse_limit
    from ctrlgen.domains.molecules.properties import parse_request
    from ctrlgen.domains.molecules.rdkit_scores import parse_score
    from ctrlgen.domains.molecules.requirements import Wish, parse_extreme
    from ctrlgen.domains.molecules.scaffolds import Scaffold, parse_attach

    if formula is not None and elements:
        raise ValueError("element: --formula says everything already; give one of the two")
    with concerning("formula"):
        limits = parse_formula(formula) if formula is not None else {}
    for text in elements or []:
        for symbol, (low, high) in parse_limit(text).items():
            known = limits.get(symbol, (0.0, float("inf")))
            limits[symbol] = (max(low, known[0]), min(high, known[1]))
            if limits[symbol][0] > limits[symbol][1]:
                raise ValueError(f"element: the limits on {symbol} contradict each other")
    with concerning("property"):
        requests = tuple(map(parse_request, properties or []))
    with concerning("maximise"):
        largest = dict(map(parse_extreme, maximise or []))
    with concerning("minimise"):
        smallest = dict(map(parse_extreme, minimise or []))
    held = None
    if scaffold is not None:
        mol = read_molecule(scaffold, "scaffold", only=True)
        held = Scaffold(mol, None if attach is None else parse_attach(attach))
    elif attach is not None:
        raise ValueError("attach: expected --scaffold beside it")
    return Wish(
        requests=requests,
        largest=largest,
        smallest=smallest,
        weights=dict(map(_weight, weights or [])),
        limits=limits,
        fragment=None if fragment is None else read_molecule(fragment, "fragment", piece=True),
        scaffold=held,
        scores=tuple(map(parse_score, scores or [])),
        like=None if similar is None else read_molecule(similar, "similar"),
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

    function = plugins.named_in_file(reference, "rank")

    def rank(signals: Tensor) -> Tensor:
        try:
            values = list(function(score(signals, name).mols))
        except Exception as error:  # whatever a user's function raises
            what = f"{type(error).__name__}: {error}"
            raise ValueError(f"rank: {reference} raised {what}") from error
        if len(values) != len(signals):
            raise ValueError(f"rank: expected {len(signals)} numbers, got {len(values)}")
        for value in values:
            if value is not None and not isinstance(value, int | float):
                raise ValueError(f"rank: expected numbers or None, got {value!r}")
        return BlackBoxCost(lambda _: values)(signals.double())

    return rank


def forgiving(rank: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same score, NaN for the molecules for which it raises.

    It raises `HopelessError` where it would for each of eight or more.
    """
    import torch

    def scores(signals: Tensor) -> Tensor:
        try:
            return rank(signals)
        except ValueError as error:
            listed, raised = [], 0
            for row in range(len(signals)):
                try:
                    listed.append(rank(signals[row : row + 1]))
                except ValueError:
                    raised += 1
                    listed.append(torch.full((1,), torch.nan, dtype=torch.float64))
            if raised == len(signals) >= _MANY:
                raise HopelessError(str(error)) from error
            return torch.cat([value.cpu() for value in listed])

    return scores


_MANY = 8
