r"""Property regressors: one invariant network for all six properties of QM9.

The geometric transformer of `layers` on atoms with class weights p_i (K numbers, one-hot for real
molecules) feeds, with h_i, V_i the features of an atom and c = Σ_i p_i the composition,

    alpha, Cv     b·c + b_0 + Σ_i f(h_i)                     sums of atoms
    HOMO, LUMO    b·c + b_0 + Linear(Σ_i softmax_i(a·h_i) h_i)
    gap           LUMO - HOMO + Linear(...)                  so the three do not contradict
    mu            |Σ_i q_i x_i + w·V_i|,  Σ_i q_i = 0        a vector, safe under translation

in units of the mean absolute deviation; the baseline b, b_0 is least squares, fitted first. (Heads
as in Schütt et al. 2021, PaiNN; the composition alone predicts alpha to 2.2 Bohr³.) Training
minimises the mean absolute error in these units over the six. A guide, which is differentiated, is
trained with noise on the positions and soft classes, so that it is smooth off the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctrlgen.domains.molecules.layers import RowLinear, Trunk, centred, in_eights
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.states import Parts
from ctrlgen.plugins import cards
from ctrlgen.priors.cards import Card
from ctrlgen.priors.factories import network_of
from ctrlgen.rows.checks import check_sizes

__all__ = [
    "BASED",
    "NAMES",
    "PropertyNetwork",
    "Regressor",
    "Types",
    "build",
    "composition_baseline",
    "load_regressor",
]

Types = Literal["straight-through", "soft", "hard"]

_BUILDERS = tuple(
    f"ctrlgen.domains.molecules.{name}:build" for name in ("regressors", "score_networks")
)

NAMES = tuple(PROPERTIES)
BASED = [NAMES.index(name) for name in ("alpha", "cv", "homo", "lumo")]
"""Columns of the properties that have a baseline by composition."""


class Regressor(nn.Module):
    """Properties of molecules by an invariant network: scales, checks and signature of all of them.

    Args:
        names: of the properties, P of them.
        based: those with a baseline by composition.
        classes: K.
        mean: of each property, in its unit, length P.
        deviation: mean absolute deviation of each property, length P.
        baseline: rows of (b, b_0), K + 1 numbers in units of the deviation, for each of `based`;
            None for zeros.
        **trunk: keywords of `Trunk`.
    """

    mean: Tensor
    deviation: Tensor
    baseline: Tensor
    head_score: nn.Linear

    def __init__(
        self,
        names: Sequence[str],
        based: Sequence[str],
        classes: int,
        mean: Sequence[float],
        deviation: Sequence[float],
        baseline: Sequence[Sequence[float]] | None = None,
        **trunk: Any,
    ) -> None:
        super().__init__()
        check_sizes(classes=classes)
        if len(mean) != len(names) or len(deviation) != len(names):
            raise ValueError(
                f"mean, deviation: expected {len(names)}, got {len(mean)}, {len(deviation)}"
            )
        self.names, self.classes = tuple(names), classes
        known = torch.tensor(baseline or [[0.0] * (classes + 1)] * len(based), dtype=torch.float64)
        if known.shape != (len(based), classes + 1):
            raise ValueError(
                f"baseline: expected shape ({len(based)}, {classes + 1}), got {known.shape}"
            )
        # Exact numbers of the card, never rounded with the weights.
        for name, value in (("mean", mean), ("deviation", deviation), ("baseline", known)):
            kept = torch.as_tensor(value, dtype=torch.float64).float()
            self.register_buffer(name, kept, persistent=False)
        self.trunk = Trunk(classes, **{"reach": 12.0, **trunk})
        self.stem_composition = RowLinear(classes, self.trunk.width)

    def forward(self, positions: Tensor, classes: Tensor, mask: Tensor) -> Tensor:
        """Properties, shape (B, P).

        Args:
            positions: Angstrom, shape (B, N, 3); anything at the padding.
            classes: weights of the classes, shape (B, N, K).
            mask: atoms that exist, bool, shape (B, N).

        Raises:
            ValueError: a shape is wrong.
        """
        if classes.shape != (*mask.shape, self.classes) or positions.shape != (*mask.shape, 3):
            raise ValueError(
                f"expected positions (B, N, 3), classes (B, N, {self.classes}) and mask (B, N), "
                f"got {tuple(positions.shape)}, {tuple(classes.shape)} and {tuple(mask.shape)}"
            )
        rows = len(mask)
        if not self.training:
            positions, classes, mask = in_eights(positions, classes, mask)
        return (self.mean + self.deviation * self.scaled(positions, classes, mask))[:rows]

    def atoms(
        self, positions: Tensor, classes: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Centred positions (B, N, 3), features (B, N, C), vectors (B, N, 3, M) of the atoms, and
        what the composition alone says of the properties with a baseline, shape (B, based).
        """
        x, p = centred(positions, mask), torch.where(mask.unsqueeze(2), classes, 0)
        composition = p.sum(1)
        condition = F.silu(self.stem_composition(composition / 10))
        h, v, _ = self.trunk(p, x, condition, mask)
        slope, constant = self.baseline[:, :-1], self.baseline[:, -1]
        with torch.autocast(x.device.type, enabled=False):
            base = (composition.unsqueeze(1) * slope).sum(2) + constant
        return x, F.layer_norm(h, h.shape[2:]), v, base

    def pooled(self, h: Tensor, kept: Tensor, dtype: torch.dtype) -> Tensor:
        """Averages of the atoms, weighed by attention, one for each score, shape (B, S C)."""
        scores = self.head_score(h).to(dtype).masked_fill(~kept, -torch.inf).softmax(1)
        return torch.einsum("bns,bnc->bsc", scores, h.to(dtype)).flatten(1)

    def scaled(self, positions: Tensor, classes: Tensor, mask: Tensor) -> Tensor:
        """(property - mean)/deviation, shape (B, P); arguments as of `forward`."""
        raise NotImplementedError

    def of(self, parts: Parts, types: Types = "straight-through") -> Tensor:
        """Properties (B, P) of a signal that was taken apart by `states.split`.

        Args:
            parts: positions, classes, mask.
            types: what the network sees of the classes: "hard" one-hot ones without gradient,
                "straight-through" one-hot ones with the gradient of the probabilities, or "soft"
                probabilities.

        Raises:
            ValueError: an unknown kind of types.
        """
        return self(parts.positions, self.read_as(parts, types), parts.mask)

    def read_as(self, parts: Parts, types: Types) -> Tensor:
        """Weights of the classes (B, N, K) as a kind of types has them; see `of`."""
        if types not in ("straight-through", "soft", "hard"):
            raise ValueError(f"types: expected 'straight-through', 'soft' or 'hard', got {types!r}")
        classes = parts.probabilities if types == "soft" else parts.straight_through
        return classes.detach() if types == "hard" else classes


