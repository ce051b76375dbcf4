r"""Properties that are traded off: what a front of molecules is, in words and as costs.

    ctrlgen molecule generate --pareto gap,-mu -n 32        gap large against mu small

Every property has a limit l, as `--maximise` has: what QM9 has at that size, beyond which no guide
is to be trusted. Its cost is φ((f − l)/MAD), smooth-l1 (`costs.property`), and molecule i of n
descends along its own direction of an even fan between all limits (`costs.pareto`):

    C_i(x) = τ log Σ_k exp(w_ik φ_k(x)/τ) + ρ Σ_k w_ik φ_k(x)      (`costs.chebyshev`)

What comes out is judged by values −±f/MAD, low where good, and by their hypervolume up to a
reference: the least that QM9 has of every property, its 0.5 % (or 99.5 %) quantile over all sizes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ctrlgen.costs import ChebyshevCost, Cost, PropertyCost
from ctrlgen.costs.pareto import directions, weights_of
from ctrlgen.domains.molecules.atom_counts import DEVIATION, Sizes
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.requirements import Wish, parse_extreme
from ctrlgen.domains.molecules.scoring import Guide, Network
from ctrlgen.rows.errors import concerning

__all__ = ["Front", "check_alone", "extremes"]

_SMOOTHING = 0.05
_COMMON = 100  # molecules of a size from which quantiles say something


def _words(text: str) -> list[tuple[str, bool]]:
    """The properties of `gap=9eV,-mu`, each with its limit as text, and whether it is large.

    Raises:
        ValueError: not two or three, one of them twice, unknown, or a wrong unit.
    """
    words = [word.strip() for word in text.split(",")]
    if not 2 <= len(words) <= 3:
        raise ValueError(
            f"pareto: expected two or three properties with commas between, such as gap,-mu, "
            f"got {len(words)}: {text!r}"
        )
    front, names = [], set[str]()
    for word in words:
        own = word.removeprefix("-").removeprefix("+").strip()
        with concerning("pareto"):
            name, _ = parse_extreme(own)
        if name in names:
            raise ValueError(f"pareto: expected different properties, got {name} twice")
        names.add(name)
        front.append((own, not word.startswith("-")))
    return front


def extremes(text: str) -> tuple[list[str], list[str]]:
    """What `--maximise` and `--minimise` would be told of the properties of a front.

    Raises:
        ValueError: not two or three, one of them twice, unknown, or a wrong unit.
    """
    words = _words(text)
    return [w for w, large in words if large], [w for w, large in words if not large]


def check_alone(text: str, asked: Sequence[str]) -> None:
    """Refuse a property of a front that is asked for by itself, too.

    Args:
        text: of the front.
        asked: words of other options that begin with the name of a property.

    Raises:
        ValueError: the first of them, or a front that cannot be read.
    """
    names = Front.of(text).names
    for word in asked:
        if (name := re.split(r"\W", word.strip())[0]) in names:
            raise ValueError(
                f"pareto: {name} is traded off and cannot be asked for by itself, got {word!r} too"
            )


@dataclass(frozen=True)
class Front:
    """Properties that are traded off against one another.

    Attributes:
        names: two or three.
        large: whether each is to be large; small otherwise.
    """

    names: tuple[str, ...]
    large: tuple[bool, ...]

    @classmethod
    def of(cls, text: str) -> Front:
        """The front of `gap,-mu`; raises ValueError as `extremes`."""
        words = _words(text)
        return cls(tuple(parse_extreme(w)[0] for w, _ in words), tuple(large for _, large in words))

    def __str__(self) -> str:
        pairs = zip(self.names, self.large, strict=True)
        return " against ".join(f"{name} {'large' if large else 'small'}" for name, large in pairs)

    def about(self, table: Sizes, steps: int) -> dict[str, Any]:
        """The front as a manifest holds it, and where it begins to count.

        Args:
            table: of the sizes that molecules may have.
            steps: midpoint steps of the flow, of which its draws take two evaluations each.
        """
        return {
            "properties": list(self.names),
            "large": list(self.large),
            "reference": self.reference(table),
            "steps": steps,
        }

    @property
    def columns(self) -> list[int]:
        """Places of the properties in `PROPERTIES`."""
        return [list(PROPERTIES).index(name) for name in self.names]

    def costs(self, values: Tensor) -> Tensor:
        """Property values (*, K) as costs, low where good, in mean absolute deviations."""
        signs = torch.tensor([-1.0 if large else 1.0 for large in self.large])
        scale = torch.tensor([DEVIATION[name] for name in self.names])
        return values * (signs / scale).to(values)

    def reference(self, table: Sizes) -> list[float]:
        """What QM9 has least of, in the package's units: where a front begins to count."""
        common = table.members >= min(_COMMON, int(table.members.max()))
        ends = [table.ranges[name][common] for name in self.names]
        return [
            float(end[:, 0].min() if large else end[:, 1].max())
            for end, large in zip(ends, self.large, strict=True)
        ]

    def weights(self, number: int) -> Tensor:
        """Weights of as many directions, one row each, shape (number, K)."""
        return weights_of(directions(len(self.names), number))

    def limits(self, wish: Wish, name: str, counts: Tensor) -> Tensor:
        """The limits of molecules of some sizes, shape (b, K)."""
        bounds = wish.intervals(name, counts)
        return torch.stack([bounds[key][0] for key in self.names], 1)

    def cost(
        self, wish: Wish, network: Network, name: str, counts: Tensor, weights: Tensor, types: str
    ) -> ChebyshevCost:
        """The cost of the front alone.

        Args:
            wish: that has its properties and their limits.
            network: the guide.
            name: alphabet.
            counts: atoms of each molecule, shape (b,).
            weights: of each, shape (b, K).
            types: how classes are read; see `scoring.Guide`.
        """
        limits = self.limits(wish, name, counts)
        terms = PropertyCost(
            Guide(network, self.names, types),  # type: ignore[arg-type]
            limits, limits, scale=[DEVIATION[key] for key in self.names], form="smooth-l1",
        )  # fmt: skip
        return ChebyshevCost(terms, weights, smoothing=_SMOOTHING)

    def others(self, wish: Wish) -> Wish | None:
        """What a wish asks beside the front; None where that is nothing."""
        largest = {k: v for k, v in wish.largest.items() if k not in self.names}
        smallest = {k: v for k, v in wish.smallest.items() if k not in self.names}
        asked = (wish.requests, largest, smallest, wish.limits, wish.fragment, wish.like)
        if not any(part is not None and part != {} and part != () for part in asked):
            return None
        return replace(wish, largest=largest, smallest=smallest)

    def whole_cost(
        self, wish: Wish, network: Network, name: str, counts: Tensor, weights: Tensor, types: str
    ) -> Cost:
        """The cost of the front with everything else that is asked; as `cost`."""
        own: Cost = self.cost(wish, network, name, counts, weights, types)
        others = self.others(wish)
        return own if others is None else own + others.cost(network, name, counts, types)
