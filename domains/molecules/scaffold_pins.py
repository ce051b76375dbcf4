r"""A scaffold as pins and noise of a prior: what `scaffolds` asks of a flow.

With positions q_k and class weights c_k of K atoms, in states, the projector of the pins
(`ctrlgen.priors.pins`) is, for the first K atoms of a molecule,

    (P x)_k = (x_k − x̄,  c_k,  or the mean of c_k over the classes that are allowed at k),

x̄ the centre of these atoms: their shape is given, and where it lies follows from the others, since
the whole has its centre at zero. Where several classes are allowed their weights share the sum of
one, and the flow says how.

The flow was trained on noise that was matched to molecules (`alignment`), and where that of the
pinned atoms is not, the rest breaks. So noise is matched here as in training, to the scaffold and
to stand-ins for the atoms to come: 1.5 Å from the atoms that give up a hydrogen, where it was, and
0.9 Å further for each one after. Of 32 draws about two rings 4 are whole with it, none without
(`ctrlgen.experiments.molecules.scaffolds`). Noise that is reordered and turned is Gaussian in law,
but not independent of what it is matched to.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ctrlgen.domains.molecules.alignment import align, assigned
from ctrlgen.domains.molecules.states import Atoms
from ctrlgen.priors.pins import Pins
from ctrlgen.priors.sources import centred
from ctrlgen.rows.constants import follow, numbers
from ctrlgen.rows.seeds import SOURCE, Seeds, as_seeds, uniform

__all__ = ["ScaffoldAtoms", "ScaffoldPins"]

_BOND, _FURTHER = 1.5, 0.9  # Å, of the stand-ins
_UNIT = 1.4  # Å, of positions of about unit variance
_ROUNDS = 4  # of the matching, which begins with any turn
_SITE = 13  # stream of the draw of a site


class ScaffoldPins(Pins):
    """The first atoms of molecules: their shape, and their classes as far as they are given.

    Args:
        value: their states, positions centred, shape (1, K, 3 + C).
        allowed: classes that each may have, bool, shape (K, C).
    """

    def __init__(self, value: Tensor, allowed: Tensor) -> None:
        self.value, self.allowed = value, allowed

    def project(self, x: Tensor) -> Tensor:
        size = self.value.shape[1]
        head, allowed = x[:, :size], follow(self.allowed, x)
        position, classes = head[..., :3], head[..., 3:]
        share = torch.where(allowed, classes, 0).sum(2, keepdim=True) / allowed.sum(1)[:, None]
        kept = torch.cat(
            (position - position.mean(1, keepdim=True), torch.where(allowed, share, classes)), 2
        )
        return F.pad(kept, (0, 0, 0, x.shape[1] - size))

    def given(self, x: Tensor) -> Tensor:
        value = follow(self.value, x)
        return F.pad(value, (0, 0, 0, x.shape[1] - value.shape[1]))


class ScaffoldAtoms(Atoms):
    """Noise of molecules with a scaffold, matched to it; see `Atoms`.

    Args:
        places: N.
        features: 3 + C.
        scaffold: positions of its atoms in Å, centred, shape (K, 3).
        sites: see `Places`.
        shared: whether atoms come at all sites in turn, or all of them at one, drawn by the seed.
        counts: atoms of each molecule, more than K, shape (B,), long.

    Raises:
        ValueError: for a molecule that has no atom beside the scaffold.
    """

    def __init__(
        self,
        places: int,
        features: int,
        scaffold: Tensor,
        sites: Tensor,
        shared: bool,
        counts: Tensor | None = None,
    ) -> None:
        super().__init__(places, features, counts)
        size = len(scaffold)
        if size >= places or (counts is not None and bool((counts <= size).any())):
            raise ValueError(f"counts: expected more atoms than the scaffold's {size}")
        self.scaffold, self.sites, self.shared = scaffold, sites, shared

    def of(self, places: int, counts: Tensor | None) -> ScaffoldAtoms:
        return ScaffoldAtoms(places, self.features, self.scaffold, self.sites, self.shared, counts)

    def sample(
        self,
        seeds: Seeds,
        stream: int = SOURCE,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        noise = super().sample(seeds, stream, dtype=wide, device=device)
        wanted = self.stand_ins(noise, as_seeds(seeds)) / _UNIT
        # the same assignment on every device, so that a seed is the same molecule on each
        position = align(noise[..., :3], wanted, self.mask(noise).sum(1), _ROUNDS, assigned)
        return self.project(torch.cat((position, noise[..., 3:]), 2)).to(dtype)

    def stand_ins(self, noise: Tensor, seeds: Tensor) -> Tensor:
        """Positions in Å, centred, of the scaffold and of atoms to come, shape (B, N, 3)."""
        scaffold, sites = follow(self.scaffold, noise), follow(self.sites, noise)
        more, many = self.places - len(scaffold), len(sites)
        if self.shared:
            site = numbers(tuple(j % many for j in range(more)), noise, torch.long)
            site = site.expand(len(noise), -1)
            reach = [_BOND + _FURTHER * (j // many) for j in range(more)]
        else:
            drawn = uniform(seeds, (1,), _SITE, dtype=torch.float64, device=noise.device)
            site = (drawn * many).long().expand(-1, more)
            reach = [_BOND + _FURTHER * j for j in range(more)]
        origin, away = sites[site].unbind(2)
        added = origin + numbers(tuple(reach), noise)[:, None] * away
        points = torch.cat((scaffold.expand(len(noise), -1, -1), added), 1)
        return centred(points, self.mask(noise), 3)
