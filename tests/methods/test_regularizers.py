"""Regularizers and projections of the source point: formulas, minimisers, integrals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.methods.projections import Normalize
from ctrlgen.methods.regularizers import Chi, GaussianNLL, Regularizer, TargetNLL
from ctrlgen.optimizers import LBFGS, FunctionObjective
from ctrlgen.priors.sources import Gaussian, MaskedGaussian, Source
from ctrlgen.rows.seeds import normal

SEEDS = [2, 7, 1]


def states(*shape: int) -> Tensor:
    return normal(SEEDS, shape, 4, dtype=torch.float64)


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


# ------------------------------------------------------------------ the penalties


def test_chi_gradient_in_closed_form() -> None:
    """∇R = λ x_0 (1 − (d−1)/r²): a penalty, which pulls to √(d−1) and not away from it."""
    source, x = Gaussian((2, 3)), states(2, 3)
    r2 = x.square().sum((1, 2), keepdim=True)
    found = gradient(lambda x: Chi(0.3)(x, source), x)
    assert torch.allclose(found, 0.3 * x * (1 - 5 / r2), rtol=1e-13, atol=1e-13)


def test_chi_minimiser_has_norm_root_d_minus_one() -> None:
    source = Gaussian((12,))
    found = LBFGS(gradient_tolerance=1e-12).minimize(
        FunctionObjective(lambda x: Chi(1.0)(x, source)), 2 * states(12)
    )
    assert torch.allclose(found.x.norm(dim=1), torch.full((3,), math.sqrt(11)).double(), atol=1e-8)
    direction = 2 * states(12)
    assert torch.allclose(
        found.x / found.x.norm(dim=1, keepdim=True), direction / direction.norm(dim=1, keepdim=True)
    )


@pytest.mark.parametrize("d", [1, 2, 3, 10, 784])
def test_chi_density_integrates_to_one(d: int) -> None:
    """e^{−R} over r > 0, by the trapezium rule on a fine grid: the constant is right."""
    r = torch.linspace(1e-9, math.sqrt(d) + 12, 4_001, dtype=torch.float64)
    x = torch.zeros(len(r), d, dtype=torch.float64)
    x[:, 0] = r
    density = torch.exp(-Chi(1.0)(x, Gaussian((d,))))
    assert float(torch.trapezoid(density, r)) == pytest.approx(1, abs=1e-6)


def test_gaussian_nll_is_that_of_torch() -> None:
    x = states(5)
    law = torch.distributions.MultivariateNormal(torch.zeros(5).double(), torch.eye(5).double())
    assert torch.allclose(GaussianNLL(1.0)(x, Gaussian((5,))), -law.log_prob(x), rtol=1e-14)
    assert torch.allclose(gradient(lambda x: GaussianNLL(0.2)(x, Gaussian((5,))), x), 0.2 * x)


def test_target_nll_adds_the_divergence() -> None:
    x, source, integral = states(5), Gaussian((5,)), torch.tensor([1.0, -2.0, 0.5]).double()
    expected = 0.3 * (source.gaussian_nll(x) + integral)
    assert torch.allclose(TargetNLL(0.3)(x, source, integral), expected, rtol=1e-15)
    with pytest.raises(ValueError, match="divergence: TargetNLL needs"):
        TargetNLL(0.3)(x, source)


REGULARIZERS: list[Regularizer] = [Chi(0.7), GaussianNLL(0.7), TargetNLL(0.7)]
each = pytest.mark.parametrize("regularizer", REGULARIZERS, ids=repr)
MASK = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)


@each
def test_padding_and_centre_of_mass_do_not_count(regularizer: Regularizer) -> None:
    """A padded molecule has the penalty of the same molecule without padding."""
    source = MaskedGaussian(MASK, features=4)
    x = source.sample(SEEDS, dtype=torch.float64)
    integral = torch.zeros(3, dtype=torch.float64)
    padded = regularizer(x, source, integral)
    for i, points in enumerate(MASK.sum(1).tolist()):
        bare = MaskedGaussian(MASK[i : i + 1, :points], features=4)
        alone = regularizer(x[i : i + 1, :points], bare, integral[:1])
        assert torch.allclose(padded[i], alone[0], rtol=1e-13)
    junk = x + 5.0 * ~MASK.unsqueeze(2)
    junk[:, :, :3] += 2.0
    assert torch.allclose(regularizer(junk, source, integral), padded, rtol=1e-12)


@pytest.mark.parametrize("kind", [Chi, GaussianNLL, TargetNLL], ids=lambda kind: kind.__name__)
def test_weight_is_a_factor_and_is_checked(kind: Callable[..., Regularizer]) -> None:
    x, integral = states(6), torch.ones(3).double()
    source: Source = Gaussian((6,))
    assert torch.allclose(2 * kind(0.1)(x, source, integral), kind(0.2)(x, source, integral))
    assert torch.equal(kind(0.0)(x, source, integral), torch.zeros(3).double())
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="weight: expected a number >= 0"):
            kind(wrong)


@pytest.mark.parametrize("wrong", [0, -1, 1.5])
def test_probes_are_checked(wrong: Any) -> None:
    with pytest.raises(ValueError, match="probes: expected a positive integer or None"):
        TargetNLL(probes=wrong)


# ------------------------------------------------------------------ normalisation


def moments(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every column over the real points, (B, F) each."""
    rows = [(row[real].mean(0), row[real].std(0, correction=0)) for row, real in zip(x, mask)]  # noqa: B905
    return torch.stack([m for m, _ in rows]), torch.stack([d for _, d in rows])


