r"""A race: who is beyond doubt behind gets no more problems, so that the others can have many.

All K candidates solve the first problems, then those that are left twice as many, and so on to all
(`looks`). At every look before the last one a candidate is compared with the leader, which has the
best mean. With R_j the sum of the ranks of candidate j on the n problems so far, and

    s² = max((Σ_ij r_ij² − Σ_j R_j²/n)/((n − 1)(k − 1)), ½),

candidate i of the k that are left is out where

    (R_i − R_leader)/√(2ns²) > t_{1−p},   (n − 1)(k − 1) degrees of freedom,  p = 0.05/(L(k − 1)),

the test of W. J. Conover, Practical Nonparametric Statistics (3rd ed., 1999), sec. 5.8, as F-Race
has it (M. Birattari et al., GECCO 2002), one-sided. Bonferroni's correction is for the L looks at
which somebody may go and for the k − 1 that may lead: the best one is lost in at most one race in
twenty. ½ is the variance of the ranks of two that change places by chance, without which a few
problems on which all others agree would decide between them. Ranks do not care how far behind the
hopeless are, and need no more than two problems.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from ctrlgen.comparison.verdicts import completed
from ctrlgen.extras import require

__all__ = ["behind", "looks", "race"]

_LEVEL = 0.05
_SHARE = 4
_LEAST = 0.5

Name = TypeVar("Name")


def looks(problems: int) -> list[int]:
    """After how many problems a race looks: a quarter of them, 2 at least, then twice as many."""
    number, made = max(2, -(-problems // _SHARE)), list[int]()
    while number < problems:
        made.append(number)
        number *= 2
    return [*made, problems] if problems else []


def behind(values: Sequence[Sequence[float]], level: float) -> list[bool]:
    """Who is beyond doubt behind the one with the highest mean.

    Args:
        values: of K candidates on the same n problems, more is better, finite, shape (K, n).
        level: probability that one that is not behind is said to be.
    """
    stats = require("scipy.stats", "report")
    table = np.asarray(values, float)
    k, n = table.shape
    if k < 2 or n < 2:
        return [False] * k
    ranks = stats.rankdata(-table, axis=0)
    total, leader = ranks.sum(1), int(table.mean(1).argmax())
    freedom = (n - 1) * (k - 1)
    variance = max(((ranks**2).sum() - (total**2).sum() / n) / freedom, _LEAST)
    distance = (total - total[leader]) / math.sqrt(2 * n * variance)
    return [bool(late) for late in distance > stats.t.isf(level / (k - 1), freedom)]


def race(
    runners: Mapping[Name, Callable[[int], Sequence[float | None] | None]],
    problems: int,
    sign: int,
) -> dict[Name, list[float | None]]:
    """The values of everybody, as far as they came.

    Args:
        runners: by name, what solves the first so many problems and returns their values, None for
            a problem without one; or returns None where it cannot go on.
        problems: there are.
        sign: 1 where more is better, else −1.

    Returns:
        One value per problem; fewer of those that were left behind, and nothing of those that
        could not go on.
    """
    left, values = list(runners), dict[Name, list[float | None]]()
    turns = looks(problems)
    for number in turns:
        for name in left:
            made = runners[name](number)
            if made is None:
                values.pop(name, None)
            else:
                values[name] = list(made)
        left = [name for name in left if name in values]
        if number < problems and left:
            whole: dict[Any, list[float]] = completed({n: values[n] for n in left}, sign)
            table = [[sign * value for value in whole[name]] for name in left]
            out = behind(table, _LEVEL / (len(turns) - 1))
            left = [name for name, late in zip(left, out, strict=True) if not late]
    return values
