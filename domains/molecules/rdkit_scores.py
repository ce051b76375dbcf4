"""Scores of molecules by RDKit, as black boxes: what medicinal chemists ask for first.

    qed    quantitative estimate of drug-likeness, 0 to 1 (Bickerton et al., Nat. Chem. 2012)
    logp   Wildman and Crippen's octanol-water partition, log10 (J. Chem. Inf. Comput. Sci. 1999)
    tpsa   topological polar surface area, Å² (Ertl et al., J. Med. Chem. 2000)
    sa     synthetic accessibility, 1 (easy) to 10 (Ertl and Schuffenhauer, J. Cheminform. 2009)

A wish, `qed>=0.6`, `logp=1..3`, `sa<=3` or `tpsa=40` (`intervals`), is a `PropertyCost` of such a
box, in squares of the score's scale, zero where it is met. `mine.py:score` is a function of the
user's, which is given a list of RDKit molecules and is low where the wish is met.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctrlgen import plugins
from ctrlgen.commands.run_options import file_of
from ctrlgen.costs import BlackBoxCost, Cost, PropertyCost
from ctrlgen.domains.molecules.intervals import parse_interval
from ctrlgen.domains.molecules.score_functions import score
from ctrlgen.domains.molecules.views import Molecules
from ctrlgen.extras import require
from ctrlgen.rows.errors import UnknownName
from ctrlgen.runs.fingerprint import file_digest

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["SCALES", "RDKitScore", "ScoreWish", "parse_score", "parse_scores"]

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


@dataclass(frozen=True)
class ScoreWish:
    """A score of finished molecules that is wanted in an interval, or as low as can be.

    Attributes:
        name: of its columns.
        low, high: the interval; both None for a score of the user's, low where the wish is met.
        reference: FILE.py:NAME of that one, or empty.
        digest: sha256 of its file.
    """

    name: str
    low: float | None = None
    high: float | None = None
    reference: str = ""
    digest: str = ""

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval.

        Raises:
            ValueError: for a score of the user's, which has none.
        """
        if self.low is None or self.high is None:
            raise ValueError(
                f"score: expected one of {', '.join(SCALES)} in an interval, got {self}"
            )
        return self.low, self.high

    def function(self) -> Callable[[Sequence[Mol | None]], Sequence[float | None]]:
        """A function of RDKit molecules, None among them, that returns a number or None each."""
        if self.reference:
            function: Callable[..., Any] = plugins.named_in_file(self.reference, "score")
            return function
        return RDKitScore(self.name)

    def cost(self, alphabet: str) -> Cost:
        """Of signals of an alphabet: squares of the score's scale, or the user's number itself."""
        score: Any = self.reference or self.function()
        box = BlackBoxCost(score, self.name, view=Molecules(alphabet))
        if self.low is None or self.high is None:
            return box
        return PropertyCost(box, self.low, self.high, scale=SCALES[self.name])

    def values(self, mols: Sequence[Mol | None]) -> list[float | None]:
        """The score of molecules; None where it has none, or fails."""
        function = self.function()
        try:
            found = [None if value is None else float(value) for value in function(mols)]
        except Exception:  # whatever a user's function raises
            if len(mols) == 1:
                return [None]
            return [value for mol in mols for value in self.values([mol])]
        return found if len(found) == len(mols) else [None] * len(mols)

    def met(self, value: float | None) -> bool | None:
        """Whether a value is in the interval; None where there is none to be in."""
        if self.low is None or self.high is None:
            return None
        return value is not None and self.low <= value <= self.high

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"a low {self.name}"
        if self.low == self.high:
            return f"{self.name} = {self.low:g}"
        if math.isinf(self.high):
            return f"{self.name} >= {self.low:g}"
        return (
            f"{self.name} <= {self.high:g}"
            if math.isinf(self.low)
            else (f"{self.name} = {self.low:g}..{self.high:g}")
        )


def parse_score(text: str) -> ScoreWish:
    """Read `qed>=0.6`, `logp=1..3` or `FILE.py:NAME`.

    Raises:
        ValueError: for another form, a unit or crossed bounds; for a file or a function that is
            not there.
        UnknownName: for a score that is not among `SCALES`.
    """
    file = file_of(text)
    if file is not None and file.suffix == ".py":
        plugins.named_in_file(text, "score")
        return ScoreWish(text.rpartition(":")[2], reference=text, digest=file_digest(file))
    try:
        name, low, high = parse_interval(text, "score", "NUMBER")
    except ValueError as error:
        raise ValueError(f"{error}; or FILE.py:NAME") from error
    own = RDKitScore(name.lower()).name
    if low.unit or high.unit:
        raise ValueError(f"score: expected {own} without a unit, got {text.strip()!r}")
    if low.value > high.value:
        raise ValueError(f"score: expected low <= high for {own}, got {text.strip()!r}")
    return ScoreWish(own, low.value, high.value)


def parse_scores(text: str) -> list[ScoreWish]:
    """Read wishes of RDKit's scores with commas between them, `qed>=0.8, sa<=3`.

    Raises:
        ValueError: as of `parse_score`, or a score that is asked for twice.
        UnknownName: for a score that is not among `SCALES`.
    """
    wishes = [parse_score(part) for part in text.split(",")]
    names = [wish.name for wish in wishes]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"score: expected each score once, got {name} twice in {text!r}")
    return wishes
