r"""DDRM: denoising in the singular coordinates of the operator (Kawar et al., arXiv 2201.11793).

With H = U diag(s) V^T, ȳ = diag(s⁺) U^T y and the variance-exploding state x̄ = V^T (x/α) at the
noise level r = σ/α, a step to r' sets every coordinate by what the measurement knows of it there,

    s = 0            x̂ + √(1−η²) r' ε̂ + η r' z
    s r' < σ_y       x̂ + √(1−η²) r' (ȳ − x̂) s/σ_y + η r' z
    s r' ≥ σ_y       (1−η_b) x̂ + η_b ȳ + √(r'² − η_b² σ_y²/s²) z

(x̂, ε̂ meaning V^T x̂ and V^T ε̂). It starts at r from N(ȳ, r² − σ_y²/s²) where s r > σ_y and from
N(0, r²) elsewhere. Without measurement noise the measured part of the result is ȳ exactly. A
borderline coordinate, s r' = σ_y, belongs to the third case. η is not DDIM's: the shares of old
and fresh noise are √(1−η²) and η whatever the step.

One evaluation a step, no gradient. The signals' basis V must also be one of states: the codec may
shift them and scale them all alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ctrlgen.methods.base import CostLike, check_clip
from ctrlgen.methods.stepping import Run, SteppedMethod
from ctrlgen.operators.base import LinearOperator, Spectrum
from ctrlgen.priors.codecs import Identity, Scaled
from ctrlgen.priors.paths import Path
from ctrlgen.priors.prior import Prior
from ctrlgen.sampling.fresh import Mix
from ctrlgen.sampling.grids import DDPMUniform, Grid, ddpm

__all__ = ["DDRM"]


@dataclass(frozen=True, kw_only=True)
class DDRM(SteppedMethod):
    """Restores in the singular coordinates of a linear operator; no gradient anywhere.

    Args:
        eta: η in [0, 1], share of fresh noise in coordinates that are not measured well enough.
        eta_b: η_b in [0, 1], pull of the others towards the measurement.
        clip: bound of |x̂| in every step, with the ε̂ that belongs to it; None, as published, for
            none.

    Raises:
        ValueError: for shares outside [0, 1].
    """

    control: ClassVar[str] = "singular coordinates of the state"
    needs: ClassVar[str] = "a linear operator with its singular values"
    needs_linear: ClassVar[bool] = True
    needs_signal: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, dict[str, Any]]] = {
        "sr4": {},
        "deblur": {},
        "inpaint": {},
    }

    grid: Grid = field(default_factory=lambda: DDPMUniform(20))
    clock: Path | None = field(default_factory=ddpm)
    eta: float = 0.85
    eta_b: float = 1.0
    clip: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("eta", "eta_b"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a number in [0, 1], got {getattr(self, name)}")
        if self.start != "source":
            raise ValueError(
                f"start: DDRM has a start of its own; leave 'source', got {self.start!r}"
            )
        check_clip(self.clip)

    def check(self, prior: Prior, cost: CostLike, x0: Tensor) -> None:
        super().check(prior, cost, x0)
        _scale(prior)

    def first_state(self, run: Run, z: Tensor) -> Tensor:
        level = run.levels[0]
        scale = _scale(run.prior)
        assert run.measurement is not None
        spectrum, inverse, measured = self._coordinates(run, z)
        noise = spectrum.right(z)
        s, sigma_y, r = spectrum.values, float(run.measurement.noise), abs(scale) * level.ratio
        known = s * r > sigma_y
        variance = torch.where(known, r**2 - (sigma_y * inverse) ** 2, r**2)
        centre = spectrum.right(run.prior.codec.decode(torch.zeros_like(z)))
        start = torch.where(known, measured, centre) + variance.clamp_min(0).sqrt() * noise
        return level.alpha * run.prior.codec.encode(spectrum.right_inverse(start))

    def update(self, run: Run, x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        t, after = run.at(step)
        assert run.measurement is not None
        with torch.no_grad():
            seen = run.predict(x, t).clipped(self.clip)
            signal, scale = run.decode(seen.data), _scale(run.prior)
            spectrum, inverse, measured = self._coordinates(run, signal)
            clean, old = spectrum.right(signal), scale * spectrum.right(seen.noise)
            kept = math.sqrt(1 - self.eta**2)
            mix = Mix(1.0, kept, self.eta)
            noise = run.fresh(mix, step, seen.data) if self.eta else run.noise(step, x)
            fresh = spectrum.right(noise)
            s, sigma_y, r = spectrum.values, float(run.measurement.noise), abs(scale) * after.ratio

            unseen = clean + kept * after.ratio * old + self.eta * r * fresh
            pull = s * (measured - clean) / (sigma_y or 1.0)
            faint = clean + kept * r * pull + self.eta * r * fresh
            left = (r**2 - (self.eta_b * sigma_y * inverse) ** 2).clamp_min(0).sqrt()
            known = (1 - self.eta_b) * clean + self.eta_b * measured + left * fresh
            new = torch.where(s == 0, unseen, torch.where(s * r < sigma_y, faint, known))
            state = run.prior.codec.encode(spectrum.right_inverse(new))
            return after.alpha * state, run.judge(signal)

    @staticmethod
    def _coordinates(run: Run, signal: Tensor) -> tuple[Spectrum, Tensor, Tensor]:
        """The decomposition, s⁺, and ȳ in the coordinates."""
        assert run.measurement is not None
        operator = run.measurement.operator
        assert isinstance(operator, LinearOperator)
        spectrum = operator.spectrum(signal)
        s = spectrum.values
        inverse = torch.where(s > 0, 1 / torch.where(s > 0, s, 1), 0)
        return spectrum, inverse, inverse * spectrum.left(run.measurement.y.to(signal))


def _scale(prior: Prior) -> float:
    """Signal units per state unit.

    Raises:
        ValueError: unless the codec shifts states and scales all their entries alike.
    """
    codec = prior.codec
    if isinstance(codec, Identity):
        return 1.0
    if isinstance(codec, Scaled) and bool((codec.scale == codec.scale.flatten()[0]).all()):
        return float(codec.scale.flatten()[0])
    raise ValueError(f"prior: DDRM needs a codec that scales all of a state alike, got {codec!r}")
