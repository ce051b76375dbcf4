"""Operators: all identities of a linear map from its decomposition, composition, measuring."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ctrlgen.operators.base import (
    Composed,
    LinearOperator,
    Operator,
    Spectrum,
    dense,
    from_unit_range,
    measure,
)
from ctrlgen.rows.seeds import normal

EXACT = {"rtol": 1e-11, "atol": 1e-11}


class Dense(LinearOperator):
    """A matrix of given singular values, one for all samples or one per sample.

    Signals are (B, 2, 3), measurements (B, m): the decomposition is the textbook's, so that the
    defaults of `LinearOperator` can be held against `torch.linalg`.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        if matrix.ndim == 3:
            self.per_sample = ("matrix",)

    def spectrum(self, x: Tensor) -> Spectrum:
        matrix = self.matrix.to(x) if self.matrix.ndim == 3 else self.matrix.to(x).unsqueeze(0)
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        s = torch.where(s > 1e-10, s, 0)
        seen = (s > 0).to(s)
        return Spectrum(
            s,
            right=lambda x: torch.einsum("bkj,bj->bk", vh.expand(len(x), -1, -1), x.flatten(1)),
            right_inverse=lambda c: torch.einsum(
                "bkj,bk->bj", vh.expand(len(c), -1, -1), c
            ).reshape(-1, 2, 3),
            left=lambda y: seen * torch.einsum("bik,bi->bk", u.expand(len(y), -1, -1), y),
            left_inverse=lambda c: torch.einsum("bik,bk->bi", u.expand(len(c), -1, -1), c),
        )

    def signal_shape(self, y: Tensor) -> tuple[int, ...]:
        return (2, 3)


def random(*shape: int) -> Tensor:
    return normal([17], shape, dtype=torch.float64)[0]


def low_rank(rows: int) -> Tensor:
    return random(rows, 2) @ random(2, 6) / 3


MATRICES = {
    "wide": random(4, 6),
    "square": random(6, 6),
    "tall": random(9, 6),
    "low rank": low_rank(5),
    "tall, low rank": low_rank(8),
    "zero": torch.zeros(3, 6, dtype=torch.float64),
    "per sample": random(5, 4, 6),
    "per sample, low rank": torch.stack([low_rank(4) * (1 + i) for i in range(5)]),
}


@pytest.fixture(params=list(MATRICES.values()), ids=list(MATRICES))
def operator(request) -> Dense:
    return Dense(request.param)


@pytest.fixture
def x() -> Tensor:
    return normal(range(5), (2, 3), dtype=torch.float64)


@pytest.fixture
def matrices(operator) -> Tensor:
    """One matrix per sample, shape (5, m, 6)."""
    return operator.matrix.expand(5, -1, -1) if operator.matrix.ndim == 2 else operator.matrix


@pytest.fixture
def y(matrices) -> Tensor:
    """A measurement that no signal has."""
    return normal(range(10, 15), (matrices.shape[1],), dtype=torch.float64)


