r"""A tensor-product network as a second, independent velocity of molecular flows.

Atoms carry irreducible representations of O(3) up to order 2 and hear from all others by a
convolution on dense pairs (Thomas et al. 2018, Tensor field networks; Geiger & Smidt 2022, e3nn),

    f_i <- f_i + Gate(Linear f_i + mean_j  f_j ⊗(R(|x_ij|, t)) Y(x_ij / √(|x_ij|² + ε))),

with Y the real spherical harmonics 0..2 and one learned radial weight for each path of the tensor
product. The library e3nn supplies harmonics, products and gates, so this network shares nothing
with the geometric transformer beyond its preconditioning (`networks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ctrlgen.domains.molecules.layers import RadialBasis, TimeEmbedding, pair_geometry
from ctrlgen.domains.molecules.networks import MoleculeVelocity
from ctrlgen.extras import require

__all__ = ["Convolution", "TensorProductNetwork"]


def _o3() -> ModuleType:
    return require("e3nn.o3", "molecules")


class Convolution(nn.Module):
    """One message from every atom to every other, masked mean, gated, added.

    Args:
        scalars, vectors, tensors: channels of order 0, 1 and 2.
        radial: features of a pair.
        hidden: width of the network from a pair's features to its weights.
    """

    def __init__(self, scalars: int, vectors: int, tensors: int, radial: int, hidden: int) -> None:
        super().__init__()
        o3, gates = _o3(), require("e3nn.nn", "molecules")
        harmonics = o3.Irreps.spherical_harmonics(2)
        plain, ranked = o3.Irreps(f"{scalars}x0e"), o3.Irreps(f"{vectors}x1o + {tensors}x2e")
        gate = o3.Irreps(f"{vectors + tensors}x0e")
        self.features = plain + ranked
        self.gate = gates.Gate(plain, [nn.functional.silu], gate, [torch.sigmoid], ranked)
        incoming = self.gate.irreps_in
        paths: list[Any] = []
        products: list[tuple[int, int, int, str, bool]] = []
        for i, (copies, order) in enumerate(self.features):
            for j, (_, harmonic) in enumerate(harmonics):
                for found in order * harmonic:
                    if found in incoming:
                        products.append((i, j, len(paths), "uvu", True))
                        paths.append((copies, found))
        self.product = o3.TensorProduct(
            self.features,
            harmonics,
            o3.Irreps(paths),
            products,
            shared_weights=False,
            internal_weights=False,
        )
        self.radial = nn.Sequential(
            nn.Linear(radial, hidden), nn.SiLU(), nn.Linear(hidden, self.product.weight_numel)
        )
        self.collect = o3.Linear(o3.Irreps(paths), incoming)
        self.own = o3.Linear(self.features, incoming)

    def forward(self, f: Tensor, harmonics: Tensor, pairs: Tensor, weight: Tensor) -> Tensor:
        """Updated features of the atoms, shape (B, N, D).

        Args:
            f: features, shape (B, N, D).
            harmonics: of the directions, shape (B, N, N, 9).
            pairs: features of the pairs, shape (B, N, N, radial).
            weight: 1/n for atoms that exist, 0 for padding, shape (B, N).
        """
        heard = f.unsqueeze(1).expand(*harmonics.shape[:3], -1)
        message = self.product(heard, harmonics, self.radial(pairs))
        mean = (message * weight[:, None, :, None]).sum(2)
        return f + self.gate(self.own(f) + self.collect(mean))


class TensorProductNetwork(MoleculeVelocity):
    """The network of the module's docstring.

    Args:
        classes, scale, frequencies: see `MoleculeVelocity`.
        scalars, vectors, tensors: channels of order 0, 1 and 2.
        depth: number of convolutions.
        bands: Gaussians of the distance.
        reach: largest resolved distance, in the unit of the state.
    """

    def __init__(
        self,
        classes: int,
        scale: float,
        frequencies: Sequence[float],
        scalars: int = 32,
        vectors: int = 16,
        tensors: int = 8,
        depth: int = 4,
        bands: int = 24,
        reach: float = 8.0,
    ) -> None:
        super().__init__(classes, scale, frequencies)
        o3 = _o3()
        self.scalars = scalars
        self.time = TimeEmbedding(scalars)
        self.basis = RadialBasis(bands, reach)
        self.stem = nn.Linear(2 * classes + scalars, scalars)
        self.layers = nn.ModuleList(
            Convolution(scalars, vectors, tensors, bands + scalars, 2 * scalars)
            for _ in range(depth)
        )
        features = self.layers[0].features
        self.head_vector = o3.Linear(features, o3.Irreps("1x1o"))
        self.head_class = nn.Linear(scalars, classes)
        nn.init.zeros_(self.head_class.weight)
        with torch.no_grad():
            self.head_class.bias.copy_(self.log_prior)
            self.head_vector.weight.zero_()
        self.width = int(features.dim)  # type: ignore[arg-type]

    def residual(
        self, features: Tensor, position: Tensor, t: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        # e3nn's products take operands of one dtype only.
        with torch.autocast(position.device.type, enabled=False):
            return self._residual(features, position, t, mask)

    def _residual(
        self, features: Tensor, position: Tensor, t: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        batch, places, _ = position.shape
        weight = mask.to(position.dtype) / mask.sum(1, keepdim=True)
        distance, _ = pair_geometry(position)
        difference = position.unsqueeze(2) - position.unsqueeze(1)
        direction = difference / distance.unsqueeze(3)  # smooth at zero
        harmonics = _o3().spherical_harmonics(
            [0, 1, 2], direction, normalize=False, normalization="component"
        )
        time = self.time(t)
        pairs = torch.cat(
            (self.basis(distance), time[:, None, None].expand(-1, places, places, -1)), dim=3
        )
        start = self.stem(torch.cat((features, time.unsqueeze(1).expand(-1, places, -1)), dim=2))
        f = torch.cat((start, start.new_zeros(batch, places, self.width - self.scalars)), dim=2)
        for layer in self.layers:
            f = layer(f, harmonics, pairs, weight)
        # e3nn orders the components of a vector as (x, y, z).
        return self.head_vector(f), self.head_class(f[..., : self.scalars]), None
