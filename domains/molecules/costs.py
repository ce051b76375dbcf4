r"""Costs of the geometry of molecules: a piece that they hold, a molecule to be like, valences.

Signals are those of `states`: positions x_i in Angstrom and class weights, from which p_i are the
probabilities of the classes and q_i = p_i T those of the elements (`composition`).

    fragment      w_x/m Σ_k |R(x_k − x̄) − (y_k − ȳ)|² + w_p Σ_k (1 − Σ_{c allowed at k} p_kc)²
    similarity    1 − cos(D(x), D(x*)),   D_abr = Σ_{i≠j} q_ia q_jb exp(−(|x_i − x_j| − r)²/2s²)
    valence       Σ_i max(|Σ_{j≠i} Σ_o σ((t_o − |x_i − x_j|)/s) − v_i| − m, 0)²

R is the rotation of Kabsch (Acta Cryst. A32, 922, 1976), proper: det R = +1, so the mirror image of
a fragment is not the fragment. It minimises the sum, so the gradient treats it as constant. D is
the same for a rotated, translated or renumbered molecule, and compares molecules of any size. t_o
are the distances of the bond table (`bonds`) under which the order of a bond counts one more, v_i
the valence of an atom, less the hydrogens of its class: a stable molecule costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ctrlgen.domains.molecules.bonds import thresholds
from ctrlgen.domains.molecules.composition import (
    ClassCost,
    Weights,
    check_element,
    element_table,
)
from ctrlgen.domains.molecules.elements import NUMBERS, VALENCE, alphabet, check_qm9
from ctrlgen.domains.molecules.states import split
from ctrlgen.rows.checks import check_precision
from ctrlgen.rows.constants import follow

__all__ = ["HELD", "FragmentCost", "SimilarityCost", "ValenceCost", "allowed_classes", "rotation"]

HELD = 0.3
"""Root mean square distance in Angstrom within which a fragment is held."""


class FragmentCost(ClassCost):
    """The first atoms of a molecule are a given fragment, wherever it lies and however turned.

    Args:
        positions: of the fragment, Angstrom, shape (m, 3), or one per sample, shape (B, m, 3).
        allowed: classes that each of its atoms may have, bool, shape (m, K).
        position_weight: w_x, per Angstrom².
        class_weight: w_p.
        types: "straight-through" or "soft".

    Raises:
        ValueError: shapes that do not fit, positions that are not finite, or an atom without an
            allowed class.
    """

    def __init__(
        self,
        positions: Tensor,
        allowed: Tensor,
        *,
        position_weight: float = 10.0,
        class_weight: float = 1.0,
        types: Weights = "straight-through",
    ) -> None:
        super().__init__(types)
        if positions.ndim not in (2, 3) or positions.shape[-1] != 3 or not positions.shape[-2]:
            raise ValueError(
                f"positions: expected shape (m, 3) or (B, m, 3), got {tuple(positions.shape)}"
            )
        if not bool(positions.isfinite().all()):
            raise ValueError("positions: expected finite numbers, got NaN or infinity")
        if allowed.ndim != 2 or allowed.dtype != torch.bool:
            raise ValueError(f"allowed: expected bool, shape (m, K), got {tuple(allowed.shape)}")
        if len(allowed) != positions.shape[-2] or not bool(allowed.any(1).all()):
            raise ValueError("allowed: expected at least one class for each atom of the fragment")
        if position_weight < 0 or class_weight < 0:
            raise ValueError(
                "position_weight, class_weight: expected numbers >= 0, "
                f"got {position_weight}, {class_weight}"
            )
        self.positions = positions - positions.mean(-2, keepdim=True)
        self.allowed = allowed
        self.position_weight, self.class_weight = position_weight, class_weight
        self.per_sample = ("positions",) if positions.ndim == 3 else ()

    def deviation(self, x: Tensor) -> Tensor:
        """Mean square distance of the aligned atoms in Angstrom², shape (B,)."""
        size = self.positions.shape[-2]
        found = split(x).positions[:, :size]
        found = found - found.mean(1, keepdim=True)
        wanted = follow(self.positions, x).expand(len(x), -1, -1)
        turned = found @ rotation(found, wanted)
        return (turned - wanted).square().sum((1, 2)) / size

    def wrong(self, x: Tensor) -> Tensor:
        """Atoms that have none of their classes, squared and summed, shape (B,)."""
        size = self.positions.shape[-2]
        if size > x.shape[1]:
            raise ValueError(f"fragment: has {size} atoms, the molecules at most {x.shape[1]}")
        inside = (self.weights(split(x))[:, :size] * follow(self.allowed, x, x.dtype)).sum(2)
        return (1 - inside).square().sum(1)

    def held(self, x: Tensor) -> Tensor:
        """Molecules whose first atoms are the fragment within `HELD` Angstrom, bool, shape (B,)."""
        with torch.no_grad():
            return (self.wrong(x) < 0.5) & (self.deviation(x) <= HELD**2)

    def forward(self, x: Tensor) -> Tensor:
        return self.class_weight * self.wrong(x) + self.position_weight * self.deviation(x)


def rotation(found: Tensor, wanted: Tensor) -> Tensor:
    """Proper rotations Q (B, 3, 3), without a graph, for which found · Q is nearest to wanted.

    Args:
        found: centred points, shape (B, m, 3).
        wanted: centred points, shape (B, m, 3).
    """
    check_precision(positions=found)
    with torch.no_grad():
        overlap = found.transpose(1, 2) @ wanted
        left, _, right = torch.linalg.svd(overlap.nan_to_num(0.0, 0.0, 0.0))
        sign = torch.linalg.det(left @ right).sign()
        flip = torch.stack((torch.ones_like(sign), torch.ones_like(sign), sign), 1)
        return (left * flip.unsqueeze(1)) @ right


class SimilarityCost(ClassCost):
    """Unlikeness to a molecule, between 0 (the same up to motion and numbering) and 1.

    Args:
        reference: signal of the molecule to be like, shape (N, 3 + K), or one per sample, shape
            (B, N, 3 + K); its N may differ from that of the signals.
        name: alphabet of the signals, "qm9" or "qm9-heavy".
        width: s, in Angstrom.
        reach: largest r, in Angstrom.
        types: "straight-through" or "soft".

    Raises:
        ValueError: a reference of another shape.
    """

    def __init__(
        self,
        reference: Tensor,
        name: str,
        *,
        width: float = 0.4,
        reach: float = 8.0,
        types: Weights = "straight-through",
    ) -> None:
        super().__init__(types)
        if not (width > 0 and reach > width):
            raise ValueError(f"width, reach: expected 0 < width < reach, got {width}, {reach}")
        self.table, self.width = element_table(name), width
        self.grid = torch.arange(2 * width, reach + width / 2, width, dtype=torch.float64)
        whole = reference if reference.ndim == 3 else reference.unsqueeze(0)
        if whole.ndim != 3 or whole.shape[2] != 3 + len(self.table):
            raise ValueError(
                f"reference: expected shape (N, {3 + len(self.table)}), "
                f"got {tuple(reference.shape)}"
            )
        self.reference = self.descriptor(whole.double())
        if reference.ndim == 2:
            self.reference = self.reference[0]
        self.per_sample = ("reference",) if reference.ndim == 3 else ()

    def descriptor(self, x: Tensor) -> Tensor:
        """D and the composition, of length one, shape (B, D)."""
        parts = split(x)
        kinds = self.weights(parts) @ follow(self.table, x)
        near = _distances(parts.positions).unsqueeze(3) - follow(self.grid, x)
        bumps = torch.exp(-near.square() / (2 * self.width**2))
        other = ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        bumps = bumps * other[..., None]
        pairs = torch.einsum("nia,nijr,njb->nabr", kinds, bumps, kinds)
        whole = torch.cat((kinds.sum(1), pairs.flatten(1)), dim=1)
        return whole / whole.square().sum(1, keepdim=True).clamp_min(1e-12).sqrt()

    def forward(self, x: Tensor) -> Tensor:
        return 1 - (self.descriptor(x) * follow(self.reference, x)).sum(1)


class ValenceCost(ClassCost):
    """How far the bonds of the atoms are from their valences, squared; smooth in the positions.

    Args:
        name: alphabet of the signals, "qm9" or "qm9-heavy".
        width: s, in Angstrom, > 0: how sharply a bond ends.
        slack: m >= 0, a part of a bond that is forgiven, so that stable molecules cost nothing.
        types: "straight-through" or "soft".

    Raises:
        ValueError: a width or slack out of its range, or another alphabet.
    """

    def __init__(
        self,
        name: str,
        *,
        width: float = 0.03,
        slack: float = 0.3,
        types: Weights = "straight-through",
    ) -> None:
        super().__init__(types)
        if not (width > 0 and slack >= 0):
            raise ValueError(f"width, slack: expected width > 0, slack >= 0, got {width}, {slack}")
        self.width, self.slack = width, slack
        check_qm9(name)  # the table knows no aromatic bond, and S has three valences
        numbers = torch.tensor([NUMBERS[symbol] for symbol, _ in alphabet(name)])
        self.limits = thresholds()[:, numbers.unsqueeze(1), numbers]
        self.open = torch.tensor([float(VALENCE[symbol] - h) for symbol, h in alphabet(name)])

    def orders(self, x: Tensor) -> Tensor:
        """Soft sums of the bond orders of every atom, shape (B, N), zero at the padding."""
        parts = split(x)
        p = self.weights(parts)
        limits = torch.einsum("nik,okl,njl->noij", p, follow(self.limits, x), p)
        distance = _distances(parts.positions)
        pair = parts.mask.unsqueeze(2) & parts.mask.unsqueeze(1)
        pair = pair & ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        bonds = torch.sigmoid((limits - distance.unsqueeze(1)) / self.width)
        return torch.where(pair.unsqueeze(1), bonds, 0).sum((1, 3))

    def forward(self, x: Tensor) -> Tensor:
        parts = split(x)
        wrong = (self.orders(x) - self.weights(parts) @ follow(self.open, x)).abs() - self.slack
        return torch.where(parts.mask, wrong.clamp_min(0), 0).square().sum(1)


def _distances(positions: Tensor) -> Tensor:
    """Of all pairs, shape (B, N, N); a thousandth where two atoms coincide, for the gradient."""
    gaps = positions.unsqueeze(2) - positions.unsqueeze(1)
    return (gaps.square().sum(3) + 1e-6).sqrt()


def allowed_classes(classes: Sequence[tuple[str, int]], name: str) -> Tensor:
    """Classes that atoms of a fragment may have, bool, shape (m, K).

    An open valence of a fragment is drawn as a hydrogen or left away, so that an atom may carry at
    most the hydrogens that it was drawn with; in the all-atom alphabet hydrogens are atoms.

    Args:
        classes: (element symbol, hydrogens drawn) of each atom.
        name: alphabet, "qm9" or "qm9-heavy".

    Raises:
        ValueError: an element outside H, C, N, O, F, or a hydrogen as an atom of `qm9-heavy`.
    """
    known = alphabet(name)
    rows = []
    for symbol, attached in classes:
        check_element(symbol, "fragment")
        row = [own == symbol and count <= attached for own, count in known]
        if not any(row):
            raise ValueError(f"fragment: {symbol!r} is no atom of the alphabet {name!r}")
        rows.append(row)
    return torch.tensor(rows)
