"""Physics of deepinv as operators."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ctrlgen.adapters import from_deepinv
from ctrlgen.operators.base import dense
from ctrlgen.rows.seeds import normal

EXACT = {"rtol": 1e-9, "atol": 1e-9}


class Physics:
    """What a deepinv physics offers: A on images (B, 1, 2, 3) in [0, 1], and noise not wanted."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def A(self, u: Tensor) -> Tensor:
        return u.flatten(1) @ self.matrix.to(u).T

    def __call__(self, u: Tensor) -> Tensor:
        return self.A(u) + torch.randn(())


class LinearPhysics(Physics):
    def A_adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix.to(y)).reshape(-1, 1, 2, 3)

    def A_adjoint_A(self, u: Tensor) -> Tensor:
        return self.A_adjoint(self.A(u))

    def A_dagger(self, y: Tensor) -> Tensor:
        return (y @ torch.linalg.pinv(self.matrix.to(y)).T).reshape(-1, 1, 2, 3)


class Squared(Physics):
    """Not linear, though like deepinv's phase retrieval it has the adjoint of its linear part."""

    def A(self, u: Tensor) -> Tensor:
        return super().A(u) ** 2

    def A_adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix.to(y)).reshape(-1, 1, 2, 3)

    def A_dagger(self, y: Tensor) -> Tensor:
        return (y.sqrt() @ torch.linalg.pinv(self.matrix.to(y)).T).reshape(-1, 1, 2, 3)


def matrices() -> dict[str, Tensor]:
    full = normal([17], (4, 6), dtype=torch.float64)[0]
    return {"full rank": full, "low rank": full[:, :2] @ full[:2], "tall": full.T @ full[:, :6]}


@pytest.fixture(params=list(matrices().values()), ids=list(matrices()))
def matrix(request) -> Tensor:
    return request.param


@pytest.fixture
def image() -> Tensor:
    return normal(range(5), (1, 2, 3), dtype=torch.float64)


def linear_physics() -> dict:
    """Stand-ins of deepinv's protocol, and deepinv itself where it can be imported."""
    cases = {name: (LinearPhysics(matrix), (1, 2, 3)) for name, matrix in matrices().items()}
    try:
        from deepinv import physics
    except (ImportError, RuntimeError):  # it needs torchvision, which a CPU torch may not bear
        return cases
    cases["deepinv Denoising"] = (physics.Denoising(), (1, 2, 3))
    cases["deepinv Inpainting"] = (physics.Inpainting((1, 4, 4), mask=0.5), (1, 4, 4))
    shrink = physics.Downsampling(img_size=(1, 8, 8), factor=2, filter=None)
    cases["deepinv Downsampling"] = (shrink, (1, 8, 8))
    return cases


LINEAR = linear_physics()


@pytest.mark.parametrize(("physics", "shape"), list(LINEAR.values()), ids=list(LINEAR))
def test_deepinv_linear_identities(physics, shape):
    """T6.1 for what the physics gives."""
    operator = from_deepinv(physics)
    assert operator.linear
    x, other = (normal(range(k, k + 5), shape, dtype=torch.float64) for k in (0, 5))
    y = operator(other)
    matrix = dense(operator, shape)
    torch.testing.assert_close(y.flatten(1), other.flatten(1) @ matrix.T, **EXACT)
    left = (operator(x) * y).flatten(1).sum(1)
    torch.testing.assert_close(left, (x * operator.adjoint(y)).flatten(1).sum(1), **EXACT)
    # deepinv's own inverses may be iterative.
    close = EXACT if isinstance(physics, LinearPhysics) else {"rtol": 1e-6, "atol": 1e-6}
    p = operator.project(x)
    torch.testing.assert_close(operator(p), operator(x), **close)
    torch.testing.assert_close(operator.project(p), p, **close)
    torch.testing.assert_close(operator.pinv(operator(operator.pinv(y))), operator.pinv(y), **close)
    assert operator.signal_shape(y) == shape
    z = operator.solve(y, 0.7, 0.3)
    found = 0.7 * operator.adjoint(operator(z)) + 0.09 * z
    torch.testing.assert_close(found, operator.adjoint(y), rtol=1e-4, atol=1e-5)
    with pytest.raises(NotImplementedError, match=r"DeepinvLinear\(\w+\) has no spectral"):
        operator.spectrum(x)


