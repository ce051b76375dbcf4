r"""Fidelity: what methods with a data term of their own compare a state with.

    "squared"     ½ ‖H(decode(x)) − y‖²       of the cost's measurement, whatever its cost formula
    "absolute"    ‖H(decode(x)) − y‖₁         the same under Laplace noise
    "cost"        C(decode(x))                any cost

The first two read the measurement only: further terms of the cost have no part in them. Gradients
pass through operator and codec, never through the network; for a linear H and no codec the first
is H^T(Hx − y).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ctrlgen.methods.base import CostLike, measurement_of
from ctrlgen.methods.run import Run
from ctrlgen.rows.batching import row_sum

__all__ = ["Fidelity", "Slope", "check_fidelity", "misfit", "proxy", "slope"]

Fidelity = Literal["squared", "absolute", "cost"]


class Slope(NamedTuple):
    """A misfit at some states, without a graph.

    Attributes:
        gradient: of the misfit, shape of the states.
        cost: what the problem's own cost is there, shape (B,); None where nobody asked for it.
    """

    gradient: Tensor
    cost: Tensor | None


def check_fidelity(fidelity: str, method: str, cost: CostLike | None = None) -> None:
    """Raise ValueError for a name that is not known, or a measurement that the cost lacks."""
    if fidelity not in get_args(Fidelity):
        raise ValueError(f"fidelity: expected one of {get_args(Fidelity)}, got {fidelity!r}")
    if cost is not None and fidelity != "cost" and measurement_of(cost) is None:
        raise ValueError(
            f"cost: {method} with fidelity={fidelity!r} needs one with a measurement (operator "
            "and y); fidelity='cost' takes any cost"
        )


def misfit(run: Run, signal: Tensor, fidelity: Fidelity) -> Tensor:
    """The data term of signals by one of the module's names, shape (B,), differentiable."""
    if fidelity == "cost":
        return run.judge(signal)
    assert run.measurement is not None  # the method's check has seen to it
    seen = run.measurement.operator(signal)
    residual = seen - run.measurement.y.to(seen)
    if fidelity == "absolute":
        return row_sum(residual.abs())
    return 0.5 * row_sum(residual.square())


def slope(run: Run, state: Tensor, fidelity: Fidelity, report: bool = True) -> Slope:
    """The gradient of the data term at states (B, *).

    Args:
        run: the problem.
        state: where.
        fidelity: data term.
        report: evaluate the cost as well, on the same decoded signals.
    """
    with torch.enable_grad():
        state = state.detach().requires_grad_()
        signal = run.decode(state)
        value = misfit(run, signal, fidelity)
        (gradient,) = torch.autograd.grad(value.sum(), state)
    if not report:
        return Slope(gradient, None)
    if fidelity == "cost":
        return Slope(gradient, value.detach())
    with torch.no_grad():
        return Slope(gradient, run.judge(signal.detach()))


def proxy(run: Run, like: Tensor) -> Tensor:
    """The state of H†y, shape and dtype of `like`.

    Raises:
        ValueError: for an operator that has no pseudo-inverse.
    """
    assert run.measurement is not None
    with torch.no_grad():
        try:
            signal = run.measurement.operator.pinv(run.measurement.y.to(like))
        except NotImplementedError as error:
            raise ValueError(f"start: 'guided' needs a pseudo-inverse; {error}") from error
        return run.prior.codec.encode(signal)
