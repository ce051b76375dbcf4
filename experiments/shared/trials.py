r"""Trials: a method on an inverse problem, tuned on images of its own, compared image by image.

A comparison of methods is fair where each may choose among as many settings, on images that are
not those of the result. `tune` takes the setting of the highest median PSNR over its images. Two
rows are compared by

    PSNR, SSIM       d_i = ours_i − theirs_i, of the same image and the same measurement
    Fréchet distance d = theirs − ours, one number for the set

"better" is a median of d above zero with d_i > 0 for more than half of the images; "not worse" is a
median of at least zero. An image whose value is not a number has lost, and both of no value is a
draw. These are statements about the images at hand, not tests of significance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctrlgen.costs.measurement import MeasurementCost
from ctrlgen.costs.problems import InverseProblem, psnr_of
from ctrlgen.domains.images.data import held_out
from ctrlgen.domains.images.metrics import psnr, ssim
from ctrlgen.experiments.shared.quality import quality
from ctrlgen.experiments.shared.rows import timed
from ctrlgen.methods import Method
from ctrlgen.methods.base import CostLike
from ctrlgen.methods.result import Result
from ctrlgen.operators.base import Operator, measure
from ctrlgen.priors.prior import Prior

__all__ = ["METRICS", "Trial", "compare", "measured", "paired", "run", "split", "tune"]

METRICS = ("psnr", "ssim", "frechet")


@dataclass(frozen=True, kw_only=True)
class Trial(InverseProblem):
    """An inverse problem on some images, shape (B, C, H, W) in [-1, 1], whose answers are known.

    Attributes:
        truth: the images.
        seeds: one per image.
    """

    truth: Tensor
    seeds: range

    @classmethod
    def at(cls, truth: Tensor, seeds: range, operator: Operator, noise: float) -> Trial:
        """The images measured with the noise of their seeds."""
        y = measure(operator, truth, noise, seeds)
        return cls(operator=operator, y=y, noise=noise, truth=truth, seeds=seeds)


def split(prior_name: str, images: int, few: int) -> tuple[tuple[Tensor, range], ...]:
    """The first held-out images for the result and the last ones for tuning, each with its seeds.

    Args:
        prior_name: "mnist" or "cifar10".
        images: of the result.
        few: of the tuning.

    Returns:
        Two pairs of images (B, C, H, W) in [-1, 1] and seeds; a seed is the place in the set.

    Raises:
        ValueError: where an image would be in both.
    """
    every = held_out(prior_name).images
    if images + few > len(every):
        raise ValueError(
            f"images: expected at most {len(every) - few}, that {few} are left for tuning, "
            f"got {images}"
        )
    last = range(len(every) - few, len(every))
    return (every[:images], range(images)), (every[last.start :], last)


def measured(cost: CostLike, result: Result, trial: Trial) -> list[float]:
    """PSNR of the measurement of each image in dB; of other costs, their value is ‖Hx − y‖²."""
    if isinstance(cost, MeasurementCost):
        return psnr_of(cost, result.costs).tolist()
    mse = result.costs / trial.operator.measured(trial.y)
    return (20 * math.log10(2) - 10 * torch.log10(mse + 1e-12)).tolist()


def run(
    prior: Prior, trial: Trial, method: Method, cost: CostLike | None = None, whole: bool = True
) -> tuple[dict[str, Any], Tensor, Result]:
    """A method on all images of a trial at once.

    Args:
        prior: with its card.
        trial: see `Trial`.
        method: to run.
        cost: in place of the one of the method's form.
        whole: all columns of a table, or PSNR and SSIM alone.

    Returns:
        The row, the images (B, C, H, W) and the result.
    """
    cost = trial.cost(method) if cost is None else cost
    result, account = timed(method, prior, cost, trial.seeds)
    images, truth = result.samples, trial.truth
    assert prior.card is not None
    columns = (
        quality(images, truth, prior.card.name)
        if whole
        else {
            "psnr": psnr(images, truth).tolist(),
            "ssim": ssim(images, truth).tolist(),
        }
    )
    row = {**columns, "measurement_psnr": measured(cost, result, trial), **account}
    return row, images, result


def tune(
    prior: Prior, trial: Trial, settings: Mapping[str, Method], cost: CostLike | None = None
) -> tuple[dict[str, Any], Tensor]:
    """Every setting of a method on the tuning images; the row names the best.

    Args:
        prior: with its card.
        trial: of the tuning images.
        settings: methods by a label.
        cost: in place of the one of the methods' form.

    Returns:
        The row, with "scores" the median PSNR by label and "best" a label, and the images of that.
    """
    scores: dict[str, float] = {}
    pictures: dict[str, Tensor] = {}
    seconds = 0.0
    for label, method in settings.items():
        row, pictures[label], _ = run(prior, trial, method, cost, whole=False)
        scores[label] = float(np.median(_ranked(row["psnr"])))
        seconds += row["seconds"]
    best = max(scores, key=lambda label: scores[label])
    return {"scores": scores, "best": best, "seconds": seconds}, pictures[best]


def _ranked(values: Sequence[float]) -> np.ndarray:
    """Values where what is not a number counts as the least."""
    return np.nan_to_num(np.array(values, float), nan=-np.inf, posinf=np.inf, neginf=-np.inf)


def paired(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Two rows of values, higher is better, image by image; see the module.

    Raises:
        ValueError: where they are not of as many images.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"theirs: expected {len(ours)} values like ours, got {len(theirs)}")
    first, second = _ranked(ours), _ranked(theirs)
    same = first == second  # two infinities have no difference, but they are alike
    difference = np.where(same, 0.0, first - np.where(same, 0.0, second))
    margin, share = float(np.median(difference)), float(np.mean(first > second))
    return {
        "median_difference": margin,
        "fraction": share,
        "better": margin > 0 and share > 0.5,
        "not_worse": margin >= 0,
    }


def compare(ours: Mapping[str, Any], theirs: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """Two rows of a table by one of `METRICS`: a difference that is positive where ours is better.

    Args:
        ours: with "psnr" and "ssim" per image and "frechet".
        theirs: likewise, of the same images.
        metric: which.
    """
    if metric != "frechet":
        return paired(ours[metric], theirs[metric])
    margin = theirs["frechet"]["value"] - ours["frechet"]["value"]
    return {"median_difference": margin, "better": margin > 0, "not_worse": margin >= 0}
