"""What a run returns: every sample, what it cost, and how it ended.

Nothing disappears: every sample carries a status, and a sample that failed is returned with its
last good state instead of being dropped.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from ctrlgen.rows.batching import PerSample
from ctrlgen.rows.counts import Evaluations
from ctrlgen.rows.status import Status, ended_well
from ctrlgen.runs import archive

__all__ = ["Result"]


_ROWS: tuple[str, ...] = (
    "samples", "controls", "costs", "status", "seeds", "iterations", "evaluations",
    "backward_passes", "objective_calls",
)  # fmt: skip


@dataclass
class Result(PerSample):
    """The samples of one run of a method, one entry per seed, in the order of the seeds.

    Attributes:
        samples: signals, shape (B, *signal), detached.
        controls: what was optimised, e.g. the source points, shape (B, *).
        costs: cost of each sample, shape (B,), as the method's target sees it.
        status: `Status` of each sample, int64, shape (B,).
        seeds: shape (B,), int64.
        iterations: accepted iterations of each sample, int64, shape (B,).
        evaluations: network evaluations, forward passes for each sample, int64, shape (B,).
        backward_passes: through the network for each sample, int64, shape (B,).
        objective_calls: how often the objective, the cost or the misfit of its measurement, was
            evaluated for each sample, int64, shape (B,).
        network: passes through the network by the whole run.
        history: by name, tensors (R, B), empty for a method that keeps none: one row per
            iteration of a method that optimises, per step of one that samples; a sample that has
            left repeats its last entry. "value" is what was minimised, "cost" the cost,
            "evaluations" and "objective_calls" what was spent up to there; other names are those
            of the method.
        method: the method and its settings, as text.

    The three counts are the method's own: what an observer or another run evaluates does not
    count. The first look at the cost before any compute does not either.
    """

    samples: Tensor
    controls: Tensor
    costs: Tensor
    status: Tensor
    seeds: Tensor
    iterations: Tensor
    evaluations: Tensor
    backward_passes: Tensor
    objective_calls: Tensor
    network: Evaluations = field(default_factory=Evaluations)
    history: dict[str, Tensor] = field(default_factory=dict)
    method: str = ""

    per_sample = _ROWS

    def __len__(self) -> int:
        return len(self.seeds)

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.samples.shape[1:]))
        ends = ", ".join(f"{n} {label}" for label, n in self.counts().items()) or "none"
        best = f"{self.costs.min().item():.4g}" if len(self) else "none"
        method = self.method if len(self.method) <= 60 else f"{self.method[:57]}..."
        return f"Result({len(self)} samples of {shape}; {ends}; best cost {best}; {method})"

    def save(self, file: Path | str, *, overwrite: bool = False) -> Path:
        """Write the result as FILE.json and FILE.safetensors; `Result.load` reads it back.

        Args:
            file: path, with or without .json; folders are made.
            overwrite: replace what is there.

        Returns:
            The path of the JSON.

        Raises:
            ResultError: if the name is none, or files are there already; nothing is written then.
        """
        return archive.save(self, file, overwrite)

    @classmethod
    def load(cls, file: Path | str) -> Self:
        """A result that `save` wrote, on the CPU.

        Raises:
            ResultError: if there is none, or its files are damaged or of a newer format.
        """
        return cls(**archive.load(file))

    @property
    def converged(self) -> Tensor:
        """Samples that reached their target or a stationary point, bool, shape (B,)."""
        return ended_well(self.status)

    def take(self, index: Tensor) -> Self:
        """The samples `index`, with their histories."""
        taken = super().take(index)
        where = index.to(self.seeds.device)
        taken.history = {k: v.index_select(1, where) for k, v in self.history.items()}
        return taken

    def counts(self) -> dict[str, int]:
        """How many samples ended how, by the status in words."""
        return dict(Counter(Status(code).label for code in self.status.tolist()))

    def table(self) -> str:
        """One line per sample in the order of the seeds: cost, evaluations and how it ended."""
        rows = [("seed", "cost", "evaluations", "backward", "status")]
        columns = (self.seeds, self.costs, self.evaluations, self.backward_passes, self.status)
        for seed, cost, forward, backward, code in zip(*(c.tolist() for c in columns), strict=True):
            rows.append((str(seed), f"{cost:.4g}", str(forward), str(backward), Status(code).label))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
        return "\n".join(
            "  ".join([*(cell.rjust(w) for cell, w in zip(row, widths, strict=False)), row[-1]])
            for row in rows
        )

    def summary(self) -> dict[str, Any]:
        """The run in numbers, JSON-able: medians and extremes over all samples, none left out.

        A cost that is not a number counts as infinite.
        """
        cost = self.costs.double().nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
        return {
            "samples": len(self),
            "status": self.counts(),
            "cost": {
                "median": cost.median().item(),
                "worst": cost.max().item(),
                "best": cost.min().item(),
            },
            **{
                name: {
                    "median": getattr(self, name).double().median().item(),
                    "total": int(getattr(self, name).sum()),
                }
                for name in ("evaluations", "backward_passes", "objective_calls")
            },
            "network": vars(self.network).copy(),
            "method": self.method,
        }
