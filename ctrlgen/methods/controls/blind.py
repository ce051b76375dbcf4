r"""Blind deblurring: NDTM that estimates the blur while it restores (arXiv 2502.03686).

    y = q ⊛ x + σ_y n,    q = softmax(θ) unknown, one kernel per sample, all channels alike.

The terminal cost of every step is ‖y − q_θ ⊛ x̂^u‖², minimised jointly over the step's control u and
over θ, which persists: θ ~ N(0, I) once, one Adam for the whole run, a step on θ with every inner
step on u. The softmax keeps the kernel non-negative and of sum one. Outside the image is zero.

Nothing fixes a shift of q against one of x; the prior prefers centred images only as far as it
knows of one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ctrlgen.methods.base import CostLike
from ctrlgen.methods.controls.ndtm import NDTM, Weighting
from ctrlgen.methods.controls.transitions import TransitionState
from ctrlgen.methods.stepping import Run
from ctrlgen.optimizers import Adam
from ctrlgen.optimizers.first_order import FirstOrder
from ctrlgen.optimizers.stepwise import Stepwise
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import PerSample, row_sum
from ctrlgen.rows.checks import check_precision
from ctrlgen.rows.constants import follow
from ctrlgen.rows.seeds import normal
from ctrlgen.sampling.fresh import STEPS
from ctrlgen.sampling.grids import DDPMUniform
from ctrlgen.sampling.steps import DDIM

__all__ = ["BlindBlur", "BlindNDTM", "convolve"]

_KERNEL = STEPS - 1  # stream of the first logits


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """q ⊛ x, zero outside, of the shape of x; the kernel's entry at size // 2 is its origin.

    Args:
        x: signals, shape (B, C, *space).
        kernel: one per sample, shape (B, *window), as many dimensions as space.
    """
    check_precision(x=x)
    dims = tuple(range(2, x.ndim))
    window, space = kernel.shape[1:], x.shape[2:]
    size = [n + k - 1 for n, k in zip(space, window, strict=True)]
    transfer = torch.fft.rfftn(kernel.to(x.dtype).unsqueeze(1), s=size, dim=dims)
    whole = torch.fft.irfftn(torch.fft.rfftn(x, s=size, dim=dims) * transfer, s=size, dim=dims)
    for dim, k in zip(dims, window, strict=True):
        whole = whole.narrow(dim, k // 2, x.shape[dim])
    return whole


class BlindBlur(PerSample):
    """The cost of a blur of unknown kernel: ‖y − q ⊛ x‖² for the kernel that is believed in.

    Args:
        y: blurred signals, shape (B, C, *space), floating point and finite.
        size: width of the window of the kernel, in samples, along every dimension of space.
        noise: σ_y in units of y.
        kernel: believed kernels, shape (B, *window); the identity by default.

    Raises:
        TypeError: if y is no floating point tensor.
        ValueError: if y has no space or is not finite, or for a size that is no positive integer.
    """

    per_sample = ("y", "kernel")

    def __init__(
        self, y: Tensor, size: int, noise: float = 0.0, kernel: Tensor | None = None
    ) -> None:
        if not isinstance(y, Tensor) or not y.is_floating_point():
            got = y.dtype if isinstance(y, Tensor) else type(y).__name__
            raise TypeError(f"y: expected a floating point tensor, got {got}")
        if y.ndim < 3 or not bool(y.isfinite().all()):
            raise ValueError(
                f"y: expected finite signals (B, C, *space), got shape {tuple(y.shape)}"
            )
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"size: expected a positive integer, got {size!r}")
        window = (size,) * (y.ndim - 2)
        if kernel is None:
            kernel = y.new_zeros(len(y), *window)
            kernel.flatten(1)[:, sum(size // 2 * size**d for d in range(len(window)))] = 1
        if kernel.shape != (len(y), *window):
            raise ValueError(
                f"kernel: expected shape {(len(y), *window)}, got {tuple(kernel.shape)}"
            )
        self.y, self.size, self.noise, self.kernel = y, size, noise, kernel

    def believing(self, kernel: Tensor) -> BlindBlur:
        """The same cost for other kernels, shape (B, *window); differentiable in them."""
        clone = copy.copy(self)
        clone.kernel = kernel
        return clone

    def __call__(self, x: Tensor) -> Tensor:
        """Values (B,) of signals x (B, C, *space)."""
        if x.shape != self.y.shape:
            raise ValueError(f"y: expected shape {tuple(x.shape)}, got {tuple(self.y.shape)}")
        y, kernel = follow(self.y, x), follow(self.kernel, x)
        return row_sum((convolve(x, kernel) - y).square())

    def __repr__(self) -> str:
        return f"BlindBlur({self.size})"


def _row(
    iterations: int, t_end: int, terminal_weight: float, weighting: Weighting
) -> dict[str, Any]:
    """A row of Table 7."""
    return {
        "iterations": iterations,
        "gamma": 1.0,
        "rule": DDIM(0.7),
        "grid": DDPMUniform(t_end, 1000),
        "terminal_weight": terminal_weight,
        "weighting": weighting,
        "clip": 1.0,
    }


@dataclass
class KernelState(TransitionState):
    """What a run keeps.

    Attributes:
        logits: θ, shape (B, *window), leaves that require gradients.
        descend: their optimizer.
    """

    logits: Tensor = field(kw_only=True)
    descend: Stepwise = field(kw_only=True)


@dataclass(frozen=True, kw_only=True)
class BlindNDTM(NDTM[KernelState]):
    """NDTM for blurs of unknown kernel, estimated on the way; `Result.controls` holds the kernels.

    Args:
        kernel_optimizer: of the logits θ, one state for the whole run; Adam at 0.01.
    """

    control: ClassVar[str] = "one control per step, greedily, and a blur kernel"
    needs: ClassVar[str] = "a BlindBlur cost"
    presets: ClassVar[Mapping[str, dict[str, Any]]] = {
        "gaussian": _row(15, 50, 50.0, "ddim_released"),
        "motion": _row(15, 50, 50.0, "ddim_released"),
        "best": _row(15, 400, 50.0, "ddim_released") | {"optimizer": Adam(learning_rate=0.005)},
        "fast": _row(15, 200, 1.0, "zero") | {"optimizer": Adam(learning_rate=0.005)},
    }

    iterations: int = 15
    kernel_optimizer: FirstOrder = field(default_factory=lambda: Adam(learning_rate=0.01))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.kernel_optimizer, FirstOrder):
            raise TypeError(
                f"kernel_optimizer: expected Adam or GradientDescent, got {self.kernel_optimizer!r}"
            )
        if callable(self.kernel_optimizer.learning_rate):
            raise ValueError("kernel_optimizer: expected a number as learning_rate, got a schedule")

    def check(self, prior: Prior, cost: CostLike, x0: Tensor) -> None:
        if not isinstance(cost, BlindBlur):
            raise ValueError(f"cost: BlindNDTM needs a BlindBlur, got {cost!r}")
        super().check(prior, cost, x0)

    def begin(self, run: Run[KernelState], z: Tensor) -> KernelState:
        cost = run.cost
        assert isinstance(cost, BlindBlur)
        window = cost.kernel.shape[1:]
        logits = normal(run.seeds, window, _KERNEL, dtype=z.dtype, device=z.device)
        run.cost = cost.believing(_kernel(logits))
        descend = Stepwise(self.kernel_optimizer, logits)
        return KernelState(logits=logits.requires_grad_(), descend=descend)

    def terminal(self, run: Run[KernelState], data: Tensor) -> Tensor:
        cost = run.cost
        assert isinstance(cost, BlindBlur)
        return cost.believing(_kernel(run.state.logits))(run.decode(data))

    def unknowns(self, run: Run[KernelState]) -> Sequence[Tensor]:
        return (run.state.logits,)

    def learn(self, run: Run[KernelState], gradients: Sequence[Tensor]) -> None:
        assert isinstance(run.cost, BlindBlur)
        before = run.state.logits.detach()
        stepped = run.state.descend(before, gradients[0])
        logits = torch.where(stepped.isfinite(), stepped, before)
        run.state.logits = logits.requires_grad_()
        run.cost = run.cost.believing(_kernel(logits.detach()))

    def controls(self, run: Run[KernelState], x: Tensor) -> Tensor:
        return _kernel(run.state.logits.detach())


def _kernel(logits: Tensor) -> Tensor:
    """q = softmax(θ) over the whole window, shape of θ."""
    return torch.softmax(logits.flatten(1), 1).reshape(logits.shape)
