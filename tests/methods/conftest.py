"""A small inverse problem over a nonlinear network in float64, for hand-computed steps.

`Stub` reads one network as the ε̂ of DDPM's table and as the velocity of straight lines. What it
computes uses torch alone, in ᾱ and t; of the library it takes random draws only, which must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import SquaredError
from ctrlgen.operators.base import LinearOperator
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.seeds import normal
from ctrlgen.sampling.fresh import step_noise
from ctrlgen.sampling.grids import DDPMUniform, ddpm

_draw = partial(normal, dtype=torch.float64)


class Stub:
    """Three samples of four numbers, two of which are measured by a matrix with noise.

    Attributes:
        grid: two steps of DDPM's table, from the index 550 to 200 and to the datum (index −1).
        diffusion: the network as ε̂ on the table.
        flow: the same network as a velocity on straight lines.
        bars: ᾱ of the table by index; 1 at −1.
        z: source points, shape (3, 4).
    """

    seeds = torch.tensor([11, 5, 7])
    grid = DDPMUniform(2, 900, 200)
    steps = tuple(enumerate(pairwise((550, 200, -1))))

    def __init__(self, operator_of: Callable[[Tensor], LinearOperator]) -> None:
        self.weights = _draw([1], (4, 4), 3)[0] / 2
        self.matrix = _draw([2], (2, 4), 4)[0]
        self.y = _draw(self.seeds, (2,), 21)
        self.operator = operator_of(self.matrix)
        self.source = Gaussian((4,))
        self.diffusion = Prior(Flow(self.network, ddpm(), "noise"), self.source)
        self.flow = Prior(Flow(self.network, CondOT(), "velocity"), self.source)
        betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        self.bars = [*torch.cumprod(1 - betas, 0).tolist(), 1.0]
        self.z = self.source.sample(self.seeds, dtype=torch.float64)

    def cost(self, noise: float = 0.0) -> SquaredError:
        """‖Hx − y‖² as the library has it."""
        return SquaredError(self.operator, self.y, noise)

    # ---------------------------------------------------------------- by hand

    def network(self, x: Tensor, t: Tensor) -> Tensor:
        """f(x, t), shape of x."""
        return torch.tanh(x @ self.weights + t.unsqueeze(1)) + 0.3 * x

    def noise(self, x: Tensor, i: int) -> Tensor:
        """ε̂ of the table's index i."""
        return self.network(x, x.new_full((len(x),), 1 - i / 999))

    def data(self, x: Tensor, i: int) -> Tensor:
        """x̂ = (x − √(1−ᾱ) ε̂)/√ᾱ."""
        return (x - (1 - self.bars[i]) ** 0.5 * self.noise(x, i)) / self.bars[i] ** 0.5

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """u on straight lines."""
        return self.network(x, x.new_full((len(x),), t))

    def fresh(self, step: int, draw: int = 0) -> Tensor:
        """The library's noise of a step."""
        return step_noise(self.source, self.seeds, step, self.z, draw)

    def square(self, data: Tensor) -> Tensor:
        """‖Hx − y‖², shape (3,)."""
        return (data @ self.matrix.T - self.y).square().sum(1)

    def norm(self, data: Tensor) -> Tensor:
        """‖Hx − y‖, shape (3,)."""
        return self.square(data).sqrt()

    @staticmethod
    def slope(value: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """∇ of a value of each row."""
        x = x.detach().requires_grad_()
        return torch.autograd.grad(value(x).sum(), x)[0]

    @staticmethod
    def product(map: Callable[[Tensor], Tensor], x: Tensor, vector: Tensor) -> Tensor:
        """(∂map/∂x)^T vector."""
        x = x.detach().requires_grad_()
        return torch.autograd.grad(map(x), x, vector)[0]

    def ddim(self, data: Tensor, noise: Tensor, i: int, j: int, z: Tensor, eta: float) -> Tensor:
        """Song et al., eqs 12 and 16."""
        bar_t, bar_s = self.bars[i], self.bars[j]
        c1 = eta * ((1 - bar_s) / (1 - bar_t) * (1 - bar_t / bar_s)) ** 0.5
        return bar_s**0.5 * data + (1 - bar_s - c1**2) ** 0.5 * noise + c1 * z

    def posterior(self, x: Tensor, data: Tensor, i: int, j: int, z: Tensor) -> Tensor:
        """The ancestral step of Ho et al. as its code has it, from x̂ and x_t."""
        bar_t, bar_s = self.bars[i], self.bars[j]
        kept = bar_t / bar_s
        first = bar_s**0.5 * (1 - kept) / (1 - bar_t)
        second = kept**0.5 * (1 - bar_s) / (1 - bar_t)
        spread = ((1 - bar_s) / (1 - bar_t) * (1 - kept)) ** 0.5
        return first * data + second * x + spread * z

    @staticmethod
    def adam(rate: float, betas: tuple[float, float] = (0.9, 0.999)) -> Callable[..., Tensor]:
        """Adam with averages of its own: step(x, gradient, scale of the rate, weight decay)."""
        first, second, count = 0.0, 0.0, 0

        def step(x: Tensor, gradient: Tensor, scale: float = 1.0, decay: float = 0.0) -> Tensor:
            nonlocal first, second, count
            count += 1
            first = betas[0] * first + (1 - betas[0]) * gradient
            second = betas[1] * second + (1 - betas[1]) * gradient**2
            root = (second / (1 - betas[1] ** count)) ** 0.5 + 1e-8
            x = x * (1 - rate * decay)
            return x - scale * rate * first / (1 - betas[0] ** count) / root

        return step

    def back(self, x: Tensor, i: int, j: int, z: Tensor) -> Tensor:
        """From index j to the noisier i."""
        kept = self.bars[i] / self.bars[j]
        return kept**0.5 * x + (1 - kept) ** 0.5 * z


@pytest.fixture
def stub(matrix_operator: Callable[[Tensor], LinearOperator]) -> Stub:
    """The problem of the parity tests."""
    return Stub(matrix_operator)