class PropertyNetwork(Regressor):
    """Six properties of molecules, in the units of `PROPERTIES` and in their order.

    Args:
        classes: K.
        mean: of each property, in its unit, length 6.
        deviation: mean absolute deviation of each property, length 6.
        baseline: rows of (b, b_0), K + 1 numbers in units of the deviation, for alpha, cv, homo and
            lumo; None for zeros.
        **trunk: keywords of `Trunk`.
    """

    def __init__(
        self,
        classes: int,
        mean: Sequence[float],
        deviation: Sequence[float],
        baseline: Sequence[Sequence[float]] | None = None,
        **trunk: Any,
    ) -> None:
        based = [NAMES[column] for column in BASED]
        super().__init__(NAMES, based, classes, mean, deviation, baseline, **trunk)
        width = self.trunk.width
        self.head_atom = nn.Sequential(
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3)
        )  # alpha, cv, charge
        self.head_vector = nn.Linear(self.trunk.vectors, 1, bias=False)
        self.head_score = nn.Linear(width, 3)
        self.head_orbital = nn.Sequential(
            RowLinear(3 * width, width), nn.SiLU(), RowLinear(width, 3)
        )  # homo, lumo, residual of the gap

    def scaled(self, positions: Tensor, classes: Tensor, mask: Tensor) -> Tensor:
        """(property - mean)/deviation, shape (B, 6); arguments as of `forward`."""
        kept = mask.unsqueeze(2)
        x, h, v, base = self.atoms(positions, classes, mask)
        atoms = torch.where(kept, self.head_atom(h).to(x.dtype), 0)
        sums = atoms[..., :2].sum(1)
        charge = atoms[..., 2:] - atoms[..., 2:].sum(1, keepdim=True) / kept.sum(1, keepdim=True)
        vectors = self.head_vector(v).to(x.dtype).squeeze(3)
        dipole = torch.where(kept, charge * x + vectors, 0).sum(1)
        length = (dipole.square().sum(1) + 1e-6).sqrt()

        orbital = self.head_orbital(self.pooled(h, kept, x.dtype)).to(x.dtype)

        alpha, cv = base[:, 0] + sums[:, 0], base[:, 1] + sums[:, 1]
        homo, lumo = base[:, 2] + orbital[:, 0], base[:, 3] + orbital[:, 1]
        energy = self.mean[2:4] + self.deviation[2:4] * torch.stack((homo, lumo), dim=1)
        gap = (energy[:, 1] - energy[:, 0] - self.mean[1]) / self.deviation[1] + orbital[:, 2]
        mu = (length - self.mean[4]) / self.deviation[4]
        return torch.stack((alpha, gap, homo, lumo, mu, cv), dim=1)

    def features(self, parts: Parts, types: Types = "straight-through") -> Tensor:
        """What the last layers of the heads read of a signal, shape (B, 2C); see `uncertainty`.

        The hidden units of the atoms' head, summed over the atoms, and of the orbitals' head.
        """
        rows, inputs = len(parts.mask), (parts.positions, self.read_as(parts, types), parts.mask)
        positions, classes, mask = inputs if self.training else in_eights(*inputs)
        kept = mask.unsqueeze(2)
        x, h, _, _ = self.atoms(positions, classes, mask)
        atoms = torch.where(kept, self.head_atom[:2](h).to(x.dtype), 0).sum(1)
        orbital = self.head_orbital[:2](self.pooled(h, kept, x.dtype)).to(x.dtype)
        return torch.cat((atoms, orbital), 1)[:rows]


