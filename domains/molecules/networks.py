r"""The geometric transformer as the velocity of a molecular flow.

A state of one atom is z = (x, y): a position and a class, one-hot times a scale a. On the straight
path z_t = t z_1 + (1 - t) z_0 the network predicts the datum, and the velocity follows exactly,
v = (ẑ_1 - z_t)/(1 - t).

Positions have unit variance, so with s² = t² + (1 - t)² (Karras et al. 2022, eq. 7, on this path)

    x̂_1 = (t/s²) x_t + ((1 - t)/s) F,      v_x = ((2t - 1) x_t + s F)/s²,

where the target of F has unit variance at all times and v_x has no singular time. Classes are known
through a Gaussian channel; Bayes' rule gives its part of the logits in closed form, and

    ŷ_1 = a softmax(net + a t y_t/(1 - t)²).

Translations do not matter: positions are centred first, and the velocity has zero mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctrlgen.domains.molecules.layers import TimeEmbedding, Trunk, centred, in_eights
from ctrlgen.rows.checks import check_numbers, check_sizes

__all__ = ["Estimate", "GeoT", "MoleculeVelocity", "atom_mask", "build"]

_NEAR = 1e-2  # 1 - t is held above this where it divides


class Estimate(NamedTuple):
    """What a network says of the datum.

    Attributes:
        residual: F, shape (B, N, 3).
        logits: of the classes, with the Bayes term, shape (B, N, K).
        bonds: logits of bond orders 0..3, shape (B, N, N, 4); None without the auxiliary head.
    """

    residual: Tensor
    logits: Tensor
    bonds: Tensor | None


def atom_mask(counts: Tensor | None, x: Tensor) -> Tensor:
    """Atoms that exist, bool, shape (B, N), for states x (B, N, F); None means all.

    Raises:
        ValueError: counts has another shape than (B,) or lies outside 1..N.
    """
    batch, places = x.shape[:2]
    if counts is None:
        return torch.ones(batch, places, dtype=torch.bool, device=x.device)
    if counts.shape != (batch,):
        raise ValueError(f"counts: expected shape ({batch},), got {tuple(counts.shape)}")
    return torch.arange(places, device=x.device) < counts.to(x.device).unsqueeze(1)


class MoleculeVelocity(nn.Module):
    """Preconditioning, checks and signature that the molecular networks share.

    Args:
        classes: number of atom classes K.
        scale: a, of the one-hot classes.
        frequencies: share of each class in the data, length K.
    """

    log_prior: Tensor

    def __init__(self, classes: int, scale: float, frequencies: Sequence[float]) -> None:
        super().__init__()
        check_sizes(classes=classes)
        check_numbers(scale=scale)
        if len(frequencies) != classes:
            raise ValueError(f"frequencies: expected {classes}, got {len(frequencies)}")
        self.classes, self.scale = classes, scale
        prior = torch.tensor(frequencies, dtype=torch.float64).clamp_min(1e-6).log()
        self.register_buffer("log_prior", prior.float(), persistent=False)

    def forward(self, x: Tensor, t: Tensor, counts: Tensor | None = None) -> Tensor:
        """Velocity of the flow.

        Args:
            x: states, shape (B, N, 3 + K); the padding may hold anything.
            t: flow times in [0, 1], shape (B,).
            counts: atoms of each molecule, shape (B,), long; they come first. None means N.

        Returns:
            Velocities, shape (B, N, 3 + K), zero at the padding and of zero mean over positions.

        Raises:
            ValueError: a shape is wrong.
        """
        if x.ndim != 3 or x.shape[2] != 3 + self.classes:
            raise ValueError(f"x: expected shape (B, N, {3 + self.classes}), got {tuple(x.shape)}")
        if t.shape != x.shape[:1]:
            raise ValueError(f"t: expected shape ({x.shape[0]},), got {tuple(t.shape)}")
        mask, rows = atom_mask(counts, x), len(x)
        if not self.training:
            x, t, mask = in_eights(x, t, mask)
        x = torch.where(mask.unsqueeze(2), x, 0)
        position, kind = centred(x[..., :3], mask), x[..., 3:]
        estimate = self.estimate(position, kind, t, mask)
        time = t[:, None, None]
        variance = time.square() + (1 - time).square()
        moving = ((2 * time - 1) * position + variance.sqrt() * estimate.residual) / variance
        turning = self.scale * estimate.logits.softmax(2) - kind
        velocity = torch.cat((moving, turning / (1 - time).clamp_min(_NEAR)), dim=2)
        return torch.where(mask.unsqueeze(2), velocity, 0)[:rows]

    def estimate(self, position: Tensor, kind: Tensor, t: Tensor, mask: Tensor) -> Estimate:
        """The datum behind a state.

        Args:
            position: centred positions x_t, shape (B, N, 3).
            kind: y_t, shape (B, N, K), zero at the padding.
            t: shape (B,).
            mask: atoms that exist, bool, shape (B, N).
        """
        time = t[:, None, None]
        bayes = self.scale * time / (1 - time).clamp_min(_NEAR).square() * kind
        spread = (time.square() * self.scale**2 / self.classes + (1 - time).square()).rsqrt()
        believed = (self.log_prior.to(bayes) + bayes).softmax(2)
        features = torch.cat((kind * spread, believed), dim=2)
        residual, logits, bonds = self.residual(features, position, t, mask)
        # Float32 or better from here on: autocast does not reach the ODE and the loss.
        residual = centred(residual.to(position.dtype), mask)
        return Estimate(residual, logits.to(bayes.dtype) + bayes, bonds)

    def residual(
        self, features: Tensor, position: Tensor, t: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The learned parts: F (B, N, 3), logits (B, N, K), bond logits or None.

        Args:
            features: scaled classes and their posterior, shape (B, N, 2K).
            position: shape (B, N, 3).
            t: shape (B,).
            mask: bool, shape (B, N).
        """
        raise NotImplementedError


