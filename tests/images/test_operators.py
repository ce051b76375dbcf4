"""Laws of every registered image operator, and the identities of the linear ones."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.domains.images import operators
from ctrlgen.domains.images.operators import (
    HDR,
    JPEG,
    OPERATORS,
    BlockAverage,
    Blur,
    Colourise,
    Denoise,
    GaussianBlur,
    Inpainting,
    MotionBlur,
    NonlinearBlur,
    PhaseRetrieval,
    Quantise,
    SuperResolution,
)
from ctrlgen.domains.images.operators.kernels import motion_kernels
from ctrlgen.operators.base import LinearOperator, Operator, dense, from_unit_range, measure
from ctrlgen.rows.seeds import normal

torch.set_num_threads(1)
SHAPE = (3, 12, 8)  # neither square nor a power of two
SEEDS = [11, 5, 7, 2]

Example = Callable[[tuple[int, ...], list[int]], Operator]


def user_mask(shape: tuple[int, ...], seeds: list[int]) -> Inpainting:
    """A mask of its own for every sample and channel."""
    return Inpainting(normal(seeds, shape, 1) > 0.2)


# At least one example of every registered operator; further ones after a colon.
EXAMPLES: dict[str, Example] = {
    "denoise": lambda shape, seeds: Denoise(),
    "inpaint-mask": user_mask,
    "inpaint-mask:shared": lambda shape, seeds: Inpainting(
        torch.arange(shape[2]) % 2 * torch.ones(shape[1:])
    ),
    "inpaint-centre": lambda shape, seeds: Inpainting.centre((4, 2), shape),
    "inpaint-random": lambda shape, seeds: Inpainting.random(0.7, shape, seeds),
    "inpaint-free-form": lambda shape, seeds: Inpainting.free_form(shape, seeds),
    "super-resolution": lambda shape, seeds: SuperResolution(2),
    "super-resolution:4": lambda shape, seeds: SuperResolution(4),
    "super-resolution:1": lambda shape, seeds: SuperResolution(1),
    "block-average": lambda shape, seeds: BlockAverage(4),
    "gaussian-blur": lambda shape, seeds: GaussianBlur(1.0),
    "gaussian-blur:zero": lambda shape, seeds: GaussianBlur(1.5, boundary="zero"),
    "gaussian-blur:reflect": lambda shape, seeds: GaussianBlur(1.5, 9, boundary="reflect"),
    "blur": lambda shape, seeds: Blur(motion_kernels(seeds[:1], 5)[0].double(), cut=0.1),
    "motion-blur": lambda shape, seeds: MotionBlur(seeds, 7),
    "motion-blur:large": lambda shape, seeds: MotionBlur(seeds, 61, intensity=1.0),
    "colourise": lambda shape, seeds: Colourise(),
    "nonlinear-blur": lambda shape, seeds: NonlinearBlur(3),
    "phase-retrieval": lambda shape, seeds: PhaseRetrieval(),
    "hdr": lambda shape, seeds: HDR(),
    "quantise": lambda shape, seeds: Quantise(3),
    "jpeg": lambda shape, seeds: JPEG(30),
    "jpeg:4:4:4": lambda shape, seeds: JPEG(80, chroma="4:4:4"),
    "jpeg:pillow": lambda shape, seeds: JPEG(30, codec="pillow"),
}
LINEAR = [name for name, make in EXAMPLES.items() if make(SHAPE, SEEDS).linear]
everything = pytest.mark.parametrize("name", EXAMPLES)
linear = pytest.mark.parametrize("name", LINEAR)


def images(rows: int = len(SEEDS), shape: tuple[int, ...] = SHAPE, stream: int = 0) -> Tensor:
    return torch.tanh(normal(range(rows), shape, stream, dtype=torch.float64))


def inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(dim=1)


def make_linear(name: str, shape: tuple[int, ...] = SHAPE) -> LinearOperator:
    operator = EXAMPLES[name](shape, SEEDS)
    assert isinstance(operator, LinearOperator)
    return operator


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# --- the registry


def test_every_registered_operator_has_an_example() -> None:
    assert {name.split(":")[0] for name in EXAMPLES} == set(OPERATORS)


def test_every_operator_of_the_package_is_registered() -> None:
    registered = {getattr(make, "__self__", make) for make in OPERATORS.values()}
    found = set()
    for module in pkgutil.iter_modules(operators.__path__, operators.__name__ + "."):
        members = inspect.getmembers(importlib.import_module(module.name), inspect.isclass)
        found |= {c for _, c in members if issubclass(c, Operator) and c.__module__ == module.name}
    leaves = {
        c for c in found if not any(issubclass(other, c) and other is not c for other in found)
    }
    assert leaves <= registered
    assert leaves  # the search itself works


# --- laws of all operators


@everything
def test_a_row_alone_measures_as_in_its_batch(name: str) -> None:
    x, operator = images(), EXAMPLES[name](SHAPE, SEEDS)
    together = operator(x)
    for row in range(len(x)):
        index = torch.tensor([row])
        close(operator.take(index)(x[index]), together[index], 1e-12)


@everything
def test_permuted_rows_measure_permuted(name: str) -> None:
    x, operator = images(), EXAMPLES[name](SHAPE, SEEDS)
    index = torch.tensor([2, 0, 3, 3, 1])
    close(operator.take(index)(x[index]), operator(x)[index], 1e-12)


@everything
def test_same_seeds_same_operator_in_any_order(name: str) -> None:
    x, operator = images(), EXAMPLES[name](SHAPE, SEEDS)
    backwards = EXAMPLES[name](SHAPE, SEEDS[::-1])
    if operator.per_sample:
        close(backwards(x.flip(0)).flip(0), operator(x), 1e-12)
    torch.testing.assert_close(operator(x), operator(x), rtol=0, atol=0)


@everything
def test_a_row_of_nan_stays_alone(name: str) -> None:
    x, operator = images(), EXAMPLES[name](SHAPE, SEEDS)
    spoiled = x.clone()
    spoiled[1] = torch.nan
    kept = torch.tensor([0, 2, 3])
    close(operator(spoiled)[kept], operator(x)[kept], 1e-12)


@everything
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(name: str, dtype: torch.dtype) -> None:
    x, operator = images(), EXAMPLES[name](SHAPE, SEEDS)
    for moved in (operator, operator.to(dtype)):
        y = moved(x.to(dtype))
        assert y.dtype == dtype
        torch.testing.assert_close(y.double(), operator(x), rtol=0, atol=2e-5)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@everything
def test_device(name: str) -> None:
    x, operator = images(), EXAMPLES[name](SHAPE, SEEDS)
    y = operator.to("cuda")(x.cuda())
    assert y.is_cuda
    close(y.cpu(), operator(x), 1e-9)


@everything
def test_input_is_left_as_it_was(name: str) -> None:
    x, operator = images(), EXAMPLES[name](SHAPE, SEEDS)
    before = x.clone()
    operator(x)
    assert torch.equal(x, before)


@everything
def test_gradient_reaches_the_image(name: str) -> None:
    x, operator = images().requires_grad_(), EXAMPLES[name](SHAPE, SEEDS)
    (gradient,) = torch.autograd.grad(operator(x).square().sum(), x)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


@everything
def test_forward_and_reverse_derivatives_agree(name: str) -> None:
    x, operator = images(), EXAMPLES[name](SHAPE, SEEDS)
    w = images(stream=4)
    y, jw = torch.func.jvp(operator, (x,), (w,))[:2]
    close(y, operator(x), 1e-12)
    v = normal(range(len(x)), y.shape[1:], 9, dtype=torch.float64)
    pull = torch.func.vjp(operator, x)[1]
    close(inner(v, jw), inner(pull(v)[0], w))
    ws = torch.stack((w, x, 2 * w))
    many = torch.func.vmap(lambda w: torch.func.jvp(operator, (x,), (w,))[1])(ws)
    close(many[0], jw)
    close(many[2], 2 * jw)


@everything
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 20, 36)])
def test_other_sizes(name: str, shape: tuple[int, ...]) -> None:
    if name == "colourise" and shape[0] == 1:
        return  # one channel is grey already; refused, see below
    x = images(shape=shape)
    operator = EXAMPLES[name](shape, SEEDS)
    y = operator(x)
    assert y.isfinite().all()
    assert operator.pinv(y).shape == x.shape


@everything
@pytest.mark.parametrize("bad", ["integers", "three dimensions", "empty", "array"])
def test_anything_but_images_is_refused(name: str, bad: str) -> None:
    operator = EXAMPLES[name](SHAPE, SEEDS)
    x = images()
    value: Any = {
        "integers": x.long(),
        "three dimensions": x[0],
        "empty": x[:0],
        "array": x.numpy(),
    }[bad]
    with pytest.raises((TypeError, ValueError), match=r"x: expected"):
        operator(value)


@everything
def test_a_batch_of_another_size_is_refused(name: str) -> None:
    operator = EXAMPLES[name](SHAPE, SEEDS)
    if operator.per_sample:
        with pytest.raises(ValueError, match="data of 4 samples, got a batch of 3"):
            operator(images(3))


# --- identities of the linear ones (T6.1)


@linear
def test_adjoint(name: str) -> None:
    operator, x = make_linear(name), images()
    hx = operator(x)
    v = normal(range(len(x)), hx.shape[1:], 9, dtype=torch.float64)
    close(inner(hx, v), inner(x, operator.adjoint(v)))


@linear
def test_pseudo_inverse_and_projector(name: str) -> None:
    operator, x = make_linear(name), images()
    y = operator(x)
    v = normal(range(len(x)), y.shape[1:], 9, dtype=torch.float64)
    w = images(stream=4)
    close(operator(operator.pinv(y)), y)
    close(operator.pinv(operator(operator.pinv(v))), operator.pinv(v))
    close(operator.project(x), operator.pinv(y))
    close(operator.project(operator.project(x)), operator.project(x))
    close(inner(operator.project(x), w), inner(x, operator.project(w)))
    hp = operator(operator.pinv(v))  # HH† is symmetric as well
    u = normal(range(len(x)), y.shape[1:], 8, dtype=torch.float64)
    close(inner(hp, u), inner(v, operator(operator.pinv(u))))


@linear
def test_everything_equals_the_dense_matrix(name: str) -> None:
    shape = (3, 8, 4) if name != "colourise" else (3, 4, 4)
    operator = make_linear(name, shape)
    x = images(shape=shape)
    y = operator(x)
    e = normal(range(len(x)), y.shape[1:], 9, dtype=torch.float64)
    r2 = torch.tensor([0.3, 1.7, 0.9, 2.0], dtype=torch.float64)
    noise = torch.tensor([0.2, 0.05, 0.7, 1.0], dtype=torch.float64)
    for row in range(len(x)):
        matrix = dense(operator, shape, row=row)
        close(matrix @ x[row].flatten(), y[row].flatten())
        close(matrix.mT @ e[row].flatten(), operator.adjoint(e)[row].flatten())
        inverse = torch.linalg.pinv(matrix, rcond=1e-8)
        close(inverse @ e[row].flatten(), operator.pinv(e)[row].flatten(), 1e-8)
        eye = torch.eye(len(matrix), dtype=torch.float64)
        gram = r2[row] * matrix @ matrix.mT + noise[row] ** 2 * eye
        expected = matrix.mT @ torch.linalg.solve(gram, e[row].flatten())
        close(expected, operator.solve(e, r2, noise)[row].flatten())
        close(inverse @ e[row].flatten() / r2[row], operator.solve(e, r2, 0.0)[row].flatten(), 1e-8)


@linear
def test_spectrum(name: str) -> None:
    operator, x = make_linear(name), images()
    y = operator(x)
    v = normal(range(len(x)), y.shape[1:], 9, dtype=torch.float64)
    spectrum = operator.spectrum(x)
    c = spectrum.right(x)
    assert c.dtype == torch.float64  # real coordinates, so that white noise is white noise
    assert spectrum.values.shape[0] in (1, len(x))
    assert torch.broadcast_shapes(spectrum.values.shape, c.shape) == c.shape
    assert (spectrum.values >= 0).all()
    close(spectrum.right_inverse(c), x)
    other = images(stream=4)
    close(inner(c, spectrum.right(other)), inner(x, other))  # V is orthogonal
    close(spectrum.right(spectrum.right_inverse(other.reshape(c.shape))), other.reshape(c.shape))
    close(spectrum.left_inverse(spectrum.values * c), y)
    close(spectrum.left(y), spectrum.values * c)
    seen = (spectrum.values > 0).expand(c.shape)
    close(spectrum.left(v)[~seen], v.new_zeros(int((~seen).sum())), 1e-12)
    close(spectrum.left_inverse(spectrum.left(y)), y)
    close(spectrum.right_inverse(seen * c), operator.project(x))


@linear
def test_the_rank_counts_what_is_measured(name: str) -> None:
    operator, x = make_linear(name), images()
    y = operator(x)
    if isinstance(operator, Inpainting | Denoise | Colourise | BlockAverage | SuperResolution):
        values = operator.spectrum(x).values
        rank = (values > 0).expand(len(x), *values.shape[1:]).flatten(1).sum(dim=1)
        assert operator.measured(y).tolist() == rank.tolist()


@linear
def test_own_shortcuts_equal_the_spectral_defaults(name: str) -> None:
    operator, x = make_linear(name), images()
    y = operator(x)
    v = normal(range(len(x)), y.shape[1:], 9, dtype=torch.float64)
    assert operator.signal_shape(y) == SHAPE
    close(LinearOperator.__call__(operator, x), y)
    close(LinearOperator.adjoint(operator, v), operator.adjoint(v))
    close(LinearOperator.pinv(operator, v), operator.pinv(v))
    close(LinearOperator.project(operator, x), operator.project(x))
    close(LinearOperator.solve(operator, v, 0.6, 0.1), operator.solve(v, 0.6, 0.1))


@linear
def test_a_first_call_in_inference_mode_spoils_no_gradient(name: str) -> None:
    x, operator = images(shape=(3, 16, 12)), make_linear(name, (3, 16, 12))
    with torch.inference_mode():
        operator(x)
    operator(x.clone().requires_grad_()).sum().backward()


# --- measurements


def test_measure_adds_noise_of_the_sample() -> None:
    x, operator = images(), BlockAverage(2)
    sigma = torch.tensor([0.0, 0.1, 1.0, 2.0], dtype=torch.float64)
    y = measure(operator, x, sigma, SEEDS)
    index = torch.tensor([3, 1])
    again = measure(operator, x[index], sigma[index], [SEEDS[3], SEEDS[1]])
    close(again, y[index], 1e-14)
    close(y[0], operator(x)[0], 0)
    noise = measure(Denoise(), torch.zeros(200, 1, 16, 16), 0.25, range(200))
    assert abs(noise.std() - 0.25) < 0.25 * 0.01
    assert abs(noise.mean()) < 0.005
    close(measure(operator, x), operator(x), 0)
    assert from_unit_range(0.05) == 0.1


@pytest.mark.parametrize(
    ("noise", "seeds", "message"),
    [
        (-0.1, SEEDS, "noise: expected a standard deviation >= 0"),
        (float("nan"), SEEDS, "noise: expected"),
        (torch.ones(3), SEEDS, r"noise: expected a scalar or shape \(4,\)"),
        (0.1, None, "seeds: noise needs one seed for each of 4 samples, got none"),
        (0.1, [1, 2], "got 2"),
    ],
)
def test_measure_refuses(noise: Tensor | float, seeds: list[int] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(Denoise(), images(), noise, seeds)
