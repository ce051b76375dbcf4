"""Scores of molecules by RDKit, as black boxes: what medicinal chemists ask for first.

    qed    quantitative estimate of drug-likeness, 0 to 1 (Bickerton et al., Nat. Chem. 2012)
    logp   Wildman and Crippen's octanol-water partition, log10 (J. Chem. Inf. Comput. Sci. 1999)
    tpsa   topological polar surface area, Å² (Ertl et al., J. Med. Chem. 2000)
    sa     synthetic accessibility, 1 (easy) to 10 (Ertl and Schuffenhauer, J. Cheminform. 2009)

A wish, `qed>=0.6`, `logp=1..3`, `sa<=3` or `tpsa=40`, is a `PropertyCost` of such a box, in squares
of the score's scale, zero where it is met.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctrlgen.costs import BlackBoxCost, PropertyCost
from ctrlgen.domains.molecules.score_functions import score
from ctrlgen.domains.molecules.views import Molecules
from ctrlgen.extras import require
from ctrlgen.rows.errors import UnknownName

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["SCALES", "RDKitScore", "wished"]

SCALES = {"qed": 0.1, "logp": 1.0, "tpsa": 20.0, "sa": 1.0}
"""The scores by name, and the error of each that counts as one."""


@dataclass(frozen=True)
class RDKitScore:
    """A score of molecules in one piece; None for what is none.

    Args:
        name: one of `SCALES`.

    Raises:
        UnknownName: for another one.
        MissingExtra: when it is called and RDKit is not installed.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in SCALES:
            raise UnknownName("score", self.name, SCALES)

    def __call__(self, mols: Sequence[Mol | None]) -> list[float | None]:
        require("rdkit", "molecules")
        from rdkit import Chem

        function, found = score(self.name), list[float | None]()
        for mol in mols:
            whole = mol is not None and len(Chem.GetMolFrags(mol)) == 1
            found.append(float(function(Chem.RemoveHs(mol))) if whole else None)
        return found


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"
_WISH = re.compile(
    rf"\s*([a-z]+)\s*(?:(>=|<=)\s*({_NUMBER})|=\s*({_NUMBER})(?:\.\.({_NUMBER}))?)\s*",
    re.IGNORECASE,
)


def wished(text: str, alphabet: str) -> PropertyCost:
    """The cost of a wish, of signals of an alphabet.

    Raises:
        ValueError: for another form.
        UnknownName: for a score that is not among `SCALES`.
    """
    match = _WISH.fullmatch(text)
    if match is None:
        raise ValueError(
            "score: expected FILE.py:NAME, NAME>=NUMBER, NAME<=NUMBER, NAME=NUMBER or "
            f"NAME=LOW..HIGH, got {text!r}"
        )
    name, sign, bound, low, high = match.groups()
    score = RDKitScore(name.lower())
    box = BlackBoxCost(score, score.name, view=Molecules(alphabet))
    limits = (float(low), float(high or low)) if sign is None else (float(bound), math.inf)
    if sign == "<=":
        limits = (-math.inf, float(bound))
    return PropertyCost(box, *limits, scale=SCALES[score.name])
