r"""Guided transitions: a control in every step that trades a lower cost for a likely transition.

Diffusion trajectory matching (Pandey, Sofian, Draxler, Karaletsos & Mandt, arXiv 2502.03686,
eqs 8-11) steers the sampler's Markov chain by controls u_t and stays close to the unguided chain,

    min_u  w_T C(x̂^u) + Σ_t KL(p(x_s | x_t, u_t) ‖ p(x_s | x_t)),

solved greedily: in every step, with the cost taken at the denoised state of the controlled
prediction,

    min_u  w_q ‖q(x_t, u) − q(x_t)‖² + w_c ‖γu‖² + w_T C(decode(x̂^u)),

q what the transition is made of: the noise (`NDTM`), the score (`CTDTM`), the velocity (`FTM`).
`iterations` steps of a first-order optimizer, fresh in every sampling step, its rate decaying
linearly over the sampling steps: lr_k = lr_0 (1 − k/K). Costs N + 1 evaluations and N vjps a step,
and one evaluation more where w_q is not zero.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from ctrlgen.methods.base import CostForm, check_clip
from ctrlgen.methods.stepping import Run, SteppedMethod
from ctrlgen.optimizers import Adam
from ctrlgen.optimizers.first_order import FirstOrder
from ctrlgen.optimizers.stepwise import Stepwise
from ctrlgen.rows.batching import row_sum

__all__ = ["GuidedTransitions", "Response", "TransitionState", "Weights"]


class Weights(NamedTuple):
    """Weights of the two penalties of a step: of the change of q, and of the control γu."""

    change: float
    control: float


class Response(NamedTuple):
    """What a control does.

    Attributes:
        data: x̂^u, shape (B, *).
        quantity: q, shape (B, *): what the penalty compares and the step is made of.
        base: the state from which the step goes, shape (B, *).
    """

    data: Tensor
    quantity: Tensor
    base: Tensor


@dataclass
class TransitionState:
    """What a run keeps.

    Attributes:
        control: u of the step before, shape (B, *), where it is the start of the next.
    """

    control: Tensor | None = None


T = TypeVar("T", bound=TransitionState)


@dataclass(frozen=True, kw_only=True)
class GuidedTransitions(SteppedMethod[T]):
    """Base of the methods with a control in every step.

    Args:
        iterations: N, optimizer steps in every sampling step, >= 1.
        gamma: γ > 0, scale of the control.
        terminal_weight: w_T >= 0, weight of the cost; the papers' is the squared error of a
            measurement, summed.
        optimizer: first-order rule of the control; Adam at 0.01.
        warm: start from the control of the step before instead of zero.
        clip: bound of |x̂| in every step, e.g. 1 for images in [−1, 1]; None for none. NDTM keeps
            the network's ε̂ beside a bounded x̂, as its authors' code does; CT-DTM and FTM step from
            what the bounded x̂ makes of score and velocity.

    Raises:
        TypeError: if the optimizer is none of first order.
        ValueError: for numbers out of range.
    """

    control: ClassVar[str] = "one control per step, greedily"
    cost_form: ClassVar[CostForm] = "squared"

    iterations: int = 5
    gamma: float = 1.0
    terminal_weight: float = 50.0
    optimizer: FirstOrder = field(default_factory=lambda: Adam(learning_rate=0.01))
    warm: bool = False
    clip: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.iterations, int) or self.iterations < 1:
            raise ValueError(f"iterations: expected a positive integer, got {self.iterations!r}")
        if not self.gamma > 0:
            raise ValueError(f"gamma: expected a positive number, got {self.gamma}")
        if not self.terminal_weight >= 0:
            raise ValueError(f"terminal_weight: expected >= 0, got {self.terminal_weight}")
        if not isinstance(self.optimizer, FirstOrder):
            raise TypeError(f"optimizer: expected Adam or GradientDescent, got {self.optimizer!r}")
        if callable(self.optimizer.learning_rate):
            raise ValueError("optimizer: expected a number as learning_rate, got a schedule")
        check_clip(self.clip)

    # ---------------------------------------------------------------- what a method writes

    @abstractmethod
    def weights(self, run: Run[T], step: int) -> Weights:
        """Weights of the penalties in a step."""

    @abstractmethod
    def respond(
        self, run: Run[T], x: Tensor, u: Tensor, step: int, free: Response | None
    ) -> Response:
        """What control u (B, *) does to states x, differentiable in u.

        Args:
            run: see `Run`.
            x: states, shape (B, *).
            u: controls, shape (B, *).
            step: number of the step.
            free: the response to u = 0, where the method needs it.
        """

    @abstractmethod
    def land(self, run: Run[T], response: Response, step: int) -> Tensor:
        """The state at the next level."""

    def needs_free(self, weights: Weights) -> bool:
        """Whether the response to u = 0 is needed: where its change has a weight."""
        return weights.change != 0

    def terminal(self, run: Run[T], data: Tensor) -> Tensor:
        """The cost of denoised states, shape (B,), differentiable."""
        return run.value(data)

    def unknowns(self, run: Run[T]) -> Sequence[Tensor]:
        """What is optimised beside the controls, as leaves that require gradients."""
        return ()

    def learn(self, run: Run[T], gradients: Sequence[Tensor]) -> None:
        """Take a step on the unknowns, from their gradients."""

    # ---------------------------------------------------------------- what they share

    def begin(self, run: Run[T], z: Tensor) -> T:
        """A `TransitionState`; a method that keeps more returns one of its own."""
        return cast(T, TransitionState())

    def update(self, run: Run[T], x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        weights = self.weights(run, step)
        zero = torch.zeros_like(x)
        free = None
        if self.needs_free(weights):
            with torch.no_grad():
                free = self.respond(run, x, zero, step, None)
        u = zero if run.state.control is None else run.state.control
        descend = Stepwise(self.optimizer, u)
        decay = 1 - step / (len(run.levels) - 1)
        for _ in range(self.iterations):
            with torch.enable_grad():
                u = u.detach().requires_grad_()
                value = self._value(run, x, u, step, free, weights)
                unknowns = self.unknowns(run)
                gradient, *others = torch.autograd.grad(value.sum(), [u, *unknowns])
            u = run.project(descend(u.detach(), gradient, decay))
            self.learn(run, others)
        with torch.no_grad():
            response = self.respond(run, x, u, step, free)
            response = response._replace(data=run.clipped(response.data))
            if self.warm:
                run.state.control = u
            return self.land(run, response, step), self.terminal(run, response.data)

    def _value(
        self, run: Run[T], x: Tensor, u: Tensor, step: int, free: Response | None, weights: Weights
    ) -> Tensor:
        response = self.respond(run, x, u, step, free)
        value = self.terminal_weight * self.terminal(run, run.clipped(response.data))
        if weights.change:
            assert free is not None
            value = value + weights.change * row_sum((response.quantity - free.quantity).square())
        if weights.control:
            value = value + weights.control * row_sum((self.gamma * u).square())
        return value
