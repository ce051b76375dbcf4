"""What samples are judged by in a batch of several sizes: padding is no number of theirs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import ctrlgen as cg
from ctrlgen.comparison import compare
from ctrlgen.comparison.judges import Likelihood, Misfit, Psnr, present
from ctrlgen.costs import NegativePSNR
from ctrlgen.domains.audio.spectral import SpecCodec
from ctrlgen.domains.audio.states import Frames, LatentCodec
from ctrlgen.methods import DPS
from ctrlgen.operators.base import LinearOperator, Spectrum
from ctrlgen.priors import CondOT, Flow, MaskedGaussian, Prior
from ctrlgen.rows.seeds import normal
from ctrlgen.sampling.grids import Uniform

SEEDS = torch.tensor([7, 3, 11])
COUNTS = torch.tensor([2, 5, 3])
SIZES = ([0], [1, 0, 2])
"""The row of two points alone, and among others in second place."""


class Same(LinearOperator):
    """y = x."""

    def spectrum(self, x: Tensor) -> Spectrum:
        return Spectrum(torch.ones_like(x[:1]), *([lambda v: v] * 4))

    def signal_shape(self, y: Tensor) -> tuple[int, ...]:
        return tuple(y.shape[1:])


def shrinking(x: Tensor, t: Tensor, mask: Tensor) -> Tensor:
    return -0.3 * x * mask.unsqueeze(2)


def clouds(rows: list[int]) -> tuple[Prior, cg.InverseProblem]:
    """Points of two numbers, padded to the largest cloud; padding of any value is measured."""
    counts = COUNTS[rows]
    mask = torch.arange(int(counts.max())) < counts.unsqueeze(1)
    source = MaskedGaussian(mask, 2, coordinates=0)
    prior = Prior(Flow(shrinking, CondOT()), source, conditions={"mask": mask})
    truth = normal(SEEDS[rows], (mask.shape[1], 2), 50)
    y = truth + 0.1 * normal(SEEDS[rows], (mask.shape[1], 2), 51)
    return prior, cg.InverseProblem(Same().ragged(mask), y, 0.1, truth)


def test_no_judge_counts_padding() -> None:
    """PSNR, misfit and likelihood of two points are the same alone and among five."""
    values = []
    for rows in SIZES:
        prior, posed = clouds(rows)
        assert posed.truth is not None
        x = prior.source.project(0.5 * posed.truth)
        made = {
            "psnr": Psnr(posed.truth, present(prior, posed.truth))(x),
            "misfit": Misfit(posed.operator, posed.y, 0.1, prior)(x),
            "likelihood": Likelihood(prior, SEEDS[rows])(x),
        }
        values.append({name: value[rows.index(0)].item() for name, value in made.items()})
    alone, among = values
    assert among == pytest.approx(alone, rel=1e-5)
    prior, posed = clouds([0])
    mse = float((0.5 * posed.truth).square().mean())  # type: ignore[operator]
    assert alone["psnr"] == pytest.approx(10 * torch.tensor(4 / mse).log10().item())


def diversity(prior: Prior, posed: cg.InverseProblem) -> float:
    blind: dict[str, Any] = {"dps": DPS(grid=Uniform(3), rho=0.0)}
    (row,) = compare(prior, posed, blind, [3], draws=40, factors=()).rows
    return float(row["diversity"])


def test_diversity_is_that_of_the_numbers_there_are() -> None:
    """Draws of N(0, e^-0.6) in a batch padded from two points to five spread as they do alone."""
    (alone, posed), (among, both) = clouds([0]), clouds([0, 1])
    assert diversity(among, both) == pytest.approx(diversity(alone, posed), rel=0.15)


def test_clips_have_as_many_samples_as_their_frames() -> None:
    network = SpecCodec(hop=4, size=2, width=4, depth=0, kernel=3)
    codec = LatentCodec(network, torch.zeros(2), torch.ones(2), 16, torch.tensor([3, 5]))
    prior = Prior(Flow(shrinking, CondOT()), Frames(5, 2, torch.tensor([3, 5])), codec)
    assert present(prior, torch.zeros(2, 1, 16)).sum((1, 2)).tolist() == [8, 16]


def test_a_projected_psnr_of_several_sizes_is_refused() -> None:
    """Its mean would count padding, and the same sample end at another target in another batch."""
    mask = torch.tensor([[True, True, False]])
    with pytest.raises(ValueError, match="projected: a pseudo-inverse has no mean"):
        NegativePSNR(Same().ragged(mask), torch.zeros(1, 3, 2), projected=True)
