r"""Which sizes suit a request: p(n | c) from tables of QM9's half D_b, in either alphabet; p(n) of
MOSES's molecules, for which no property is tabled.

A flow cannot change the number n of atoms of a molecule, so n is drawn first,

    p(n | c) ∝ p(n) Π_p p(c_p | n),

p(c_p | n) the share of the molecules of n atoms in a smoothed histogram of the property: its
density at a target, its mass in a range. Properties are taken as independent given n, which is
enough to draw n; whether a combination of targets lies off the data is told by their Mahalanobis
distance from the molecules of n atoms. Where no molecule has such a value, p falls off with the
distance in mean absolute deviations, so that the nearest sizes are drawn.

The tables are `atom_counts.json`, made by

    python -m ctrlgen.domains.molecules.atom_counts --data data/qm9 --moses data/moses
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctrlgen.domains.molecules.elements import alphabet
from ctrlgen.domains.molecules.properties import PROPERTIES, Request
from ctrlgen.rows.seeds import Seeds, uniform
from ctrlgen.runs.json_files import write_json

__all__ = ["DEVIATION", "Sizes", "sizes"]

FILE = Path(__file__).with_name("atom_counts.json")

BINS, LOW, HIGH = 48, 0.005, 0.995
_SIZE = 11  # stream of the draws of n

DEVIATION: dict[str, float] = {
    "alpha": 6.273, "gap": 1061.9, "homo": 439.6, "lumo": 1033.8, "mu": 1.1757, "cv": 3.2118,
}  # fmt: skip
"""Mean absolute deviation of each property on QM9's validation split, in the package's unit."""


@dataclass(frozen=True)
class Sizes:
    """What a data set's molecules of each number of atoms are like; MOSES's have no properties.

    Attributes:
        name: alphabet.
        atoms: numbers of atoms that occur, increasing, shape (S,), long.
        members: molecules of each, shape (S,).
        ranges: by property, the 0.5 % and 99.5 % quantiles, shape (S, 2).
        edges: by property, ends of the bins, shape (BINS + 1,).
        histogram: by property, molecules in each bin, shape (S, BINS).
        mean: of the properties in their order, shape (S, 6).
        covariance: of the properties, shape (S, 6, 6).
    """

    name: str
    atoms: Tensor
    members: Tensor
    ranges: dict[str, Tensor]
    edges: dict[str, Tensor]
    histogram: dict[str, Tensor]
    mean: Tensor
    covariance: Tensor

    def only(self, atoms: Sequence[int]) -> Sizes:
        """The tables of some numbers of atoms.

        Raises:
            ValueError: if there is no molecule of any of them.
        """
        kept = torch.isin(self.atoms, torch.tensor(list(atoms)))
        if not bool(kept.any()):
            raise ValueError(
                f"atoms: the data have molecules of {int(self.atoms[0])} to {int(self.atoms[-1])} "
                f"atoms of the alphabet {self.name!r}, got {list(atoms)}"
            )

        def rows(table: dict[str, Tensor]) -> dict[str, Tensor]:
            return {key: value[kept] for key, value in table.items()}

        return Sizes(
            self.name, self.atoms[kept], self.members[kept], rows(self.ranges), self.edges,
            rows(self.histogram), self.mean[kept], self.covariance[kept],
        )  # fmt: skip

    def distances(self, request: Request) -> Tensor:
        """How far a request lies from the values of each size, in deviations, 0 inside, (S,)."""
        low, high = self.ranges[request.name].unbind(1)
        return (
            torch.relu(torch.maximum(low - request.high, request.low - high))
            / DEVIATION[request.name]
        )

    def likelihood(self, request: Request) -> Tensor:
        """p(c | n) of a request, up to a factor that all n share, shape (S,)."""
        counts = torch.nn.functional.pad(self.histogram[request.name].double(), (1, 1))
        smooth = (counts[:, :-2] + 2 * counts[:, 1:-1] + counts[:, 2:]) / 4
        edges = self.edges[request.name]
        if request.is_target:
            inside = (edges[:-1] <= request.low) & (request.low < edges[1:])
            share = inside.double()
        else:
            width = edges.diff()
            share = (edges[1:].clamp_max(request.high) - edges[:-1].clamp_min(request.low)) / width
            share = share.clamp(0, 1)
        near = 1e-6 * torch.exp(-self.distances(request))
        return (smooth @ share) / self.members + near

    def given(self, requests: Sequence[Request]) -> Tensor:
        """p(n | c) of requests that are all to hold, shape (S,)."""
        weight = self.members.double()
        for request in requests:
            weight = weight * self.likelihood(request)
        return weight / weight.sum()

    def draw(self, requests: Sequence[Request], seeds: Seeds, stream: int = 0) -> Tensor:
        """Numbers of atoms drawn from p(n | c), one per seed, shape (B,), long."""
        edges = self.given(requests).cumsum(0)
        u = uniform(seeds, (1,), _SIZE + stream, dtype=torch.float64).squeeze(1)
        place = torch.searchsorted(edges, u * edges[-1], right=True)
        return self.atoms[place.clamp_max(len(self.atoms) - 1)]

    def limits(self, name: str, counts: Tensor, largest: bool) -> Tensor:
        """Trust limits: the 99.5 % (or 0.5 %) quantile of a property at some sizes, shape (B,)."""
        place = torch.searchsorted(self.atoms, counts).clamp_max(len(self.atoms) - 1)
        return self.ranges[name][place, 1 if largest else 0]

    def mahalanobis(self, requests: Sequence[Request]) -> Tensor:
        """Distance of the targets among the requests from the molecules of each size, (S,)."""
        targets = [request for request in requests if request.is_target]
        if not targets:
            return torch.zeros(len(self.atoms), dtype=torch.float64)
        rows = torch.tensor([list(PROPERTIES).index(request.name) for request in targets])
        away = torch.tensor([request.low for request in targets]) - self.mean[:, rows]
        spread = self.covariance[:, rows][:, :, rows]
        scale = torch.tensor([DEVIATION[request.name] for request in targets]).double()
        # Small groups have singular covariances: a hundredth of the deviation stays.
        spread = spread + torch.diag((0.01 * scale).square())
        solved = torch.linalg.solve(spread, away.unsqueeze(2)).squeeze(2)
        return (away * solved).sum(1).clamp_min(0).sqrt()


@cache
def sizes(name: str) -> Sizes:
    """The tables of an alphabet, "qm9", "qm9-heavy" or "moses-heavy".

    Raises:
        ValueError: for another one.
    """
    alphabet(name)
    content = json.loads(FILE.read_text())[name]

    def table(key: str) -> dict[str, Tensor]:
        return {name: torch.tensor(rows).double() for name, rows in content.get(key, {}).items()}

    rows = len(content["atoms"])
    return Sizes(
        name=name,
        atoms=torch.tensor(content["atoms"]),
        members=torch.tensor(content["members"]),
        ranges=table("ranges"),
        edges=table("edges"),
        histogram=table("histogram"),
        mean=torch.tensor(content.get("mean", [[]] * rows)).double(),
        covariance=torch.tensor(content.get("covariance", [[]] * rows)).double(),
    )


def tables(counts: Tensor, properties: dict[str, Tensor]) -> dict[str, Any]:
    """The content of `atom_counts.json` for one alphabet.

    Args:
        counts: atoms of each molecule, shape (N,).
        properties: by name, shape (N,).
    """
    atoms = counts.unique()
    values = torch.stack([properties[name].double() for name in PROPERTIES], 1)
    groups = [values[counts == n] for n in atoms]
    found: dict[str, Any] = {
        "atoms": atoms.tolist(),
        "members": [len(group) for group in groups],
        "ranges": {},
        "edges": {},
        "histogram": {},
        "mean": [_short(group.mean(0)) for group in groups],
        "covariance": [[_short(row) for row in _covariance(group)] for group in groups],
    }
    ends = torch.tensor([LOW, HIGH]).double()
    for column, name in enumerate(PROPERTIES):
        own = values[:, column].contiguous()
        edges = torch.linspace(float(own.min()), float(own.max()) * (1 + 1e-9) + 1e-9, BINS + 1)
        place = torch.bucketize(own, edges.double(), right=True).clamp(1, BINS) - 1
        found["edges"][name] = _short(edges, 8)
        found["ranges"][name] = [_short(group[:, column].quantile(ends)) for group in groups]
        found["histogram"][name] = [
            torch.bincount(place[counts == n], minlength=BINS).tolist() for n in atoms
        ]
    return found


def _covariance(group: Tensor) -> Tensor:
    away = group - group.mean(0)
    return away.T @ away / len(group)


def _short(row: Tensor, digits: int = 6) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in row.tolist()]


def main() -> None:
    """Command line: make `atom_counts.json` from QM9 and MOSES."""
    from ctrlgen.domains.molecules import moses
    from ctrlgen.domains.molecules.data import read

    parser = argparse.ArgumentParser(description="Tables of p(n | property) from QM9's half D_b.")
    parser.add_argument("--data", type=Path, required=True, help="folder of QM9")
    parser.add_argument("--moses", type=Path, required=True, help="folder of MOSES")
    options = parser.parse_args()
    content = {}
    for name in ("qm9", "qm9-heavy"):
        data = read(name, options.data, "D_b")
        content[name] = tables(data.counts, data.properties)
    atoms = Counter(map(moses.heavy_atoms, moses.smiles(options.moses, "train")))
    sizes = sorted(atoms)
    content["moses-heavy"] = {"atoms": sizes, "members": [atoms[size] for size in sizes]}
    write_json(FILE, content, indent=None)


if __name__ == "__main__":
    main()
