r"""azula's denoisers: the posterior mean of p(X | X_t) with X_t = α_τ X + σ_τ Z, data at τ = 0.

azula calls `denoiser(x_t, t).mean` with t from 0 (data) to 1 (noise), and `denoiser.schedule(t)`
for (α, σ), whatever they are: variance-preserving, exploding or neither. The flow clock is
t = 1 − τ. The path of the schedule has its derivatives by forward-mode differentiation and its
inverse log-SNR by bisection, so that every schedule works, a user's own included. The flow
returned lives on another path, straight lines unless said otherwise: there the source is
N(0, I), which a variance-exploding state is not.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from ctrlgen.adapters.callables import CallableNetwork
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import Coefficients, CondOT, Path

__all__ = ["SchedulePath", "from_azula"]

Schedule = Callable[[Tensor], tuple[Tensor, Tensor]]


class SchedulePath(Path):
    """The path of a noise schedule τ ↦ (α, σ), with τ = 1 − t.

    Args:
        schedule: elementwise and differentiable; α/σ decreases strictly with τ in [0, 1].
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def __call__(self, t: Tensor) -> Coefficients:
        values, rates = torch.func.jvp(  # type: ignore[misc]
            lambda time: tuple(self.schedule(1 - time)), (t,), (torch.ones_like(t),)
        )
        return Coefficients(*values, *rates)

    def time_at(self, log_snr: Tensor) -> Tensor:
        wanted = log_snr.detach().double()
        low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
        for _ in range(52):  # the bits of a float64
            middle = (low + high) / 2
            alpha, sigma = self.schedule(1 - middle)
            below = 2 * (alpha / sigma).log() < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        found = (low + high) / 2
        # A Newton step carries the derivative, dt/dℓ = 1/ℓ' with ℓ' = 2W/(ασ).
        at = self(found)
        rate = 2 * at.wronskian / (at.alpha * at.sigma)
        return (found + (log_snr.double() - at.log_snr) / rate).to(log_snr.dtype)

    def __repr__(self) -> str:
        return f"SchedulePath({type(self.schedule).__name__})"


def from_azula(denoiser: Any, path: Path | None = None, *, one_time: bool = False) -> Flow:
    """The flow of an azula denoiser.

    Args:
        denoiser: `denoiser(x_t, t, **conditions)` returns an object whose `mean` is E[X | x_t], and
            `denoiser.schedule(t)` the scales (α, σ).
        path: on which the flow is read; straight lines by default.
        one_time: whether it takes a single time for the whole batch, as azula's analytical
            `GaussianDenoiser` does.

    Raises:
        TypeError: for an object without a schedule.
    """
    if not callable(getattr(denoiser, "schedule", None)) or not callable(denoiser):
        raise TypeError(
            "denoiser: expected a callable with a schedule, like azula.denoise.Denoiser, "
            f"got {type(denoiser).__name__}"
        )
    network = CallableNetwork(
        denoiser, time=lambda t: 1 - t, one_time=one_time, output=attrgetter("mean")
    )
    return Flow(network, SchedulePath(denoiser.schedule), "data").on(path or CondOT())
