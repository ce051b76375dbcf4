"""Which molecules a training step sees, and how they lie in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ctrlgen.training.trainer import generator

__all__ = ["Batches", "Molecule", "one_hot", "taken"]


class Molecule(NamedTuple):
    """A batch of molecules: positions (B, N, 3), classes (B, N) with -1 padding, counts (B,)."""

    positions: Tensor
    classes: Tensor
    counts: Tensor


class Batches:
    """Which molecules each step sees: whole epochs, every batch from one bucket of sizes.

    Args:
        counts: atoms of each molecule, shape (N,).
        places: upper ends of the buckets, increasing; the last holds every molecule.
        batch: molecules of one step.
        seed: of the order, which is drawn on the host.
        device: where the indices are needed.

    Raises:
        ValueError: a molecule fits in no bucket, or no bucket fills a batch.
    """

    def __init__(
        self,
        counts: Tensor,
        places: Sequence[int],
        batch: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        if int(counts.max()) > places[-1]:
            raise ValueError(f"places: expected up to {int(counts.max())} atoms, got {places}")
        self.places, self.batch, self.seed, self.device = places, batch, seed, device
        bucket = torch.searchsorted(torch.tensor(places), counts)
        self.members = [torch.nonzero(bucket == i).flatten() for i in range(len(places))]
        self.length = sum(len(rows) // batch for rows in self.members)
        if self.length == 0:
            raise ValueError(f"batch: expected at most {len(counts)}, the molecules, got {batch}")
        self._epoch, self._sizes, self._rows = -1, list[int](), torch.empty(0)

    def __call__(self, step: int) -> tuple[int, Tensor]:
        """Places and indices (batch,) of one step."""
        epoch, offset = divmod(step, self.length)
        if epoch != self._epoch:
            draw = generator(self.seed, 1, epoch)
            sizes, parts = list[int](), []
            for places, rows in zip(self.places, self.members, strict=True):
                order = rows[torch.randperm(len(rows), generator=draw)]
                parts.append(order[: len(order) // self.batch * self.batch].view(-1, self.batch))
                sizes += [places] * len(parts[-1])
            mixed = torch.randperm(len(sizes), generator=draw)
            self._sizes = [sizes[i] for i in mixed.tolist()]
            self._epoch, self._rows = epoch, torch.cat(parts)[mixed].to(self.device)
        return self._sizes[offset], self._rows[offset]


def taken(group: Molecule, rows: Tensor, places: int) -> Molecule:
    """Some molecules, padded to fewer places."""
    positions, classes, counts = (part[rows] for part in group)
    return Molecule(positions[:, :places], classes[:, :places], counts)


def one_hot(classes: Tensor, kinds: int) -> Tensor:
    """Ones at the classes, zero where a class is -1, float32, shape (*classes, kinds)."""
    return (classes.unsqueeze(-1) == torch.arange(kinds, device=classes.device)).float()
