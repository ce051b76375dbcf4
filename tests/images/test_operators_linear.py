"""Linear image operators against independent implementations, and what their options do."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ctrlgen.costs import NegativePSNR, SquaredError
from ctrlgen.domains.images.operators import (
    BlockAverage,
    Blur,
    Colourise,
    Denoise,
    GaussianBlur,
    Inpainting,
    MotionBlur,
    SuperResolution,
    separable,
)
from ctrlgen.domains.images.operators.kernels import gaussian_taps, motion_kernels
from ctrlgen.operators.base import dense, measure
from ctrlgen.rows.seeds import normal

torch.set_num_threads(1)
NAN = float("nan")


def images(shape: tuple[int, ...], rows: int = 2) -> Tensor:
    return torch.tanh(normal(range(rows), shape, dtype=torch.float64))


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# --- masks


def test_centre_hides_the_middle() -> None:
    mask = Inpainting.centre(40, (3, 128, 128)).mask
    assert mask.shape == (1, 128, 128)
    assert (~mask).sum() == 1600
    assert not mask[:, 44:84, 44:84].any()
    assert (~Inpainting.centre((2, 4), (5, 6)).mask).nonzero().tolist() == [
        [0, row, column] for row in (1, 2) for column in (1, 2, 3, 4)
    ]


def test_random_masks_belong_to_their_seeds() -> None:
    masks = Inpainting.random(0.7, (3, 32, 32), range(100)).mask
    assert masks.shape == (100, 1, 32, 32)
    assert abs((~masks).double().mean() - 0.7) < 0.7 * 0.01
    assert torch.equal(Inpainting.random(0.7, (32, 32), [9, 4]).mask, masks[[9, 4]])
    assert len({tuple(m.flatten().tolist()) for m in masks}) == 100


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (64, 48), (128, 128)])
def test_free_form_covers_what_it_says(shape: tuple[int, ...]) -> None:
    masks = Inpainting.free_form(shape, range(20)).mask
    pixels = shape[-2] * shape[-1]
    hidden = (~masks).flatten(1).sum(dim=1) / pixels
    assert (hidden >= 0.2 - 1 / pixels).all() and (hidden <= 0.3 + 1 / pixels).all()
    assert hidden.std() > 0.01  # each draws its own coverage
    assert torch.equal(Inpainting.free_form(shape, [7, 3]).mask, masks[[7, 3]])
    # Strokes, not noise: most hidden pixels have a hidden neighbour to their right.
    alone = ~masks[..., :-1] & masks[..., 1:]
    assert alone.sum() < 0.25 * (~masks).sum()
    exact = Inpainting.free_form(shape, range(3), coverage=(0.6, 0.6)).mask
    assert ((~exact).flatten(1).sum(dim=1) == round(0.6 * pixels)).all()


def test_hidden_pixels_do_not_leak() -> None:
    operator = Inpainting.centre(2, (4, 4))
    x = torch.ones(1, 1, 4, 4)
    x[..., 1:3, 1:3] = torch.inf
    assert operator(x).isfinite().all()


# --- resampling


def test_what_is_hidden_has_no_noise_and_no_residual() -> None:
    """At 90 % hidden a true image meets its measurement at the noise, whatever y holds there."""
    operator = Inpainting.random(0.9, (1, 28, 28), seeds=[1, 2])
    x = normal([1, 2], (1, 28, 28)).clamp(-1, 1)
    y = measure(operator, x, 0.01, [1, 2])
    assert torch.equal(y, operator(y))
    expected = torch.full((2,), -20 * math.log10(2 / 0.01))
    garbage = torch.where(operator.mask, y, 7.0)
    for seen in (y, garbage):
        assert torch.allclose(NegativePSNR(operator, seen, 0.01)(x), expected, atol=1.0)
        assert torch.equal(SquaredError(operator, seen)(x), SquaredError(operator, y)(x))
    assert torch.equal((operator @ operator).observed(garbage), y)


@pytest.mark.parametrize("factor", [2, 3, 4, 5])
def test_bicubic_is_the_antialiased_resize_inside(factor: int) -> None:
    """torch's antialiasing bicubic has the same kernel; it differs at the edges alone."""
    x = images((2, 12 * factor, 10 * factor))
    seen = SuperResolution(factor, cut=0.0)(x)
    resized = torch.nn.functional.interpolate(
        x, scale_factor=1 / factor, mode="bicubic", antialias=True
    )
    close(seen[..., 2:-2, 2:-2], resized[..., 2:-2, 2:-2], 1e-6)


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 7])
def test_constant_images_stay_constant(factor: int) -> None:
    x = torch.full((1, 1, 2 * factor, 4 * factor), 0.37, dtype=torch.float64)
    for operator in (SuperResolution(factor), BlockAverage(factor)):
        y = operator(x)
        assert y.shape == (1, 1, 2, 4)
        close(y, torch.full_like(y, 0.37))
    y = torch.full((1, 1, 2, 4), 0.37, dtype=torch.float64)
    close(BlockAverage(factor).pinv(y), x)


