r"""The training loop of the molecular priors: flow matching of positions and classes.

With z_t = t z_1 + (1 - t) z_0, z_1 a molecule in the codec's units and z_0 Gaussian of zero centre
of mass, the network minimises per molecule (`networks` for F, the logits and s)

    mean_i |F_i - ((1 - t) x_1i - t x_0i)/s|²/3 + w mean_i CE(logits_i, class_i)
                                                + w_b mean_{i≠j} CE(bond logits_ij, order_ij),

regressions of the datum, so the velocity is the marginal one (Lipman et al. 2023, eqs. 22-23). Bond
orders, by the distance table, are no part of the state: they only teach (w_b is zero by default).
Times are late: t = u^{1/k} (Beta(k, 1)) up to 0.99, since bonds are decided there. Noise positions
may be aligned to the molecule first (`alignment`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctrlgen.domains.molecules.alignment import align
from ctrlgen.domains.molecules.batches import Batches, Molecule, one_hot, taken
from ctrlgen.domains.molecules.bonds import bond_orders
from ctrlgen.domains.molecules.layers import centred
from ctrlgen.domains.molecules.molecule_batches import drawn
from ctrlgen.domains.molecules.networks import Estimate, build
from ctrlgen.domains.molecules.stability import stability
from ctrlgen.domains.molecules.states import AtomCodec, Atoms, split
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.sampling.grids import Power
from ctrlgen.training.schedule import Schedule
from ctrlgen.training.trainer import Trainer, generator

__all__ = ["GRID", "PriorTrainer", "Recipe", "molecular_loss"]

GRID = Power(power=1.5)
"""Times of sampling: bonds are decided late (weights/quality/grid.json)."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Schedule):
    """What is trained and how; everything a run needs beside the data and the budget.

    Attributes:
        dataset: "qm9" or "qm9-heavy".
        position: Angstrom per unit of the state's positions.
        one_hot: scale of the one-hot classes in the state.
        align: match noise to data by equivariant optimal transport.
        late: k of the training times.
        classes_weight: w.
        bonds_weight: w_b; above zero needs `bonds` in the configuration.
        places: batches are padded to the first of these numbers of atoms that holds them.
    """

    dataset: str
    position: float = 1.4
    one_hot: float = 0.2
    align: bool = True
    late: float = 1.8
    classes_weight: float = 0.3
    bonds_weight: float = 0.0
    places: tuple[int, ...] = field(default=(9,))

    def __post_init__(self) -> None:
        if self.bonds_weight and not self.config.get("bonds"):
            raise ValueError("bonds_weight: expected 0 for a network without the bond head")


