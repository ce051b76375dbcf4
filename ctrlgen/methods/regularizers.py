r"""Regularizers of the source point: one value per sample, added to the loss.

    Chi       R = λ (½r² − (d−1) log r + c),   r = ‖x_0‖       (arXiv 2402.14017, eq 10, sign of a
    penalty) Gaussian  R = λ (½‖x_0‖² + (d/2) log 2π)                   (pulls to the origin; MAP in
    x_0) Target    R = −λ log p_1(x(1)) = λ (−log p_0(x_0) + ∫_0^1 div u_t(x(t)) dt)

The last asks the solver to carry the divergence along (`ctrlgen.priors.likelihood`). Its probes
belong to the sample and stay fixed while a point is optimised, as line searches need.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from torch import Tensor

from ctrlgen.priors.sources import Source
from ctrlgen.rows.batching import PerSample

__all__ = ["Chi", "GaussianNLL", "Regularizer", "TargetNLL"]


class Regularizer(PerSample, ABC):
    """λ times a penalty of the source point.

    Args:
        weight: λ >= 0.
    """

    needs_divergence = False

    def __init__(self, weight: float = 0.01) -> None:
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight: expected a number >= 0, got {weight}")
        self.weight = weight

    @abstractmethod
    def __call__(self, x0: Tensor, source: Source, divergence: Tensor | None = None) -> Tensor:
        """Penalty of the source points x_0 (B, *), shape (B,), in nats times λ."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.weight:g})"


class Chi(Regularizer):
    """Keeps the radius of the source point typical, at √(d−1), and nothing else."""

    def __call__(self, x0: Tensor, source: Source, divergence: Tensor | None = None) -> Tensor:
        return self.weight * source.chi_nll(x0)


class GaussianNLL(Regularizer):
    """−log p_0(x_0); with an exact flow and a Gaussian likelihood this is MAP in x_0."""

    def __call__(self, x0: Tensor, source: Source, divergence: Tensor | None = None) -> Tensor:
        return self.weight * source.gaussian_nll(x0)


class TargetNLL(Regularizer):
    """−log p_1(x(1)) of the state that the source point becomes.

    Args:
        weight: λ >= 0.
        probes: Hutchinson probes per sample; None for the exact divergence, at one backward pass
            per dimension and evaluation.
    """

    needs_divergence = True

    def __init__(self, weight: float = 0.01, probes: int | None = 1) -> None:
        super().__init__(weight)
        if probes is not None and (not isinstance(probes, int) or probes < 1):
            raise ValueError(f"probes: expected a positive integer or None, got {probes!r}")
        self.probes = probes

    def __call__(self, x0: Tensor, source: Source, divergence: Tensor | None = None) -> Tensor:
        if divergence is None:
            raise ValueError("divergence: TargetNLL needs the integral of the divergence")
        return self.weight * (source.gaussian_nll(x0) + divergence)
