r"""Log-likelihoods of a flow by the instantaneous change of variables.

Along dx/dt = u_t(x) the density obeys d log p/dt = −div u, hence

    log p_1(x(1)) = log p_0(x(0)) − ∫_0^1 div u_t(x(t)) dt

(Chen et al., arXiv 1806.07366). The divergence is the trace of the Jacobian, exact with one
backward pass per dimension, or the Hutchinson estimate mean_m v_m^T (∂u/∂x) v_m with fixed
Rademacher probes v_m that belong to the sample (Grathwohl et al., arXiv 1810.01367). Where states
fill a subspace only (padding, a fixed centre of mass) its own density is meant: all directions are
projected on it. The integral rides along as one more number per sample, in the same solver's
stages, and stays differentiable.

Bits per dimension of a signal in [−1, 1] quantised to 8 bits: −log₂ p(x)/d + log₂ 127.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ctrlgen.priors.conditions import BoundVelocity
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Source
from ctrlgen.rows.batching import flat, take
from ctrlgen.rows.seeds import Seeds, as_seeds, rademacher
from ctrlgen.solvers import Solver, Velocity

__all__ = ["Augmented", "bits_per_dimension", "divergence", "log_likelihood", "probes"]

PROBES = 2  # stream of the first Hutchinson probe
MORE_PROBES = 2**50  # streams of the others, from here on


def probes(seeds: Seeds, shape: tuple[int, ...], count: int, like: Tensor) -> Tensor:
    """Rademacher probes of every sample, shape (B, count, *shape), on the device of `like`.

    Each has a stream of its own: padding moves no entry of any.
    """
    streams = [PROBES, *range(MORE_PROBES, MORE_PROBES + count - 1)]
    draws = [rademacher(seeds, shape, s, dtype=like.dtype, device=like.device) for s in streams]
    return torch.stack(draws, 1)


def divergence(
    velocity: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    t: Tensor,
    v: Tensor | None,
    project: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Velocity and its divergence, both differentiable in x where x has a graph.

    Args:
        velocity: u(x, t).
        x: states (B, *).
        t: times (B,).
        v: probes (B, M, *); None for the exact trace, one backward pass per dimension.
        project: orthogonal projection on the subspace over which the trace is taken.

    Returns:
        u, shape of x, and div u, shape (B,).
    """
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        if not x.requires_grad:
            x = x.detach().requires_grad_()
        u = velocity(x, t)
        if v is None:
            directions = torch.eye(flat(x).shape[1], dtype=x.dtype, device=x.device)
            vectors = [d.reshape(x.shape[1:]).expand_as(x) for d in directions]
        else:
            vectors = list(v.unbind(1))
        total = x.new_zeros(x.shape[0])
        for i, vector in enumerate(vectors):
            vector = vector if project is None else project(vector)
            keep = differentiable or i + 1 < len(vectors)
            (pulled,) = torch.autograd.grad(
                u, x, vector, retain_graph=keep, create_graph=differentiable
            )
            total = total + flat(pulled * vector).sum(1)
        div = total if v is None else total / len(vectors)
    return (u, div) if differentiable else (u.detach(), div.detach())


class Augmented:
    """The velocity of (x, ∫div u), packed as rows of d + 1 numbers.

    Args:
        velocity: u(x, t), with `take` where it holds per-sample data.
        source: of the flow, for the shape of states and the subspace that they fill.
        v: probes (B, M, *shape), or None for the exact divergence.
    """

    def __init__(
        self,
        velocity: Callable[[Tensor, Tensor], Tensor],
        source: Source,
        v: Tensor | None,
    ) -> None:
        self.velocity = velocity if isinstance(velocity, Velocity) else Velocity(velocity)
        self.source, self.v = source, v

    def __call__(self, packed: Tensor, t: Tensor) -> Tensor:
        x = packed[:, :-1].reshape(-1, *self.source.shape)
        u, div = divergence(self.velocity, x, t, self.v, self.source.project)
        return torch.cat((flat(u), div.unsqueeze(1)), dim=1)

    def check_time(self, time: float) -> None:
        """As the velocity's own."""
        self.velocity.check_time(time)

    def take(self, index: Tensor) -> Augmented:
        source = self.source.take(index)
        return Augmented(self.velocity.take(index), source, take(self.v, index))

    def solve(self, solver: Solver, x: Tensor, t0: float, t1: float) -> tuple[Tensor, Tensor]:
        """x(t1) and ∫_{t0}^{t1} div u dt along the way, shapes (B, *shape) and (B,)."""
        start = torch.cat((flat(x), x.new_zeros(x.shape[0], 1)), dim=1)
        end = solver(self, start, t0, t1)
        return end[:, :-1].reshape(x.shape), end[:, -1]


def log_likelihood(
    prior: Prior,
    x: Tensor,
    solver: Solver,
    *,
    seeds: Seeds | None = None,
    count: int = 1,
) -> Tensor:
    """log p(x) of signals under a prior, shape (B,), in nats.

    Args:
        prior: its codec must know its change of volume (`Codec.log_det`).
        x: signals (B, *signal).
        solver: solves backwards from the data; several dozen steps for a value to report.
        seeds: seeds of the probes, one per sample; None computes the exact divergence, at one
            backward pass per dimension and evaluation.
        count: probes per sample.

    Raises:
        ValueError: if x has the wrong shape, or seeds or conditions are not one per sample.
        NotImplementedError: if the codec does not know its change of volume.
    """
    z = prior.codec.encode(x)
    if tuple(z.shape[1:]) != tuple(prior.source.shape):
        raise ValueError(
            f"x: expected states of shape {prior.source.shape}, got {tuple(z.shape[1:])}"
        )
    prior.check_rows(len(x), "x")
    if seeds is not None and len(seeds := as_seeds(seeds)) != len(x):
        raise ValueError(f"seeds: expected {len(x)}, one per sample, got {len(seeds)}")
    volume = prior.codec.log_scale(z) * prior.source.degrees_of_freedom(z)
    v = None if seeds is None else probes(seeds, z.shape[1:], count, z)
    augmented = Augmented(BoundVelocity(prior), prior.source, v)
    source, integral = augmented.solve(solver.reversed(), z, 1.0, 0.0)
    # Solved from 1 to 0, the integral is −∫_0^1 div u.
    return integral - prior.source.gaussian_nll(source) - volume


def bits_per_dimension(log_p: Tensor, dimensions: int, levels: float = 127.5) -> Tensor:
    """Bits per dimension of a density, with quantisation levels per unit of the signal.

    Args:
        log_p: log-density of the signal in nats, shape (B,).
        dimensions: numbers per signal.
        levels: quantisation levels per signal unit: 127.5 for 8 bits over [−1, 1].
    """
    return -log_p / (dimensions * math.log(2)) + math.log2(levels)
