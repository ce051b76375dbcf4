"""What the command line shows a person and hands to a machine: progress, tables, JSON.

Messages are those of `ctrlgen.commands.voice`. Progress is live on a terminal; where
there is none, and in Python, it is a line now and then of the logger "ctrlgen".
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence

import torch
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from ctrlgen.commands.tables import Table
from ctrlgen.commands.voice import fail, log, say, screen, speaking, stdout, voice, warn
from ctrlgen.optimizers.base import Event
from ctrlgen.rows.status import Status
from ctrlgen.runs.json_files import dumps, plain

__all__ = [
    "Progress",
    "SampleProgress",
    "device_named",
    "dumps",
    "fail",
    "log",
    "plain",
    "say",
    "screen",
    "sparkline",
    "speaking",
    "stdout",
    "table",
    "warn",
]


_BLOCKS = "▁▂▃▄▅▆▇█"


def device_named(name: str) -> str:
    """A device of this machine by its name.

    Raises:
        ValueError: if torch does not know it, it is not here, or it holds no numbers.
    """
    try:
        torch.ones(1, device=name).item()
    except Exception as error:  # torch raises four kinds, by the reason
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"device: {name!r} is not to be had here ({reason})") from error
    return name


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> Table:
    """A table in the house style, for any width; cells are rich markup, numbers end with '>'."""
    return Table(title, columns, rows)


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """The course of a number in block characters, scaled to its own range."""
    shown = [v for v in values if math.isfinite(v)]
    if len(shown) < 2:
        return ""
    step = max(1, math.ceil(len(shown) / width))
    shown = shown[::-1][::step][::-1]
    low, high = min(shown), max(shown)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((v - low) * scale)] for v in shown)


class Progress:
    """Says how far something has come: live on a terminal, elsewhere a line now and then.

        with Progress("sampling", 64, "images") as progress:
            progress.advance(8)

    Args:
        title: what is running.
        total: how many there will be.
        what: of what.
        lines: seconds between two lines of the logger, where there is no terminal.
        console: where to.
    """

    def __init__(
        self,
        title: str,
        total: int,
        what: str = "",
        *,
        lines: float = 15.0,
        console: Console | None = None,
    ) -> None:
        self.title, self.total, self.what, self.lines = title, total, what, lines
        self.console = console or screen
        self.done = 0
        self.live = self.console.is_terminal and not voice.quiet
        self._begun = self._last = time.monotonic()
        self._live = Live(console=self.console, auto_refresh=False, transient=True)

    def __enter__(self) -> Progress:
        if self.live:
            self._live.start()
            self.advance(0)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def advance(self, number: int = 1) -> None:
        """So many more are done."""
        self.done += number
        now = time.monotonic()
        text = f"{self.title}: {self.done} of {self.total} {self.what}".rstrip()
        text += f", {now - self._begun:.0f} s"
        if self.done and self.done < self.total:
            text += f", about {(now - self._begun) * (self.total / self.done - 1):.0f} s more"
        if self.live:
            self._live.update(Text(text), refresh=True)
        elif now - self._last >= self.lines:
            self._last = now
            log.info("%s", text)


class SampleProgress:
    """Shows the cost of every sample while a method runs; an observer of its optimizer.

        with SampleProgress("inpainting", seeds, unit="dB", sign=-1, target=45) as progress:
            method(prior, cost, seeds=seeds, observer=progress)

    Values are copied to the host a few times a second on a terminal; elsewhere, and so in Python,
    a line of the logger "ctrlgen" sums them up a few times a minute.

    Args:
        title: what is running.
        seeds: names of the samples.
        unit: of the cost shown.
        sign: -1 to show the negative of the cost, as for a PSNR.
        target: shown beside the title.
        every: least seconds between two looks.
        most: samples listed; of more, those that still run come first.
        lines: seconds between two lines of the logger, where there is no terminal.
        console: where to.
    """

    def __init__(
        self,
        title: str,
        seeds: Sequence[int],
        *,
        unit: str = "",
        sign: int = 1,
        target: float | None = None,
        every: float = 0.25,
        most: int = 12,
        lines: float = 15.0,
        console: Console | None = None,
    ) -> None:
        self.title, self.seeds, self.unit, self.sign = title, list(seeds), unit, sign
        self.target, self.most = target, most
        self.console = console or screen
        self.live = self.console.is_terminal and not voice.quiet
        self.every = every if self.live else lines
        self.looks = 0
        self._trail: list[list[float]] = [[] for _ in self.seeds]
        self._begun = time.monotonic()
        self._last = -math.inf if self.live else self._begun
        self._live = Live(console=self.console, auto_refresh=False, transient=True)

    def __enter__(self) -> SampleProgress:
        if self.live:
            self._live.start()
            self._live.update(Text(f"{self.title}: starting"), refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if now - self._last < self.every or not (self.live or log.isEnabledFor(logging.INFO)):
            return
        self._last, self.looks = now, self.looks + 1
        monitor = event.monitor.tolist()
        spent = event.calls if event.evaluations is None else event.evaluations
        rows = list(zip(monitor, spent.tolist(), event.status.tolist(), strict=True))
        if not self.live:
            log.info("%s", self._line(rows))
            return
        for trail, value in zip(self._trail, monitor, strict=True):
            trail.append(self.sign * value)
        self._live.update(self._view(rows), refresh=True)

    def _line(self, rows: list[tuple[float, int, int]]) -> str:
        """How it stands in one line: how many are done, and the middle of the costs."""
        done = sum(row[2] != Status.RUNNING for row in rows)
        values = sorted(self.sign * row[0] for row in rows if math.isfinite(row[0]))
        middle = f", median {values[len(values) // 2]:.4g} {self.unit}".rstrip() if values else ""
        goal = "" if self.target is None else f" (target {self.target:g})"
        return (
            f"{self.title}: {done} of {len(rows)} samples done, "
            f"{max((row[1] for row in rows), default=0)} evaluations{middle}{goal}, "
            f"{time.monotonic() - self._begun:.0f} s"
        )

    def _view(self, rows: list[tuple[float, int, int]]) -> Group:
        running = [i for i, row in enumerate(rows) if row[2] == Status.RUNNING]
        done = [i for i in range(len(rows)) if i not in set(running)]
        seconds = time.monotonic() - self._begun
        goal = "" if self.target is None else f"  target {self.target:g} {self.unit}"
        header = Text.from_markup(
            f"[bold]{escape(self.title)}[/]  {len(done)}/{len(rows)} samples done"
            f"  {max(row[1] for row in rows)} evaluations  {seconds:.0f} s[dim]{goal}[/]"
        )
        listed = sorted((running + done)[: self.most])
        cells = []
        for i in listed:
            value, evaluations, code = rows[i]
            state = "[dim]running[/]" if code == Status.RUNNING else _coloured(Status(code))
            number = f"{self.sign * value:.2f} {self.unit}".rstrip()
            cells.append(
                (str(self.seeds[i]), number, sparkline(self._trail[i]), str(evaluations), state)
            )
        body = table("", ("seed>", "cost>" if self.sign > 0 else "PSNR>", "", "evals>", ""), cells)
        more = len(rows) - len(listed)
        return Group(header, body, Text(f"  and {more} more" if more else "", style="dim"))


def _coloured(status: Status) -> str:
    colour = "green" if status.converged else "red" if status == Status.DIVERGED else "yellow"
    return f"[{colour}]{status.label}[/]"
