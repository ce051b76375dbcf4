"""The transform against its definition, its isometry and its inverse."""

from __future__ import annotations

import math

import pytest
import torch

from ctrlgen.domains.audio.mdct import frame_count, mdct, mdct_inverse


@pytest.mark.parametrize(("length", "hop"), [(1, 4), (7, 4), (8, 4), (33, 8), (64, 16)])
def test_synthesis_inverts_analysis_and_energy_is_kept(length: int, hop: int) -> None:
    x = torch.randn(2, 3, length, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coefficients = mdct(x, hop)
    assert coefficients.shape == (2, 3, frame_count(length, hop), hop)
    torch.testing.assert_close(mdct_inverse(coefficients, length), x, rtol=0, atol=1e-12)
    energy = coefficients.square().sum((2, 3))
    torch.testing.assert_close(energy, x.square().sum(2), rtol=1e-12, atol=0)


def test_one_coefficient_is_the_sum_of_its_definition() -> None:
    hop, frame, k = 4, 2, 3
    x = torch.arange(1.0, 17, dtype=torch.float64)
    expected = 0.0
    for n in range(2 * hop):
        place = frame * hop + n - hop
        window = math.sin(math.pi * (n + 0.5) / (2 * hop))
        cosine = math.cos(math.pi / hop * (n + 0.5 + hop / 2) * (k + 0.5))
        expected += math.sqrt(2 / hop) * window * float(x[place]) * cosine
    assert float(mdct(x, hop)[frame, k]) == pytest.approx(expected, abs=1e-12)


def test_synthesis_is_the_adjoint_of_analysis() -> None:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(24, dtype=torch.float64, generator=draw)
    c = torch.randn(4, 8, dtype=torch.float64, generator=draw)
    left, right = (mdct(x, 8) * c).sum(), (x * mdct_inverse(c)).sum()
    assert float(left) == pytest.approx(float(right), abs=1e-12)


@pytest.mark.parametrize(
    ("frames", "length", "argument"),
    [(1, None, "coefficients"), (3, 17, "length"), (3, 0, "length")],
)
def test_impossible_lengths_are_refused(frames: int, length: int | None, argument: str) -> None:
    with pytest.raises(ValueError, match=argument):
        mdct_inverse(torch.zeros(frames, 8), length)