class GeoT(MoleculeVelocity):
    """The geometric transformer of `layers` as a velocity.

    Args:
        classes, scale, frequencies: see `MoleculeVelocity`.
        bonds: add the auxiliary head for bond orders, which training alone reads.
        **trunk: keywords of `Trunk`.
    """

    def __init__(
        self,
        classes: int,
        scale: float,
        frequencies: Sequence[float],
        bonds: bool = False,
        **trunk: Any,
    ) -> None:
        super().__init__(classes, scale, frequencies)
        self.trunk = Trunk(2 * classes, **trunk)
        width, pair, vectors = self.trunk.width, self.trunk.pair, self.trunk.vectors
        self.time = TimeEmbedding(width)
        self.head_vector = nn.Linear(vectors, 1, bias=False)
        self.head_edge = nn.Linear(pair, 1)
        self.head_class = nn.Linear(width, classes)
        self.head_bond = nn.Linear(pair, 4) if bonds else None
        for layer in (self.head_vector, self.head_edge, self.head_class):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.head_edge.bias)
        with torch.no_grad():
            self.head_class.bias.copy_(self.log_prior)

    def residual(
        self, features: Tensor, position: Tensor, t: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        h, v, e = self.trunk(features, position, self.time(t), mask)
        weight = mask.to(position.dtype) / mask.sum(1, keepdim=True)
        edge = self.head_edge(e).to(position.dtype) * weight[:, None, :, None]
        difference = position.unsqueeze(2) - position.unsqueeze(1)
        moving = self.head_vector(v).squeeze(3) + (edge * difference).sum(2)
        logits = self.head_class(F.layer_norm(h, h.shape[2:]))
        bonds = None
        if self.head_bond is not None:
            bonds = self.head_bond(e + e.transpose(1, 2))
        return moving, logits, bonds


def build(network: str, **options: Any) -> MoleculeVelocity:
    """Construct a network from a plain, JSON-able configuration.

    Args:
        network: "geot", or "e3nn" for the tensor-product network, which needs e3nn.
        **options: keywords of the class.

    Raises:
        ValueError: the kind of network is unknown.
    """
    if network == "geot":
        return GeoT(**options)
    if network == "e3nn":
        from ctrlgen.domains.molecules.e3nn_network import TensorProductNetwork

        return TensorProductNetwork(**options)
    raise ValueError(f"network: expected one of ['e3nn', 'geot'], got {network!r}")
