r"""Projections: what is done to a source point between restarts of its optimiser.

The molecules of D-Flow are kept typical by standardising each of their columns over the atoms,

    x_{·f} ← (x_{·f} − mean_n x_{nf}) / std_n x_{nf},

after every outer step (Ben-Hamu et al., arXiv 2402.14017, section 5.4); coordinates thereby keep a
zero centre of mass. Three divisors for the three coordinates do not commute with rotations; one
common divisor, the root of their mean variance, does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.rows.batching import PerSample
from ctrlgen.rows.constants import follow

__all__ = ["Normalize"]


class Normalize(PerSample):
    """Columns of mean 0 and standard deviation 1 over the real points of (padded) point sets.

    Deviations are those of the population (divided by the number of points). A column without
    any deviation becomes zero. Applying it twice is applying it once.

    Args:
        mask: points that exist, bool, shape (B, N); the others become zero. None: all exist.
        coordinates: how many of the leading columns are coordinates.
        isotropic: divide all coordinates by their common deviation, so that a rotated point set
            is normalised to the rotated result; False is the paper's column by column.
    """

    per_sample = ("mask",)

    def __init__(
        self, mask: Tensor | None = None, coordinates: int = 3, isotropic: bool = False
    ) -> None:
        if mask is not None and (mask.ndim != 2 or mask.dtype != torch.bool):
            raise ValueError(
                f"mask: expected bool, shape (B, N), got {mask.dtype} {tuple(mask.shape)}"
            )
        if coordinates < 0:
            raise ValueError(f"coordinates: expected a number >= 0, got {coordinates}")
        self.mask, self.coordinates, self.isotropic = mask, coordinates, isotropic

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise x, shape (B, N, F).

        Raises:
            ValueError: if x has another shape than (B, N, F) of the mask's B and N.
        """
        if x.ndim != 3 or (self.mask is not None and self.mask.shape != x.shape[:2]):
            wanted = "(B, N, F)" if self.mask is None else (*self.mask.shape, "F")
            raise ValueError(f"x: expected shape {wanted}, got {tuple(x.shape)}")
        real = x.new_ones(x.shape[:2]) if self.mask is None else follow(self.mask, x, x.dtype)
        real = real.unsqueeze(2)
        count = real.sum(1, keepdim=True)
        x = torch.where(real > 0, x, 0)
        centred = torch.where(real > 0, x - x.sum(1, keepdim=True) / count, 0)
        variance = self._shared(centred.square().sum(1, keepdim=True) / count)
        power = self._shared(x.square().sum(1, keepdim=True) / count)
        # The rounding of the mean is not a deviation.
        seen = variance > 16 * torch.finfo(x.dtype).eps ** 2 * power
        return torch.where(seen, centred, 0) / torch.where(seen, variance, 1).sqrt()

    def _shared(self, columns: Tensor) -> Tensor:
        """Values of the columns (B, 1, F), those of the coordinates replaced by their mean."""
        if not self.isotropic:
            return columns
        mean = columns[..., : self.coordinates].mean(2, keepdim=True)
        coordinate = torch.arange(columns.shape[2], device=columns.device) < self.coordinates
        return torch.where(coordinate, mean, columns)

    def __repr__(self) -> str:
        return f"Normalize(coordinates={self.coordinates}, isotropic={self.isotropic})"
