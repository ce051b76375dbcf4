r"""Any callable as a flow: argument order, clock, one time or many, what it returns.

The library calls `network(x, t, **conditions)` with t of shape (B,) on the flow's clock, 0 at the
noise and 1 at the data. Published networks differ in all of it:

    torchcfm            fn(t, x)                      from_callable(fn, order="tx")
    rectified flow      fn(x, 999 t)                  from_callable(fn, time=999)
    diffusion clock     fn(x, τ), τ = 1 − t           from_callable(fn, time=lambda t: 1 - t)
    one time a batch    fn(x, t), t a scalar          from_callable(fn, one_time=True)
    wrapped output      fn(x, t).sample               from_callable(fn, output=attrgetter("sample"))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ctrlgen.priors.flows import Flow, Kind
from ctrlgen.priors.paths import CondOT, Path

__all__ = ["CallableNetwork", "from_callable"]


class CallableNetwork(torch.nn.Module):
    """A foreign function behind the call `network(x, t, **conditions)`.

    Args:
        fn: the function; where it is a module, its parameters are those of this one.
        order: of its first two arguments.
        time: what t is multiplied by, or the function of t (B,) that it is given.
        one_time: whether it takes a single time, shape (), for the whole batch.
        output: picks the prediction out of what it returns.
        rename: its own names of conditions, by the name under which they are bound.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        order: Literal["xt", "tx"] = "xt",
        time: float | Callable[[Tensor], Tensor] = 1.0,
        one_time: bool = False,
        output: Callable[[Any], Tensor] | None = None,
        rename: Mapping[str, str] | None = None,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"fn: expected a callable, got {type(fn).__name__}")
        if order not in ("xt", "tx"):
            raise ValueError(f"order: expected 'xt' or 'tx', got {order!r}")
        super().__init__()
        self.fn, self.order, self.time, self.one_time = fn, order, time, one_time
        self.output, self.rename = output, dict(rename or {})

    def forward(self, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        """The prediction at states x (B, *), times t (B,).

        Raises:
            ValueError: where the function takes one time and the samples have several.
        """
        times = self.time(t) if callable(self.time) else self.time * t
        if self.one_time:
            if not bool((times == times[0]).all()):
                raise ValueError("t: the function takes one time for all samples, got several")
            times = times[0]
        named = {self.rename.get(name, name): value for name, value in conditions.items()}
        result = self.fn(*((x, times) if self.order == "xt" else (times, x)), **named)
        return result if self.output is None else self.output(result)


def from_callable(
    fn: Callable[..., Any],
    path: Path | None = None,
    prediction: Kind = "velocity",
    *,
    order: Literal["xt", "tx"] = "xt",
    time: float | Callable[[Tensor], Tensor] = 1.0,
    one_time: bool = False,
    output: Callable[[Any], Tensor] | None = None,
    rename: Mapping[str, str] | None = None,
) -> Flow:
    """The flow of any callable; `Prior(flow, Gaussian(shape))` makes a prior of it.

    Args:
        fn: returns the prediction at states x (B, *) and times.
        path: of its training; straight lines by default.
        prediction: what it predicts.
        order: of its first two arguments, "xt" or "tx".
        time: what t, 0 at the noise and 1 at the data, is multiplied by before it is handed over,
            or a function of it.
        one_time: whether it takes a single time for the whole batch. A solver whose samples have
            times of their own then raises a ValueError.
        output: picks the prediction out of what it returns, e.g. `attrgetter("sample")`.
        rename: its own names of conditions, e.g. {"label": "y"}.

    Raises:
        TypeError: if it is not callable.
        ValueError: for an unknown order or prediction.
    """
    network = CallableNetwork(
        fn, order=order, time=time, one_time=one_time, output=output, rename=rename
    )
    return Flow(network, path or CondOT(), prediction)
