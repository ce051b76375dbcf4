r"""States, signals and noise of molecules: the codec and the source of the molecular priors.

Signals are padded molecules, shape (B, N, 3 + K): positions in Angstrom and one weight for each of
K classes, exact one-hot rows for real molecules, zero rows where there is no atom. The flow's state
divides the positions by their standard deviation and multiplies the classes by a,

    state = (x / 1.4 Å, a · one-hot),    a = 0.2

(Hoogeboom et al. 2022, section 3.2: the scale of the classes decides the quality). The source is a
standard Gaussian on the atoms that exist, positions of zero mean: n(3 + K) - 3 degrees of freedom.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from ctrlgen.domains.molecules.alignment import align
from ctrlgen.priors.codecs import Codec
from ctrlgen.priors.sources import Counted

__all__ = ["AtomCodec", "Atoms", "Parts", "join", "split"]


class Parts(NamedTuple):
    """A signal taken apart.

    Attributes:
        positions: Angstrom, shape (B, N, 3), zero at the padding.
        classes: weights of the classes, shape (B, N, K); for a sample close to one-hot.
        mask: atoms that exist, bool, shape (B, N).
    """

    positions: Tensor
    classes: Tensor
    mask: Tensor

    @property
    def counts(self) -> Tensor:
        """Atoms of each molecule, shape (B,), long."""
        return self.mask.sum(1)

    @property
    def probabilities(self) -> Tensor:
        """Classes clipped at zero and normalised, shape (B, N, K), differentiable."""
        kept = self.classes.clamp_min(0)
        kept = kept / kept.sum(2, keepdim=True).clamp_min(1e-6)
        return torch.where(self.mask.unsqueeze(2), kept, 0)

    @property
    def hard(self) -> Tensor:
        """The likeliest class of every atom, -1 at the padding, shape (B, N), long."""
        return torch.where(self.mask, self.classes.argmax(2), -1)

    @property
    def straight_through(self) -> Tensor:
        """One-hot classes whose gradient is that of the probabilities, shape (B, N, K)."""
        soft = self.probabilities
        one_hot = F.one_hot(self.classes.argmax(2), self.classes.shape[2]).to(soft)
        exact = torch.where(self.mask.unsqueeze(2), one_hot, 0)
        return exact + soft - soft.detach()


def split(signal: Tensor) -> Parts:
    """Take a signal (B, N, 3 + K) apart; an atom exists where any class has a weight.

    Raises:
        ValueError: the shape is another.
    """
    if signal.ndim != 3 or signal.shape[2] < 4:
        raise ValueError(f"signal: expected shape (B, N, 3 + K), got {tuple(signal.shape)}")
    positions, classes = signal[..., :3], signal[..., 3:]
    return Parts(positions, classes, (classes != 0).any(2))


def join(positions: Tensor, classes: Tensor, kinds: int) -> Tensor:
    """The signal (B, N, 3 + K) of real molecules, positions centred.

    Args:
        positions: Angstrom, shape (B, N, 3).
        classes: index of each atom's class, -1 at the padding, shape (B, N), long.
        kinds: K.

    Raises:
        ValueError: shapes disagree, a class is out of range or a position is not finite.
    """
    if positions.shape != (*classes.shape, 3):
        raise ValueError(
            f"positions: expected shape {(*classes.shape, 3)}, got {tuple(positions.shape)}"
        )
    if bool(((classes < -1) | (classes >= kinds)).any()):
        low, high = int(classes.min()), int(classes.max())
        raise ValueError(f"classes: expected -1..{kinds - 1}, got {low}..{high}")
    mask = (classes >= 0).unsqueeze(2)
    positions = torch.where(mask, positions, 0)
    if not bool(positions.isfinite().all()):
        raise ValueError("positions: expected finite numbers, got NaN or infinity")
    centre = positions.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp_min(1)
    one_hot = F.one_hot(classes.clamp_min(0), kinds).to(positions)
    return torch.where(mask, torch.cat((positions - centre, one_hot), dim=2), 0)


class AtomCodec(Codec):
    """Between signals in Angstrom and states of the flow.

    Args:
        position: Angstrom per unit of the state.
        one_hot: a, the state of a full class weight.
    """

    def __init__(self, position: float = 1.4, one_hot: float = 0.2) -> None:
        for name, value in (("position", position), ("one_hot", one_hot)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: expected a positive number, got {value}")
        self.position, self.one_hot = position, one_hot

    def encode(self, x: Tensor) -> Tensor:
        return torch.cat((x[..., :3] / self.position, x[..., 3:] * self.one_hot), dim=2)

    def decode(self, z: Tensor) -> Tensor:
        return torch.cat((z[..., :3] * self.position, z[..., 3:] / self.one_hot), dim=2)

    def log_det(self, z: Tensor) -> Tensor:
        atoms = (z[..., 3:] != 0).any(2).sum(1).to(z)
        kinds = z.shape[2] - 3
        centred = 3 * (atoms - 1) * math.log(self.position)
        return centred - kinds * atoms * math.log(self.one_hot)

    def log_scale(self, z: Tensor) -> Tensor:
        """As `Codec.log_scale`, of the real atoms: padding is no dimension."""
        atoms = (z[..., 3:] != 0).any(2).sum(1).to(z)
        return self.log_det(z) / (3 * (atoms - 1) + (z.shape[2] - 3) * atoms)

    def config(self) -> dict[str, Any]:
        return {"position": self.position, "one_hot": self.one_hot}


class Atoms(Counted):
    """Gaussian noise on the atoms of molecules, positions of zero mean.

    Args:
        places: N, the most atoms of a molecule.
        features: 3 + K numbers of an atom.
        counts: atoms of each molecule, shape (B,), long; None means N in every one. Set by
            `Prior.bind(counts=...)`.
        aligned: whether the flow learned from noise that was matched to its molecules, see
            `alignment`.
    """

    per_sample = ("counts",)
    coordinates = 3
    counts: Tensor | None

    def __init__(
        self, places: int, features: int, counts: Tensor | None = None, aligned: bool = True
    ) -> None:
        if places < 2 or features < 4:
            raise ValueError(
                f"places, features: expected at least 2 and 4, got {places} and {features}"
            )
        if counts is not None and bool((counts < 2).any()):
            raise ValueError("counts: expected at least two atoms in every molecule")
        super().__init__(places, features, counts)
        self.aligned = aligned

    def of(self, places: int, counts: Tensor | None) -> Self:
        return type(self)(places, self.features, counts, self.aligned)

    @property
    def couples(self) -> bool:
        return self.aligned

    def coupled(self, noise: Tensor, data: Tensor) -> Tensor:
        if not self.aligned:
            return noise
        near = data[..., :3].nan_to_num(0, 0, 0)  # a molecule that is lost harms no other
        position = align(noise[..., :3], near.to(noise), self.mask(noise).sum(1))
        return torch.cat((position, noise[..., 3:]), dim=2)

    def config(self) -> dict[str, Any]:
        return super().config() | ({} if self.aligned else {"aligned": False})

    def __repr__(self) -> str:
        bound = "" if self.counts is None else f", {len(self.counts)} counts"
        return f"Atoms({self.places}, {self.features}{bound})"
