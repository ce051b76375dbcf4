"""With `--device` an experiment moves its images and its prior; the operators must follow."""

from __future__ import annotations

import pytest
import torch

from ctrlgen.costs import NegativePSNR
from ctrlgen.experiments.methods.matrix import TASKS
from ctrlgen.rows.seeds import normal
from ctrlgen.testing import DEVICE, Accelerator

SHAPE = (1, 28, 28)


@pytest.mark.parametrize("name", TASKS)
def test_the_set_up_of_a_task_follows_its_images(name: str) -> None:
    task, seeds = TASKS[name], range(2)
    truth = torch.tanh(normal(seeds, SHAPE, 3))

    def set_up(truth: torch.Tensor) -> list[torch.Tensor]:
        problem = task.problem(truth)
        operator, y = problem.operator, problem.y
        cost = NegativePSNR(operator, y, task.noise)
        image = (0.5 * truth).requires_grad_()
        value = cost(image)
        (gradient,) = torch.autograd.grad(value.sum(), image)
        return [y, operator.pinv(y), value.detach(), gradient]

    here = set_up(truth)
    with Accelerator() as accelerator, accelerator.watching() as ledger:
        there = set_up(truth.to(DEVICE))
        assert all(part.device == DEVICE for part in there)
        there = [part.cpu() for part in there]
    assert not ledger.mixed, ledger.mixed
    for one, other in zip(there, here, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)