def molecular_loss(
    estimate: Callable[..., Estimate],
    data: Tensor,
    noise: Tensor,
    classes: Tensor,
    t: Tensor,
    weight: float,
    orders: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of the positions, w times that of the classes, and that of the bonds, shape (B,) each.

    Args:
        estimate: as `MoleculeVelocity.estimate`.
        data: z_1, zero at the padding, shape (B, N, 3 + K).
        noise: z_0, zero at the padding, shape (B, N, 3 + K).
        classes: -1 at the padding, shape (B, N).
        t: shape (B,).
        weight: w.
        orders: bond orders, shape (B, N, N); None for no loss of the bonds.
    """
    mask, time = classes >= 0, t[:, None, None]
    state = time * data + (1 - time) * noise
    found = estimate(state[..., :3], state[..., 3:], t, mask)
    spread = (time.square() + (1 - time).square()).sqrt()
    target = ((1 - time) * data[..., :3] - time * noise[..., :3]) / spread
    count = mask.sum(1)
    position = (found.residual - target).square().sum((1, 2)) / (3 * count)
    entropy = F.cross_entropy(
        found.logits.transpose(1, 2), classes, ignore_index=-1, reduction="none"
    )
    bond = torch.zeros_like(position)
    if orders is not None and found.bonds is not None:
        pairs = mask.unsqueeze(2) & mask.unsqueeze(1)
        pairs = pairs & ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        known = torch.where(pairs, orders, -1).flatten(1)
        bonds = found.bonds.float().flatten(1, 2).transpose(1, 2)
        missed = F.cross_entropy(bonds, known, ignore_index=-1, reduction="none")
        bond = missed.sum(1) / pairs.sum((1, 2))
    return position, weight * entropy.sum(1) / count, bond


class PriorTrainer(Trainer):
    """Training of a molecular prior.

    Args:
        recipe: what to train.
        data: molecules to train on, Angstrom.
        held: molecules to validate on.
        seed: of the weights and of every draw.
        device: where to train.

    Attributes:
        samples: molecules that `quality` draws.
    """

    outside = ("stem", "head", "time", "modulation")
    samples = 500

    def __init__(
        self,
        recipe: Recipe,
        data: Molecule,
        held: Molecule,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.recipe = recipe
        # A single atom has no position to learn, and no Gaussian of zero centre of mass.
        data, held = (
            Molecule(*(part[group.counts > 1] for part in group)) for group in (data, held)
        )
        present = data.classes[data.classes >= 0]
        self.kinds = recipe.config["classes"]
        share = torch.bincount(present, minlength=self.kinds).double() / len(present)
        self.frequencies = [round(float(part), 7) for part in share]
        super().__init__(recipe, seed, device)
        self.dynamic = len(recipe.places) > 1
        self.batches = Batches(data.counts, recipe.places, recipe.batch, seed, device)
        self.data, self.held = (
            Molecule(*(part.to(device) for part in group)) for group in (data, held)
        )

    @property
    def config(self) -> dict[str, Any]:
        """Keywords of `networks.build`."""
        scale, frequencies = self.recipe.one_hot, self.frequencies
        return {**self.recipe.config, "scale": scale, "frequencies": frequencies}

    def build(self) -> nn.Module:
        return build(**self.config)

    def states(self, group: Molecule) -> Tensor:
        """z_1 of molecules, shape (B, N, 3 + K), zero at the padding."""
        mask = (group.classes >= 0).unsqueeze(2)
        kinds = one_hot(group.classes, self.kinds) * self.recipe.one_hot
        position = centred(group.positions, mask.squeeze(2)) / self.recipe.position
        return torch.where(mask, torch.cat((position, kinds), dim=2), 0)

    def noise(self, data: Tensor, group: Molecule, draw: torch.Generator) -> Tensor:
        """z_0 for states z_1, aligned where the recipe says so."""
        mask = group.classes >= 0
        noise = torch.randn(data.shape, generator=draw, device=data.device) * mask.unsqueeze(2)
        position = centred(noise[..., :3], mask)
        if self.recipe.align:
            position = align(position, data[..., :3], group.counts)
        return torch.cat((position, noise[..., 3:]), dim=2)

    def losses(
        self,
        estimate: Callable[..., Estimate],
        group: Molecule,
        t: Tensor,
        draw: torch.Generator,
        context: AbstractContextManager[Any] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`molecular_loss` of molecules at times t, its evaluation in the context."""
        data = self.states(group)
        noise = self.noise(data, group, draw)
        orders = None
        if self.recipe.bonds_weight:
            orders = bond_orders(group.positions, group.classes, self.recipe.dataset)
        weight = self.recipe.classes_weight
        with context or nullcontext():
            return molecular_loss(estimate, data, noise, group.classes, t, weight, orders)

    def loss(self, draw: torch.Generator) -> Tensor:
        recipe = self.recipe
        places, rows = self.batches(self.steps)
        self.shape = (places,)
        group = taken(self.data, rows, places)
        t = torch.rand(len(rows), generator=draw, device=self.device)
        t = t.pow(1 / recipe.late).clamp_max(0.99)
        estimate: Callable[..., Estimate] = self.network.estimate  # type: ignore[assignment]
        position, kind, bond = self.losses(estimate, group, t, draw, self.autocast())
        return (position + kind + recipe.bonds_weight * bond).mean()

    @torch.no_grad()
    def validate(self, count: int | None = None) -> float:
        return sum(self.validation(count))

    @torch.no_grad()
    def quality(self) -> dict[str, float]:
        """Shares of stable molecules and atoms among draws of the data's sizes, by ten steps."""
        network = self.build().to(self.device)
        network.load_state_dict(self.average.state_dict())
        flow = Flow(network.eval().requires_grad_(False), CondOT(), "velocity")
        source = Atoms(self.recipe.places[-1], 3 + self.kinds, aligned=self.recipe.align)
        prior = Prior(flow, source, AtomCodec(self.recipe.position, self.recipe.one_hot), grid=GRID)
        # D_b is in random order; the split that is held back begins with the smallest molecules.
        counts = self.data.counts[: self.samples].cpu()
        signal = split(drawn(prior, counts, prior.solver(10), 250).cpu())
        told = stability(signal.positions, signal.hard, self.recipe.dataset)
        return {
            "molecule_stable": int(told.molecules.sum()) / len(counts),
            "atom_stable": int(told.atoms.sum()) / int(counts.sum()),
        }

    @torch.no_grad()
    def validation(self, count: int | None = None) -> tuple[float, float]:
        """Loss of positions and of classes, by averaged weights, fixed noise, spread times."""
        draw = generator(0, 3, device=self.device)
        options: dict[str, Any] = {"generator": draw, "device": self.device}
        group = Molecule(*(part[:count] for part in self.held))
        size = len(group.counts)
        t = ((torch.randperm(size, **options) + 0.5) / size).pow(1 / self.recipe.late)
        t, totals = t.clamp_max(0.99), torch.zeros(3, device=self.device)
        estimate: Callable[..., Estimate] = self.average.estimate  # type: ignore[assignment]
        for rows in torch.arange(size, device=self.device).split(256):
            part = Molecule(*(value[rows] for value in group))
            found = self.losses(estimate, part, t[rows], draw)
            totals += torch.stack(found).sum(1)
        return float(totals[0] / size), float(totals[1] / size)
