"""Sources: radius law, densities, geometry, and draws that belong to their samples."""

from __future__ import annotations

import math

import pytest
import torch

from ctrlgen.priors.sources import Gaussian, MaskedGaussian, Source
from ctrlgen.rows.seeds import normal

MASK = torch.tensor(
    [
        [True, True, True, True, True],
        [True, True, True, False, False],
        [True, True, False, False, False],
    ]
)
SOURCES: dict[str, Source] = {
    "vector": Gaussian((7,)),
    "image": Gaussian((3, 4, 4)),
    "molecule": MaskedGaussian(MASK, 4),
    "plane": MaskedGaussian(MASK, 2, coordinates=2),
    "features": MaskedGaussian(MASK, 3, coordinates=0),
}
EXACT = {"rtol": 1e-11, "atol": 1e-12}


@pytest.fixture(params=list(SOURCES.values()), ids=list(SOURCES))
def source(request) -> Source:
    return request.param


def state(source: Source, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Three states that the source can produce."""
    return source.sample([4, 5, 6], dtype=dtype)


def anything(source: Source) -> torch.Tensor:
    """Three states that it cannot."""
    return normal([7, 8, 9], source.shape, dtype=torch.float64)


def projector(source: Source, row: int) -> torch.Tensor:
    """The matrix of the projection of one sample."""
    size = math.prod(source.shape)
    units = torch.eye(size, dtype=torch.float64).reshape(size, *source.shape)
    return source.take(torch.full((size,), row)).project(units).reshape(size, size)


def test_projection_is_orthogonal_and_its_rank_the_degrees_of_freedom(source):
    for row, d in enumerate(source.degrees_of_freedom(state(source)).tolist()):
        p = projector(source, row)
        torch.testing.assert_close(p @ p, p, **EXACT)
        torch.testing.assert_close(p, p.T, **EXACT)
        assert float(p.trace()) == pytest.approx(d, abs=1e-10)


def test_degrees_of_freedom_by_hand():
    x = torch.zeros(3, 5, 4)
    assert Gaussian((3, 4, 4)).degrees_of_freedom(torch.zeros(2, 3, 4, 4)).tolist() == [48, 48]
    assert MaskedGaussian(MASK, 4).degrees_of_freedom(x).tolist() == [17, 9, 5]
    assert MaskedGaussian(MASK, 4, 0).degrees_of_freedom(x).tolist() == [20, 12, 8]


def test_samples_lie_in_the_space(source):
    x = state(source)
    torch.testing.assert_close(source.project(x), x, **EXACT)
    if isinstance(source, MaskedGaussian):
        assert (x[~MASK] == 0).all()
        centre = x[..., : source.coordinates].sum(1)
        torch.testing.assert_close(centre, torch.zeros_like(centre), rtol=0, atol=1e-14)
        assert (x[MASK] != 0).all()


def test_draws_are_the_projection_of_the_seeds_numbers(source):
    expected = source.project(normal([4, 5, 6], source.shape, dtype=torch.float64))
    assert torch.equal(state(source), expected)
    other = source.sample([4, 5, 6], 1, dtype=torch.float64)
    assert (other - expected).abs().max() > 0.1, "streams differ"


def test_draws_do_not_depend_on_the_batch(source):
    whole = state(source)
    for i, seed in enumerate((4, 5, 6)):
        alone = source.take(torch.tensor([i])).sample([seed], dtype=torch.float64)
        torch.testing.assert_close(alone[0], whole[i], rtol=0, atol=1e-15)


def test_draws_do_not_depend_on_the_padding():
    """The same molecules in a longer array: the same atoms, and zeros."""
    long = torch.cat((MASK, torch.zeros(3, 40, dtype=torch.bool)), dim=1)
    short, padded = (state(MaskedGaussian(mask, 4)) for mask in (MASK, long))
    torch.testing.assert_close(padded[:, :5], short, rtol=0, atol=1e-15)
    assert (padded[:, 5:] == 0).all()
    for name in ("chi_nll", "gaussian_nll", "radius", "degrees_of_freedom"):
        a, b = (getattr(MaskedGaussian(m, 4), name)(x) for m, x in ((MASK, short), (long, padded)))
        torch.testing.assert_close(a, b, rtol=1e-14, atol=0)


def test_gaussian_nll_is_the_density_on_the_space(source):
    """Against N(0, I) in an orthonormal basis of the space, plain normal densities summed."""
    x = state(source)
    nll = source.gaussian_nll(x)
    for row in range(3):
        values, basis = torch.linalg.eigh(projector(source, row))
        coordinates = basis[:, values > 0.5].T @ x[row].flatten()
        expected = (coordinates.square() / 2 + math.log(2 * math.pi) / 2).sum()
        torch.testing.assert_close(nll[row], expected, **EXACT)


def test_what_lies_outside_the_space_does_not_count(source):
    x = anything(source)
    for f in (source.radius, source.chi_nll, source.gaussian_nll):
        torch.testing.assert_close(f(x), f(source.project(x)), **EXACT)


def test_chi_nll_is_least_at_the_root_of_d_minus_one(source):
    """T1.3: the gradient x(1 − (d−1)/r²) vanishes at r = √(d−1), and nowhere near it."""
    x = state(source)
    d = source.degrees_of_freedom(x)
    typical = (d - 1).sqrt() / source.radius(x)
    for factor, sign in ((0.99, -1), (1.0, 0), (1.01, 1)):
        at = (x * (factor * typical).reshape(3, *(1,) * (x.ndim - 1))).requires_grad_()
        (gradient,) = torch.autograd.grad(source.chi_nll(at).sum(), at)
        radial = (gradient * at).flatten(1).sum(1).detach()
        torch.testing.assert_close(radial, (factor**2 - 1) * (d - 1), rtol=1e-9, atol=1e-10)
        assert (radial.abs() < 1e-9).all() if sign == 0 else (radial * sign > 0).all()


def test_chi_nll_gradient(source):
    x = state(source).requires_grad_()
    (gradient,) = torch.autograd.grad(source.chi_nll(x).sum(), x)
    factor = 1 - (source.degrees_of_freedom(x) - 1) / source.radius(x) ** 2
    expected = x * factor.reshape(3, *(1,) * (x.ndim - 1))
    torch.testing.assert_close(gradient, expected, **EXACT)


@pytest.mark.parametrize("d", [1, 2, 3, 17, 400])
def test_chi_density_integrates_to_one(d):
    """T1.3: ∫ e^{−R(r)} dr = 1, and its mean square radius is d."""
    step = 1e-3
    radius = torch.arange(step / 2, math.sqrt(d) + 12, step, dtype=torch.float64)
    x = torch.zeros(len(radius), d, dtype=torch.float64)
    x[:, -1] = radius
    density = torch.exp(-Gaussian((d,)).chi_nll(x))
    assert float(density.sum() * step) == pytest.approx(1, abs=1e-6)
    assert float((density * radius**2).sum() * step) == pytest.approx(d, rel=1e-6)


def test_mean_square_radius_is_the_degrees_of_freedom():
    """5,000 draws of every row's molecule, within five standard errors."""
    for row in range(3):
        source = MaskedGaussian(MASK[row].expand(5000, 5), 4)
        x = source.sample(range(5000), dtype=torch.float64)
        square, d = source.radius(x) ** 2, float(source.degrees_of_freedom(x)[0])
        assert abs(float(square.mean()) - d) < 5 * math.sqrt(2 * d / 5000)


def test_take_restricts_the_mask():
    source = MaskedGaussian(MASK, 4).take(torch.tensor([2, 0]))
    assert torch.equal(source.mask, MASK[[2, 0]])
    assert source.degrees_of_freedom(torch.zeros(2, 5, 4)).tolist() == [5, 17]
    gaussian = Gaussian((3,))
    assert gaussian.take(torch.tensor([0])) is gaussian


def test_dtype_and_device(source, dtype, device):
    moved = source.to(device)
    x = moved.sample([1, 2, 3], dtype=dtype, device=device)
    for value in (
        x,
        moved.chi_nll(x),
        moved.gaussian_nll(x),
        moved.degrees_of_freedom(x),
        moved.project(x),
    ):
        assert value.dtype == dtype and value.device.type == device.type
    if isinstance(source, MaskedGaussian):
        assert moved.mask.dtype == torch.bool
        assert moved.sample([1, 2, 3]).device.type == device.type, "by default where the mask is"


def test_config_rebuilds_a_gaussian():
    source = Gaussian((3, 4, 4))
    assert Gaussian(**source.config()).shape == (3, 4, 4)
    assert "(3, 4, 4)" in repr(source) and "(3, 5)" in repr(MaskedGaussian(MASK, 4))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Gaussian(()), "shape: expected positive integers"),
        (lambda: Gaussian((3, 0)), "shape: expected positive integers"),
        (lambda: Gaussian((3, 1.5)), "shape: expected positive integers"),
        (lambda: MaskedGaussian(MASK.float(), 4), "mask: expected bool"),
        (lambda: MaskedGaussian(MASK[0], 4), "mask: expected bool"),
        (lambda: MaskedGaussian(MASK & (torch.arange(5) < 1), 4), "mask: expected at least two"),
        (lambda: MaskedGaussian(MASK, 2), "features, coordinates"),
        (lambda: MaskedGaussian(MASK, 0, 0), "features, coordinates"),
        (lambda: MaskedGaussian(MASK, 4).sample([1, 2]), "seeds: expected 3"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
