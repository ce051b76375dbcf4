"""The adaptive solver where a trial step fails, and what a rejected one leaves behind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ctrlgen.solvers import Dopri5


def falling(x: Tensor, t: Tensor) -> Tensor:
    return -(x**9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_trial_that_is_not_finite_is_a_rejected_step(dtype: torch.dtype) -> None:
    x = torch.tensor([[10.0], [0.5], [15.0]], dtype=dtype)
    end = Dopri5(1e-7, 1e-9)(falling, x)
    expected = (x.double() ** -8 + 8) ** -0.125
    assert float(expected[0]) == pytest.approx(8**-0.125, rel=1e-9)
    assert torch.allclose(end.double(), expected, rtol=1e-5, atol=0)


def test_a_rejected_trial_has_no_part_in_the_gradient() -> None:
    """Some of its stages overflow, and so would their derivatives."""
    x = torch.tensor([[10.0], [0.5]], dtype=torch.float32, requires_grad=True)
    end = Dopri5(1e-6, 1e-6)(falling, x)
    (gradient,) = torch.autograd.grad(end.sum(), x)
    x = x.detach().double()
    expected = x**-9 * (x**-8 + 8) ** -1.125
    assert torch.allclose(gradient.double(), expected, rtol=2e-2, atol=1e-12)


def test_a_row_that_cannot_arrive_is_given_up() -> None:
    """dx/dt = x² from 2 is infinite at t = ½; a NaN never was anywhere."""
    calls: list[int] = []

    def rising(x: Tensor, t: Tensor) -> Tensor:
        calls.append(len(x))
        return x.square()

    x = torch.tensor([[2.0], [0.5], [torch.nan]], dtype=torch.float64)
    end = Dopri5(1e-6, 1e-6)(rising, x)
    assert end[0].isnan() and end[2].isnan()
    assert float(end[1]) == pytest.approx(1.0, rel=1e-5)  # 1/(1/x − t)
    assert len(calls) < 6 * 400