def build(**options: Any) -> PropertyNetwork:
    """Construct a regressor from the configuration of its card."""
    return PropertyNetwork(**options)


def load_regressor(
    name: str, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Regressor:
    """An embedded regressor: "qm9-evaluator", "qm9-guide", "qm9-heavy-guide" or
    "moses-heavy-guide".

    It is in evaluation mode and its parameters need no gradient.

    Raises:
        ValueError: no card of a regressor has this name.
    """
    known = cards()
    card = Card.read(known[name]) if name in known else None
    if card is None or card.factory not in _BUILDERS:
        raise ValueError(f"name: expected a property regressor such as 'qm9-guide', got {name!r}")
    network: Regressor = network_of(card, known[name].parent)  # type: ignore[assignment]
    return network.to(device, dtype).eval().requires_grad_(False)


def composition_baseline(counts: Tensor, targets: Tensor) -> Tensor:
    """Least squares (b, b_0) of targets (N, P) in the composition (N, K), shape (P, K + 1)."""
    design = torch.cat((counts, torch.ones(len(counts), 1)), dim=1).double()
    # A ridge of one molecule in a million: a class that is absent gets no weight.
    gram = design.T @ design + 1e-6 * len(counts) * torch.eye(design.shape[1]).double()
    return torch.linalg.solve(gram, design.T @ targets.double()).T
