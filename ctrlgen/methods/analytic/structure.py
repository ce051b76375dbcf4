r"""Inverse problems as analytic methods see them: in the prior's own states, solved by structure.

A codec that scales every entry alike, x = decode(z) = κz + x_0, leaves a linear problem linear:

    y = Hx + σ_y n     becomes     (y − Hx_0)/κ = Hz + (σ_y/κ) n.

What methods need of it is H†y, the projection P = H†H, and the regularised pull

    r² H^T (r² HH^T + σ_y² I)^{-1} (y − Hẑ),     without noise the residual in range  H†y − Pẑ

(Song et al., ΠGDM, ICLR 2023; Pandey et al., arXiv 2405.17673). An operator that knows its
structure (mask, convolution, singular values) solves directly; one that knows only H and H^T is
solved by conjugate gradients, every sample to its own tolerance.

The heuristic of arXiv 2405.17673 for everything else replaces H†y by h†(y) and P by h†∘h, with
h = H∘decode and h† = encode∘H†, residuals detached: h need not be differentiable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ctrlgen.operators.base import LinearOperator, Measurement, Spectrum
from ctrlgen.operators.systems import conjugate_gradients
from ctrlgen.priors.prior import Prior

__all__ = ["InverseProblem", "inverse_problem"]

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class InverseProblem:
    """A measurement in the coordinates of states.

    Attributes:
        operator: H, linear, on states; None for the heuristic.
        y: measurements in units of states, (B, *measurement).
        noise: σ_y in units of states.
        proxy: H†y (or h†(y)), shape (B, *state).
        project: P (or h†∘h) of states.
    """

    operator: LinearOperator | None
    y: Tensor
    noise: float
    proxy: Tensor
    project: Map

    def pull(self, data: Tensor, r2: float) -> Tensor:
        """r² H^T (r² HH^T + σ_y²)^{-1} (y − H x̂), shape of x̂, without a graph.

        Args:
            data: x̂, denoised states (B, *).
            r2: r², their variance, > 0.
        """
        with torch.no_grad():
            if self.noise == 0 or self.operator is None:
                return self.proxy - self.project(data)
            residual = self.y - self.operator(data)
            return r2 * _solve(self.operator, residual, r2, self.noise)

    def spectrum(self) -> Spectrum:
        """Of H, for states.

        Raises:
            ValueError: where the operator has none.
        """
        assert self.operator is not None
        try:
            return self.operator.spectrum(self.proxy)
        except NotImplementedError as error:
            raise ValueError(f"cost: needs an operator with a spectral form; {error}") from error


def inverse_problem(
    prior: Prior, measurement: Measurement, like: Tensor, heuristic: bool = False
) -> InverseProblem:
    """The measurement of signals as one of states.

    Args:
        prior: whose codec lies between.
        measurement: with its operator and y, of all samples.
        like: states, shape (B, *): what shape, dtype and device they have.
        heuristic: take h†∘h for the projection, for operators and codecs that are not linear.

    Raises:
        ValueError: where something is not linear, or scales entries unequally, and the heuristic is
            off; or where the operator has no pseudo-inverse.
    """
    operator, y = measurement.operator, measurement.y.to(like)
    with torch.no_grad():
        if heuristic:
            codec = prior.codec
            try:
                proxy = codec.encode(operator.pinv(y)).to(like)
            except NotImplementedError as error:
                raise ValueError(f"cost: needs a pseudo-inverse; {error}") from error
            return InverseProblem(
                None,
                y,
                measurement.noise,
                proxy,
                lambda z: codec.encode(operator.pinv(operator(codec.decode(z)))),
            )
        if not isinstance(operator, LinearOperator):
            raise ValueError(
                f"cost: needs a linear operator, got {type(operator).__name__}; heuristic=True "
                "takes h†∘h for its projection"
            )
        shift, scale = _affine(prior, like)
        y = (y - operator(shift)) / scale
        linear = operator  # for the closure
        return InverseProblem(
            operator, y, measurement.noise / scale, _pinv(linear, y), lambda z: _project(linear, z)
        )


def _affine(prior: Prior, like: Tensor) -> tuple[Tensor, float]:
    """Signals at z = 0, and the one scale of the codec.

    Raises:
        ValueError: for a codec of another kind.
    """
    shift, one = (prior.codec.decode(torch.full_like(like, float(v))) for v in (0, 1))
    two = prior.codec.decode(torch.full_like(like, 2.0))
    scale = float((one - shift).flatten()[0])
    even = shift.shape == like.shape and torch.allclose(one - shift, one.new_full((), scale))
    if not even or not torch.allclose(two - one, one - shift) or scale == 0:
        raise ValueError(
            "codec: needs one that scales every entry alike, got "
            f"{type(prior.codec).__name__}; heuristic=True takes h†∘h for the projection"
        )
    return shift, scale


def _solve(operator: LinearOperator, residual: Tensor, r2: float, noise: float) -> Tensor:
    try:
        return operator.solve(residual, r2, noise)
    except NotImplementedError:
        target = operator.adjoint(residual)
        return conjugate_gradients(
            lambda x: r2 * operator.adjoint(operator(x)) + noise**2 * x, target
        )


def _pinv(operator: LinearOperator, y: Tensor) -> Tensor:
    try:
        return operator.pinv(y)
    except NotImplementedError:
        return conjugate_gradients(lambda x: operator.adjoint(operator(x)), operator.adjoint(y))


def _project(operator: LinearOperator, x: Tensor) -> Tensor:
    try:
        return operator.project(x)
    except NotImplementedError:
        return _pinv(operator, operator(x))
