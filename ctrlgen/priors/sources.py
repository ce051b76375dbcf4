r"""Sources: the law of x_0 and its geometry.

For N(0, I) in d degrees of freedom the radius r = ‖x_0‖ has density ∝ r^{d−1} e^{−r²/2}, so

    chi NLL       R_χ = ½r² − (d−1) log r + c,   c = (d/2 − 1) ln 2 + ln Γ(d/2),
    Gaussian NLL  R_G = ½r² + (d/2) ln 2π.

R_χ is minimal at r = √(d−1), where the samples are; ∇R_χ = x_0 (1 − (d−1)/r²). (Ben-Hamu et al.,
arXiv 2402.14017, eq 10, which prints the log-density: the sign here is that of a penalty.)

d counts the true degrees of freedom of each sample. A molecule of n atoms with F numbers each, the
first three of them coordinates whose mean is zero, has nF − 3, however large the padding.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ctrlgen.rows.batching import PerSample, flat, row_sum, rows_of
from ctrlgen.rows.constants import derived, follow
from ctrlgen.rows.errors import short
from ctrlgen.rows.seeds import SOURCE, Seeds, normal

__all__ = ["Counted", "Gaussian", "MaskedGaussian", "Source", "centred"]


class Source(PerSample, ABC):
    """A standard Gaussian on a linear subspace of states (B, *shape), known by its projection."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one state, without the batch."""

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """The nearest state that the source can produce, shape of x."""

    @abstractmethod
    def degrees_of_freedom(self, x: Tensor) -> Tensor:
        """d of each sample, shape (B,), in the dtype of x."""

    def present(self, x: Tensor) -> Tensor:
        """Which numbers of each state there are, padding being none: bool, shape of x."""
        return x.new_ones((), dtype=torch.bool).expand(x.shape)

    def entries(self, x: Tensor) -> Tensor:
        """How many numbers each state holds, padding not counted, shape (B,), in the dtype of x."""
        return flat(self.present(x)).sum(1).to(x)

    def sample(
        self,
        seeds: Seeds,
        stream: int = SOURCE,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draws x_0, one per seed, shape (B, *shape), where the source's own rows are.

        See `ctrlgen.rows.seeds`.

        Raises:
            ValueError: where the source holds rows of another number of samples.
        """
        held, own = rows_of(self), [getattr(self, name) for name in self.per_sample]
        if held is not None:
            if len(seeds) != held:
                of = " and ".join(self.per_sample)
                raise ValueError(f"seeds: expected {held}, one per row of {of}, got {len(seeds)}")
            device = device or next(part.device for part in own if part is not None)
        return self.project(normal(seeds, self.shape, stream, dtype=dtype, device=device))

    @property
    def couples(self) -> bool:
        """Whether noise was joined with data in the training: `coupled` does something."""
        return type(self).coupled is not Source.coupled

    def coupled(self, noise: Tensor, data: Tensor) -> Tensor:
        """Noise as the training joined it with data, both (B, *shape): as it is, by default.

        A flow that learned from noise matched to its data (optimal transport) has seen no states
        between data and other noise: what is drawn again from one breaks.
        """
        return noise

    def radius(self, x: Tensor) -> Tensor:
        """r = ‖x_0‖ of each sample, shape (B,)."""
        return self._square(x).sqrt()

    def gaussian_nll(self, x: Tensor) -> Tensor:
        """−log p_0(x) per sample, shape (B,), in nats."""
        return 0.5 * self._square(x) + 0.5 * self.degrees_of_freedom(x) * math.log(2 * math.pi)

    def chi_nll(self, x: Tensor) -> Tensor:
        """−log of the density of the radius, shape (B,), in nats; minimal at √(d−1)."""
        d, square = self.degrees_of_freedom(x), self._square(x)
        constant = (d / 2 - 1) * math.log(2) + torch.lgamma(d / 2)
        return 0.5 * square - 0.5 * (d - 1) * square.log() + constant

    def _square(self, x: Tensor) -> Tensor:
        return row_sum(self.project(x).square())

    def given(self, conditions: Mapping[str, Tensor]) -> Source:
        """The source under the conditions of a prior; most do not depend on them."""
        return self

    def config(self) -> dict[str, Any]:
        """Arguments that rebuild this source, JSON-able."""
        return {}


class Gaussian(Source):
    """N(0, I) on states of one fixed shape.

    Args:
        shape: shape of one state, without the batch.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        listed = isinstance(shape, Sequence) and not isinstance(shape, str)
        if not listed or not shape or any(type(n) is not int or n < 1 for n in shape):
            raise ValueError(f"shape: expected positive integers, got {short(shape)}")
        self._shape = tuple(shape)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    def project(self, x: Tensor) -> Tensor:
        return x

    def degrees_of_freedom(self, x: Tensor) -> Tensor:
        return x.new_full((x.shape[0],), math.prod(self._shape))

    def config(self) -> dict[str, Any]:
        return {"shape": list(self._shape)}

    def __repr__(self) -> str:
        return f"Gaussian({self._shape})"


def centred(x: Tensor, mask: Tensor, coordinates: int) -> Tensor:
    """Point sets (B, N, F), zero where no point is, their coordinates of zero mean.

    Args:
        x: point sets.
        mask: points that exist, bool, shape (B, N).
        coordinates: how many of the F are coordinates.
    """
    mask = mask.unsqueeze(2)
    x = torch.where(mask, x, 0)
    position, rest = x.split((coordinates, x.shape[2] - coordinates), dim=2)
    centre = position.sum(1, keepdim=True) / mask.sum(1, keepdim=True)
    return torch.cat((torch.where(mask, position - centre, 0), rest), dim=2)


class MaskedGaussian(Source):
    """N(0, I) on the real entries of padded point sets, coordinates with zero centre of mass.

    A state is (B, N, F): N places for points, of which the mask keeps some, F numbers each, the
    first `coordinates` of them a position. Padded entries are zero.

    Args:
        mask: points that exist, bool, shape (B, N), at least two in every row.
        features: F.
        coordinates: how many of the F are coordinates; 0 for none, and no centring.
    """

    per_sample = ("mask",)

    def __init__(self, mask: Tensor, features: int, coordinates: int = 3) -> None:
        if not isinstance(mask, Tensor):
            raise TypeError(f"mask: expected a bool tensor (B, N), got {mask!r}")
        if mask.ndim != 2 or mask.dtype != torch.bool:
            raise ValueError(
                f"mask: expected bool, shape (B, N), got {mask.dtype} {tuple(mask.shape)}"
            )
        if bool((mask.sum(1) < 2).any()):
            raise ValueError("mask: expected at least two points in every sample")
        if not 0 <= coordinates <= features or features < 1:
            raise ValueError(
                "features, coordinates: expected 0 <= coordinates <= features, "
                f"got {coordinates} of {features}"
            )
        self.mask, self.features, self.coordinates = mask, features, coordinates

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.mask.shape[1], self.features)

    def project(self, x: Tensor) -> Tensor:
        return centred(x, follow(self.mask, x), self.coordinates)

    def present(self, x: Tensor) -> Tensor:
        return follow(self.mask, x).unsqueeze(2).expand(x.shape)

    def degrees_of_freedom(self, x: Tensor) -> Tensor:
        return self.entries(x) - self.coordinates

    def __repr__(self) -> str:
        return f"MaskedGaussian({tuple(self.mask.shape)}, {self.features}, {self.coordinates})"


