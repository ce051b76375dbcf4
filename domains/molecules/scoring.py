r"""What is said of generated molecules: by the guide, by an evaluator that never saw them steered.

The guide is the network whose gradient steers; its value at the result says how well the optimiser
did, not how good the molecule is. The evaluator was trained on other molecules (D_a, the guide on
D_b), is never differentiated, and always sees the complete molecule with exact elements: hydrogens
that the prior only counts are placed first. Where a molecule cannot be completed its value is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctrlgen.domains.molecules import graphs
from ctrlgen.domains.molecules.chemistry import place_hydrogens
from ctrlgen.domains.molecules.elements import ALL_ATOM, classes_of
from ctrlgen.domains.molecules.metrics import Assessment, assess
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.regressors import Types
from ctrlgen.domains.molecules.states import join, split
from ctrlgen.extras import require

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["EVALUATOR", "GUIDES", "Guide", "Scores", "evaluate", "score"]

EVALUATOR = "qm9-evaluator"
GUIDES = {"qm9": "qm9-guide", "qm9-heavy": "qm9-heavy-guide"}
"""The embedded guide of each alphabet."""

Network = Callable[[Tensor, Tensor, Tensor], Tensor]


class Guide:
    """Some properties of signals as a guide sees them, differentiable.

    Args:
        network: properties (B, 6) from positions, class weights and mask, in the order and units
            of `PROPERTIES`; a `regressors.PropertyNetwork`, or any function of these.
        names: the properties that are wanted.
        types: "straight-through", "soft" or "hard"; see `regressors.PropertyNetwork.of`.
    """

    def __init__(
        self, network: Network, names: Sequence[str], types: Types = "straight-through"
    ) -> None:
        unknown = [name for name in names if name not in PROPERTIES]
        if unknown or not names:
            raise ValueError(f"names: expected some of {', '.join(PROPERTIES)}, got {list(names)}")
        self.network, self.names, self.types = network, tuple(names), types
        self.columns = [list(PROPERTIES).index(name) for name in names]

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
        assessment: stability, validity, connectivity, uniqueness, novelty.
        guide: properties (B, 6) of the molecules as generated, exact classes; NaN without a guide.
        evaluator: properties (B, 6) of the complete molecules; NaN without an evaluator or where
            there is no complete molecule.
        formulas: of the complete molecules, in Hill's order; None where there is none.
        keys: InChIKeys of the valid ones.
    """

    mols: list[Mol | None]
    assessment: Assessment
    guide: Tensor
    evaluator: Tensor
    formulas: list[str | None]
    keys: list[str | None]


def evaluate(network: Network, mols: Sequence[Mol | None]) -> Tensor:
    """Properties (B, 6) of complete molecules by a network of the alphabet "qm9", no gradient.

    What is no molecule, or has an element outside H, C, N, O, F, is a row of NaN.
    """
    numbers, positions = graphs.arrays(mols)
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
    reference: Collection[str] | None = None,
) -> Scores:
    """Score generated molecules; no row is left out.

    Args:
        signals: shape (B, N, 3 + K).
        name: their alphabet, "qm9" or "qm9-heavy".
        guide: network of that alphabet.
        evaluator: network of the alphabet "qm9".
        reference: SMILES that are not novel; see `metrics.reference_smiles`.

    Raises:
        MissingExtra: RDKit is not installed.
    """
    chem = require("rdkit.Chem", "molecules")
    parts = split(signals.detach())
    assessment = assess(parts.positions.cpu().float(), parts.hard.cpu(), name, reference)
    with require("rdkit.rdBase", "molecules").BlockLogs():  # what fails is said in the result
        mols = assessment.mols if name == "qm9" else place_hydrogens(assessment.mols)
    none = torch.full((len(signals), len(PROPERTIES)), torch.nan)
    guided = none
    if guide is not None:
        with torch.no_grad():
            guided = Guide(guide, list(PROPERTIES), "hard")(signals).cpu()
    described = require("rdkit.Chem.rdMolDescriptors", "molecules")
    keys: list[str | None] = []
    for text in assessment.smiles:
        mol = None if text is None else chem.MolFromSmiles(text)
        keys.append(None if mol is None else chem.MolToInchiKey(mol))
    return Scores(
        mols=list(mols),
        assessment=assessment,
        guide=guided,
        evaluator=none if evaluator is None else evaluate(evaluator, mols),
        formulas=[None if mol is None else described.CalcMolFormula(mol) for mol in mols],
        keys=keys,
    )
