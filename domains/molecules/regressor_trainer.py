r"""The training loop of the property regressors; the mathematics is in `regressors`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ctrlgen.domains.molecules import regressors, score_networks
from ctrlgen.domains.molecules.batches import Batches, Molecule, one_hot, taken
from ctrlgen.domains.molecules.regressors import BASED, composition_baseline
from ctrlgen.training.schedule import Schedule
from ctrlgen.training.trainer import Trainer

__all__ = ["RegressorRecipe", "RegressorTrainer"]


@dataclass(frozen=True, kw_only=True)
class RegressorRecipe(Schedule):
    """What is trained and how; everything a run needs beside the data and the budget.

    Attributes:
        dataset: "qm9", "qm9-heavy", or "moses-heavy", whose networks are `score_networks`.
        split: of the training set.
        jitter: largest standard deviation of the noise on positions, in Angstrom.
        soften: largest part of a class weight that goes to random others.
        places: as of `Recipe`.
    """

    dataset: str
    split: str
    jitter: float = 0.0
    soften: float = 0.0
    places: tuple[int, ...]


class RegressorTrainer(Trainer):
    """Training of a property regressor.

    Args:
        recipe: what to train.
        data: molecules to train on, Angstrom.
        targets: their properties, in units and order of the network, shape (N, P); NaN where a
            molecule has no label.
        held: molecules to validate on.
        held_targets: their properties.
        mean, deviation: of the properties, for scaling, length P.
        seed: of the weights and of every draw.
        device: where to train.
    """

    outside = ("stem", "head", "modulation")

    def __init__(
        self,
        recipe: RegressorRecipe,
        data: Molecule,
        targets: Tensor,
        held: Molecule,
        held_targets: Tensor,
        mean: Sequence[float],
        deviation: Sequence[float],
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.recipe, self.kinds = recipe, recipe.config["classes"]
        scaled = (targets - torch.tensor(mean)) / torch.tensor(deviation)
        composition = one_hot(data.classes, self.kinds).sum(1)
        based = scaled if "names" in recipe.config else scaled[:, BASED]
        labelled = [~column.isnan() for column in based.unbind(1)]
        base = [
            composition_baseline(composition[rows], column[rows, None])[0]
            for column, rows in zip(based.unbind(1), labelled, strict=True)
        ]
        rounded = [[round(float(part), 8) for part in row] for row in base]
        self._scaling = {"baseline": rounded, "mean": list(mean), "deviation": list(deviation)}
        super().__init__(recipe, seed, device)
        self.dynamic = len(recipe.places) > 1
        self.batches = Batches(data.counts, recipe.places, recipe.batch, seed, device)
        self.data, self.held = (
            Molecule(*(part.to(device) for part in group)) for group in (data, held)
        )
        self.targets, self.held_targets = scaled.to(device), held_targets.to(device)

    @property
    def config(self) -> dict[str, Any]:
        """Keywords of `regressors.build`."""
        return {**self.recipe.config, **self._scaling}

    def build(self) -> nn.Module:
        if "names" in self.recipe.config:
            return score_networks.build(**self.config)
        return regressors.build(**self.config)

    def disturbed(self, group: Molecule, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """Positions and class weights, half of the molecules disturbed as the recipe says."""
        positions, p = group.positions, one_hot(group.classes, self.kinds)
        if self.recipe.jitter or self.recipe.soften:
            rows, options = (len(p), 1, 1), dict[str, Any](generator=draw, device=p.device)
            chosen = (torch.rand(rows, **options) < 0.5).float()
            size = chosen * self.recipe.jitter * torch.rand(rows, **options)
            positions = positions + size * torch.randn(positions.shape, **options)
            # Exponential variables over their sum are uniform on the simplex.
            other = -torch.rand(p.shape, **options).clamp_min(1e-12).log()
            part = self.recipe.soften * torch.rand((*p.shape[:2], 1), **options) * chosen
            p = (1 - part) * p + part * other / other.sum(2, keepdim=True)
        return positions, p

    def loss(self, draw: torch.Generator) -> Tensor:
        places, rows = self.batches(self.steps)
        self.shape = (places,)
        group = taken(self.data, rows, places)
        x, p = self.disturbed(group, draw)
        with self.autocast():
            found = self.network.scaled(x, p, group.classes >= 0)  # type: ignore[operator]
        known = self.targets[rows]
        missed = torch.where(known.isnan(), 0, found - known).abs()
        return missed.sum() / (~known.isnan()).sum().clamp_min(1)

    @torch.no_grad()
    def validate(self, count: int | None = None) -> float:
        held = Molecule(*(part[:count] for part in self.held))
        errors = self.errors(held, self.held_targets[:count])
        return float((errors / torch.tensor(self.config["deviation"])).nanmean())

    @torch.no_grad()
    def errors(self, group: Molecule, targets: Tensor) -> Tensor:
        """Mean absolute error of the averaged weights, in units, shape (P,), on the host; NaN for a
        property that no molecule is labelled with.
        """
        total = torch.zeros(targets.shape[1], device=self.device)
        for rows in torch.arange(len(targets), device=self.device).split(256):
            classes = group.classes[rows]
            inputs = (group.positions[rows], one_hot(classes, self.kinds), classes >= 0)
            total += (self.average(*inputs) - targets[rows]).abs().nansum(0)
        return total.cpu() / (~targets.isnan()).sum(0).cpu()