@pytest.mark.parametrize("noise", [0.0, 0.3, torch.tensor([0.0, 0.1, 0.2, 0.5, 1.0]).double()])
def test_deepinv_solve(matrix, noise):
    """H^T (r² HH^T + σ²I)^{-1} e by its definition; at σ = 0 the limit."""
    operator = from_deepinv(LinearPhysics(matrix), tolerance=1e-13)
    e = normal(range(5, 10), (len(matrix),), dtype=torch.float64)
    r2 = torch.linspace(0.5, 2, 5, dtype=torch.float64)
    found = operator.solve(e, r2, noise).flatten(1)
    sigma = torch.as_tensor(noise, dtype=torch.float64).expand(5)
    eye = torch.eye(len(matrix), dtype=torch.float64)
    for i in range(5):
        gram = r2[i] * matrix @ matrix.T + sigma[i] ** 2 * eye
        inverse = torch.linalg.pinv(gram, rtol=1e-12, hermitian=True)
        torch.testing.assert_close(found[i], matrix.T @ inverse @ e[i], rtol=1e-8, atol=1e-8)
        alone = operator.solve(e[i : i + 1], r2[i : i + 1], sigma[i : i + 1]).flatten(1)
        torch.testing.assert_close(alone[0], found[i], rtol=1e-12, atol=1e-12)


def test_deepinv_solve_marks_the_sample_that_fails(matrix):
    """A residual of zero is solved at once; its neighbour is not, and says so by NaN."""
    operator = from_deepinv(LinearPhysics(matrix), tolerance=1e-12, iterations=1)
    residual = normal([0, 1], (len(matrix),), dtype=torch.float64)
    residual[1] = 0
    with pytest.warns(RuntimeWarning, match=r"solve: 1 samples above the tolerance"):
        found = operator.solve(residual, 1.0, 0.01)
    assert found[0].isnan().all() and (found[1] == 0).all()


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (-2.0, 6.0)])
def test_deepinv_ranges(matrix, image, low, high):
    """deepinv's measurement of u in [0, 1] is ours of x = low + (high − low) u."""
    u = image.sigmoid()
    x = low + (high - low) * u
    physics = LinearPhysics(matrix)
    operator = from_deepinv(physics, (low, high))
    torch.testing.assert_close(operator.convert(physics.A(u), x), operator(x), **EXACT)
    shift = operator.convert(physics.A(u) + 0.01, x) - operator(x)
    torch.testing.assert_close(shift, torch.full_like(shift, 0.01 * (high - low)), **EXACT)
    squared = from_deepinv(Squared(matrix.abs()), (low, high))
    assert not squared.linear
    torch.testing.assert_close(squared(x), (u.flatten(1) @ matrix.abs().T) ** 2, **EXACT)
    gain = torch.eye(6, dtype=torch.float64) + 0.1
    invertible = from_deepinv(Squared(gain), (low, high))
    torch.testing.assert_close(invertible.pinv(invertible(x)), x, **EXACT)


def test_deepinv_gradients_and_dtypes(matrix, image, dtype):
    operator = from_deepinv(LinearPhysics(matrix))
    assert torch.autograd.gradcheck(operator, image.clone().requires_grad_())
    x = image.to(dtype)
    y = operator(x)
    for value in (y, operator.adjoint(y), operator.pinv(y), operator.solve(y, 1.0, 0.5)):
        assert value.dtype == dtype


def test_deepinv_refusals(matrix):
    with pytest.raises(TypeError, match="physics: expected a deepinv physics"):
        from_deepinv(torch.nn.Identity())
    with pytest.raises(ValueError, match="signal_range: expected low < high"):
        from_deepinv(LinearPhysics(matrix), (1.0, -1.0))
    per_sample = LinearPhysics(matrix)
    per_sample.named_buffers = lambda: [("mask", torch.ones(5, 1, 2, 3))]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"got mask of shape \(5, 1, 2, 3\)"):
        from_deepinv(per_sample)
