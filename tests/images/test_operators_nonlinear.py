"""Non-linear image operators: their values, their gradients, and the real JPEG codec."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ctrlgen.domains.images.data import held_out
from ctrlgen.domains.images.operators import (
    HDR,
    JPEG,
    NonlinearBlur,
    PhaseRetrieval,
    Quantise,
    jpeg,
)
from ctrlgen.domains.images.operators.jpeg import quantisation_tables
from ctrlgen.rows.seeds import normal

torch.set_num_threads(1)


def images(shape: tuple[int, ...], rows: int = 2, stream: int = 0) -> Tensor:
    return torch.tanh(normal(range(rows), shape, stream, dtype=torch.float64))


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def pulled_back(operator: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
    """J^T v."""
    pull = torch.func.vjp(operator, x)[1]
    return pull(v)[0]


# --- phase retrieval


def test_phase_retrieval_pads_as_published() -> None:
    assert PhaseRetrieval()(torch.zeros(1, 3, 256, 256)).shape == (1, 3, 384, 384)
    assert PhaseRetrieval()(torch.zeros(1, 1, 28, 32)).shape == (1, 1, 42, 48)
    assert PhaseRetrieval(0.0)(torch.zeros(1, 1, 5, 7)).shape == (1, 1, 5, 7)


@pytest.mark.parametrize("size", [(8, 12), (7, 5)])
def test_phase_retrieval_is_the_modulus_of_the_transform(size: tuple[int, int]) -> None:
    x = images((1, *size), 1)
    y = PhaseRetrieval()(x)[0, 0]
    height, width = y.shape

    def wave(frequency: Tensor, n: int, padded: int) -> Tensor:
        return torch.exp(-2j * torch.pi * frequency[:, None] * torch.arange(n) / padded)

    rows = wave(torch.arange(height, dtype=torch.float64) - height // 2, size[0], height)
    columns = wave(torch.arange(width, dtype=torch.float64) - width // 2, size[1], width)
    expected = (rows @ x[0, 0].to(torch.complex128) @ columns.mT).abs()
    close(y, expected / (height * width) ** 0.5)
    close(y.square().sum(), x.square().sum())  # orthonormal


def test_phase_retrieval_cannot_tell_sign_or_reflection() -> None:
    x, operator = images((1, 8, 8)), PhaseRetrieval()
    close(operator(-x), operator(x))
    close(operator(x.flip((2, 3))), operator(x))


def test_phase_retrieval_heuristic_returns_an_image() -> None:
    x, operator = images((3, 28, 13)), PhaseRetrieval()
    guess = operator.pinv(operator(x))
    assert guess.shape == x.shape and (guess >= 0).all()
    # Without phases all waves are in step at the centre.
    assert guess.flatten(2).argmax(dim=2).unique().tolist() == [14 * 13 + 6]
    with pytest.raises(ValueError, match="y: no image is padded to 11 pixels"):
        operator.pinv(torch.ones(1, 1, 11, 12))


# --- tone


def test_hdr() -> None:
    x = torch.tensor([-0.9, -0.5, -0.2, 0.0, 0.3, 0.6]).reshape(1, 1, 2, 3).requires_grad_()
    y = HDR()(x)
    close(y.flatten(), torch.tensor([-1, -1, -0.4, 0, 0.6, 1]), 1e-6)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.flatten()[[0, 2, 3, 4, 5]].tolist() == [0, 2, 2, 2, 0]
    close(HDR().pinv(y), y / 2)
    close(HDR(3.0)(x)[0, 0, 0, 2], torch.tensor(-0.6), 1e-6)


@pytest.mark.parametrize("bits", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quantise_is_exact(bits: int, dtype: torch.dtype) -> None:
    grid = torch.arange(2**bits, dtype=dtype) * (2 / (2**bits - 1)) - 1
    x = images((1, 40, 50)).to(dtype) * 1.2
    y = Quantise(bits)(x)
    nearest = (x.clamp(-1, 1).flatten()[:, None] - grid[:: max(1, 2**bits // 256)]).abs().amin(1)
    assert torch.isin(y, grid).all()
    assert ((y - x.clamp(-1, 1)).abs().flatten() <= nearest + 1e-6).all()
    assert ((y - x.clamp(-1, 1)).abs() <= 1 / (2**bits - 1) + 3e-7).all()
    assert torch.equal(Quantise(bits)(y), y)
    v = images((1, 40, 50), stream=3).to(dtype)
    close(pulled_back(Quantise(bits), x, v), v, 1e-6)


# --- non-linear blur


def test_nonlinear_blur_is_its_formula() -> None:
    operator, x = NonlinearBlur(5, size=3, kernels=2), images((3, 7, 6), 1)
    brightness = (x[0].mean(dim=0) + 1) / 2
    taps = np.exp(-0.5 * np.arange(-2, 3) ** 2)
    taps /= taps.sum()

    def mirrored(index: int, size: int) -> int:
        return -index if index < 0 else 2 * (size - 1) - index if index >= size else index

    y = operator(x)[0]
    for row, column in [(3, 3), (0, 5), (6, 0)]:
        level = sum(
            taps[i + 2] * taps[j + 2] * brightness[mirrored(row + i, 7), mirrored(column + j, 6)]
            for i in range(-2, 3)
            for j in range(-2, 3)
        )
        weight = torch.stack([torch.exp(-((level - c) ** 2) / (2 * 0.25**2)) for c in (0.0, 1.0)])
        weight = weight / weight.sum()
        for channel in range(3):
            blurred = torch.stack(
                [
                    sum(
                        kernel[1 + i, 1 + j]
                        * x[0, channel, mirrored(row - i, 7), mirrored(column - j, 6)]
                        for i in (-1, 0, 1)
                        for j in (-1, 0, 1)
                    )
                    for kernel in operator.kernels
                ]
            )
            close(y[channel, row, column], (weight * blurred).sum())


def test_nonlinear_blur_is_frozen_and_not_linear() -> None:
    x = images((3, 12, 12))
    operator = NonlinearBlur(1)
    assert torch.equal(operator(x), operator(x))
    assert torch.equal(NonlinearBlur(1)(x), operator(x))
    assert (NonlinearBlur(2)(x) - operator(x)).abs().max() > 0.05
    assert (operator(0.5 * x) - 0.5 * operator(x)).abs().max() > 0.01
    flat = torch.full((1, 1, 9, 9), -0.3, dtype=torch.float64)
    close(operator(flat), flat)
    assert not operator.linear and operator.pinv(x) is x


@pytest.mark.parametrize(
    "operator", [NonlinearBlur(3, size=5), PhaseRetrieval(), HDR()], ids=lambda o: type(o).__name__
)
def test_gradients_equal_finite_differences(operator: Callable[[Tensor], Tensor]) -> None:
    x = 1.03 * images((2, 5, 4), 1)
    assert ((x.abs() - 0.5).abs() > 1e-3).all()  # off the kinks of HDR
    assert torch.autograd.gradcheck(operator, x.requires_grad_())


# --- JPEG


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 100])
def test_tables_are_those_of_libjpeg(quality: int) -> None:
    image = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image.fromarray(np.zeros((16, 16, 3), "uint8")).save(buffer, "JPEG", quality=quality)
    written = image.open(buffer).quantization
    for index, table in enumerate(quantisation_tables(quality)):
        assert np.array_equal(written[index], np.ravel(table))


def test_pillow_codec_is_the_real_one() -> None:
    image = pytest.importorskip("PIL.Image")
    x = held_out("cifar10", 2).images
    y = JPEG(60, codec="pillow")(x)
    for row in range(2):
        buffer = io.BytesIO()
        pixels = ((x[row] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        image.fromarray(pixels).save(buffer, "JPEG", quality=60, subsampling="4:2:0")
        decoded = torch.from_numpy(np.array(image.open(buffer))).permute(2, 0, 1)
        assert torch.equal(((y[row] + 1) * 127.5).round().byte(), decoded)
        close(y[row], decoded / 127.5 - 1, 1e-6)


@pytest.mark.parametrize("data", ["cifar10", "mnist"])
@pytest.mark.parametrize("chroma", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("quality", [5, 30, 50, 75, 95])
def test_surrogate_is_close_to_the_real_codec(data: str, chroma: str, quality: int) -> None:
    """Mean PSNR to libjpeg's decoded images of 48 dB and more, far above that to the original.

    What is left comes of libjpeg's integer transform, which rounds some halves the other way.
    """
    pytest.importorskip("PIL")
    x = held_out(data, 32).images
    real, ours = (JPEG(quality, codec, chroma)(x) for codec in ("pillow", "surrogate"))

    def psnr(a: Tensor, b: Tensor) -> Tensor:
        mse = (a - b).square().flatten(1).mean(dim=1)
        return 10 * torch.log10(4 / mse.clamp_min(1e-7))

    assert psnr(ours, real).mean() > 48
    assert psnr(ours, real).min() > 34
    assert psnr(ours, real).mean() > psnr(x, real).mean() + 8


SIZES = [
    (1, 1), (1, 3), (2, 5), (3, 4), (5, 9), (7, 7), (8, 8), (9, 15), (10, 12), (11, 23),
    (15, 16), (16, 8), (16, 17), (17, 32), (20, 20), (23, 26), (24, 31), (28, 28), (30, 10),
    (33, 40),
]  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("quality", "most"), [(50, 0.5), (90, 0.65)])
def test_edges_are_continued_as_libjpeg_does(
    size: tuple[int, int], quality: int, most: float
) -> None:
    """Sizes that are no multiple of a block: the right and lower edges as good as the rest."""
    pytest.importorskip("PIL")
    x = F.interpolate(held_out("cifar10", 24).images, size, mode="bilinear", antialias=True)
    real, ours = (127.5 * JPEG(quality, codec)(x) for codec in ("pillow", "surrogate"))
    off = (real - ours).abs()
    assert off.mean() < most  # levels of 255
    assert off[..., -1].mean() < 0.8 and off[..., -1, :].mean() < 0.8


@pytest.mark.parametrize("size", [(8, 8), (9, 15), (17, 32), (1, 3)])
def test_surrogate_takes_any_size(size: tuple[int, int]) -> None:
    x = 0.5 * images((3, *size)) + 0.2
    for chroma in ("4:2:0", "4:4:4"):
        y = JPEG(100, chroma=chroma)(x)
        assert y.shape == x.shape
        luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]
        assert ((y - x) * luma).sum(dim=1).abs().max() < 0.03


def test_measurements_are_whole_levels() -> None:
    for codec in ("surrogate", "pillow"):
        levels = (JPEG(20, codec)(images((3, 16, 16))) + 1) * 127.5
        close(levels, levels.round(), 1e-9)
        assert levels.min() >= 0 and levels.max() <= 255


def test_halves_do_not_depend_on_the_batch() -> None:
    """Flat blocks whose mean lies between two steps: every rounding is a tie."""
    level = torch.arange(256, dtype=torch.float32)[:, None, None, None]
    x = (level / 127.5 - 1).expand(-1, 1, 8, 8).contiguous()
    x = torch.cat((x, x.flip(1)), dim=3)
    for operator in (JPEG(50), JPEG(75)):
        together = operator(x)
        alone = torch.cat([operator(row) for row in x.split(1)])
        assert torch.equal(together, alone)
        close(operator(x.double()).float(), together, 1e-6)
        close(together, JPEG(operator.quality, "pillow")(x), 1e-6)


def test_straight_through_gradient_is_that_of_the_smooth_map(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, v = images((3, 11, 13)), images((3, 11, 13), stream=3)
    pulled = {(q, c): pulled_back(JPEG(q, chroma=c), x, v) for q in (10, 90) for c in jpeg._CHROMAS}
    real = pulled_back(JPEG(10, codec="pillow"), x, v)
    monkeypatch.setattr(jpeg, "_rounded", lambda values, tilt=0.0: values)
    monkeypatch.setattr(jpeg, "_whole", lambda levels: levels)
    for (quality, chroma), gradient in pulled.items():
        smooth = JPEG(quality, chroma=chroma)
        close(gradient, pulled_back(smooth, x, v))
        close(smooth(x + 0.1) - 0.1, smooth(x), 1e-6)  # affine, and grey passes unchanged
        if chroma == "4:4:4":
            close(smooth(x), x, 1e-6)
            close(gradient, v, 1e-6)
    close(real, pulled[10, "4:2:0"])
    close(pulled_back(JPEG(10), x[:, :1], v[:, :1]), v[:, :1])


# --- bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HDR(0.0), "gain: expected a positive number, got 0.0"),
        (lambda: Quantise(0), "bits: expected an integer of at least 1"),
        (lambda: Quantise(17), "bits: expected at most 16"),
        (lambda: PhaseRetrieval(-1.0), "oversample: expected"),
        (lambda: JPEG(0), "quality: expected"),
        (lambda: JPEG(101), "quality: expected from 1 to 100, got 101"),
        (lambda: JPEG(50.0), "quality: expected an integer, got 50.0"),  # type: ignore[arg-type]
        (lambda: JPEG(50, "webp"), "codec: expected one of"),
        (lambda: JPEG(50, chroma="4:1:1"), "chroma: expected one of"),
        (lambda: JPEG(50)(torch.zeros(1, 2, 8, 8)), "x: expected 1 or 3 channels"),
        (lambda: NonlinearBlur(size=4), "size: expected an odd"),
        (lambda: NonlinearBlur(kernels=1), "kernels: expected at least 2"),
        (lambda: NonlinearBlur(-1), "seeds: expected"),
    ],
)
def test_bad_input_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()
