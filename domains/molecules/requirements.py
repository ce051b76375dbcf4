r"""What is asked of molecules: properties, composition, a piece to hold, a molecule to be like.

A wish becomes one cost of signals,

    C = Σ_p w_p φ(e_p/MAD_p) + composition + fragment + w_s similarity,

and a table of sizes from which numbers of atoms are drawn, with warnings (`sizing`). A scaffold is
no cost: it is part of the prior (`scaffolds`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctrlgen.costs import Cost, FunctionCost, PropertyCost
from ctrlgen.costs.property import Form
from ctrlgen.domains.molecules.atom_counts import DEVIATION, Sizes, sizes
from ctrlgen.domains.molecules.composition import CompositionCost, Interval
from ctrlgen.domains.molecules.costs import FragmentCost, SimilarityCost, allowed_classes
from ctrlgen.domains.molecules.elements import alphabet, described
from ctrlgen.domains.molecules.properties import PROPERTIES, Request, parse_request
from ctrlgen.domains.molecules.rdkit import tensors
from ctrlgen.domains.molecules.rdkit_scores import ScoreWish
from ctrlgen.domains.molecules.scoring import Guide, Network
from ctrlgen.domains.molecules.sizing import fitting, heavy_atoms
from ctrlgen.domains.molecules.states import join

if TYPE_CHECKING:
    from rdkit.Chem import Mol

    from ctrlgen.domains.molecules.scaffolds import Scaffold

__all__ = ["Wish", "parse_atoms", "parse_extreme"]


def parse_atoms(text: str | None, name: str) -> range:
    """Numbers of atoms as in "18" or "15..20"; all of the alphabet when None.

    Raises:
        ValueError: no number, or one that the alphabet does not have.
    """
    own = described(name)
    least, most = own.least, own.most
    kind = "atoms, hydrogens included," if name == "qm9" else "heavy atoms"
    if text is None:
        return range(least, most + 1)
    ends = text.split("..")
    try:
        numbers = [int(end) for end in ends]
    except ValueError as error:
        raise ValueError(f"atoms: expected N or LOW..HIGH, got {text!r}") from error
    low, high = numbers[0], numbers[-1]
    if len(numbers) > 2 or not least <= low <= high <= most:
        raise ValueError(f"atoms: expected {least} to {most} {kind} for {name!r}, got {text!r}")
    return range(low, high + 1)


def parse_extreme(text: str) -> tuple[str, float | None]:
    """A property to maximise or minimise: its name, or NAME=VALUE UNIT for its trust limit.

    Raises:
        ValueError: unknown property, a range, or a wrong unit.
    """
    if "=" not in text:
        if text not in PROPERTIES:
            raise ValueError(f"expected a property, {', '.join(PROPERTIES)}, got {text!r}")
        return text, None
    request = parse_request(text)
    if not request.is_target:
        raise ValueError(f"{request.name}: expected one trust limit, got {text!r}")
    return request.name, request.low


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What molecules should be like.

    Attributes:
        requests: properties in intervals.
        largest, smallest: properties to make large or small, with a trust limit in the package's
            unit; None for the 99.5 % (or 0.5 %) quantile of QM9's molecules of the same size.
        weights: w_p by property, 1 by default.
        limits: (least, most) atoms by element.
        fragment: a molecule whose heavy atoms every result is to hold.
        scaffold: atoms that every result holds at their places.
        like: a molecule that results are to resemble.
        scores: of finished molecules, without a gradient: draws and starts are chosen by them.
        resemblance: w_s.
        form: φ, "squared" or "smooth-l1".
        far: allow targets more than five deviations off the data.

    Raises:
        ValueError: nothing is asked, a property twice, a weight for none that is asked, or a
            fragment beside a scaffold.
    """

    requests: tuple[Request, ...] = ()
    largest: Mapping[str, float | None] = field(default_factory=dict)
    smallest: Mapping[str, float | None] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, Interval] = field(default_factory=dict)
    fragment: Mol | None = None
    scaffold: Scaffold | None = None
    like: Mol | None = None
    scores: tuple[ScoreWish, ...] = ()
    resemblance: float = 1.0
    form: Form = "squared"
    far: bool = False

    def __post_init__(self) -> None:
        names = [*(r.name for r in self.requests), *self.largest, *self.smallest]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"property: expected each once, got {', '.join(twice)} twice")
        if self.scaffold is not None and self.fragment is not None:
            raise ValueError("scaffold: expected no fragment beside it: it is held in any case")
        scores = [score.name for score in self.scores]
        if len(set(scores)) < len(scores):
            raise ValueError(f"score: expected each once, got {', '.join(scores)}")
        pieces = (self.fragment, self.scaffold, self.like)
        if not (names or self.limits or scores or any(part is not None for part in pieces)):
            raise ValueError("property: nothing is asked for; add e.g. --property gap=6.8eV")
        for name, weight in self.weights.items():
            if name not in names:
                raise ValueError(f"weight: {name!r} is not among the properties that are asked")
            if not weight > 0:
                raise ValueError(f"weight: expected a positive number for {name}, got {weight}")

    @property
    def names(self) -> tuple[str, ...]:
        """The properties that matter, requests first."""
        return (*(r.name for r in self.requests), *self.largest, *self.smallest)

    @property
    def aims(self) -> bool:
        """Whether a part of the cost alone says that a molecule is done; see `aim`."""
        pieces = (self.fragment, self.scaffold, self.like)
        return bool(self.scores) or any(part is not None for part in pieces)

    def sizes(self, name: str, atoms: Sequence[int]) -> tuple[Sizes, list[str]]:
        """The table of sizes for the wish, and what speaks against it; see `sizing`."""
        return fitting(self, name, atoms)

    def intervals(self, name: str, counts: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Wanted interval of each property for molecules of some sizes, shape (b,) each."""
        one = torch.ones(len(counts), dtype=torch.float64)
        found = {r.name: (one * r.low, one * r.high) for r in self.requests}
        for largest, group in ((True, self.largest), (False, self.smallest)):
            for key, limit in group.items():
                own = sizes(name).limits(key, counts, largest) if limit is None else one * limit
                found[key] = (own, own)
        return found

    def aim(self, network: Network | None, name: str, counts: Tensor) -> Cost | None:
        """What says that a molecule is done, at most the square of the tolerance then.

        The cost of properties and composition, classes as they are, and one for a fragment that is
        not held; None where neither is asked. A likeness is never met to the last digit.
        """
        parts: list[Cost] = []
        if self.names or self.limits:
            parts.append(replace(self, fragment=None, like=None).cost(network, name, counts))
        if self.fragment is not None:
            held = self._fragment_cost(name).held
            parts.append(FunctionCost(lambda x: (~held(x)).to(x.dtype)))
        return sum(parts[1:], parts[0]) if parts else None

    def _fragment_cost(self, name: str) -> FragmentCost:
        """The cost of a fragment, by its heavy atoms."""
        assert self.fragment is not None
        drawn = heavy_atoms(self.fragment)
        place = self.fragment.GetConformer().GetPositions()
        rows = [a.GetIdx() for a in self.fragment.GetAtoms() if a.GetAtomicNum() > 1]
        return FragmentCost(torch.from_numpy(place[rows]).float(), allowed_classes(drawn, name))

    def cost(
        self, network: Network | None, name: str, counts: Tensor, types: str = "straight-through"
    ) -> Cost:
        """The cost of molecules of some sizes.

        Args:
            network: the guide; needed where a property is asked.
            name: alphabet.
            counts: atoms of each molecule, shape (b,).
            types: how classes are read; see `scoring.Guide` and `composition`.

        Raises:
            ValueError: no guide for a property.
        """
        parts: list[Cost] = []
        bounds = self.intervals(name, counts)
        extremes = (*self.largest, *self.smallest)
        groups: list[tuple[tuple[str, ...], Form]] = [
            (tuple(r.name for r in self.requests), self.form), (extremes, "smooth-l1")
        ]  # fmt: skip
        for group, form in groups:
            if not group:
                continue
            if network is None:
                raise ValueError(f"guide: needed for {', '.join(group)}, got none")
            low, high = (torch.stack([bounds[key][i] for key in group], 1) for i in (0, 1))
            scale = [DEVIATION[key] for key in group]
            weights = [self.weights.get(key, 1.0) for key in group]
            guide = Guide(network, group, types)  # type: ignore[arg-type]
            parts.append(PropertyCost(guide, low, high, scale=scale, weights=weights, form=form))
        weights_of = "soft" if types == "soft" else "straight-through"
        if self.limits:
            parts.append(CompositionCost(self.limits, name, weights_of))  # type: ignore[arg-type]
        if self.fragment is not None:
            parts.append(self._fragment_cost(name))
        if self.like is not None:
            x, classes, _ = tensors([self.like], name)
            reference = join(x, classes, len(alphabet(name)))[0]
            parts.append(SimilarityCost(reference, name) * self.resemblance)
        if not parts:  # a scaffold or scores alone: nothing that has a gradient
            parts.append(FunctionCost(lambda x: 0 * x.flatten(1).sum(1)))
        return sum(parts[1:], parts[0])
