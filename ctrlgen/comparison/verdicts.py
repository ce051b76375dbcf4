r"""Which method is best, and how sure that is.

Of methods m on problems i with values v_mi (the mean over the draws of a problem), the best has the
highest mean over the problems. Problems are resampled with replacement, the same ones for all
methods, and a method's share is how often it is the best of a resample (B. Efron, "Bootstrap
methods: another look at the jackknife", Ann. Stat. 7, 1979); equal methods divide it. Differences
to the best are paired, with the interval of `ctrlgen.report.comparison`.

A sample without a value counts as the worst value that any method has on its problem: nothing is
gained by failing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ctrlgen.comparison.judges import Criterion
from ctrlgen.report.comparison import paired
from ctrlgen.report.sections import Metric

__all__ = ["Against", "Verdict", "completed", "means", "verdict"]

_RESAMPLES = 9999


@dataclass(frozen=True)
class Against:
    """The best method against another one.

    Attributes:
        method: the other.
        difference: how much better the best is, mean over the problems, in the criterion's units.
        low, high: ends of its 95 % interval; None of a single problem.
    """

    method: str
    difference: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Verdict:
    """What a budget's rows say.

    Attributes:
        budget: evaluations a sample.
        best: name of the method of the best mean; None where none ran.
        mean: its mean.
        share: of resamples in which it is the best; None of a single problem.
        shares: of all methods.
        against: the best against every other one, nearest first.
        sentence: all this in words.
    """

    budget: int
    best: str | None
    mean: float | None
    share: float | None
    shares: dict[str, float]
    against: tuple[Against, ...]
    sentence: str


def means(draws: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Mean over the draws of each problem; None where one of them has no finite value."""
    made: list[float | None] = []
    for values in draws:
        finite = [v for v in values if v is not None and math.isfinite(v)]
        made.append(math.fsum(finite) / len(finite) if len(finite) == len(values) else None)
    return made


def completed(rows: Mapping[str, Sequence[float | None]], sign: int) -> dict[str, list[float]]:
    """Values where what is missing is the worst that any row has of that problem.

    Args:
        rows: by method, a value per problem.
        sign: 1 where more is better, else −1.
    """
    worst = []
    for column in zip(*rows.values(), strict=True):
        there = [sign * v for v in column if v is not None]
        worst.append(sign * min(there) if there else 0.0)
    return {
        name: [worst[i] if v is None else v for i, v in enumerate(values)]
        for name, values in rows.items()
    }


def verdict(
    budget: int,
    rows: Mapping[str, Sequence[float | None]],
    asked: Criterion,
    plain: float | None = None,
) -> Verdict:
    """The verdict on rows that ran.

    Args:
        budget: theirs.
        rows: by method, a value per problem.
        asked: what the values are.
        plain: mean of the pseudo-inverse, which asks no network; None where there is none.
    """
    if not rows:
        return Verdict(budget, None, None, None, {}, (), f"At {budget} evaluations no method ran.")
    whole = completed(rows, asked.sign)
    names = list(whole)
    values = np.array([whole[name] for name in names])
    order = sorted(names, key=lambda n: -asked.sign * float(np.mean(whole[n])))
    best, number = order[0], values.shape[1]
    shares = dict(zip(names, _shares(asked.sign * values), strict=True)) if number > 1 else {}
    against = []
    for name in order[1:]:
        found = paired(whole[name], whole[best], Metric(asked.name, asked.unit, asked.better))
        ends = [found.low, found.high]
        if asked.sign < 0 and None not in ends:
            ends = [-found.high, -found.low]  # type: ignore[operator]
        assert found.difference is not None
        against.append(Against(name, asked.sign * found.difference, ends[0], ends[1]))
    mean = float(np.mean(whole[best]))
    text = _sentence(budget, best, mean, shares.get(best), against, asked, number)
    if plain is not None and asked.sign * (plain - mean) > 0:
        text += f" The pseudo-inverse alone has {_number(plain, asked.digits)}, better than any."
    return Verdict(budget, best, mean, shares.get(best), shares, tuple(against), text)


def _shares(values: Any) -> list[float]:
    """How often each row has the highest mean of a resample, (M, N) to M."""
    rng = np.random.default_rng(0)
    problems = rng.integers(0, values.shape[1], (_RESAMPLES, values.shape[1]))
    scores = values[:, problems].mean(2)  # (M, resamples)
    first = scores == scores.max(0)
    return [float(share) for share in (first / first.sum(0)).mean(1)]


def _sentence(
    budget: int,
    best: str,
    mean: float,
    share: float | None,
    against: Sequence[Against],
    asked: Criterion,
    problems: int,
) -> str:
    unit = f" {asked.unit}" if asked.unit else ""
    text = f"At {budget} evaluations use {best}: {_number(mean, asked.digits)}{unit}"
    if not against:
        return f"{text}; no other method ran."
    other, fine = against[0], asked.digits + 1
    side = "above" if asked.sign > 0 else "below"
    text += f", {_number(other.difference, fine)}"
    if other.low is None or other.high is None:
        return f"{text} {side} {other.method}; on one problem, which says nothing of others."
    text += f" [{_number(other.low, fine)}, {_number(other.high, fine)}] {side} {other.method}"
    if share is not None:
        text += f"; best in {100 * share:.0f} % of bootstrap draws over {problems} problems"
    if other.low <= 0:
        level = [a.method for a in against if a.low is not None and a.low <= 0]
        text += f"; not told apart from {_listed(level)}"
    return f"{text}."


def _listed(names: Sequence[str]) -> str:
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}"
