"""What a case is: a component under the laws, and the four samples that it is tried on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ctrlgen.costs import Cost
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import PerSample, take
from ctrlgen.rows.constants import follow
from ctrlgen.rows.seeds import normal

ROWS = 4
SEEDS = torch.tensor([7, 3, 11, 2])
D, M = 6, 3
IMAGE = (3, 16, 16)
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], dtype=torch.bool)


Outputs = dict[str, Tensor]
WHOLE: dict[tuple[int, torch.dtype], Outputs] = {}
"""By case and dtype, copied: no law changes what another compares with."""


def draw(*shape: int, stream: int = 31, dtype: torch.dtype = torch.float64) -> Tensor:
    """Four rows of standard normal numbers."""
    return normal(SEEDS, shape, stream, dtype=dtype)


STAYING = [False]
"""Whether `pick` leaves components on the host, so that their constants must follow the input."""


@contextlib.contextmanager
def staying() -> Iterator[None]:
    """Within, components are not moved to the device of their input."""
    STAYING[0] = True
    try:
        yield
    finally:
        STAYING[0] = False


def pick(value: Any, index: Tensor, dtype: torch.dtype | None = None) -> Any:
    """Rows of a tensor or a component, on the device of the index, floating point in a dtype."""
    rows = take(value, index.cpu())
    if STAYING[0] and not isinstance(value, Tensor):
        return rows
    if isinstance(rows, Tensor) and not rows.is_floating_point():
        dtype = None
    return rows.to(device=index.device, dtype=dtype)


@dataclass(frozen=True)
class Case:
    """A component under the laws.

    Attributes:
        kind: its class, or the classes that it covers.
        rows: what it makes of the rows of an index, by name, on the device of the index; all
            float64 unless told.
        gradient: a function of states, and states (B, *) at which its gradient may not vanish.
        heavy: whether a few indices must do.
        rounding: agreement of float32 with float64, relative to the size; None where it rounds.
        part: builds the component itself, where it holds data of samples.
        method: the method itself, where the case is of one.
        problem: method, prior and cost of the rows of an index, where the component is a method.
        made: the component itself, where it is made already and is no method.
    """

    kind: type | tuple[type, ...]
    rows: Callable[[Tensor, torch.dtype], Outputs]
    gradient: tuple[Callable[[Tensor], Tensor], Tensor] | None = None
    heavy: bool = False
    rounding: float | None = 1e-4
    part: Callable[[], PerSample] | None = None
    method: Any = None
    problem: Callable[[Tensor, torch.dtype], tuple[Any, Prior, Cost]] | None = None
    made: Any = None

    def whole(self, dtype: torch.dtype = torch.float64) -> Outputs:
        """What the component makes of all four rows, computed once in a process."""
        key = (id(self), dtype)
        if key not in WHOLE:
            outputs = self.rows(torch.arange(ROWS), dtype)
            WHOLE[key] = {name: value.clone() for name, value in outputs.items()}
        return WHOLE[key]

    @property
    def component(self) -> Any:
        """The component itself, None where the case makes it as it goes."""
        if self.part is not None:
            return self.part()
        return self.method if self.made is None else self.made

    @property
    def kinds(self) -> tuple[type, ...]:
        return self.kind if isinstance(self.kind, tuple) else (self.kind,)


RATES = torch.tensor([0.2, 2.0, 1.0, 4.0], dtype=torch.float64)


class Vector(nn.Module):
    """A small velocity of states of any shape, elementwise but for a mean over the state."""

    def forward(self, x: Tensor, t: Tensor, rate: Tensor | None = None) -> Tensor:
        wide = (-1, *(1,) * (x.ndim - 1))
        mean = x.flatten(1).mean(1).reshape(wide)
        slope = torch.tanh(x + mean) - t.reshape(wide) * x
        return slope if rate is None else follow(rate, x).reshape(wide) * slope
