"""Costs of waveforms: their values, their gradients, one value per sample."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import Cost
from ctrlgen.domains.audio.costs import (
    ChromaTarget,
    Continuation,
    Loop,
    LoudnessCurve,
    MelDistance,
    Spectra,
)

RATE = 8000


def noise(seed: int, *shape: int) -> Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def tone(frequency: float, length: int = 4096) -> Tensor:
    return 0.3 * (2 * math.pi * frequency * torch.arange(length).double() / RATE).sin()


COSTS: dict[str, Cost] = {
    "spectra": Spectra(noise(1, 3, 1, 96), (16, 32)),
    "mel": MelDistance(noise(1, 3, 1, 96), RATE, bands=5, size=32),
    "continuation": Continuation(noise(1, 3, 1, 40)),
    "loop": Loop(20),
    "loudness": LoudnessCurve(torch.tensor([[-20.0, -10.0], [-30.0, -20.0], [-12.0, -6.0]])),
    "chroma": ChromaTarget(noise(2, 3, 12, 2).abs() + 0.01, RATE, size=64),
}


@pytest.mark.parametrize("name", COSTS)
def test_gradients_and_rows(name: str) -> None:
    cost, x = COSTS[name], noise(0, 3, 1, 96).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: cost(x), (x,), atol=1e-4, rtol=1e-3)
    values = cost(x)
    index = torch.tensor([2, 0])
    torch.testing.assert_close(cost.take(index)(x[index]), values[index])
    assert values.shape == (3,) and bool((values > 0).all())


@pytest.mark.parametrize("name", ["spectra", "mel"])
def test_a_reference_costs_nothing_against_itself(name: str) -> None:
    cost = COSTS[name]
    assert float(cost(cost.reference).abs().max()) < 1e-9  # type: ignore[attr-defined]


def test_the_loudness_of_a_part_is_that_of_its_samples() -> None:
    x = torch.cat((torch.full((100,), 0.1), torch.full((100,), 0.01)))[None, None]
    assert float(LoudnessCurve([-20.0, -40.0])(x)) == pytest.approx(0, abs=1e-4)
    assert float(LoudnessCurve([-20.0, -34.0])(x)) == pytest.approx(18, rel=1e-3)


def test_a_loop_closes_where_the_end_is_the_start() -> None:
    x = tone(250.0, 4000)[None, None]  # 125 whole periods
    assert float(Loop(320)(x)) < 1e-9
    assert float(Loop(320)(tone(250.0, 4016)[None, None])) > 0.05


def test_a_continuation_begins_as_its_context() -> None:
    x = noise(0, 2, 1, 100)
    cost = Continuation(x[..., :60] + 0.5)
    torch.testing.assert_close(cost(x), torch.full((2,), 0.25).double())
    with pytest.raises(ValueError, match="60 samples or more"):
        cost(x[..., :50])


def test_chroma_knows_notes_in_any_octave() -> None:
    wish = torch.zeros(12, 2)
    wish[9, 0], wish[4, 1] = 1, 1  # A, then E
    a, e = tone(440.0), tone(329.63)
    right = torch.cat((tone(880.0), tone(659.26)))[None, None]
    wrong = torch.cat((e, a))[None, None]
    cost = ChromaTarget(wish, RATE)
    assert float(cost(right)) < 0.1 and float(cost(wrong)) > 0.8
    with pytest.raises(ValueError, match="chroma"):
        ChromaTarget(torch.zeros(12, 2), RATE)


def test_mel_bands_cover_the_spectrum_and_none_is_empty() -> None:
    from ctrlgen.domains.audio.costs import _bands

    filters = _bands(256, RATE, 64, torch.float64, torch.device("cpu"))
    assert filters.shape == (64, 129) and bool((filters.sum(1) > 0).all())


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="reference"):
        Spectra(torch.zeros(3, 96))
    with pytest.raises(ValueError, match="reference: expected finite"):
        MelDistance(torch.full((1, 1, 9), math.nan), RATE)
    with pytest.raises(ValueError, match="decibels"):
        LoudnessCurve([])
    with pytest.raises(ValueError, match="overlap"):
        Loop(0)
