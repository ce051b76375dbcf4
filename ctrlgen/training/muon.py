r"""Muon: momentum whose update is replaced by the nearest semi-orthogonal matrix.

For a weight W read as a matrix (rows, columns), with gradient G (Jordan et al. 2024):

    M <- mu M + G,    N = G + mu M,    W <- (1 - lr wd) W - 0.2 sqrt(max(rows, columns)) lr O(N),

where O(N) is the polar factor of N, approximated by five Newton-Schulz steps of the quintic
X <- a X + (b X X^T + c (X X^T)^2) X. The factor 0.2 sqrt(max(rows, columns)) gives the update the
root mean square of an AdamW step (Liu et al. 2025, "Muon is scalable", eq. 4), so both share a
learning rate. A convolution kernel (O, I, k, k) is the matrix (O, I k k).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Muon", "orthogonalise"]

_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrix: Tensor, steps: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Approximate polar factor, all singular values within about 0.7..1.2.

    Args:
        matrix: shape (m, n), or several of them, shape (k, m, n).
        steps: of Newton and Schulz.
        dtype: of the products; bfloat16 is exact enough, and fast where it is in hardware.
    """
    a, b, c = _QUINTIC
    wide = matrix.shape[-2] <= matrix.shape[-1]
    x = matrix if wide else matrix.mT
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(dtype)
    product = torch.addmm if x.ndim == 2 else torch.baddbmm
    for _ in range(steps):
        gram = x @ x.mT
        x = product(x, product(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.mT).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """The optimiser above, for parameters of at least two dimensions.

    Args:
        parameters: weights, shape (rows, ...).
        lr: learning rate on AdamW's scale.
        weight_decay: decoupled decay per unit of learning rate.
        momentum: mu.
        dtype: of the products of `orthogonalise`.

    Raises:
        ValueError: a parameter has fewer than two dimensions.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self.dtype = dtype
        parameters = list(parameters)
        for parameter in parameters:
            if parameter.ndim < 2:
                raise ValueError(f"parameters: expected matrices, got shape {parameter.shape}")
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; returns what closure returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            # Matrices of one shape go through the products together: half the time on a CPU.
            alike: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                average = state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
                update = parameter.grad.add(average, alpha=group["momentum"]).flatten(1)
                alike.setdefault(update.shape, []).append((parameter, update))
            for shape, members in alike.items():
                size = group["lr"] * 0.2 * max(shape) ** 0.5
                turned = orthogonalise(
                    torch.stack([update for _, update in members]), dtype=self.dtype
                )
                for (parameter, _), update in zip(members, turned, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(update.view_as(parameter), alpha=size)
        return loss
