"""Samples of a prior alone, as a method that nothing is asked of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ctrlgen.methods.result import Result
from ctrlgen.optimizers.base import Observer
from ctrlgen.priors.conditions import BoundVelocity
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import flat
from ctrlgen.rows.seeds import Seeds, as_seeds
from ctrlgen.rows.status import Status
from ctrlgen.runs.job import Job
from ctrlgen.sampling.samplers import Sampler
from ctrlgen.solvers import Solver
from ctrlgen.solvers.failures import lost_seeds

__all__ = ["Unsteered", "lost"]


@dataclass(frozen=True)
class Unsteered:
    """Draws of a prior, one per seed; the cost is not looked at and is 0 in the result.

    Attributes:
        solver: of the flow, or a sampler; 50 midpoint steps on the prior's grid by default.
    """

    solver: Solver | Sampler | None = None

    def __call__(
        self, prior: Prior, cost: Any = None, *, seeds: Seeds, observer: Observer | None = None
    ) -> Result:
        """The draws; one that is no number has the status DIVERGED.

        Args:
            prior: bound to as many rows of conditions as there are seeds, or to none.
            cost: not looked at.
            seeds: one per sample.
            observer: not called.
        """
        rows = as_seeds(seeds)
        start = prior.start(rows)
        metered, meter = prior.metered(rows.to(start.device))
        with torch.no_grad():
            if isinstance(self.solver, Sampler):
                samples = self.solver.generate(metered, start, rows)
            else:
                samples = metered.generate(start, self.solver or prior.solver(50))
        zero = torch.zeros_like(rows, device=start.device)
        finite = flat(samples).isfinite().all(1)
        return Result(
            samples=samples,
            controls=start,
            costs=torch.zeros_like(zero, dtype=samples.dtype),
            status=torch.where(finite, int(Status.FINISHED), int(Status.DIVERGED)),
            seeds=rows.to(start.device),
            iterations=zero,
            evaluations=meter.evaluations,
            backward_passes=meter.backward_passes,
            objective_calls=zero.clone(),
            network=meter.total,
            method=repr(self),
        )


def lost(job: Job, ids: Sequence[int]) -> list[dict[str, Any]]:
    """Draws that are no numbers, with the step at which they ceased to be.

    Args:
        job: of `Unsteered` with a solver of fixed steps, or with a sampler.
        ids: places of these draws.

    Returns:
        As `ctrlgen.solvers.failures.lost_seeds`; of a sampler the seeds alone.
    """
    if not ids:
        return []
    prior: Prior = job.prior.take(torch.tensor(ids))
    seeds = [int(job.seeds[i]) for i in ids]
    none = torch.zeros(len(ids), dtype=torch.bool)
    solver: Any = job.method.solver  # type: ignore[attr-defined]
    if isinstance(solver, Sampler):
        return [{"seed": seed} for seed in seeds]
    return lost_seeds(solver, BoundVelocity(prior), prior.start(seeds), seeds, none)