def times(matrices: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("bij,bj->bi", matrices, x.flatten(1))


def test_measures_like_the_matrix(operator, matrices, x):
    torch.testing.assert_close(operator(x), times(matrices, x), **EXACT)


def test_adjoint(operator, matrices, x, y):
    """T6.1: <Hx, y> = <x, H^T y>."""
    found = (x * operator.adjoint(y)).sum((1, 2))
    torch.testing.assert_close((operator(x) * y).sum(1), found, **EXACT)
    torch.testing.assert_close(operator.adjoint(y).flatten(1), times(matrices.mT, y), **EXACT)


def test_pseudo_inverse(operator, matrices, x, y):
    """T6.1: HH†H = H, H†HH† = H†, and H† is torch's."""
    torch.testing.assert_close(operator(operator.pinv(operator(x))), operator(x), **EXACT)
    once = operator.pinv(y)
    torch.testing.assert_close(operator.pinv(operator(once)), once, **EXACT)
    expected = times(torch.linalg.pinv(matrices, rtol=1e-10), y)
    torch.testing.assert_close(once.flatten(1), expected, **EXACT)


def test_projector(operator, x):
    """T6.1: P = H†H is a symmetric projection that H sees all of."""
    p = operator.project(x)
    torch.testing.assert_close(p, operator.pinv(operator(x)), **EXACT)
    torch.testing.assert_close(operator.project(p), p, **EXACT)
    torch.testing.assert_close(operator(p), operator(x), **EXACT)
    other = x.flip(0) - 0.3
    left, right = ((a * b).sum((1, 2)) for a, b in ((p, other), (x, operator.project(other))))
    torch.testing.assert_close(left, right, **EXACT)


def test_spectrum_reconstructs(operator, x, y):
    """T6.1: V s² V^T is H^T H, U s² U^T is HH^T, V^T V = I on the coordinates."""
    spectrum = operator.spectrum(x)
    gram = spectrum.right_inverse(spectrum.values**2 * spectrum.right(x))
    torch.testing.assert_close(gram, operator.adjoint(operator(x)), **EXACT)
    gram = spectrum.left_inverse(spectrum.values**2 * spectrum.left(y))
    torch.testing.assert_close(gram, operator(operator.adjoint(y)), **EXACT)
    coordinates = spectrum.right(x)
    torch.testing.assert_close(
        spectrum.right(spectrum.right_inverse(coordinates)), coordinates, **EXACT
    )


@pytest.mark.parametrize(
    "noise", [0.03, 0.5, torch.tensor([0.03, 0.1, 0.2, 0.5, 1.0], dtype=torch.float64)]
)
@pytest.mark.parametrize("variance", [0.7, torch.linspace(0.1, 2, 5, dtype=torch.float64)])
def test_solve(operator, matrices, y, variance, noise):
    """z = H^T (r² HH^T + σ² I)^{-1} e obeys (r² H^TH + σ² I) z = H^T e."""
    z = operator.solve(y, variance, noise)
    r2, n = (torch.as_tensor(v, dtype=torch.float64).reshape(-1, 1) for v in (variance, noise))
    pulled = times(matrices.mT, y)
    found = r2 * times(matrices.mT, times(matrices, z)) + n**2 * z.flatten(1)
    torch.testing.assert_close(found, pulled, **EXACT)


def test_solve_without_noise_is_the_limit(operator, y):
    torch.testing.assert_close(operator.solve(y, 0.5, 0.0), operator.pinv(y) / 0.5, **EXACT)
    close = operator.solve(y, 0.5, 1e-7)
    torch.testing.assert_close(operator.solve(y, 0.5, 0.0), close, rtol=1e-8, atol=1e-8)
    mixed = operator.solve(y, 0.5, torch.tensor([0.0, 0.1, 0.0, 0.1, 0.2]).double())
    torch.testing.assert_close(mixed[[0, 2]], operator.solve(y, 0.5, 0.0)[[0, 2]], **EXACT)


def test_rows_do_not_see_each_other(operator, x, y):
    """Law 1, with the operator's own data taken along."""
    index = torch.tensor([3, 1])
    part = operator.take(index)
    pairs = (
        (part(x[index]), operator(x)),
        (part.adjoint(y[index]), operator.adjoint(y)),
        (part.pinv(y[index]), operator.pinv(y)),
        (part.project(x[index]), operator.project(x)),
        (part.solve(y[index], 0.5, 0.1), operator.solve(y, 0.5, 0.1)),
    )
    for alone, together in pairs:
        torch.testing.assert_close(alone, together[index], **EXACT)


def test_gradients_pass(operator, x, y):
    for f, value in ((operator, x), (operator.project, x), (operator.adjoint, y)):
        assert torch.autograd.gradcheck(f, value.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda y: operator.solve(y, 0.5, 0.2), y.requires_grad_())


def test_dense_is_the_matrix(operator, matrices):
    for row in (0, 3):
        torch.testing.assert_close(dense(operator, (2, 3), row=row), matrices[row], **EXACT)
    assert dense(operator, (2, 3), dtype=torch.float32).dtype == torch.float32


def test_dtype_and_device(operator, x, dtype, device):
    x, moved = x.to(device, dtype), operator.to(device, dtype)
    y = moved(x)
    for value in (y, moved.adjoint(y), moved.pinv(y), moved.project(x), moved.solve(y, 0.5, 0.1)):
        assert value.dtype == dtype and value.device.type == device.type


class Cubed(Operator):
    """A non-linear operator with a gain per sample and its inverse as `pinv`."""

    per_sample = ("gain",)

    def __init__(self, gain: Tensor) -> None:
        self.gain = gain

    def __call__(self, x: Tensor) -> Tensor:
        return self.gain.reshape(-1, 1, 1) * x**3

    def pinv(self, y: Tensor) -> Tensor:
        y = y / self.gain.reshape(-1, 1, 1)
        return y.sign() * y.abs() ** (1 / 3)

    def measured(self, y: Tensor) -> Tensor:
        return super().measured(y) - 1


class Blind(Operator):
    """Neither differentiable nor invertible."""

    differentiable = False

    def __call__(self, x: Tensor) -> Tensor:
        return x.round().flatten(1)


def test_composition_measures_in_order(x):
    gain = torch.linspace(1, 2, 5, dtype=torch.float64)
    blur = Dense(random(6, 6))
    both = blur @ Cubed(gain)
    assert isinstance(both, Composed) and not both.linear and both.differentiable
    expected = times(blur.matrix.expand(5, 6, 6), gain.reshape(5, 1, 1) * x**3)
    torch.testing.assert_close(both(x), expected, **EXACT)
    torch.testing.assert_close(both.pinv(both(x)), x, rtol=1e-8, atol=1e-8)
    index = torch.tensor([4, 1])
    torch.testing.assert_close(both.take(index)(x[index]), both(x)[index], **EXACT)
    assert both.to(torch.float32).first.gain.dtype == torch.float32


def test_composition_of_three_and_what_it_inherits(x):
    gain = torch.ones(5, dtype=torch.float64)
    chain = Blind() @ Cubed(gain) @ Cubed(2 * gain)
    torch.testing.assert_close(chain(x), (8 * x**9).round().flatten(1), **EXACT)
    assert not chain.differentiable
    assert not (Cubed(gain) @ Blind()).differentiable
    with pytest.raises(NotImplementedError, match="Blind has no pseudo-inverse"):
        chain.pinv(chain(x))


def test_measured_entries(x):
    gain = torch.ones(5)
    assert Dense(random(4, 6)).measured(torch.zeros(5, 4)).tolist() == [4] * 5
    assert Cubed(gain).measured(x).tolist() == [5] * 5
    assert (Cubed(gain) @ Cubed(gain)).measured(x).tolist() == [5] * 5, "as of the last"


def test_measuring_adds_noise_of_the_stated_size(x):
    operator = Dense(random(4, 6))
    assert torch.equal(measure(operator, x), operator(x))
    assert torch.equal(measure(operator, x, 0.0), operator(x))
    seeds = range(5)
    one, two = (measure(operator, x, noise, seeds) - operator(x) for noise in (0.1, 0.2))
    torch.testing.assert_close(two, 2 * one, **EXACT)
    per_sample = torch.tensor([0.0, 0.1, 0.2, 0.1, 0.3], dtype=torch.float64)
    mixed = measure(operator, x, per_sample, seeds) - operator(x)
    torch.testing.assert_close(mixed, per_sample.unsqueeze(1) * one / 0.1, **EXACT)
    many = torch.zeros(5000, 2, 3, dtype=torch.float64)
    error = measure(operator, many, 0.3, range(5000)).flatten()
    spread = error.square().mean().sqrt() / 0.3
    assert abs(float(spread) - 1) < 5 / math.sqrt(2 * len(error))


def test_noise_belongs_to_the_sample_and_not_to_the_source(x):
    operator = Dense(torch.eye(6, dtype=torch.float64))
    together = measure(operator, x, 0.1, [3, 1, 4, 15, 9])
    alone = measure(operator, x[2:3], 0.1, [4])
    torch.testing.assert_close(alone, together[2:3], **EXACT)
    noise = (together - operator(x)) / 0.1
    source = normal([3, 1, 4, 15, 9], (6,), dtype=torch.float64)
    assert (noise - source).abs().max() > 0.1


def test_noise_of_the_unit_range():
    assert from_unit_range(0.05) == 0.1


@pytest.mark.parametrize(
    ("noise", "seeds", "message"),
    [
        (-0.1, range(5), "noise: expected a standard deviation >= 0"),
        (math.nan, range(5), "noise: expected a standard deviation >= 0"),
        (torch.ones(4), range(5), r"noise: expected a scalar or shape \(5,\)"),
        (torch.ones(5, 1), range(5), r"noise: expected a scalar or shape \(5,\)"),
        (0.1, None, "seeds: noise needs one seed"),
        (0.1, range(4), "seeds: noise needs one seed"),
    ],
)
def test_bad_arguments_are_named(x, noise, seeds, message):
    with pytest.raises(ValueError, match=message):
        measure(Dense(random(4, 6)), x, noise, seeds)


def test_splicing_keeps_the_null_space_and_measures_exactly(
    matrix_operator: Callable[[Tensor], LinearOperator],
) -> None:
    operator = matrix_operator(torch.randn(2, 5, dtype=torch.float64))
    x, y = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    spliced = operator.splice(x, y)
    torch.testing.assert_close(operator(spliced), y, rtol=0, atol=1e-12)
    hidden = spliced - operator.project(spliced)
    torch.testing.assert_close(hidden, x - operator.project(x), rtol=0, atol=1e-12)
