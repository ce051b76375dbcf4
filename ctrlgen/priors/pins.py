r"""Pinned priors: a part of every sample is given, and the flow makes the rest.

Let P be an orthogonal projector on states, for a mask the entries that it keeps, and y = P y the
part that is given. A path to a sample that has it is P x_t = αy + σ P x_0, whatever the rest does.
The state of a pinned flow is therefore w, the noise of the pinned part and the rest of x_t:

    x_t = w − P w + αy + σ P w,     dw/dt = (I − P) u_t(x_t),     x_1 = w − P w + y.

Nothing is integrated along P: every solver, on every path, ends with P x_1 = y to rounding, and the
divergence of the flow is that of its free part. (On straight lines it is the velocity y − P x_0 of
the pinned entries, which a Runge-Kutta method integrates exactly.) Steps that draw new noise draw
that of the pinned part as well, which is then narrower than the path's on the way.

This is the replacement of Song et al. (arXiv 2011.13456, app. I.2), with one noise for all times,
and **not the conditional law**: the network sees y through its noise, and what it has decided early
stays. For N(0, S) of two entries with correlation ρ, the first of them pinned to a, the other ends
as N(ca, s²) on straight lines, where the conditional law is N(ρa, 1 − ρ²):

    ρ = .5    c = .181, s² = .894 in place of .500, .750
    ρ = .9    c = .447, s² = .523 in place of .900, .190

(`tests/priors/test_pins.py`; the same bias with fresh noise: Trippe et al., arXiv 2206.04119).
The noise of the pinned part decides: a flow pairs noise with data, and independent noise is one
that it would not have come from. A source that draws P w as the flow pairs it with y, as
`ctrlgen.domains.molecules.scaffolds` does, and D-Flow, to which P w is as free as the rest of the
source point, move draws to where they should be.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ctrlgen.priors.codecs import Codec
from ctrlgen.priors.flows import Flow, Prediction
from ctrlgen.priors.sources import centred
from ctrlgen.rows.batching import PerSample, take
from ctrlgen.rows.checks import check_kind
from ctrlgen.rows.constants import follow

if TYPE_CHECKING:
    from ctrlgen.priors.prior import Prior

__all__ = ["Entries", "PinnedCodec", "PinnedFlow", "Pins", "pinned"]


class Pins(PerSample, ABC):
    """What is given of every sample: a projector P of states and y = P y."""

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """P x of states x (B, *shape), shape of x."""

    @abstractmethod
    def given(self, x: Tensor) -> Tensor:
        """y where and in the dtype in which x is, to broadcast against it."""

    def put(self, w: Tensor, noise: Tensor | float = 0.0, data: Tensor | float = 1.0) -> Tensor:
        """w − P w + σ P w + α y, shape of w.

        Args:
            w: states, shape (B, *shape).
            noise: σ, that the pinned part keeps of w.
            data: α, of what is given; numbers or to broadcast against w.
        """
        return w + (noise - 1) * self.project(w) + data * self.given(w)


class Entries(Pins):
    """Single entries of states, by a mask.

    Of point sets whose positions have a mean of zero, as those of molecules, the pinned points hold
    their shape and leave their centre to the others.

    Args:
        mask: entries that are given, bool, shape (B, *shape), or (1, *shape) for all samples.
        value: states of which these entries are taken, shape of mask; e.g. `codec.encode(x)`.
        coordinates: how many numbers of a point, the first of the last dimension, are its position;
            as the source of the prior has it.

    Raises:
        ValueError: shapes that disagree, values that are not finite, or a position pinned in part.
    """

    def __init__(self, mask: Tensor, value: Tensor, coordinates: int = 0) -> None:
        check_kind(Tensor, mask=mask, value=value)
        if mask.dtype != torch.bool or mask.ndim < 2:
            raise ValueError(
                f"mask: expected bool, shape (B, *shape), got {mask.dtype} {tuple(mask.shape)}"
            )
        if value.shape != mask.shape or not value.is_floating_point():
            raise ValueError(
                f"value: expected numbers, shape {tuple(mask.shape)}, got {value.dtype} "
                f"{tuple(value.shape)}"
            )
        if not bool(value[mask].isfinite().all()):
            raise ValueError("value: expected finite numbers where the mask holds")
        if coordinates:
            position = mask[..., :coordinates]
            if mask.ndim != 3 or not bool((position == position[..., :1]).all()):
                raise ValueError("mask: expected whole positions, got some of their coordinates")
        self.mask, self.coordinates = mask, coordinates
        self.value = self.project(torch.where(mask, value, 0))
        self.per_sample = ("mask", "value") if len(mask) > 1 else ()

    def project(self, x: Tensor) -> Tensor:
        mask = follow(self.mask, x)
        kept = torch.where(mask, x, 0)
        if not self.coordinates:
            return kept
        points = mask[..., 0].expand(len(x), -1)
        middle = centred(kept[..., : self.coordinates], points, self.coordinates)
        return torch.cat((middle, kept[..., self.coordinates :]), dim=2)

    def given(self, x: Tensor) -> Tensor:
        return follow(self.value, x)


class PinnedFlow(Flow):
    """A flow with a part of its end given; its states are the w above.

    Args:
        flow: of states.
        pins: what is given.
    """

    def __init__(self, flow: Flow, pins: Pins) -> None:
        vars(self).update(vars(flow))
        self.pins = pins

    def take(self, index: Tensor) -> PinnedFlow:
        taken = copy.copy(self)
        taken.pins = take(self.pins, index)
        if self.meter is not None:
            taken.meter = self.meter.take(index)
        return taken

    def to(self, *args: Any, **kwargs: Any) -> PinnedFlow:
        moved = copy.copy(self)
        moved.pins = self.pins.to(*args, **kwargs)
        super(PinnedFlow, moved).to(*args, **kwargs)
        return moved

    def end(self, x: Tensor) -> Tensor:
        return self.pins.put(x)

    def noised(self, x: Tensor, noise: Tensor, alpha: float, sigma: float) -> Tensor:
        """As `Flow.noised`; what of the state is noise is replaced."""
        w = super().noised(x, noise, alpha, sigma)
        return w + self.pins.project(noise - w)

    def predict(self, x: Tensor, t: Tensor | float, **conditions: Tensor) -> Prediction:
        """One network evaluation, of x_t; see `Flow.predict`."""
        at = self._schedule(t, x)[1]
        there = self.pins.put(x, at.sigma, at.alpha)
        velocity = super().predict(there, t, **conditions).velocity
        free = velocity - self.pins.project(velocity)
        return Prediction("velocity", free, x, at)


class PinnedCodec(Codec):
    """The codec of a pinned prior: its signals hold what is given.

    Args:
        codec: of the prior.
        pins: what is given, in states.
    """

    per_sample = ("codec", "pins")

    def __init__(self, codec: Codec, pins: Pins) -> None:
        self.codec, self.pins = codec, pins

    def encode(self, x: Tensor) -> Tensor:
        """The state of a signal; of the noise of the pinned part it says nothing: zero."""
        return self.pins.put(self.codec.encode(x), 0.0, 0.0)

    def decode(self, z: Tensor) -> Tensor:
        return self.codec.decode(self.pins.put(z))

    def present(self, x: Tensor, state: Tensor) -> Tensor:
        return self.codec.present(x, state)

    def given(self, conditions: Mapping[str, Tensor]) -> PinnedCodec:
        return PinnedCodec(self.codec.given(conditions), self.pins)


def pinned(prior: Prior, pins: Pins) -> Prior:
    """The prior of samples that hold what is given: a prior as any other, steered as any other.

    It is made for a run, and neither saved nor described (`Prior.save`, `ctrlgen.runs.spec`).

    Args:
        prior: to be pinned.
        pins: what is given, e.g. `Entries(mask, prior.codec.encode(x))`.

    Raises:
        ValueError: for a prior that is pinned already, entries of another shape than its states,
            or of other coordinates than its source has.
    """
    check_kind(Pins, pins=pins)
    if isinstance(prior.flow, PinnedFlow):
        raise ValueError("prior: expected one that is not pinned yet; pin everything at once")
    if isinstance(pins, Entries):
        shape, own = tuple(pins.mask.shape[1:]), getattr(prior.source, "coordinates", 0)
        if shape != tuple(prior.source.shape):
            raise ValueError(f"mask: expected shape (B, *{prior.source.shape}), got (B, *{shape})")
        if pins.coordinates != own:
            raise ValueError(
                f"coordinates: expected {own}, as the source has, got {pins.coordinates}"
            )
    clone = copy.copy(prior)
    clone.flow, clone.codec = PinnedFlow(prior.flow, pins), PinnedCodec(prior.codec, pins)
    return clone
