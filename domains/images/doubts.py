r"""What speaks against a problem: measurements that no image could have given.

With H = U diag(s) V^T a measurement y = Hx + σn of an image x in [−1, 1] has coordinates
z_i = s_i (V^T x)_i + σ n_i. The image's n coordinates have a mean square of at most 1, and fine
details, which a blur weakens most, far less than that; so over the weak coordinates, s_i < τ,

    T(τ) = mean of z_i² / (s_i² + σ²)

is about 1 where they hold noise alone, and less than 1 otherwise. A photo that was never blurred,
or whose noise is larger than is said, has T of 10 and more, and H†y would amplify what is there by
1/s_i.
"""

from __future__ import annotations

import math

import torch

from ctrlgen.domains.images.restoration import Problem

__all__ = ["of_problem", "of_result"]

_MOST, _LEAST = 10.0, 32
"""T above which a measurement is doubted, over at least so many coordinates."""

_RESIDUAL = 2.0
"""Residual over σ above which a result is doubted."""


def of_problem(problem: Problem, target: float | None = None) -> list[str]:
    """Warnings before any compute: a measurement that was none, a target that asks for nothing.

    Args:
        problem: what is to be solved.
        target: PSNR of the measurement at which a sample stops, in dB, if the user named one.
    """
    said = []
    if target is not None and target < _POOR and target < _level(problem.sigma) - _BELOW:
        said.append(
            f"target: {target:g} dB leaves an error of {100 * 10 ** (-target / 20):.0f} % of the "
            "range of pixels in the measurement, which most starts have at once; 30 to 50 is usual"
        )
    if problem.rounding and problem.task in _MADE:  # made from the truth it cannot be wrong
        excess, level = _excess(problem)
        if excess > _MOST:
            made, option = _MADE[problem.task]
            said.append(
                f"file: has {math.sqrt(excess):.0f} times more detail (singular values below "
                f"{level:.0e}) than an image that was {made} so, with noise {problem.sigma:.2g}, "
                f"can have; expect artefacts. Was it {made} at all? If so, see {option} and --noise"
            )
    return said


_POOR, _BELOW = 25.0, 6.0
"""A target in dB that is low, and by how much it must be below the noise to be doubted."""


def _level(sigma: float) -> float:
    """PSNR at which a residual is the noise, in dB."""
    return 20 * math.log10(2 / sigma) if sigma > 0 else math.inf


_MADE = {"deblur": ("blurred", "--std"), "upsample": ("reduced", "--factor")}


def _excess(problem: Problem) -> tuple[float, float]:
    """The largest T(τ) and its τ."""
    y = problem.y.double()
    shape = problem.operator.signal_shape(y)
    spectrum = problem.operator.spectrum(y.new_zeros(()).expand(1, *shape))
    z = spectrum.left(y).flatten()
    s = spectrum.values.expand(spectrum.left(y).shape).flatten().to(z)
    z, s = z[s > 0], s[s > 0]
    ratio = z.square() / (s.square() + problem.sigma**2)
    worst = (0.0, 1.0)
    for power in range(1, 16):
        level = 2.0**-power
        weak = s < level
        if int(weak.sum()) >= _LEAST:
            worst = max(worst, (float(ratio[weak].mean()), level))
    return worst


def of_result(decibels: torch.Tensor, noise: float) -> list[str]:
    """Warnings after the run: residuals beyond the noise that was stated.

    Args:
        decibels: PSNR of the measurements, shape (B,).
        noise: σ as stated; nothing is said without.
    """
    if noise == 0:
        return []
    far = 2 * 10 ** (-decibels.double() / 20) / noise
    bad = int((~(far <= _RESIDUAL)).sum())
    if not bad:
        return []
    return [
        f"noise: {bad} of {len(far)} reconstructions miss the measurement by up to "
        f"{float(far.nan_to_num(torch.inf).max()):.1f} times the noise that was stated"
    ]
