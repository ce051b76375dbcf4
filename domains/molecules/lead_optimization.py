r"""Lead optimisation: from a given molecule to its source point, and the ball around it.

A source point of a molecule x_1 is found by solving the flow backwards. Classes are discrete: a
whole cell of the source flows into one vertex of the simplex, and the solution that ends exactly on
it comes from far outside of where the source has its mass. So the way back begins just before the
end, at t = 1 − ε, where the classes are

    y_t = t y_1 + (1 − t) ξ,   ξ ~ N(0, I) of the sample's seed,

what the path makes of y_1 and typical noise, and the positions are x_1 − ε v_x, one Euler step of
the flow back from x_1. Every seed gives another source of the same molecule. The optimiser then
stays in the ball |x_0 − c| <= r around it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctrlgen.methods.starts import Initializer
from ctrlgen.operators.base import Measurement
from ctrlgen.priors.conditions import BoundVelocity
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import PerSample, expand_like
from ctrlgen.rows.constants import follow
from ctrlgen.rows.seeds import Seeds
from ctrlgen.solvers import Solver

__all__ = ["LIKENESS", "Ball", "Given", "source_of"]

LIKENESS = 10.0
"""Weight of unlikeness to a lead, times --resemblance: unrelated molecules of QM9 differ by 0.17 in
the median, so that one costs as much as a property that misses by 1.3 mean absolute deviations. It
and the default radius are the best of `experiments.molecules.leads`."""

_CLASSES = 12  # stream of ξ


def source_of(
    prior: Prior,
    signal: Tensor,
    seeds: Seeds,
    *,
    solver: Solver | None = None,
    epsilon: float = 0.05,
) -> Tensor:
    """Source points of molecules, without a graph, shape of signal.

    Args:
        prior: bound to the numbers of atoms of the molecules.
        signal: shape (B, N, 3 + K), one per seed.
        seeds: of ξ.
        solver: solves back; 20 midpoint steps on the prior's grid by default.
        epsilon: ε in (0, 1).

    Raises:
        ValueError: if ε is outside (0, 1), or there is another number of molecules than seeds.
    """
    if not 0 < epsilon < 1:
        raise ValueError(f"epsilon: expected a number in (0, 1), got {epsilon}")
    t = 1 - epsilon
    with torch.no_grad():
        z = prior.codec.encode(signal)
        noise = prior.source.sample(seeds, _CLASSES, dtype=z.dtype, device=z.device)
        if noise.shape != z.shape:
            raise ValueError(f"signal: expected shape {(*noise.shape,)}, got {tuple(signal.shape)}")
        kind = t * z[..., 3:] + epsilon * noise[..., 3:]
        near = torch.cat((z[..., :3], kind), dim=2)
        position = z[..., :3] - epsilon * prior.velocity(near, t)[..., :3]
        near = prior.source.project(torch.cat((position, kind), dim=2))
        back = (solver or prior.solver(20)).reversed()
        found = back(BoundVelocity(prior), near, t, 0.0)
        return prior.source.project(found)


class Given(Initializer):
    """Source points that are known already.

    Args:
        points: one per sample, shape (B, *).
    """

    def __init__(self, points: Tensor) -> None:
        self.points = points.detach()

    def __call__(
        self, prior: Prior, measurement: Measurement | None, seeds: Seeds, z: Tensor
    ) -> Tensor:
        if self.points.shape != z.shape:
            raise ValueError(
                f"points: expected shape {tuple(z.shape)}, got {tuple(self.points.shape)}"
            )
        return follow(self.points, z)

    def config(self) -> dict[str, Any]:
        return {"points": len(self.points)}


class Ball(PerSample):
    """Projection onto the ball of a radius around a centre of each sample.

    Args:
        centre: c, shape (B, *).
        radius: r > 0, one for all or one per sample, shape (B,).

    Raises:
        ValueError: if a radius is not positive or there are not as many as centres.
    """

    per_sample = ("centre", "radius")

    def __init__(self, centre: Tensor, radius: float | Tensor) -> None:
        self.centre = centre.detach()
        self.radius = torch.as_tensor(radius, dtype=centre.dtype).expand(len(centre)).clone()
        if not bool((self.radius > 0).all()):
            raise ValueError(f"radius: expected positive numbers, got {radius}")

    def distance(self, x: Tensor) -> Tensor:
        """‖x − c‖ of each sample, shape (B,)."""
        return (x - follow(self.centre, x)).flatten(1).square().sum(1).sqrt()

    def __call__(self, x: Tensor) -> Tensor:
        away = x - follow(self.centre, x)
        length = self.distance(x)
        scale = (follow(self.radius, x) / length.clamp_min(torch.finfo(x.dtype).tiny)).clamp_max(1)
        pulled = follow(self.centre, x) + expand_like(scale, x) * away
        return torch.where(expand_like(scale < 1, x), pulled, x)

    def __repr__(self) -> str:
        return f"Ball({len(self.centre)} centres)"
