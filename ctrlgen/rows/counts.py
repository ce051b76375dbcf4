"""Counting the passes through a network: of a whole run, and of every sample.

    network evaluations   forward passes for a sample
    backward passes       vjps for it
    objective calls       how often the objective was evaluated for it (counted by the methods)

Three counts with a name each, and never one word for two of them. A flow counts everything that
passes through it (`Evaluations`). A run counts its own (`Meter`): it reads the prior through a
metered copy, so that nobody else who evaluates the same network, an observer for one, adds to it.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

__all__ = ["Counter", "Evaluations", "Meter", "Pass", "tally"]

Pass = Literal["forward", "vjp", "jvp"]


class Counter(Protocol):
    """Whatever counts passes."""

    def add(self, kind: Pass, rows: int) -> None:
        """Count one call of `rows` rows."""


@dataclass
class Evaluations:
    """Network evaluations: calls, and rows (samples) summed over the calls.

    A vjp is a backward pass through the network to its input, a jvp a forward-mode pass. Under
    `torch.func.vmap` one call carries many rows: a Jacobian by reverse mode of B samples with d
    outputs is one vjp of dB rows. Differentiating a vjp itself passes through the network twice
    more, through its linear part and through its forward pass; a jvp by the double-vjp trick needs
    the first of the two only, and is counted as two vjps.
    """

    forward: int = 0
    vjp: int = 0
    jvp: int = 0
    forward_rows: int = 0
    vjp_rows: int = 0
    jvp_rows: int = 0

    def add(self, kind: Pass, rows: int) -> None:
        """Count one call of `rows` rows."""
        setattr(self, kind, getattr(self, kind) + 1)
        setattr(self, f"{kind}_rows", getattr(self, f"{kind}_rows") + rows)

    def reset(self) -> None:
        """Set every count to zero."""
        self.__init__()  # type: ignore[misc]

    def copy(self) -> Evaluations:
        """The counts as they stand."""
        return Evaluations(**vars(self))

    def __add__(self, other: Evaluations) -> Evaluations:
        return Evaluations(**{k: v + getattr(other, k) for k, v in vars(self).items()})

    def __sub__(self, earlier: Evaluations) -> Evaluations:
        return Evaluations(**{k: v - getattr(earlier, k) for k, v in vars(self).items()})


class _Book:
    """The counts of a run: in total, and by sample.

    Passes are noted on the host, and added to the samples' counts when somebody asks for them.
    """

    def __init__(self, rows: Tensor) -> None:
        self.total = Evaluations()
        self._counts = {kind: torch.zeros_like(rows) for kind in ("forward", "vjp")}
        self._notes: list[tuple[Tensor, Pass, int]] = []

    def note(self, rows: Tensor, kind: Pass, passes: int) -> None:
        if self._notes and self._notes[-1][0] is rows and self._notes[-1][1] == kind:
            passes += self._notes.pop()[2]
        self._notes.append((rows, kind, passes))

    def of(self, kind: Pass) -> Tensor:
        notes, self._notes = self._notes, []
        for rows, what, passes in notes:
            count = self._counts[what]
            self._counts[what] = count.index_add(0, rows, torch.full_like(rows, passes))
        return self._counts[kind]


class Meter:
    """What a run spends on the network, by sample; also counts where the flow itself counts.

    Args:
        rows: anything of shape (B,), on the device of the counts.
        flow: the flow's own counter.
    """

    def __init__(self, rows: Tensor, flow: Counter) -> None:
        self.rows = torch.arange(len(rows), device=rows.device)
        self._flow, self._book = flow, _Book(self.rows)

    def take(self, index: Tensor) -> Meter:
        """The meter of the samples `index`, which writes in the same book."""
        taken = Meter.__new__(Meter)
        taken.rows = self.rows.index_select(0, index.to(self.rows.device))
        taken._flow, taken._book = self._flow, self._book
        return taken

    def add(self, kind: Pass, rows: int) -> None:
        """Count one call of `rows` rows, as many for each sample."""
        self._flow.add(kind, rows)
        self._book.total.add(kind, rows)
        if kind != "jvp" and len(self.rows):
            self._book.note(self.rows, kind, rows // len(self.rows))

    @property
    def total(self) -> Evaluations:
        """Of the whole run."""
        return self._book.total

    @property
    def evaluations(self) -> Tensor:
        """Network evaluations for each of all B samples so far, int64, shape (B,)."""
        return self._book.of("forward")

    @property
    def backward_passes(self) -> Tensor:
        """Backward passes for each of all B samples so far, int64, shape (B,)."""
        return self._book.of("vjp")


def tally(x: Tensor, counter: Counter) -> Tensor:
    """x (B, *) itself, counted as a forward pass, and its derivatives as theirs."""
    return _Tally.apply(x, counter, "forward", x.shape[0])


class _Tally(torch.autograd.Function):
    """The identity, which counts what passes through it and, in turn, its derivatives."""

    @staticmethod
    def forward(x: Tensor, counter: Counter, kind: Pass, rows: int) -> Tensor:
        counter.add(kind, rows)
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Counter, Pass, int], output: Tensor) -> None:
        _, ctx.counter, _, ctx.rows = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _Tally.apply(gradient, ctx.counter, "vjp", ctx.rows), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _Tally.apply(tangent, ctx.counter, "jvp", ctx.rows)

    @staticmethod
    def vmap(
        info: Any, dims: tuple[int, ...], x: Tensor, counter: Counter, kind: Pass, rows: int
    ) -> tuple[Tensor, int]:
        return _Tally.apply(x, counter, kind, rows * info.batch_size), dims[0]


# torch binds the arguments at every call; found anew each time, the signature costs more than that.
_Tally.forward.__signature__ = inspect.signature(_Tally.forward)  # type: ignore[attr-defined]
