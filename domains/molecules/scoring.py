r"""What is said of generated molecules: by the guide, by an evaluator that never saw them steered.

The guide is the network whose gradient steers; its value at the result says how well the optimiser
did, not how good the molecule is. The evaluator was trained on other molecules (D_a, the guide on
D_b), is never differentiated, and always sees the complete molecule with exact elements: hydrogens
that the prior only counts are placed first. Where a molecule cannot be completed its value is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctrlgen.domains.molecules import rdkit
from ctrlgen.domains.molecules.chemistry import place_hydrogens
from ctrlgen.domains.molecules.elements import ALL_ATOM, classes_of, described
from ctrlgen.domains.molecules.metrics import Assessment, assess
from ctrlgen.domains.molecules.novelty import TRAINING, known
from ctrlgen.domains.molecules.perception import Names, perceive
from ctrlgen.domains.molecules.perception import name as name_of
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.regressors import Types
from ctrlgen.domains.molecules.states import join, split
from ctrlgen.extras import require

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["EVALUATOR", "GUIDES", "Guide", "Scores", "evaluate", "novelty", "score"]

EVALUATOR = "qm9-evaluator"
GUIDES = {"qm9": "qm9-guide", "qm9-heavy": "qm9-heavy-guide"}
"""The embedded guide of each alphabet."""

Network = Callable[[Tensor, Tensor, Tensor], Tensor]


class Guide:
    """Some properties of signals as a guide sees them, differentiable.

    Args:
        network: properties (B, P) from positions, class weights and mask: a `regressors.Regressor`,
            or any function of these in the order and units of `PROPERTIES`.
        names: the properties that are wanted.
        types: "straight-through", "soft" or "hard"; see `regressors.PropertyNetwork.of`.
    """

    def __init__(
        self, network: Network, names: Sequence[str], types: Types = "straight-through"
    ) -> None:
        known = list(getattr(network, "names", PROPERTIES))
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise ValueError(f"names: expected some of {', '.join(known)}, got {list(names)}")
        self.network, self.names, self.types = network, tuple(names), types
        self.columns = [known.index(name) for name in names]

    def __call__(self, signal: Tensor) -> Tensor:
        """Properties (B, P) of signals (B, N, 3 + K)."""
        parts = split(signal)
        if self.types == "soft":
            weights = parts.probabilities
        elif self.types == "hard":
            weights = parts.straight_through.detach()
        else:
            weights = parts.straight_through
        found = self.network(parts.positions, weights, parts.mask)
        return torch.stack([found[:, column] for column in self.columns], 1)


@dataclass(frozen=True)
class Scores:
    """What is known of some molecules, one entry each.

    Attributes:
        mols: complete molecules with all hydrogens; None where that cannot be.
        names: what they are called, and why they are not valid.
        formulas: of the complete molecules, in Hill's order; None where there is none.
        novel: by table, "D_b" (what the embedded priors were trained on) and "QM9", whether no
            molecule of it has this skeleton; None where there is no name. Empty for drug-like ones.
        assessment: stability and validity by EDM's table.
        guide: properties (B, 6) of the molecules as generated, exact classes; NaN without a guide.
        evaluator: properties (B, 6) of the complete molecules; NaN without an evaluator or where
            there is no complete molecule.
    """

    mols: list[Mol | None]
    names: list[Names]
    formulas: list[str | None]
    novel: dict[str, list[bool | None]]
    assessment: Assessment
    guide: Tensor
    evaluator: Tensor

    @property
    def valid(self) -> Tensor:
        """Valid for a chemist, see `perception`; bool, shape (B,)."""
        return torch.tensor([name.valid for name in self.names], dtype=torch.bool)

    def summary(self) -> dict[str, float | int]:
        """Shares over all molecules: EDM's metrics with "edm_" before their names, then those of
        the molecules that are there: valid, valid and distinct, and of these new to each table.
        """
        total = len(self.names)
        first: dict[str, int] = {}
        for row, name in enumerate(self.names):
            if name.valid and name.skeleton:
                first.setdefault(name.skeleton, row)
        shares: dict[str, float | int] = {
            key if key in ("samples", "atoms") else f"edm_{key}": value
            for key, value in self.assessment.summary().items()
        }
        shares |= {"valid": int(self.valid.sum()) / total, "valid_unique": len(first) / total}
        for table, flags in self.novel.items():
            shares[f"novel_{table}"] = sum(bool(flags[row]) for row in first.values()) / total
        return shares


def evaluate(network: Network, mols: Sequence[Mol | None]) -> Tensor:
    """Properties (B, 6) of complete molecules by a network of the alphabet "qm9", no gradient.

    What is no molecule, or has an element outside H, C, N, O, F, is a row of NaN.
    """
    numbers, positions = rdkit.arrays(mols)
    weight = (
        next(iter(network.parameters()), None) if isinstance(network, torch.nn.Module) else None
    )
    found = torch.full((len(mols), len(PROPERTIES)), torch.nan)
    rows = (numbers > 0).any(1).nonzero().flatten()
    if len(rows):
        signal = join(positions[rows], classes_of(numbers[rows]), len(ALL_ATOM))
        signal = signal if weight is None else signal.to(weight)
        with torch.no_grad():
            for part in torch.arange(len(rows)).split(256):
                own = split(signal[part])
                values = network(own.positions, own.classes, own.mask)
                found[rows[part]] = values.to(found)
    return found


def score(
    signals: Tensor,
    name: str,
    *,
    guide: Network | None = None,
    evaluator: Network | None = None,
    mols: Sequence[Mol] | None = None,
) -> Scores:
    """Score molecules; no row is left out.

    Args:
        signals: shape (B, N, 3 + K).
        name: their alphabet.
        guide: network of that alphabet.
        evaluator: network of the alphabet "qm9".
        mols: the molecules of the signals where they are known, with all hydrogens: their bonds,
            charges and marks are kept.

    Raises:
        MissingExtra: RDKit is not installed.
    """
    parts = split(signals.detach())
    x, classes = parts.positions.cpu().float(), parts.hard.cpu()
    assessment = assess(x, classes, name)
    none = torch.full((len(signals), len(PROPERTIES)), torch.nan)
    guided = none
    if guide is not None:
        with torch.no_grad():
            guided = Guide(guide, list(PROPERTIES), "hard")(signals).cpu()
    if mols is None:
        whole, names = _perceived(x, classes, name, assessment)
    else:
        whole, names = list(mols), name_of(mols, stereo=False)
    whole = [own.mol or mol for own, mol in zip(names, whole, strict=True)]  # with stereo marks
    descriptors = require("rdkit.Chem.rdMolDescriptors", "molecules")
    return Scores(
        mols=whole,
        names=names,
        formulas=[None if mol is None else descriptors.CalcMolFormula(mol) for mol in whole],
        novel=novelty(names) if described(name).properties else {},
        assessment=assessment,
        guide=guided,
        evaluator=none if evaluator is None else evaluate(evaluator, whole),
    )


def _perceived(
    x: Tensor, classes: Tensor, name: str, assessment: Assessment
) -> tuple[list[Mol | None], list[Names]]:
    """Complete molecules and their names; where no bond orders fit, EDM's graph and no name."""
    perceived = perceive(x, classes, name)
    graphs_of = [mol or bare for mol, bare in zip(perceived, assessment.mols, strict=True)]
    whole = graphs_of if name == "qm9" else place_hydrogens(graphs_of)
    named = name_of([mol and done for mol, done in zip(perceived, whole, strict=True)])
    finite = assessment.finite.tolist()
    unsolved = Names(error="no bond orders fit the valences of its atoms")
    lost = Names(error="positions are not finite")
    return whole, [
        own if mol is not None else unsolved if there else lost
        for own, mol, there in zip(named, perceived, finite, strict=True)
    ]


def novelty(names: Sequence[Names]) -> dict[str, list[bool | None]]:
    """Whether molecules are new to D_b and to all of QM9; None for one without a name."""
    table = known()
    return {
        label: [None if n.skeleton is None else not table.holds(n.skeleton, part) for n in names]
        for label, part in ((TRAINING, TRAINING), ("QM9", None))
    }
