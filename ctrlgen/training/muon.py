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
        """One update of every parameter that has a gradient; returns what closure returned.

        An attribute `found_inf`, a scalar of the device as gradient scalers set it, leaves weights
        and momentum as they are where it is 1; nothing is read back to know.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found: Tensor | None = getattr(self, "found_inf", None)
        moves = None if found is None else 1 - found
        for group in self.param_groups:
            lr, keep = group["lr"], group["momentum"]
            # Matrices of one shape go through the products together: half the time on a CPU.
            alike: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(parameter.flatten(1).shape, []).append(parameter)
                    if not self.state[parameter]:
                        self.state[parameter]["momentum"] = torch.zeros_like(parameter)
            for shape, members in alike.items():
                weights: list[Tensor] = [*members]
                averages = [self.state[parameter]["momentum"] for parameter in members]
                gradient = torch.stack([p.grad.flatten(1) for p in members if p.grad is not None])
                fade: Any = keep
                shrink: Any = 1 - lr * group["weight_decay"]
                if moves is not None:
                    gradient = torch.where(moves > 0, gradient, 0)
                    fade, shrink = 1 - moves * (1 - fade), 1 - moves * (1 - shrink)
                torch._foreach_mul_(averages, fade)
                parts = gradient.unbind()
                torch._foreach_add_(
                    averages, [x.view_as(a) for x, a in zip(parts, averages, strict=True)]
                )
                momentum = torch.stack([average.flatten(1) for average in averages])
                turned = orthogonalise(gradient.add(momentum, alpha=keep), dtype=self.dtype)
                if moves is not None:
                    turned = turned * moves
                torch._foreach_mul_(weights, shrink)
                updates = [x.view_as(p) for x, p in zip(turned.unbind(), members, strict=True)]
                torch._foreach_sub_(weights, updates, alpha=lr * 0.2 * max(shape) ** 0.5)
        return loss
