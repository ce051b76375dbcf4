r"""Codecs: between the flow's state z and the user's signal x. Ranges and units convert here only.

    x = decode(z),      z ≈ encode(x).

For an invertible affine codec the densities are related by log p(x) = log p(z) − log|dx/dz|,
which is what `log_det` is for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ctrlgen.rows.batching import PerSample, expand_like
from ctrlgen.rows.checks import as_numbers
from ctrlgen.rows.constants import follow

__all__ = ["Codec", "Identity", "Scaled"]


class Codec(PerSample, ABC):
    """Encodes signals (B, *signal) into states (B, *state) and decodes them differentiably.

    Attributes:
        named: `config` names the networks of the codec, which lie elsewhere; they are not among
            the weights of a prior.
    """

    named: ClassVar[bool] = False

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """The state of a signal."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """The signal of a state, differentiable in z."""

    def log_det(self, z: Tensor) -> Tensor:
        """log |det d decode(z)/dz| per sample, shape (B,).

        Raises:
            NotImplementedError: for a codec that does not keep volume in a known way.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no volume change: no density of signals"
        )

    def log_scale(self, z: Tensor) -> Tensor:
        """log of the signal's units per unit of the state, mean over the dimensions, shape (B,).

        Raises:
            NotImplementedError: as `log_det`.
        """
        return self.log_det(z) / z[0].numel()

    def present(self, x: Tensor, state: Tensor) -> Tensor:
        """Which numbers of each signal there are, padding being none: bool, shape of x.

        Args:
            x: signals.
            state: which numbers of their states there are (`Source.present`). Signals of another
                shape than that of the states are whole, unless a codec knows better.
        """
        return state if state.shape == x.shape else x.new_ones((), dtype=torch.bool).expand(x.shape)

    def given(self, conditions: Mapping[str, Tensor]) -> Codec:
        """The codec under the conditions of a prior; most do not depend on them."""
        return self

    def config(self) -> dict[str, Any]:
        """Arguments that rebuild this codec, JSON-able."""
        return {}


class Identity(Codec):
    """The signal is the state."""

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return z

    def log_det(self, z: Tensor) -> Tensor:
        return z.new_zeros(z.shape[0])


class Scaled(Codec):
    """x = shift + scale · z, one scale for all or one per leading state dimension (channels).

    Args:
        scale: signal units per state unit, non-zero; a number or one per channel.
        shift: signal at z = 0; a number or one per channel.
    """

    def __init__(
        self, scale: float | list[float] | Tensor = 1.0, shift: float | list[float] | Tensor = 0.0
    ) -> None:
        self.scale, self.shift = as_numbers("scale", scale), as_numbers("shift", shift)
        for name, value in (("scale", self.scale), ("shift", self.shift)):
            if value.ndim > 1 or not bool(torch.isfinite(value).all()):
                raise ValueError(
                    f"{name}: expected a finite number or one per channel, got {value}"
                )
        if bool((self.scale == 0).any()):
            raise ValueError("scale: expected non-zero values")

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Itself: its numbers stay on the host, in float64, and follow what they scale."""
        return self

    def config(self) -> dict[str, float | list[float]]:
        return {"scale": self.scale.tolist(), "shift": self.shift.tolist()}

    def encode(self, x: Tensor) -> Tensor:
        return (x - self._like(self.shift, x)) / self._like(self.scale, x)

    def decode(self, z: Tensor) -> Tensor:
        return self._like(self.shift, z) + self._like(self.scale, z) * z

    def log_det(self, z: Tensor) -> Tensor:
        logs = self._like(self.scale, z).abs().log().expand(z.shape[1:])
        return logs.sum().expand(z.shape[0])

    @staticmethod
    def _like(value: Tensor, x: Tensor) -> Tensor:
        if value.ndim == 1 and len(value) != x.shape[1]:
            raise ValueError(
                f"x: expected {len(value)} channels, as many as scales, got {tuple(x.shape)}"
            )
        return expand_like(follow(value, x), x[0])
