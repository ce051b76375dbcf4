"""Calibration: a sampler of the exact posterior passes, one that is a little off does not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import SquaredError
from ctrlgen.methods import Method
from ctrlgen.methods.result import Result
from ctrlgen.operators import Matrix, Operator, dense
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.seeds import normal
from ctrlgen.rows.status import Status
from ctrlgen.testing import calibrate, gaussian, posterior
from ctrlgen.testing.calibration import moments
from ctrlgen.testing.ranks import coverage, nominal, p_values, ranks

D, NOISE = 3, 0.5
LAW = gaussian(
    torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64),
    torch.diag(torch.tensor([0.2, 0.7, 1.5], dtype=torch.float64)),
)
H = Matrix(torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64))


@dataclass(frozen=True)
class Exact(Method):
    """Draws from the Gaussian posterior, its deviations stretched and its mean shifted."""

    width: float = 1.0
    shift: float = 0.0
    dtype: torch.dtype = torch.float64

    def __call__(self, prior: Prior, cost: Any, *, seeds: Any, observer: Any = None) -> Result:
        y = cost.y
        zero = posterior(LAW, cost.operator, torch.zeros_like(y[0]), cost.noise)
        one = posterior(LAW, cost.operator, torch.ones_like(y[0]), cost.noise)
        root = torch.linalg.cholesky(zero.covariance)
        z = self.width * normal(seeds, (D,), 5, dtype=torch.float64) + self.shift
        x = zero.mean + y * (one.mean - zero.mean) + z @ root.mT
        none = torch.zeros(len(x), dtype=torch.int64)
        done = torch.full_like(none, Status.FINISHED)
        return Result(x, x, cost(x), done, torch.as_tensor(list(seeds)), *4 * [none])


def report(**settings: float) -> Any:
    return calibrate(Exact(**settings), prior=LAW, operator=H, noise=NOISE, cost=SquaredError)


def test_the_posterior_itself_passes() -> None:
    found = report()
    assert found.p_value > 0.05
    assert found.moments.distance < 2 * found.chance.distance < 0.1
    for level, share in found.ranked.coverage.items():  # 200 truths, three coordinates
        assert abs(share - level) < 3 * (level * (1 - level) / 200) ** 0.5
    head, method, chance = found.table().splitlines()
    assert head.split() == [
        *("bias", "spread", "distance", "in", "50%", "in", "90%", "p", "evaluations", "backward"),
    ]
    assert method.startswith("Exact") and "50.0%" in chance and "90.0%" in chance


@pytest.mark.parametrize("settings", [{"width": 0.8}, {"width": 1.25}, {"shift": 0.4}])
def test_what_is_a_little_off_does_not(settings: dict[str, float]) -> None:
    found = report(**settings)
    assert found.p_value < 1e-3
    width, shift = settings.get("width", 1.0), settings.get("shift", 0.0)
    expected = ((width - 1) ** 2 + shift**2) ** 0.5
    assert found.moments.distance == pytest.approx(expected, abs=0.05)
    assert found.moments.bias == pytest.approx(shift, abs=0.05)
    assert found.moments.spread == pytest.approx(abs(width**2 - 1), abs=0.1)
    narrow = found.ranked.coverage[0.9] < 0.9
    assert narrow == (width <= 1)


def test_ranks_and_what_follows_from_them() -> None:
    truth = torch.tensor([[0.5], [2.0], [-1.0]])
    samples = torch.tensor([[[0.0], [1.0]], [[0.0], [1.0]], [[0.0], [torch.nan]]])
    assert ranks(truth, samples).flatten().tolist() == [1, 2, 0]
    even = torch.arange(20).repeat(10)[:, None]
    assert p_values(even, 19).item() == 1
    assert nominal(0.9, 19) == (1, 0.9) and nominal(0.5, 19) == (5, 0.5)
    assert coverage(even, 19, 0.5).item() == 0.5 and coverage(even, 19, 0.9).item() == 0.9
    # 110 ranks in the lower half, 90 in the upper: χ² = 2, one degree of freedom
    uneven = torch.cat((torch.zeros(110), torch.full((90,), 19))).long()[:, None]
    assert p_values(uneven, 19, bins=2).item() == pytest.approx(0.157299207, abs=1e-8)


class Squares(Operator):
    """y = (x_0², x_0 + x_1)."""

    def __call__(self, x: Tensor) -> Tensor:
        return torch.stack((x[:, 0].square(), x[:, 0] + x[:, 1]), 1)


class Hidden(Operator):
    """H, which does not say that it is linear."""

    def __call__(self, x: Tensor) -> Tensor:
        return H(x)


def test_a_posterior_by_weights() -> None:
    y = torch.tensor([0.3], dtype=torch.float64)
    exact, weighted = (posterior(LAW, operator, y, NOISE, 50_000) for operator in (H, Hidden()))
    off = moments(weighted.sample(range(10_000)), exact)
    assert weighted.effective > 10_000 and off.distance < 0.04
    torch.testing.assert_close(weighted.mean, exact.mean, rtol=0, atol=0.03)
    torch.testing.assert_close(weighted.covariance, exact.covariance, rtol=0, atol=0.03)
    with pytest.raises(ValueError, match="operator: 5000 draws of the prior are worth"):
        posterior(LAW, Squares(), torch.tensor([6.0, -3.0], dtype=torch.float64), 0.01, 5000)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"prior": 3}, TypeError, "prior: expected a Prior, got 3"),
        ({"operator": 3}, TypeError, "operator: expected an Operator, got 3"),
        ({"operator": Matrix(torch.ones(2, 1, 3))}, ValueError, "operator: expected one that all"),
        ({"draws": 20}, ValueError, "expected at least 2, at least 50 and a multiple of 10 less"),
        ({"noise": 0.0}, ValueError, "noise: expected a standard deviation > 0, got 0.0"),
    ],
)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"prior": LAW, "operator": H, "noise": NOISE, "cost": SquaredError, **change}
    with pytest.raises(error, match=message):
        calibrate(Exact(), **arguments)


@pytest.mark.parametrize("shape", [(2, 4), (4, 2), (3, 3)])
def test_the_operator_of_a_matrix(shape: tuple[int, int]) -> None:
    matrix = normal([3], shape, 9, dtype=torch.float64)[0]
    matrix[-1] = matrix[0]  # of a rank below full
    operator = Matrix(matrix)
    y = normal(range(5), shape[:1], 2, dtype=torch.float64)
    exact: dict[str, Any] = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(dense(operator, shape[1:]), matrix, **exact)
    torch.testing.assert_close(operator.adjoint(y), y @ matrix, **exact)
    torch.testing.assert_close(operator.pinv(y), y @ torch.linalg.pinv(matrix).mT, **exact)
    system = 0.7 * matrix @ matrix.mT + 0.09 * torch.eye(shape[0], dtype=torch.float64)
    solved = torch.linalg.solve(system, y.mT).mT @ matrix
    torch.testing.assert_close(operator.solve(y, 0.7, 0.3), solved, **exact)
    with pytest.raises(ValueError, match=r"matrix: expected a floating point tensor of shape"):
        Matrix(torch.ones(3))


def test_the_lines_of_the_page_run() -> None:
    page = Path(__file__).parents[2] / "docs" / "calibration.md"
    (block,) = [part.split("```")[0] for part in page.read_text().split("```python\n")[1:]]
    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    session: dict[str, Any] = {}
    exec(block, session)
    assert session["report"].table().count("\n") == 2
