r"""Which method is best, and how sure that is.

Of methods m on problems i with values v_mi (the mean over the draws of a problem), the best has the
highest mean over the problems. Problems are resampled with replacement, the same ones for all
methods, and a method's share is how often it is the best of a resample (B. Efron, "Bootstrap
methods: another look at the jackknife", Ann. Stat. 7, 1979); equal methods divide it. Differences
to the best are paired, with the interval of `ctrlgen.report.comparison`.

Methods that a race left behind (`racing`) have fewer problems. Their differences are over these,
and they have no share.

A sample without a value counts as the worst value that any method has on its problem: nothing is
gained by failing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TypeVar

import numpy as np

from ctrlgen.comparison.judges import Criterion
from ctrlgen.report.comparison import paired
from ctrlgen.report.sections import Metric

__all__ = ["Against", "Verdict", "compared", "completed", "means", "verdict"]

_RESAMPLES = 9999

Name = TypeVar("Name")


@dataclass(frozen=True)
class Against:
    """The best method against another one.

    Attributes:
        method: the other.
        difference: how much better the best is, mean over the problems, in the criterion's units.
        low, high: ends of its 95 % interval; None of a single problem.
        problems: that both have.
    """

    method: str
    difference: float
    low: float | None
    high: float | None
    problems: int

    def interval(self, digits: int) -> str:
        """The difference with its interval, as text."""
        text = _number(self.difference, digits)
        if self.low is None or self.high is None:
            return text
        return f"{text} [{_number(self.low, digits)}, {_number(self.high, digits)}]"


@dataclass(frozen=True)
class Verdict:
    """What a budget's rows say.

    Attributes:
        budget: evaluations a sample.
        best: name of the method of the best mean; None where none ran.
        mean: its mean.
        share: of resamples in which it is the best; None of a single problem.
        shares: of all methods that have all problems.
        against: the best against every other one, nearest first, those that were left behind last.
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


def completed(rows: Mapping[Name, Sequence[float | None]], sign: int) -> dict[Name, list[float]]:
    """Values where what is missing is the worst that any row has of that problem.

    Args:
        rows: by method, a value for each of the first problems, as far as it came.
        sign: 1 where more is better, else −1.
    """
    worst = []
    for column in zip_longest(*rows.values()):
        there = [sign * v for v in column if v is not None]
        worst.append(sign * min(there) if there else 0.0)
    return {
        name: [worst[i] if v is None else v for i, v in enumerate(values)]
        for name, values in rows.items()
    }


def compared(other: Sequence[float], best: Sequence[float], asked: Criterion, name: str) -> Against:
    """The best against another method on the problems that both have.

    Args:
        other: values of the other, of the first problems.
        best: values of the best.
        asked: what the values are.
        name: of the other.
    """
    metric = Metric(asked.name, asked.unit, asked.better)
    pairs = paired(other, best[: len(other)], metric)
    ends = [pairs.low, pairs.high]
    if asked.sign < 0 and None not in ends:
        ends = [-pairs.high, -pairs.low]  # type: ignore[operator]
    assert pairs.difference is not None
    return Against(name, asked.sign * pairs.difference, ends[0], ends[1], len(other))


def verdict(
    budget: int,
    rows: Mapping[str, Sequence[float | None]],
    asked: Criterion,
    plain: float | None = None,
) -> Verdict:
    """The verdict on rows that ran.

    Args:
        budget: theirs.
        rows: by method, a value per problem, fewer of those that were left behind.
        asked: what the values are.
        plain: mean of the pseudo-inverse, which asks no network; None where there is none.
    """
    if not rows:
        return Verdict(budget, None, None, None, {}, (), f"At {budget} evaluations no method ran.")
    whole = completed(rows, asked.sign)
    number = max(map(len, whole.values()))
    final = [name for name in whole if len(whole[name]) == number]
    values = np.array([whole[name] for name in final])
    best = max(final, key=lambda name: asked.sign * float(np.mean(whole[name])))
    shares = dict(zip(final, _shares(asked.sign * values), strict=True)) if number > 1 else {}
    against = [compared(whole[n], whole[best], asked, n) for n in whole if n != best]
    against.sort(key=lambda a: (-a.problems, a.difference))
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
    other, side = against[0], "above" if asked.sign > 0 else "below"
    text += f", {other.interval(asked.digits + 1)} {side} {other.method}"
    if other.low is None:
        return f"{text}; on one problem, which says nothing of others."
    late = [a.problems for a in against if a.problems < problems]
    if len(late) == len(against):
        text += f" on {other.problems} of {problems} problems"
    elif share is not None:
        text += f"; best in {100 * share:.0f} % of bootstrap draws over {problems} problems"
    level = [a.method for a in against if a.low is not None and a.low <= 0]
    if level:
        text += f"; not told apart from {_listed(level)}"
    if late:
        span = f"{min(late)}" if min(late) == max(late) else f"{min(late)} to {max(late)}"
        text += f"; {len(late)} left behind after {span} problems"
    return f"{text}."


def _listed(names: Sequence[str]) -> str:
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}"
