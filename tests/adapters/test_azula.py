"""Denoisers of azula as priors."""

from __future__ import annotations

import importlib.util
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from ctrlgen.adapters import from_azula
from ctrlgen.adapters.azula import SchedulePath
from ctrlgen.priors.paths import VP, CondOT, Cosine
from ctrlgen.rows.seeds import normal
from ctrlgen.testing.oracles import Mixture, gaussian

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def law(d: int = 4) -> Mixture:
    root = normal([1], (d, d), dtype=torch.float64)[0]
    covariance = 0.2 * root @ root.T + 0.1 * torch.eye(d, dtype=torch.float64)
    return gaussian(normal([2], (d,), dtype=torch.float64)[0], covariance)


class Exploding:
    """σ from 0.001 to 1000, α = 1: a schedule whose state has no unit variance."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), torch.exp(math.log(1e-3) * (1 - t) + math.log(1e3) * t)


class Preserving:
    """α = 0.001^(t²) and σ² = 1 − α² + 10⁻⁶."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha = torch.exp(math.log(1e-3) * t**2)
        return alpha, torch.sqrt(1 - alpha**2 + 1e-6)


class Denoiser:
    """What an azula denoiser offers, for the oracle."""

    def __init__(self, schedule) -> None:
        self.schedule = schedule

    def __call__(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        alpha, sigma = self.schedule(t)
        return SimpleNamespace(mean=law().denoise(x, alpha, sigma))


def azula_cases() -> dict:
    """Stand-ins of azula's protocol, and azula itself where it is installed."""
    cases = {
        "exploding": (Denoiser(Exploding()), False),
        "preserving": (Denoiser(Preserving()), False),
    }
    if importlib.util.find_spec("azula"):
        from azula import noise
        from azula.denoise import GaussianDenoiser
        from azula.linalg.covariance import FullCovariance

        mean, (values, vectors) = law().mean, torch.linalg.eigh(law().covariance)
        for name in ("VESchedule", "VPSchedule", "CosineSchedule", "RectifiedSchedule"):
            schedule = getattr(noise, name)()
            denoiser = GaussianDenoiser(mean, FullCovariance(vectors, values), schedule)
            cases[f"azula {name}"] = (denoiser, True)
    return cases


AZULA = azula_cases()


@pytest.mark.parametrize(("denoiser", "one_time"), list(AZULA.values()), ids=list(AZULA))
@pytest.mark.parametrize("path", [CondOT(), Cosine(), VP()], ids=repr)
def test_azula_denoiser_is_the_oracle(denoiser, one_time, path, x):
    flow = from_azula(denoiser, path, one_time=one_time)
    for t in (0.2, 0.5, 0.9):
        seen, oracle = flow.predict(x, t), law().flow(path).predict(x, t)
        for name in ("data", "noise", "velocity", "score"):
            torch.testing.assert_close(getattr(seen, name), getattr(oracle, name), **EXACT)


def test_azula_denoiser_with_times_per_sample(x, t):
    flow = from_azula(Denoiser(Preserving()))
    torch.testing.assert_close(flow.velocity(x, t), law().flow().velocity(x, t), **EXACT)


@pytest.mark.parametrize("schedule", [Exploding(), Preserving()], ids=["exploding", "preserving"])
def test_schedule_paths_obey_the_laws_of_paths(schedule):
    t = torch.linspace(0.02, 0.98, 21, dtype=torch.float64).requires_grad_()
    path = SchedulePath(schedule)
    at = path(t)
    for value, derivative in ((at.alpha, at.d_alpha), (at.sigma, at.d_sigma)):
        if value.requires_grad:
            (expected,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        else:
            expected = torch.zeros_like(t)
        torch.testing.assert_close(derivative, expected, rtol=1e-11, atol=1e-12)
    level = at.log_snr.detach().requires_grad_()
    found = path.time_at(level)
    torch.testing.assert_close(found, t, rtol=0, atol=1e-12)
    (slope,) = torch.autograd.grad(found.sum(), level)
    (rate,) = torch.autograd.grad(path(t).log_snr.sum(), t)
    torch.testing.assert_close(slope, 1 / rate, rtol=1e-8, atol=0)
    ends = path.time_at(torch.tensor([-math.inf, math.inf], dtype=torch.float64)).clamp(0, 1)
    assert ends.tolist() == [0, 1]
    assert path.time_at(level.float()).dtype == torch.float32


def test_azula_without_a_schedule_is_refused():
    with pytest.raises(TypeError, match="denoiser: expected a callable with a schedule"):
        from_azula(lambda x, t: x)