@pytest.mark.parametrize("isotropic", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_columns_have_mean_zero_and_deviation_one(isotropic: bool, dtype: torch.dtype) -> None:
    x = (3 + 2 * states(5, 9)).to(dtype)
    found = Normalize(MASK, isotropic=isotropic)(x)
    assert found.dtype == dtype
    mean, deviation = moments(found, MASK)
    tight = 1e-5 if dtype == torch.float32 else 1e-12
    assert mean.abs().max() < tight
    assert (deviation[:, 3:] - 1).abs().max() < tight
    coordinates = deviation[:, :3].square().mean(1).sqrt() if isotropic else deviation[:, :3]
    assert (coordinates - 1).abs().max() < tight
    assert bool((deviation[:, :3] - 1).abs().max() > 1e-2) == isotropic
    assert found[~MASK].abs().max() == 0


@pytest.mark.parametrize("isotropic", [False, True])
@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
def test_normalising_twice_is_normalising_once(isotropic: bool, mask: Tensor | None) -> None:
    normalize = Normalize(mask, isotropic=isotropic)
    once = normalize(3 + 2 * states(5, 9))
    assert torch.allclose(normalize(once), once, rtol=0, atol=1e-13)


def test_padding_changes_nothing() -> None:
    x = states(5, 9)
    padded = Normalize(MASK)(x)
    for i, points in enumerate(MASK.sum(1).tolist()):
        assert torch.allclose(padded[i : i + 1, :points], Normalize()(x[i : i + 1, :points]))
    assert torch.equal(Normalize(MASK)(torch.where(MASK.unsqueeze(2), x, math.nan)), padded)


def test_isotropic_normalisation_commutes_with_rotations() -> None:
    x = states(5, 9)
    x[..., 0] *= 3
    rotation, _ = torch.linalg.qr(states(3, 3)[0])
    turned = torch.cat((x[..., :3] @ rotation, x[..., 3:]), 2)

    def turn(x: Tensor) -> Tensor:
        return torch.cat((x[..., :3] @ rotation, x[..., 3:]), 2)

    round_, columns = Normalize(MASK, isotropic=True), Normalize(MASK)
    assert torch.allclose(round_(turned), turn(round_(x)), rtol=0, atol=1e-12)
    assert not torch.allclose(columns(turned), turn(columns(x)), atol=1e-2)
    flat = Normalize(MASK, coordinates=0, isotropic=True)
    assert torch.equal(flat(x), columns(x))


def test_normalised_points_are_what_the_source_can_produce() -> None:
    source = MaskedGaussian(MASK, features=9)
    found = Normalize(MASK)(states(5, 9))
    assert torch.allclose(source.project(found), found, rtol=0, atol=1e-14)


def test_a_column_without_deviation_becomes_zero() -> None:
    x = states(5, 4)
    x[:, :, 3] = 1 / 3
    x[1, :, :3] = 0.1
    for isotropic in (False, True):
        found = Normalize(MASK, isotropic=isotropic)(x)
        assert found.isfinite().all()
        assert found[..., 3].abs().max() == 0 and found[1].abs().max() == 0


def test_rows_of_the_mask_leave_with_their_samples() -> None:
    x, index = states(5, 9), torch.tensor([2, 0])
    normalize = Normalize(MASK)
    assert torch.equal(normalize.take(index)(x[index]), normalize(x)[index])
    assert Normalize().take(index).mask is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Normalize(torch.ones(2, 3)), "mask: expected bool"),
        (lambda: Normalize(torch.ones(3, dtype=torch.bool)), "mask: expected bool"),
        (lambda: Normalize(coordinates=-1), "coordinates"),
        (lambda: Normalize(MASK)(states(4, 9)), r"x: expected shape \(3, 5, 'F'\)"),
        (lambda: Normalize()(states(9)), r"x: expected shape \(B, N, F\)"),
    ],
)
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
