"""The problems of a comparison: which of them are for tuning, and the samples that are drawn.

Every third problem, 2, 5, 8, ... of 0, 1, 2, ..., is held aside: settings are chosen on these and
judged on the others. Draw k of problem p has the seed first + p + kN, of N problems, so that a
sample is the same whatever else is drawn. The draws of a problem stand side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from ctrlgen.methods.base import CostLike, Method
from ctrlgen.operators.base import Operator
from ctrlgen.rows.errors import short

__all__ = ["Posed", "Rows", "check_posed", "split"]


class Posed(Protocol):
    """What a comparison asks of its problems; `ctrlgen.InverseProblem` is one."""

    @property
    def operator(self) -> Operator:
        """H."""

    @property
    def y(self) -> Tensor:
        """Measurements, one per problem."""

    @property
    def noise(self) -> float:
        """σ_y as stated."""

    @property
    def truth(self) -> Tensor | None:
        """The true signals, where they are known."""

    @property
    def sigma(self) -> float:
        """σ_y, with the rounding of a file."""

    def method(self, name: str = "d-flow", **options: Any) -> Method:
        """A method by name, set for these problems."""

    def cost(self, method: Method, rows: int | None = None) -> CostLike:
        """The cost in the form that a method declares."""

    def take(self, index: Tensor) -> Self:
        """Some of the problems, one of them as often as it is named."""


def check_posed(problem: Any) -> None:
    """Raise TypeError for what is no set of problems."""
    names = ("operator", "y", "truth", "method", "cost", "take")
    if isinstance(problem, type) or not all(hasattr(problem, name) for name in names):
        raise TypeError(f"problem: expected an InverseProblem, got {short(problem)}")


def split(problems: int) -> tuple[list[int], list[int]]:
    """The problems held aside for tuning, and those that are reported; no problem is both."""
    aside = [p for p in range(problems) if p % 3 == 2]
    return aside, [p for p in range(problems) if p % 3 != 2]


@dataclass(frozen=True)
class Rows:
    """The samples of some problems.

    Attributes:
        problems: places of these.
        draws: samples of each.
        of: problems there are in all.
        seed: of the first draw of the first problem.
    """

    problems: tuple[int, ...]
    draws: int
    of: int
    seed: int = 0

    def __len__(self) -> int:
        return len(self.problems) * self.draws

    def first(self, number: int) -> Rows:
        """The samples of the first so many problems."""
        return replace(self, problems=self.problems[:number])

    @property
    def index(self) -> Tensor:
        """The problem of every sample, problem after problem, int64."""
        return torch.tensor(self.problems, dtype=torch.int64).repeat_interleave(self.draws)

    @property
    def seeds(self) -> list[int]:
        """One per sample."""
        return [self.seed + p + k * self.of for p in self.problems for k in range(self.draws)]

    def by_problem(self, values: Sequence[Any]) -> list[Sequence[Any]]:
        """Values of all samples as lists of the draws of each problem."""
        return [values[i : i + self.draws] for i in range(0, len(self), self.draws)]
