"""Rows of many sound files as the samples of one run, and the method on them.

One row of a file, one gap or window of a take, is a sample: units are of one size however long a
file is, a file of an hour is shared among workers, and a kill loses a few windows. Ids count rows,
then takes, then files.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ctrlgen.costs import NegativePSNR
from ctrlgen.domains.audio.posing import Posed, Window, cost_of
from ctrlgen.domains.audio.restoration import Fill
from ctrlgen.domains.audio.tasks import posed
from ctrlgen.methods.result import Result
from ctrlgen.optimizers.base import Observer
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import PerSample
from ctrlgen.rows.errors import carrying
from ctrlgen.rows.seeds import Seeds, as_seeds
from ctrlgen.rows.status import Status
from ctrlgen.runs.joining import failed, join

__all__ = ["Filling", "Rows", "Source"]


@dataclass(frozen=True)
class Source:
    """A file of a run.

    Attributes:
        path: of it.
        name: of it, by which results are named.
        seeds: of the rows of a take whose own is 0.
    """

    path: Path = field(compare=False)
    name: str
    seeds: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Of a take of it."""
        return len(self.seeds)


class Place(NamedTuple):
    """Where a sample belongs: number of the file, of the take, and of the row."""

    source: int
    take: int
    row: int


class Rows(PerSample):
    """−PSNR of rows of sound files, which are read when their rows are asked for.

    Args:
        task: as of `tasks.pose`.
        sources: the files.
        way: options of the task, as items.
        window: of the prior, its rate and samples.
        takes: of every file.
        ids: rows that are meant, shape (b,); all when None.
    """

    per_sample = ("ids",)

    def __init__(
        self,
        task: str,
        sources: Sequence[Source],
        way: tuple[tuple[str, Any], ...],
        window: tuple[int, int],
        takes: int,
        ids: Tensor | None = None,
    ) -> None:
        self.task, self.sources, self.way = task, tuple(sources), way
        self.window, self.takes = (window[0], window[1]), takes
        self.ids = torch.arange(sum(s.rows for s in sources) * takes) if ids is None else ids

    def file(self, number: int) -> Posed:
        """The rows of a file."""
        return self._posed(number)[0]

    def said(self, number: int) -> dict[str, Any]:
        """What is said of a file."""
        return self._posed(number)[1]

    def _posed(self, number: int) -> tuple[Posed, dict[str, Any]]:
        path = self.sources[number].path
        return posed(self.task, path, self.way, Window(*self.window))

    def places(self) -> Iterator[Place]:
        """Of every row."""
        first, number = 0, 0
        for id in self.ids.tolist():
            if id < first:
                first, number = 0, 0
            while id >= first + self.sources[number].rows * self.takes:
                first += self.sources[number].rows * self.takes
                number += 1
            take, row = divmod(id - first, self.sources[number].rows)
            yield Place(number, take, row)

    def costs(self) -> list[tuple[range, NegativePSNR]]:
        """Consecutive rows that are measured alike, with the cost of each such range."""
        groups: list[tuple[int | None, list[tuple[Posed, list[int]]]]] = []
        last = -1
        for place in self.places():
            if place.source != last:
                file, last = self.file(place.source), place.source
                if not groups or groups[-1][0] != file.factor:
                    groups.append((file.factor, []))
                groups[-1][1].append((file, []))
            groups[-1][1][-1][1].append(place.row)
        made, first = [], 0
        for _, parts in groups:
            count = sum(len(rows) for _, rows in parts)
            cost = cost_of([(file, torch.tensor(rows)) for file, rows in parts])
            made.append((range(first, first + count), cost))
            first += count
        return made


@dataclass(frozen=True)
class Filling:
    """The method of a run: `Fill` on whatever files its samples are of.

    Attributes:
        fill: for rows of one measurement.
    """

    fill: Fill

    def __call__(
        self, prior: Prior, cost: Rows, *, seeds: Seeds, observer: Observer | None = None
    ) -> Result:
        """The rows; an interruption carries those that were finished, and the others as begun."""
        names, groups, done = as_seeds(seeds), cost.costs(), list[Result]()

        def whole(partial: Any) -> Result | None:
            parts = [*done, partial] if isinstance(partial, Result) else list(done)
            rest = (_begun(prior, names[_index(rows)]) for rows, _ in groups[len(parts) :])
            return join([*parts, *rest]) if parts else None

        for rows, measured in groups:
            index = _index(rows)
            with carrying(whole), warnings.catch_warnings():
                # A take has one seed in all files of a folder.
                warnings.filterwarnings("ignore", "seeds: .* more than once")
                done.append(
                    self.fill(prior.take(index), measured, seeds=names[index], observer=observer)
                )
        return join(done)


def _index(rows: range) -> Tensor:
    return torch.arange(rows.start, rows.stop)


def _begun(prior: Prior, seeds: Tensor) -> Result:
    """Rows that an interruption came before."""
    start = prior.start(seeds)
    with torch.no_grad():
        result = failed(prior.codec.decode(start), start, seeds.to(start.device))
    result.status = torch.full_like(result.status, int(Status.RUNNING))
    return result