class Counted(Source):
    """N(0, I) on the first n points of every sample, of N places; its coordinates centred.

    A state is (B, N, F) as that of a `MaskedGaussian`, but how many points a sample has is a
    condition of the prior, named in `per_sample`: an attribute of that name, shape (B,), long;
    None means N in every one. Set by `Prior.bind`.

    Attributes:
        places: N.
        features: F.
        coordinates: how many of the F are coordinates of zero mean.
    """

    coordinates: ClassVar[int] = 0

    @abstractmethod
    def __init__(self, places: int, features: int, counts: Tensor | None = None) -> None:
        self.places, self.features = places, features
        setattr(self, self.per_sample[0], counts)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.places, self.features)

    @property
    def _counts(self) -> Tensor | None:
        return getattr(self, self.per_sample[0])

    def given(self, conditions: Mapping[str, Tensor]) -> Self:
        return self.of(self.places, conditions.get(self.per_sample[0], self._counts))

    def of(self, places: int, counts: Tensor | None) -> Self:
        """The source with another number of places, for samples of other numbers of points."""
        return type(self)(places, self.features, counts)

    def mask(self, x: Tensor) -> Tensor:
        """Points that exist, bool, shape (B, N), where states x (B, *) are; made once."""
        if self._counts is None:
            return torch.ones(len(x), self.places, dtype=torch.bool, device=x.device)
        counts = follow(self._counts, x)
        return derived(
            counts,
            ("mask", self.places),
            lambda: torch.arange(self.places, device=counts.device) < counts.unsqueeze(1),
        )

    def project(self, x: Tensor) -> Tensor:
        if self.coordinates:
            return centred(x, self.mask(x), self.coordinates)
        return torch.where(self.mask(x).unsqueeze(2), x, 0)

    def present(self, x: Tensor) -> Tensor:
        return self.mask(x).unsqueeze(2).expand(x.shape)

    def degrees_of_freedom(self, x: Tensor) -> Tensor:
        return self.entries(x) - self.coordinates

    def config(self) -> dict[str, Any]:
        return {"places": self.places, "features": self.features}
