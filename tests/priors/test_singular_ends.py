"""Ends of a path where a network's own quantity says nothing of the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ctrlgen.costs import Reversed
from ctrlgen.methods import DPS, DFlow, DMPlug, OCFlow, OptimalControl
from ctrlgen.optimizers import LBFGS
from ctrlgen.priors.flows import Flow, Kind
from ctrlgen.priors.paths import VP, CondOT, DiscreteVP, Path
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.sampling.grids import Uniform
from ctrlgen.solvers import RK4, Dopri5, Euler, Heun, Midpoint, Solver

D = 4
SOLVERS = [Euler(8), Midpoint(8), Heun(8), RK4(8), Dopri5(1e-4, 1e-4)]
LAST = {"Heun", "RK4", "Dopri5"}  # evaluate the end
MEAN = torch.linspace(-1, 1, D, dtype=torch.float64)


def prior(kind: Kind, path: Path) -> Prior:
    """Of N(μ, ¼I), in whatever its network predicts."""

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = (part.unsqueeze(1) for part in path(t)[:2])
        total = sigma**2 + alpha**2 / 4
        noise = sigma * (x - alpha * MEAN.to(x)) / total
        data = MEAN.to(x) + alpha / 4 * (x - alpha * MEAN.to(x)) / total
        v = alpha * noise - sigma * data
        return {"noise": noise, "data": data, "score": -noise / sigma, "v": v}[kind]

    return Prior(Flow(network, path, kind), Gaussian((D,)))


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("kind", ["noise", "score"])
def test_noise_says_nothing_where_there_is_no_signal(kind: Kind, solver: Solver) -> None:
    model = prior(kind, CondOT())
    with pytest.raises(ValueError, match=rf"predicts {kind} .* t = 0 .* α = 0; .*prior.on\(VP"):
        model.sample(range(3), solver, dtype=torch.float64)
    assert model.flow.evaluations.forward == 0
    samples = model.on(VP()).sample(range(200), solver, dtype=torch.float64)
    assert samples.isfinite().all() and float((samples.mean(0) - MEAN).abs().max()) < 0.2


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_data_says_nothing_where_there_is_no_noise(solver: Solver) -> None:
    model, name = prior("data", CondOT()), type(solver).__name__
    if name in LAST:
        with pytest.raises(ValueError, match=r"predicts data .* t = 1 .* σ = 0"):
            model.sample(range(3), solver, dtype=torch.float64)
        assert model.flow.evaluations.forward == 0
        model = model.on(VP())
    samples = model.sample(range(200), solver, dtype=torch.float64)
    assert samples.isfinite().all() and float((samples.mean(0) - MEAN).abs().max()) < 0.2
    with pytest.raises(ValueError, match="t = 1"):
        prior("data", CondOT()).encode(samples, solver)


@pytest.mark.parametrize(
    "method",
    [DFlow(), DPS(clock=None), DMPlug(clock=CondOT()), OCFlow(), OptimalControl()],
    ids=lambda method: type(method).__name__,
)
def test_methods_refuse_before_any_evaluation(method: Any) -> None:
    model = prior("noise", CondOT())
    if hasattr(method, "grid"):
        method = replace(method, grid=Uniform(3))
    cost = Reversed(MEAN.expand(2, -1).clone())
    with pytest.raises(ValueError, match="predicts noise has no velocity at t = 0"):
        replace(method, dtype=torch.float64)(model, cost, seeds=range(2))
    assert model.flow.evaluations.forward == 0


# ------------------------------------------------------------------ zero terminal SNR


def rescaled() -> DiscreteVP:
    """DDPM's table, shifted and scaled in √ᾱ so that the last is 0 (arXiv 2305.08891, Alg. 1)."""
    root = DiscreteVP.linear().alphas_cumprod.sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return DiscreteVP(root.square())


def test_a_table_may_end_in_pure_noise() -> None:
    path = rescaled()
    times = 1 - torch.tensor([999.0, 998.5, 998.0, 500.0, 0.0], dtype=torch.float64) / 999
    at = path(times)
    bars = path.alphas_cumprod
    assert at.alpha[0] == 0 and at.sigma[0] == 1
    for place, index in ((2, 998), (3, 500), (4, 0)):
        assert float(at.alpha[place] ** 2) == pytest.approx(float(bars[index]), rel=1e-9)
    assert float(at.alpha[1]) == pytest.approx(float(bars[998].sqrt() / 2), rel=1e-9)
    assert torch.allclose(path.time_at(at.log_snr), times, rtol=0, atol=1e-9)
    h = 1e-6
    inside = 1 - torch.tensor([998.5, 998.1, 500.5], dtype=torch.float64) / 999
    for name in ("alpha", "sigma"):
        slope = (getattr(path(inside + h), name) - getattr(path(inside - h), name)) / (2 * h)
        found = getattr(path(inside), f"d_{name}")
        assert torch.allclose(slope, found, rtol=1e-4, atol=1e-8)


def test_v_prediction_on_a_zero_terminal_table() -> None:
    model = prior("v", rescaled())
    samples = model.sample(range(300), Midpoint(50), dtype=torch.float64)
    assert float((samples.mean(0) - MEAN).abs().max()) < 0.15
    assert float((samples.std(0) - 0.5).abs().max()) < 0.1
    cost = Reversed(MEAN.expand(2, -1).clone())
    method = DFlow(optimizer=LBFGS(max_iterations=3), dtype=torch.float64)
    result = method(model, cost, seeds=[0, 1])
    assert result.samples.isfinite().all()
    with pytest.raises(ValueError, match="predicts noise has no velocity at t = 0"):
        prior("noise", rescaled()).sample([0], dtype=torch.float64)


def test_a_zero_terminal_table_reads_on_other_clocks() -> None:
    model = prior("v", rescaled())
    for clock in (CondOT(), VP(), DiscreteVP.linear()):
        samples = model.on(clock).sample(range(200), Midpoint(40), dtype=torch.float64)
        assert float((samples.mean(0) - MEAN).abs().max()) < 0.2, clock
