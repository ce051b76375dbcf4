r"""Flows: a network read through a path, whatever it predicts.

Velocity, denoised datum, noise, score and v are one prediction in five coordinates
(`ctrlgen.priors.predictions`). `Flow.on(path)` reads the same network on
another clock: the state is rescaled to the native path at equal signal-to-noise ratio, where x̂ and
ε̂ are unchanged.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from ctrlgen.priors.paths import Coefficients, Path
from ctrlgen.priors.predictions import Kind, Prediction, bounded
from ctrlgen.rows.batching import expand_like
from ctrlgen.rows.checks import check_kind
from ctrlgen.rows.constants import follow, passing
from ctrlgen.rows.counts import Evaluations, Meter, tally
from ctrlgen.rows.errors import short

__all__ = ["Evaluations", "Flow", "Guided", "Kind", "Prediction", "bounded"]

Network = Callable[..., Tensor]


class Flow:
    """A network together with the path it was trained on and the quantity it predicts.

    Args:
        network: `network(x, t, **conditions)`; x (B, *), t (B,) in [0, 1] on the clock of `path`,
            conditions one row per sample; returns the shape of x. Any callable will do.
        path: the path of training.
        prediction: what the network returns.

    Attributes:
        evaluations: counts of every evaluation since the last `evaluations.reset()`.
        meter: counts of one run, by sample, where the flow is `metered`.
    """

    def __init__(self, network: Network, path: Path, prediction: Kind = "velocity") -> None:
        if not callable(network):
            raise TypeError(f"network: expected a callable, got {type(network).__name__}")
        _check_signature(network)
        check_kind(Path, path=path)
        if prediction not in get_args(Kind):
            raise ValueError(f"prediction: expected one of {get_args(Kind)}, got {prediction!r}")
        self.network, self.path, self.kind = network, path, prediction
        self.native = path
        self.evaluations = Evaluations()
        self.meter: Meter | None = None

    def on(self, path: Path) -> Flow:
        """The same network, counting in the same place, on the clock and scale of another path."""
        flow = copy.copy(self)
        flow.path = path
        return flow

    def metered(self, rows: Tensor) -> tuple[Flow, Meter]:
        """The same network, whose passes also count in a meter of a run's own; and that meter.

        Args:
            rows: anything of shape (B,), one entry per sample of the run.
        """
        flow = copy.copy(self)
        meter = flow.meter = Meter(rows, self.meter or self.evaluations)
        return flow, meter

    def take(self, index: Tensor) -> Flow:
        """The flow as the samples `index` of a run see it: their passes count for them alone."""
        if self.meter is None:
            return self
        flow = copy.copy(self)
        flow.meter = self.meter.take(index)
        return flow

    def predict(self, x: Tensor, t: Tensor | float, **conditions: Tensor) -> Prediction:
        """One network evaluation.

        Args:
            x: states at time t, shape (B, *).
            t: time on the flow's clock, scalar or per sample (B,).
            **conditions: per-sample conditions of the network.

        Raises:
            ValueError: if t or the network's output has the wrong shape.
        """
        time, at, native, scale = self._schedule(t, x)
        if native is None:
            return Prediction(self.kind, self._evaluate(x, time, conditions), x, at)
        there = x * scale
        seen = Prediction(self.kind, self._evaluate(there, time, conditions), there, native)
        result = Prediction("data", seen.data, x, at)
        result.__dict__["noise"] = seen.noise  # fills the cache: no division by σ
        return result

    def check_time(self, time: float) -> None:
        """Raise where the network's own quantity says nothing of the others.

        Noise and score leave x̂ open where α = 0, data leaves ε̂ open where σ = 0.

        Args:
            time: on the flow's clock, in [0, 1].

        Raises:
            ValueError: at such a time.
        """
        if self.kind not in ("noise", "score", "data") or 0 < time < 1:
            return
        at = self.path(torch.tensor(time, dtype=torch.float64))
        if self.native is not self.path:
            at = self.native(self.native.time_at(at.log_snr).clamp(0, 1))
        name, factor = ("σ", at.sigma) if self.kind == "data" else ("α", at.alpha)
        if float(factor) == 0:
            raise ValueError(
                f"prediction: a network that predicts {self.kind} has no velocity at t = {time:g} "
                f"of {self.native}, where {name} = 0; read the prior on a path on which it never "
                "is, prior.on(VP())"
            )

    def end(self, x: Tensor) -> Tensor:
        """The data (B, *) that final states x (B, *) stand for: themselves."""
        return x

    def noised(self, x: Tensor, noise: Tensor, alpha: float, sigma: float) -> Tensor:
        """States (B, *) on the path from noise (B, *) to final states x, at a level: α x + σ ε."""
        return alpha * x + sigma * noise

    def velocity(self, x: Tensor, t: Tensor | float, **conditions: Tensor) -> Tensor:
        """u_t(x), shape of x."""
        return self.predict(x, t, **conditions).velocity

    def denoise(self, x: Tensor, t: Tensor | float, **conditions: Tensor) -> Tensor:
        """x̂ = E[x_1 | x_t = x], shape of x."""
        return self.predict(x, t, **conditions).data

    def noise(self, x: Tensor, t: Tensor | float, **conditions: Tensor) -> Tensor:
        """ε̂ = E[x_0 | x_t = x], shape of x."""
        return self.predict(x, t, **conditions).noise

    def score(self, x: Tensor, t: Tensor | float, **conditions: Tensor) -> Tensor:
        """∇ log p_t(x), shape of x."""
        return self.predict(x, t, **conditions).score

    def to(self, *args: Any, **kwargs: Any) -> Flow:
        """Move the network, a module in place; arguments as of `torch.nn.Module.to`."""
        if isinstance(self.network, torch.nn.Module):
            self.network.to(*args, **kwargs)
        elif hasattr(self.network, "to"):
            self.network = self.network.to(*args, **kwargs)
        return self

    def _schedule(
        self, t: Tensor | float, x: Tensor
    ) -> tuple[Tensor, Coefficients, Coefficients | None, Tensor]:
        """The network's times (B,), and what broadcasts against x: α, σ and their slopes at t, the
        same on the native path where that is another, and what the states there are multiplied by.

        One time for all samples, a number, on another clock is looked up on the host: a hundred
        operations on a number for each sample take an accelerator longer than a small network.
        """
        parts: Sequence[Tensor] | None = None
        one = isinstance(t, int | float) and self.native is not self.path
        if one and not passing():
            host = self._clocks(torch.tensor(t, dtype=x.dtype, device="cpu"))
            if not any(part.requires_grad for part in host):
                # Numbers are arguments of kernels; a table of them would be copied, and waited for.
                values = torch.stack(host).tolist()
                parts = [x.new_full((), value).expand(len(x)) for value in values]
        if parts is None:
            parts = self._clocks(self._times(t, x))
        at = Coefficients(*(expand_like(part, x) for part in parts[1:5]))
        if len(parts) == 5:
            return parts[0], at, None, at.alpha
        native = Coefficients(*(expand_like(part, x) for part in parts[5:9]))
        return parts[0], at, native, expand_like(parts[9], x)

    def _clocks(self, times: Tensor) -> list[Tensor]:
        """The network's times and the coefficients at times on the flow's clock.

        Read on another clock, the native coefficients follow, and n'/n with n = √(α²+σ²): at equal
        SNR the two states differ by that factor, finite everywhere.
        """
        at = self.path(times)
        if self.native is self.path:
            return [times, *at]
        there = self.native.time_at(at.log_snr).clamp(0, 1)
        native = self.native(there)
        scale = torch.hypot(native.alpha, native.sigma) / torch.hypot(at.alpha, at.sigma)
        return [there, *at, *native, scale]

    def _times(self, t: Tensor | float, x: Tensor) -> Tensor:
        if isinstance(t, int | float):
            return x.new_full((), t).expand(x.shape[0])
        times = torch.as_tensor(t, dtype=x.dtype, device=x.device)
        if times.ndim > 1 or (times.ndim == 1 and times.shape[0] != x.shape[0]):
            raise ValueError(
                f"t: expected a number or shape ({x.shape[0]},), got {tuple(times.shape)}"
            )
        return times.expand(x.shape[0])

    def _evaluate(self, x: Tensor, t: Tensor, conditions: dict[str, Tensor]) -> Tensor:
        counted = tally(x, self.meter or self.evaluations)
        value = self.network(counted, t, **conditions)
        if not isinstance(value, Tensor):
            raise TypeError(
                f"network: expected an output of shape {tuple(x.shape)}, got {short(value)}"
            )
        if value.shape != x.shape:
            raise ValueError(
                f"network: expected an output of shape {tuple(x.shape)}, got {tuple(value.shape)}"
            )
        return value.to(x.dtype)

    def __repr__(self) -> str:
        name = type(self.network).__name__
        return f"Flow({name}, {self.path}, prediction={self.kind!r})"


def _check_signature(network: Any) -> None:
    """Raise TypeError for a network that cannot be called with x and t."""
    function = network.forward if isinstance(network, torch.nn.Module) else network
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # one that does not tell
        return
    try:
        signature.bind_partial(None, None)
    except TypeError as error:
        raise TypeError(
            f"network: expected one that is called as network(x, t, **conditions), got {signature}"
        ) from error


class Guided(torch.nn.Module):
    """Classifier-free guidance as a network: f(null) + w (f(condition) − f(null)).

    Both halves go through the network in one batch (Ho & Salimans, arXiv 2207.12598), which a flow
    counts as one evaluation. Works for every prediction kind, since the conversions are affine in
    the prediction.

    Args:
        network: conditional network.
        scale: w; 1 is the conditional network itself, 0 the unconditional one.
        null: value of each condition that means "none", by name: a number, or a tensor that
            broadcasts against the condition, like the text of the empty prompt (1, L, D). Other
            conditions go to both halves.
    """

    def __init__(
        self, network: Network, scale: float, null: Mapping[str, int | float | Tensor]
    ) -> None:
        super().__init__()
        self.network, self.scale, self.null = network, scale, dict(null)

    def forward(self, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        """The guided prediction at x (B, *), t (B,); conditions one row per sample."""
        none = {}
        for name, value in self.null.items():
            given = conditions[name]
            if not isinstance(value, Tensor):
                none[name] = torch.full_like(given, value)
            else:
                none[name] = follow(value, given, given.dtype).expand_as(given)
        both = {k: torch.cat((v, none.get(k, v))) for k, v in conditions.items()}
        with_it, without = self.network(torch.cat((x, x)), torch.cat((t, t)), **both).chunk(2)
        return without + self.scale * (with_it - without)
