"""Whether molecules are what was asked for: by the guide, by the evaluator, and on the structure.

    satisfied (guide)       valid, the guide's values within the tolerance of every wanted interval,
                            composition, fragment and scaffold held
    satisfied (evaluator)   the same with the evaluator within half a mean absolute deviation of
                            QM9, its own error and that of placed hydrogens being above a tolerance
    composition             numbers of atoms of the complete molecule within their limits
    fragment                the fragment's heavy atoms and bonds are in the molecule's graph
    scaffold                the first atoms are the scaffold's, bound as there, within 0.001 Å of
                            their places, after hydrogens were placed
    score NAME              of the complete molecule; satisfied where it is in its interval
    similarity              Tanimoto coefficient of Morgan fingerprints of radius 2, 2048 bits
    shape similarity        1 − `SimilarityCost`, of positions and elements

The guide was optimised, so its verdict says how well the optimiser did; the evaluator's says more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ctrlgen.domains.molecules.atom_counts import DEVIATION
from ctrlgen.domains.molecules.costs import SimilarityCost
from ctrlgen.domains.molecules.elements import alphabet
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.rdkit import tensors
from ctrlgen.domains.molecules.requirements import Wish
from ctrlgen.domains.molecules.scoring import Scores
from ctrlgen.domains.molecules.states import join
from ctrlgen.extras import require

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["CONFIRMED", "holds", "likeness", "outside", "verdicts"]

CONFIRMED = 0.5
"""Deviations of QM9 within which the evaluator confirms a property."""


def outside(value: float, low: float, high: float) -> float:
    """Distance of a value from an interval, in its unit; NaN for NaN."""
    return math.nan if math.isnan(value) else max(value - high, low - value, 0.0)


def likeness(one: Mol, other: Mol | None) -> float | None:
    """Tanimoto coefficient of Morgan fingerprints, in [0, 1]; None without a molecule."""
    if other is None:
        return None
    chem = require("rdkit.Chem", "molecules")
    maker = require("rdkit.Chem.rdFingerprintGenerator", "molecules").GetMorganGenerator(
        radius=2, fpSize=2048
    )
    compare = require("rdkit.DataStructs", "molecules").TanimotoSimilarity
    prints = []
    for mol in (one, other):
        bare = chem.RemoveHs(mol, sanitize=False)
        if chem.SanitizeMol(bare, catchErrors=True):  # as it is, but fingerprints need its rings
            chem.FastFindRings(bare)
        prints.append(maker.GetFingerprint(bare))
    return float(compare(*prints))


def holds(mol: Mol | None, fragment: Mol) -> bool:
    """Whether a molecule has the heavy atoms and bonds of a fragment; hydrogens are open."""
    if mol is None:
        return False
    chem = require("rdkit.Chem", "molecules")
    piece = chem.RWMol(chem.RemoveHs(fragment, sanitize=False))
    for atom in piece.GetAtoms():
        atom.SetNumRadicalElectrons(0)
    return bool(mol.HasSubstructMatch(piece.GetMol()))


def verdicts(
    wish: Wish,
    name: str,
    scores: Scores,
    signals: Tensor,
    counts: Tensor,
    tolerance: float,
    traded: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Columns of a wish, one mapping per molecule; what was not asked has no column.

    Args:
        wish: what was asked.
        name: alphabet of the signals.
        scores: of the molecules.
        signals: shape (B, N, 3 + K).
        counts: atoms of each, shape (B,).
        tolerance: of the guide, in mean absolute deviations.
        traded: properties of which each molecule has its share, and none is to reach the limit.
    """
    bounds = {k: v for k, v in wish.intervals(name, counts.cpu()).items() if k not in traded}
    shapes: list[float] = []
    if wish.like is not None:
        x, classes, _ = tensors([wish.like], name)
        cost = SimilarityCost(join(x, classes, len(alphabet(name)))[0], name, types="soft")
        with torch.no_grad():
            shapes = (1 - cost(signals)).tolist()
    judged_by = {score: score.values(scores.mols) for score in wish.scores}
    rows = []
    for i, names in enumerate(scores.names):
        row: dict[str, Any] = {}
        held = names.valid
        if wish.limits:
            row["composition"] = _composed(scores.mols[i], wish)
            held &= row["composition"]
        if wish.fragment is not None:
            row["fragment"] = holds(names.mol, wish.fragment)
            held &= row["fragment"]
        if wish.scaffold is not None:
            row["scaffold"] = wish.scaffold.kept(names.mol)
            held &= row["scaffold"]
        for score, values in judged_by.items():
            row[f"score {score.name}"] = values[i]
            held &= score.met(values[i]) is not False
        if wish.like is not None:
            row["similarity"] = likeness(wish.like, names.mol)
            row["shape similarity"] = shapes[i]
        judged = {
            who: all(
                outside(float(values[i, column]), *(float(b[i]) for b in bounds[key]))
                <= bound * DEVIATION[key]
                for column, key in enumerate(PROPERTIES)
                if key in bounds
            )
            for who, values, bound in (
                ("guide", scores.guide, tolerance),
                ("evaluator", scores.evaluator, CONFIRMED),
            )
        }
        known = bool(scores.evaluator[i].isfinite().all()) or not bounds
        rows.append(
            {
                "satisfied (guide)": held and judged["guide"],
                # nothing is known of a molecule that holds all else but has no value
                "satisfied (evaluator)": held and judged["evaluator"]
                if known or not held
                else None,
                **row,
            }
        )
    return rows


def _composed(mol: Mol | None, wish: Wish) -> bool:
    """Whether the numbers of atoms of a molecule are within the limits of a wish."""
    if mol is None:
        return False
    symbols = [atom.GetSymbol() for atom in mol.GetAtoms()]
    return all(low <= symbols.count(s) <= high for s, (low, high) in wish.limits.items())
