"""What the command line shows a person and hands to a machine: messages, progress, JSON.

Everything for the eye goes to standard error, so that `--json` on standard output stays clean.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ctrlgen.optimizers.base import Event
from ctrlgen.results import Status

__all__ = [
    "SampleProgress",
    "device_named",
    "dumps",
    "fail",
    "plain",
    "screen",
    "sparkline",
    "stdout",
    "table",
]

stdout = Console(highlight=False)
screen = Console(stderr=True, highlight=False)

_BLOCKS = "▁▂▃▄▅▆▇█"


def fail(error: BaseException | str) -> None:
    """One line that says what is wrong."""
    text = " ".join(str(error).split()) or type(error).__name__
    screen.print(f"[bold red]error[/] {escape(text)}", soft_wrap=True)


def device_named(name: str) -> str:
    """A device of this machine by its name.

    Raises:
        ValueError: if torch does not know it, or it is not here.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device: {name!r} is not to be had here ({reason})") from error
    return name


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], **options: Any
) -> Table:
    """A table in the house style; cells are rich markup, numeric columns end with '>'."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, **options)
    made.pad_edge = False
    for column in columns:
        name = column.removesuffix(">")
        made.add_column(name, justify="right" if column.endswith(">") else "left", style="")
    made.header_style = "dim"
    for row in rows:
        made.add_row(*row)
    return made


def plain(value: Any) -> Any:
    """The value as JSON has it: tensors as lists, paths as text, what is not finite as null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | None) else str(value)


def dumps(value: Any) -> str:
    """Indented JSON of `plain(value)`; what is not finite becomes null."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)


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


class SampleProgress:
    """Shows the cost of every sample while a method runs; an observer of its optimizer.

        with SampleProgress("inpainting", seeds, unit="dB", sign=-1, target=45) as progress:
            method(prior, cost, seeds=seeds, observer=progress)

    Values are copied to the host a few times a second, whatever the speed of the rounds.

    Args:
        title: what is running.
        seeds: names of the samples.
        unit: of the cost shown.
        sign: -1 to show the negative of the cost, as for a PSNR.
        target: shown beside the title.
        every: least seconds between two looks.
        most: samples listed; of more, those that still run come first.
        console: where to; nothing is shown where that is no terminal.
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
        console: Console | None = None,
    ) -> None:
        self.title, self.seeds, self.unit, self.sign = title, list(seeds), unit, sign
        self.target, self.every, self.most = target, every, most
        self.console = console or screen
        self.looks = 0
        self._trail: list[list[float]] = [[] for _ in self.seeds]
        self._begun, self._last = time.monotonic(), -math.inf
        self._live = Live(console=self.console, auto_refresh=False, transient=True)

    def __enter__(self) -> SampleProgress:
        if self.console.is_terminal:
            self._live.start()
            self._live.update(Text(f"{self.title}: starting"), refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if not self.console.is_terminal or now - self._last < self.every:
            return
        self._last, self.looks = now, self.looks + 1
        monitor = event.monitor.tolist()
        for trail, value in zip(self._trail, monitor, strict=True):
            trail.append(self.sign * value)
        rows = list(zip(monitor, event.evaluations.tolist(), event.status.tolist(), strict=True))
        self._live.update(self._view(rows), refresh=True)

    def _view(self, rows: list[tuple[float, int, int]]) -> Group:
        running = [i for i, row in enumerate(rows) if row[2] == Status.RUNNING]
        done = [i for i in range(len(rows)) if i not in set(running)]
        seconds = time.monotonic() - self._begun
        goal = "" if self.target is None else f"  target {self.target:g} {self.unit}"
        header = Text.from_markup(
            f"[bold]{self.title}[/]  {len(done)}/{len(rows)} samples done"
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