def test_bicubic_taps_are_those_of_the_formula() -> None:
    f, a = 4, -0.5
    x = np.abs((np.arange(4 * f) - 2 * f + 0.5) / f)
    near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
    taps = np.where(x < 1, near, far)
    line = SuperResolution(f).line
    np.testing.assert_allclose(line.taps, taps / taps.sum(), rtol=1e-12)
    assert line.offset == f // 2 - 2 * f


def test_block_average_is_average_pooling() -> None:
    x = images((3, 12, 9))
    operator = BlockAverage(3)
    close(operator(x), torch.nn.functional.avg_pool2d(x, 3))
    y = operator(x)
    close(operator.pinv(y), y.repeat_interleave(3, 2).repeat_interleave(3, 3))
    close(operator.pinv(y), 9 * operator.adjoint(y))
    close(operator.spectrum(x).values.unique(), torch.tensor([0.0, 1 / 3], dtype=torch.float64))


# --- blurs


@pytest.mark.parametrize(
    ("boundary", "mode"), [("circular", "wrap"), ("zero", "constant"), ("reflect", "mirror")]
)
@pytest.mark.parametrize("shape", [(20, 31), (6, 5)])  # the second is smaller than the window
def test_gaussian_blur_is_that_of_scipy(boundary: str, mode: str, shape: tuple[int, int]) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    x = images((1, *shape), 1)
    expected = ndimage.gaussian_filter(x[0, 0].numpy(), 1.7, mode=mode, radius=8)
    close(GaussianBlur(1.7, 17, boundary, cut=0.0)(x)[0, 0], torch.from_numpy(expected))


def test_a_blurred_delta_is_the_kernel() -> None:
    kernel = images((5, 4), 1)[0]  # neither square, odd nor symmetric
    x = torch.zeros(1, 1, 9, 11, dtype=torch.float64)
    x[..., 4, 5] = 1
    close(Blur(kernel, cut=0.0)(x)[0, 0, 2:7, 3:7], kernel)
    taps = torch.tensor(gaussian_taps(1.0, 5), dtype=torch.float64)
    close(GaussianBlur(1.0, 5, cut=0.0)(x)[0, 0, 2:7, 3:8], torch.outer(taps, taps))


def test_blur_by_a_gaussian_is_the_gaussian_blur() -> None:
    x = images((3, 16, 12))
    taps = torch.tensor(gaussian_taps(1.0, 61), dtype=torch.float64)
    close(Blur(torch.outer(taps, taps), cut=0.0)(x), GaussianBlur(1.0, cut=0.0)(x))


