"""Operators of audio: their matrices, decompositions and inverses, exactly."""

from __future__ import annotations

import math

import pytest
import torch

from ctrlgen.domains.audio.filters import BandLimit, Filter, LowPass, Reverb, kaiser_lowpass
from ctrlgen.domains.audio.operators import Clipping, Mixture, TimeMask, gaps
from ctrlgen.domains.audio.resampling import resample
from ctrlgen.domains.audio.spectrograms import SpectrogramMask, cells
from ctrlgen.operators.base import LinearOperator, dense


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def symmetric(seed: int) -> torch.Tensor:
    half = draw(6, seed=seed)
    return torch.cat((half.flip(0), draw(1, seed=seed + 1), half))


CASES: dict[str, tuple[LinearOperator, tuple[int, int]]] = {
    "lowpass 2": (LowPass(2), (1, 24)),
    "lowpass 2, odd": (LowPass(2), (2, 18)),
    "lowpass 4": (LowPass(4), (1, 48)),
    "lowpass 8, short": (LowPass(8), (1, 16)),
    "any symmetric, 3": (Filter(symmetric(3), 3), (1, 24)),
    "any symmetric, 2": (Filter(symmetric(5), 2), (1, 20)),
    "band limit": (BandLimit(3000, 16000), (2, 40)),
    "reverb": (Reverb(draw(9, seed=7)), (1, 21)),
    "mask": (TimeMask(torch.tensor([True, False, True, True, False])), (2, 5)),
    "mixture": (Mixture(3), (3, 4)),
    "spectrogram mask": (SpectrogramMask(draw(3, 6, seed=8) > 0), (2, 18)),
    "spectrogram mask, two frames": (SpectrogramMask(draw(2, 4, seed=9) > 0), (1, 8)),
}


@pytest.mark.parametrize("name", CASES)
def test_products_are_those_of_the_matrix(name: str) -> None:
    operator, shape = CASES[name]
    matrix = dense(operator, shape)
    x = draw(2, *shape, seed=1)
    y = operator(x)
    inverse = torch.linalg.pinv(matrix, rtol=1e-9)
    flat = x.flatten(1)
    expected = {
        "H": (y, flat @ matrix.T),
        "adjoint": (operator.adjoint(y), y.flatten(1) @ matrix),
        "pinv": (operator.pinv(y), y.flatten(1) @ inverse.T),
        "projector": (operator.project(x), flat @ (inverse @ matrix).T),
    }
    for part, (ours, theirs) in expected.items():
        torch.testing.assert_close(ours.flatten(1), theirs, rtol=1e-8, atol=1e-8, msg=part)


