"""How methods are compared and tuned: on rows made by hand and on images of a known answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import ctrlgen
from ctrlgen.costs import SquaredError
from ctrlgen.domains.images.operators import Denoise, Inpainting
from ctrlgen.experiments.shared.trials import Trial, compare, measured, paired, split, tune
from ctrlgen.methods import Method
from ctrlgen.methods.result import Result
from ctrlgen.priors.flows import Evaluations
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.status import Status


def row(psnr: list[float], ssim: list[float], frechet: float) -> dict[str, Any]:
    return {"psnr": psnr, "ssim": ssim, "frechet": {"value": frechet}}


def test_better_needs_the_median_and_most_of_the_images() -> None:
    told = paired([3, 3, 3], [1, 2, 4])
    assert told == {"median_difference": 1, "fraction": 2 / 3, "better": True, "not_worse": True}
    # half of the images is not most of them, whatever the median says
    half = paired([9, 9, 0, 0], [0, 0, 1, 1])
    assert half["median_difference"] == 4 and not half["better"] and half["not_worse"]
    assert paired([1, 1], [1, 1]) == {
        "median_difference": 0,
        "fraction": 0,
        "better": False,
        "not_worse": True,
    }
    lost = paired([1, 2, 9], [2, 3, 4])
    assert not lost["better"] and not lost["not_worse"] and lost["median_difference"] == -1


def test_an_image_without_a_value_has_lost() -> None:
    nan = math.nan
    assert not paired([nan, nan, 3], [1, 1, 1])["not_worse"]
    assert paired([1, 1, 1], [nan, nan, 3])["better"]
    both = paired([nan, nan], [nan, -math.inf])
    assert both["median_difference"] == 0 and both["fraction"] == 0
    with pytest.raises(ValueError, match="theirs: expected 1 values like ours, got 2"):
        paired([1], [1, 2])


def test_a_smaller_distance_is_the_better_one() -> None:
    ours, theirs = row([1, 1], [0.5, 0.9], 2.0), row([2, 2], [0.4, 0.8], 3.0)
    assert compare(ours, theirs, "frechet") == {
        "median_difference": 1.0,
        "better": True,
        "not_worse": True,
    }
    assert not compare(theirs, ours, "frechet")["not_worse"]
    assert compare(ours, theirs, "ssim")["better"] and not compare(ours, theirs, "psnr")["better"]


def test_tuning_images_are_others() -> None:
    (first, seeds), (last, others) = split("mnist", 250, 6)
    assert (len(first), seeds, len(last), others) == (250, range(250), 6, range(250, 256))
    with pytest.raises(ValueError, match="images: expected at most 250, that 6 are left"):
        split("mnist", 251, 6)


def test_hidden_pixels_have_no_noise() -> None:
    truth = torch.zeros(1, 1, 12, 12)
    y = Trial.at(truth, range(1), Inpainting.centre(4, truth.shape[1:]), 0.1).y
    assert (y[..., 4:8, 4:8] == 0).all() and 0.05 < float(y[..., :4, :].std()) < 0.15


@dataclass(frozen=True)
class Shift(Method):
    """Returns the measurement plus a constant."""

    by: float

    def __call__(self, prior: Prior, cost: Any, *, seeds: Any, observer: Any = None) -> Result:
        images = cost.y + self.by
        one = torch.ones(len(images), dtype=torch.long)
        return Result(
            images,
            images,
            cost(images),
            one * int(Status.FINISHED),
            one,
            one,
            one,
            one,
            one,
            Evaluations(),
        )


def test_the_setting_of_the_highest_psnr_is_chosen() -> None:
    truth = torch.zeros(2, 1, 16, 16)
    trial = Trial.at(truth, range(2), Denoise(), 0.0)
    choices = {"far": Shift(0.5), "near": Shift(0.02), "lost": Shift(math.nan)}
    found, images = tune(ctrlgen.load("mnist"), trial, choices)
    assert found["best"] == "near" and torch.equal(images, truth + 0.02)
    assert found["scores"]["near"] == pytest.approx(40, abs=1e-4)  # 20 log10(2 / 0.02)
    assert found["scores"]["lost"] == -math.inf


def test_the_measurement_of_any_cost_is_in_db() -> None:
    truth = torch.zeros(2, 1, 16, 16)
    trial = Trial.at(truth, range(2), Denoise(), 0.0)
    known = SquaredError(Denoise(), trial.y)

    def other(x: Tensor) -> Tensor:
        return (x - trial.y).square().flatten(1).sum(1)

    prior = ctrlgen.load("mnist")
    for cost in (known, other):
        result = Shift(0.02)(prior, known, seeds=range(2))
        assert measured(cost, result, trial) == pytest.approx([40, 40], abs=1e-4)