def test_rows_have_their_own_kernels() -> None:
    x, kernels = images((2, 10, 8), 3), motion_kernels([4, 8, 6], 5, dtype=torch.float64)
    together = Blur(kernels)(x)
    for row in range(3):
        close(Blur(kernels[row])(x[row : row + 1])[0], together[row])
        close(MotionBlur([(4, 8, 6)[row]], 5)(x[row : row + 1])[0], together[row])


@pytest.mark.parametrize("cut", [0.03, 0.2])
def test_what_is_cut_is_cut_in_the_measurement(cut: float) -> None:
    shape = (1, 8, 6)
    kernel = motion_kernels([3], 5, dtype=torch.float64)[0]
    full = torch.linalg.svdvals(dense(Blur(kernel, cut=0.0), shape))
    left = torch.linalg.svdvals(dense(Blur(kernel, cut), shape))
    expected = torch.where(full >= cut, full, 0)
    assert (full < cut).any() and (full >= cut).any()
    close(left, expected)
    line = (1, 1, 16)  # one row: the product has the singular values of the line
    full = torch.linalg.svdvals(dense(GaussianBlur(1.5, boundary="zero", cut=0.0), line))
    left = torch.linalg.svdvals(dense(GaussianBlur(1.5, boundary="zero", cut=cut), line))
    centre = gaussian_taps(1.5, 61)[30]  # of the other dimension, one pixel long
    close(left, torch.where(full / centre >= cut, full, 0))


def test_motion_kernels() -> None:
    kernels = motion_kernels(range(50), 21, 0.5, dtype=torch.float64)
    assert (kernels >= 0).all()
    close(kernels.sum(dim=(1, 2)), torch.ones(50, dtype=torch.float64))
    place = torch.arange(21, dtype=torch.float64) - 10
    for weights in (kernels.sum(dim=1), kernels.sum(dim=2)):  # centred: no shift of the image
        close(weights @ place, torch.zeros(50, dtype=torch.float64))
    assert torch.equal(motion_kernels([7, 2], 21, 0.5, dtype=torch.float64), kernels[[7, 2]])
    assert motion_kernels([1], 1).tolist() == [[[1.0]]]


def test_intensity_leads_from_a_line_to_a_scribble() -> None:
    def narrowness(intensity: float) -> Tensor:
        """Share of the second moment that lies across the main direction, mean over kernels."""
        kernels = motion_kernels(range(100), 61, intensity, dtype=torch.float64)
        place = torch.arange(61, dtype=torch.float64) - 30
        yy = torch.einsum("bij,i->b", kernels, place**2)
        xx = torch.einsum("bij,j->b", kernels, place**2)
        xy = torch.einsum("bij,i,j->b", kernels, place, place)
        spread = ((yy - xx).square() / 4 + xy.square()).sqrt()
        return (((yy + xx) / 2 - spread) / (yy + xx)).mean()

    straight, medium, erratic = narrowness(0.0), narrowness(0.4), narrowness(1.0)
    assert straight < 0.005 < 0.03 < medium < erratic


def test_gradients_flow_into_the_kernel() -> None:
    x = images((1, 6, 6))
    kernel = motion_kernels([1], 3, dtype=torch.float64)[0].requires_grad_()
    operator = Blur(kernel, cut=0.0)
    with torch.no_grad():
        operator(x)  # must not be remembered without its gradient
    for _ in range(2):
        (gradient,) = torch.autograd.grad(operator(x).square().sum(), kernel)
        assert gradient.abs().sum() > 0
    assert torch.autograd.gradcheck(lambda k: Blur(k, cut=0.0)(x), kernel)


# --- speed: nothing is factorised twice