@pytest.mark.parametrize("name", CASES)
def test_regularised_solve_is_that_of_the_matrix(name: str) -> None:
    operator, shape = CASES[name]
    matrix = dense(operator, shape)
    residual = operator(draw(2, *shape, seed=2))
    variance, noise = torch.tensor([0.5, 2.0]).double(), torch.tensor([0.3, 0.1]).double()
    ours = operator.solve(residual, variance, noise).flatten(1)
    for row in range(2):
        system = variance[row] * matrix @ matrix.T + noise[row] ** 2 * torch.eye(
            len(matrix), dtype=torch.float64
        )
        theirs = matrix.T @ torch.linalg.solve(system, residual[row].flatten())
        torch.testing.assert_close(ours[row], theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_decomposition_is_orthogonal_and_rebuilds_the_operator(name: str) -> None:
    operator, shape = CASES[name]
    x = draw(3, *shape, seed=3)
    spectrum = operator.spectrum(x)
    coordinates = spectrum.right(x)
    assert coordinates.flatten(1).shape == x.flatten(1).shape
    torch.testing.assert_close(coordinates.square().sum(), x.square().sum())
    torch.testing.assert_close(spectrum.right_inverse(coordinates), x)
    y = operator(x)
    torch.testing.assert_close(spectrum.left_inverse(spectrum.values * coordinates), y)
    torch.testing.assert_close(spectrum.left(y), spectrum.values * coordinates)
    matrix = dense(operator, shape)
    values = spectrum.values.flatten().sort(descending=True).values[: len(matrix)]
    torch.testing.assert_close(values, torch.linalg.svdvals(matrix), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_lowpass_is_the_resampler_away_from_the_ends(factor: int) -> None:
    x = draw(1, 1, 16384, seed=4)
    ours, theirs = LowPass(factor)(x), resample(x, 16000, 16000 // factor)
    inside = slice(len(ours[0, 0]) // 4, -len(ours[0, 0]) // 4)
    torch.testing.assert_close(ours[..., inside], theirs[..., inside], rtol=0, atol=2e-3)


def test_band_limit_keeps_what_is_below_and_nothing_above() -> None:
    time = torch.arange(16000, dtype=torch.float64) / 16000
    low, high = (torch.sin(2 * math.pi * f * time).view(1, 1, -1) for f in (2500.0, 3500.0))
    operator = BandLimit(3000, 16000)
    torch.testing.assert_close(operator(low), low, rtol=0, atol=1e-6)
    assert float(operator(high).abs().max()) < 1e-6


def test_reverb_is_the_convolution_with_its_response() -> None:
    impulse = torch.tensor([1.0, 0.0, 0.5]).double()
    x = torch.zeros(1, 1, 6, dtype=torch.float64)
    x[..., 1] = 2
    expected = torch.tensor([0, 2, 0, 1, 0, 0.0]).double().view(1, 1, 6)
    torch.testing.assert_close(Reverb(impulse)(x), expected)


def test_a_cut_frequency_is_not_measured() -> None:
    operator = BandLimit(3000, 16000, cut=0.1)
    matrix = dense(operator, (1, 40))
    values = torch.linalg.svdvals(matrix)
    assert not bool(((values > 1e-9) & (values < 0.1)).any())


def test_gaps_in_seconds_and_samples() -> None:
    mask = gaps([(0.5, 0.75), (0.0, 0.25)], 16, 16)
    assert mask.nonzero().flatten().tolist() == [4, 5, 6, 7, 12, 13, 14, 15]
    assert torch.equal(mask, gaps([(8, 12), (0, 4)], 16))


@pytest.mark.parametrize(
    "spans", [[(3, 3)], [(-1, 2)], [(10, 17)], [(5, 4)], [(0, 4), (3, 6)], [(0, 16)]]
)
def test_impossible_gaps_are_refused(spans: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="gap"):
        gaps(spans, 16)


def test_masks_per_sample_leave_with_their_rows() -> None:
    masks = torch.tensor([[True, False, True], [False, True, True], [True, True, True]])
    operator = TimeMask(masks)
    x = draw(3, 2, 3, seed=5)
    index = torch.tensor([2, 0])
    torch.testing.assert_close(operator.take(index)(x[index]), operator(x)[index])
    assert operator.measured(x).tolist() == [4, 4, 6]


def test_gradients_of_a_spectrogram_mask() -> None:
    operator = SpectrogramMask(draw(2, 3, 4, seed=10) > 0)
    x, y = draw(2, 1, 12, seed=11).requires_grad_(), draw(2, 1, 3, 4, seed=12).requires_grad_()
    assert torch.autograd.gradcheck(operator, x) and torch.autograd.gradcheck(operator.pinv, y)


def test_a_hidden_cell_is_a_tone_at_its_moment() -> None:
    """A hole of 0.5 s by 300 Hz around a tone hides it there, and no other tone."""
    rate, length = 16000, 32768
    time = torch.arange(length, dtype=torch.float64) / rate
    tones = [(2 * math.pi * f * time).sin().view(1, 1, -1) for f in (440.0, 3000.0)]
    mask = cells([(0.5, 1.0, 300.0, 600.0)], length, rate, 512)
    operator = SpectrogramMask(mask)
    low, high = (operator.pinv(operator(tone)) for tone in tones)
    inside, outside = slice(round(0.6 * rate), round(0.9 * rate)), slice(0, round(0.4 * rate))
    assert float(low[..., inside].abs().max()) < 0.02  # what the sine window leaks
    torch.testing.assert_close(low[..., outside], tones[0][..., outside], rtol=0, atol=1e-9)
    assert float((high - tones[1]).abs().max()) < 0.02
    assert int(operator.measured(operator(tones[0]))) == int(mask.sum())
    whole = SpectrogramMask(torch.ones(64, 512, dtype=torch.bool))
    torch.testing.assert_close(whole.pinv(whole(tones[0])), tones[0])


@pytest.mark.parametrize(
    ("hole", "said"),
    [
        ((1.0, 0.5, 0, 100), "0 <= start < end"),
        ((0.0, 3.0, 0, 100), "0 <= start < end"),
        ((0.0, 1.0, 0, 9000), "low < high <= 8000 Hz"),
        ((0.0, 1.0, 100.0, 100.1), "no cell has its middle"),
        ((0.0, 2.048, 0, 8000), "cover the whole spectrogram"),
    ],
)
def test_impossible_cells_are_refused(hole: tuple[float, ...], said: str) -> None:
    with pytest.raises(ValueError, match=f"holes: .*{said}"):
        cells([hole], 32768, 16000)  # type: ignore[list-item]


def test_clipping() -> None:
    x = torch.tensor([[[-0.9, -0.2, 0.5, 0.8]]])
    operator = Clipping(0.5)
    torch.testing.assert_close(operator(x), torch.tensor([[[-0.5, -0.2, 0.5, 0.5]]]))
    assert operator.clipped(operator(x)).tolist() == [[[True, False, True, True]]]


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: LowPass(1), "factor"),
        (lambda: LowPass(2, rolloff=1.2), "rolloff"),
        (lambda: BandLimit(8000, 16000), "cutoff"),
        (lambda: Filter(torch.ones(4)), "taps"),
        (lambda: Filter(torch.tensor([1.0, 2.0, 3.0]), 2), "taps"),
        (lambda: Filter(torch.ones(3), cut=1.0), "cut"),
        (lambda: Reverb(torch.tensor([1.0, math.nan])), "taps"),
        (lambda: TimeMask(torch.zeros(4, dtype=torch.bool)), "mask"),
        (lambda: TimeMask(torch.ones(2, 2, 4, dtype=torch.bool)), "mask"),
        (lambda: SpectrogramMask(torch.ones(1, 4, dtype=torch.bool)), "mask"),
        (lambda: SpectrogramMask(torch.ones(3, 3, dtype=torch.bool)), "mask"),
        (lambda: SpectrogramMask(torch.zeros(3, 4, dtype=torch.bool)), "mask"),
        (lambda: SpectrogramMask(torch.ones(3, 4, dtype=torch.bool))(torch.zeros(1, 1, 8)), "x"),
        (lambda: cells([], 1000, 16000), "length"),
        (lambda: Mixture(1), "stems"),
        (lambda: Clipping(0.0), "threshold"),
        (lambda: kaiser_lowpass(0.0), "cutoff"),
        (lambda: LowPass(2)(torch.zeros(1, 1, 7)), "x"),
        (lambda: LowPass(2)(torch.zeros(1, 8)), "x"),
        (lambda: TimeMask(torch.ones(4, dtype=torch.bool))(torch.zeros(1, 1, 5)), "x"),
        (lambda: Mixture(2)(torch.zeros(1, 3, 5)), "x"),
    ],
)
def test_bad_input_is_named(make: object, argument: str) -> None:
    with pytest.raises(ValueError, match=argument):
        make()  # type: ignore[operator]


def test_a_mask_must_be_bool() -> None:
    with pytest.raises(TypeError, match="mask"):
        TimeMask(torch.ones(4))
    with pytest.raises(TypeError, match="mask"):
        SpectrogramMask(torch.ones(4, 4))
