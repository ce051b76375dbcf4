r"""Two runs on the same problems, sample by sample.

Samples of two runs that have one seed are a pair, and d_i = b_i - a_i its difference. The mean of
the differences has the interval of the bootstrap over pairs (`ctrlgen.report.intervals`). Pairs of
which a value is missing or not finite have no difference; they are counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ctrlgen.report.intervals import mean_of
from ctrlgen.report.sections import Metric, Sample, Section

__all__ = ["Comparison", "compare", "paired"]

_RESAMPLES = 9999


@dataclass(frozen=True)
class Comparison:
    """Values b against values a of one metric.

    Attributes:
        metric: its name.
        unit: of the numbers.
        pairs: samples that both runs have.
        valued: pairs where both values are finite.
        first, second: means of a and of b over the valued pairs; None where there are none.
        difference: mean of b - a.
        low, high: ends of the interval at 95 %; None for fewer than two valued pairs.
        better: valued pairs where b is better; None where the metric has no direction.
        equal: valued pairs without a difference.
    """

    metric: str
    unit: str | None
    pairs: int
    valued: int
    first: float | None
    second: float | None
    difference: float | None
    low: float | None
    high: float | None
    better: int | None
    equal: int


def paired(
    first: Sequence[float | None], second: Sequence[float | None], metric: Metric
) -> Comparison:
    """Compare paired values.

    Args:
        first: of run a, one per pair.
        second: of run b.
        metric: what they are.

    Raises:
        ValueError: if the numbers of values differ.
    """
    if len(first) != len(second):
        raise ValueError(f"second: expected {len(first)} values, one per pair, got {len(second)}")
    both = [
        (float(a), float(b))
        for a, b in zip(first, second, strict=True)
        if _finite(a) and _finite(b) and a is not None and b is not None
    ]
    unit = metric.unit
    if not both:
        return Comparison(metric.name, unit, len(first), 0, None, None, None, None, None, None, 0)
    number = len(both)
    differences = [b - a for a, b in both]
    mean = mean_of(differences, _RESAMPLES)
    low, high = (None, None) if number < 2 else (mean.low, mean.high)
    sign = {"higher": 1, "lower": -1, None: 0}[metric.better]
    return Comparison(
        metric.name,
        unit,
        len(first),
        number,
        math.fsum(a for a, _ in both) / number,
        math.fsum(b for _, b in both) / number,
        mean.mean,
        low,
        high,
        sum(sign * d > 0 for d in differences) if sign else None,
        sum(d == 0 for d in differences),
    )


def compare(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """Every run against the first one of its problem, in all metrics of numbers that both have.

    Returns:
        One mapping per metric and run: "a" and "b", places of the runs, and the `Comparison`.
    """
    rows: list[dict[str, Any]] = []
    problems = [section.problem for section in sections]
    for b, problem in enumerate(problems):
        a = problems.index(problem)
        if a == b or problem is None:
            continue
        pairs = _pairs(sections[a], sections[b])
        there = {metric.name for metric in sections[b].metrics}
        metrics = [metric for metric in sections[a].metrics if metric.name in there]
        same = sections[a].course == sections[b].course
        for metric in [*metrics, *[Metric("cost", None, "lower")] * same, *_COUNTS]:
            values = [(_value(x, metric.name), _value(y, metric.name)) for x, y in pairs]
            if any(x is not None for x, _ in values) and any(y is not None for _, y in values):
                first, second = [x for x, _ in values], [y for _, y in values]
                rows.append({"a": a, "b": b, **asdict(paired(first, second, metric))})
    return rows


_COUNTS = (Metric("evaluations", None, "lower"), Metric("seconds", "s", "lower"))


def _pairs(a: Section, b: Section) -> list[tuple[Sample, Sample]]:
    """Samples of one seed; of a seed that a run has several times, those of one id."""
    seeds = [[sample.seed for sample in section.samples] for section in (a, b)]
    unique = all(len(set(each)) == len(each) for each in seeds)

    def key(sample: Sample) -> Any:
        return sample.seed if unique else (sample.seed, sample.id)

    there = {key(sample): sample for sample in b.samples}
    return [(sample, there[key(sample)]) for sample in a.samples if key(sample) in there]


def _value(sample: Sample, name: str) -> float | None:
    """A value; a verdict counts as 1 or 0."""
    value: Any = {
        "cost": sample.cost,
        "seconds": sample.seconds,
        **sample.counts,
        **sample.metrics,
    }.get(name)
    return float(value) if _finite(value) else None


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
