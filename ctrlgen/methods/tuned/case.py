r"""What a method has to do, as far as its settings depend on it.

They are for signals in [−1, 1] and at some tens of evaluations of the network a sample; the presets
of the methods are their papers', for large images and up to thousands. Three rules are common:

- where entries are hidden H†y says nothing of the signal there, and a run starts from noise;
- with noise σ in y, ‖Hx − y‖² weighs no more than a share of 1/σ², its weight in −log p(y|x);
- a gradient of ‖Hx − y‖² is as large as H's largest singular value squared, 1/f² for a reduction
  by f, which the strength of a step makes up for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ctrlgen.operators.base import LinearOperator, Operator

__all__ = ["Case", "Settings"]

Settings = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """What a method has to do.

    Attributes:
        operator: H.
        noise: σ_y as stated, in units of y.
        sigma: σ_y with the rounding of a file.
    """

    operator: Operator
    noise: float = 0.0
    sigma: float = 0.0

    @property
    def task(self) -> str:
        """The operator's own word, see `Operator.task`."""
        return self.operator.task

    @property
    def guided(self) -> bool:
        """Whether H†y resembles the image."""
        return self.task in ("upsample", "deblur", "denoise")

    @property
    def near(self) -> bool:
        """Whether a guided start can be had: a linear H, or one with a pseudo-inverse."""
        kind = type(self.operator)
        return isinstance(self.operator, LinearOperator) or kind.pinv is not Operator.pinv

    @property
    def strength(self) -> float:
        """One over the largest singular value of H, squared."""
        return float(getattr(self.operator, "factor", 1)) ** 2

    def weight(self, most: float, share: float = 0.05) -> float:
        """Of ‖Hx − y‖²: `share`/σ², and at most `most`."""
        return min(most, share / self.sigma**2) if self.sigma > 0 else most