def test_factorised_once_per_size(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    svd = np.linalg.svd

    def counted(*args: object, **kwargs: object) -> object:
        calls.append(1)
        return svd(*args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(separable.np.linalg, "svd", counted)
    operator, x = GaussianBlur(1.2345), images((1, 10, 14))
    operator(x)
    assert len(calls) == 2
    for step in (operator, operator.adjoint, operator.pinv, operator.project):
        step(x)
    GaussianBlur(1.2345)(x.float())
    assert len(calls) == 2


def test_transfer_computed_once_per_size(monkeypatch: pytest.MonkeyPatch) -> None:
    operator, x = MotionBlur([1, 2], 5), images((1, 10, 14))
    operator(x)
    monkeypatch.delattr(torch.fft, "fft2")
    operator.pinv(operator(x))


# --- bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Inpainting(torch.zeros(1, 4, 4)), "mask: hides every pixel"),
        (
            lambda: Inpainting(torch.tensor([1, 0, 1])[:, None, None, None].expand(3, 1, 4, 4)),
            r"mask: hides every pixel of samples \[1\]",
        ),
        (lambda: Inpainting(torch.full((4, 4), 0.5)), "mask: expected 1 where"),
        (lambda: Inpainting(torch.full((4, 4), NAN)), "mask: expected 1 where"),
        (lambda: Inpainting(torch.ones(4)), "mask: expected shape"),
        (lambda: Inpainting([[1.0]]), "mask: expected a tensor, got list"),  # type: ignore[arg-type]
        (lambda: Inpainting.centre(4, (4, 4)), "mask: hides every pixel"),
        (lambda: Inpainting.centre(9, (8, 16)), "size: expected a hole that fits in 8x16, got 9"),
        (lambda: Inpainting.centre(0, (8, 16)), "size: expected"),
        (lambda: Inpainting.centre(2, (1, 1, 8, 8)), "shape: expected"),
        (lambda: Inpainting.random(1.0, (8, 8), [0]), "drop: expected a probability"),
        (lambda: Inpainting.free_form((8, 8), [0], (0.5, 0.4)), "coverage: expected"),
        (lambda: SuperResolution(0), "factor: expected an integer of at least 1, got 0"),
        (lambda: SuperResolution(2.0), "factor: expected an integer, got 2.0"),  # type: ignore[arg-type]
        (lambda: BlockAverage(-1), "factor: expected"),
        (lambda: SuperResolution(2, cut=1.0), "cut: expected"),
        (lambda: GaussianBlur(0.0), "std: expected a positive"),
        (lambda: GaussianBlur(NAN), "std: expected a positive"),
        (lambda: GaussianBlur(1.0, 60), "window: expected an odd"),
        (lambda: GaussianBlur(1.0, boundary="mirror"), "boundary: expected one of"),
        (lambda: Blur(torch.ones(3)), "kernel: expected shape"),
        (lambda: Blur(torch.ones(3, 3).long()), "kernel: expected a floating tensor"),
        (lambda: Blur(torch.full((3, 3), NAN)), "kernel: holds values that are not finite"),
        (lambda: MotionBlur([1], intensity=1.5), "intensity: expected"),
        (lambda: MotionBlur([1], size=0), "size: expected"),
        (lambda: Colourise(0), "channels: expected"),
    ],
)
def test_constructors_refuse(make: Callable[[], object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: SuperResolution(4)(x), "x: .* divisible by the factor 4, got 8x6"),
        (lambda x: BlockAverage(3)(x), "x: .* divisible by the factor 3, got 8x6"),
        (lambda x: Colourise(1)(x), "x: expected 1 channels"),
        (lambda x: Colourise().pinv(x), "y: expected 1 channels"),
        (lambda x: Inpainting.centre(2, (8, 8))(x), "x: the mask is of shape"),
        (lambda x: Inpainting(torch.ones(2, 8, 6))(x), "x: the mask is of shape"),
        (lambda x: Inpainting.centre(2, (8, 8)).pinv(x), "y: the mask is of shape"),
    ],
)
def test_images_that_do_not_fit_are_refused(call: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(images((3, 8, 6)))


def test_denoise_is_the_identity() -> None:
    x = images((1, 3, 5))
    assert torch.equal(Denoise()(x), x)
