"""What a page says of a run: one section per run, one sample per sample.

Numbers are Python's, not tensors; one that is not finite becomes "–" on the page. Texts may hold
anything: the page shows them as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["POINTS", "Metric", "Sample", "Section", "thinned", "trouble"]

POINTS = 48
"""Points of a course that a page holds; a curve of 300 pixels shows no more."""


@dataclass(frozen=True)
class Metric:
    """A value that every sample may have.

    Attributes:
        name: of it, the key in `Sample.metrics`.
        unit: e.g. "dB".
        better: which way is good; None where neither is, or for a text.
        digits: after the decimal point; four significant ones when None.
        listed: whether the table has a column of it; all are in the view of one sample.
    """

    name: str
    unit: str | None = None
    better: Literal["higher", "lower"] | None = None
    digits: int | None = None
    listed: bool = True


@dataclass
class Sample:
    """One sample of a run.

    Attributes:
        id: place in the run, from 0.
        seed: of its draws.
        status: how it ended, in words.
        cost: of the result.
        metrics: numbers, texts, booleans or None, by name.
        counts: e.g. "evaluations", by name.
        seconds: it took.
        flags: what is wrong with it, in words; samples with flags come first.
        reason: what was raised, of one that failed.
        course: evaluations, and the values of `Section.course` there.
        panel: what the panel of the domain draws, JSON.
    """

    id: int
    seed: int
    status: str
    cost: float | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    seconds: float | None = None
    flags: Sequence[str] = ()
    reason: str | None = None
    course: tuple[Sequence[float], Sequence[float | None]] | None = None
    panel: Any = None


@dataclass
class Section:
    """A run.

    Attributes:
        title: a line for people.
        samples: of it, whatever became of them.
        problem: what is solved, in any words; runs of one problem are compared. None is compared
            with nothing.
        metrics: those of the samples, in the order of the columns; the first numbers matter most.
        panel: domain whose panel draws the samples; None for numbers alone.
        shared: what the panel draws of all samples alike, JSON.
        facts: what was computed, e.g. method and prior, by a word.
        environment: versions, device, hashes.
        command: that reproduces it.
        settings: everything else that is known, JSON, shown as it is.
        warnings: what was said.
        complete: whether the run came to its end.
        missing: seeds of samples of which nothing is there.
        seconds: of the whole run.
        course: what the courses show, with its unit.
        better: which way a course should go.
        target: of a course, where a sample stops.
        contest: of the first run of a comparison, what is said of all methods, JSON.
    """

    title: str
    samples: list[Sample]
    problem: str | None = None
    metrics: list[Metric] = field(default_factory=list)
    panel: str | None = None
    shared: Any = None
    facts: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    settings: Any = None
    warnings: list[str] = field(default_factory=list)
    complete: bool = True
    missing: list[int] = field(default_factory=list)
    seconds: float | None = None
    course: str = "cost"
    better: Literal["higher", "lower"] = "lower"
    target: float | None = None
    contest: Any = None


def thinned(
    evaluations: Sequence[float], values: Sequence[float], points: int = POINTS
) -> tuple[list[float], list[float]]:
    """A course without repetitions, of at most so many points; its first and last one stay.

    Of several values at one number of evaluations the last one holds: that of the result.
    """
    there = dict(zip(evaluations, values, strict=True))
    x, y = list(there), list(there.values())
    if len(x) > points:
        places = [round(i * (len(x) - 1) / (points - 1)) for i in range(points)]
        x, y = [x[i] for i in places], [y[i] for i in places]
    return x, [float(f"{value:.6g}") for value in y]


def trouble(status: str) -> list[str]:
    """The flag of a status that is a failure, for those results that have no flags of their own."""
    word = status.partition(":")[0]
    return [word] if word in ("diverged", "failed", "running", "timed out") else []
