"""The progress of a run, whoever computes it: units, samples, median cost and remaining time.

A batch that runs in this process shows its samples beside that. Without a terminal there is a line
now and then; for machines a line of JSON per event.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from statistics import median

from rich.live import Live
from rich.text import Text

from ctrlgen.commands import console
from ctrlgen.optimizers.base import Event
from ctrlgen.runs.json_files import dumps
from ctrlgen.runs.runner import Begun, Finished, Note, Round

__all__ = ["RunProgress"]


class RunProgress:
    """Shows a run; its observer.

        with RunProgress("dB", sign=-1, target=45) as progress:
            execute(job, store, observer=progress)

    Args:
        unit: of the cost shown.
        sign: -1 to show the negative of the cost.
        target: of single samples, shown beside the title.
        shown: the cost as it is shown, of a record's cost.
        event: the event as it is shown, of samples of some seeds.
        lines: whether to print a JSON line per event on standard output.
        every: seconds between two lines of the logger.
    """

    def __init__(
        self,
        unit: str = "",
        *,
        sign: int = 1,
        target: float | None = None,
        shown: Callable[[float], float] | None = None,
        event: Callable[[Sequence[int], Event], Event] | None = None,
        lines: bool = False,
        every: float = 15.0,
    ) -> None:
        self.unit, self.sign, self.target, self.every = unit, sign, target, every
        self._shown, self._event, self._lines = shown or (lambda cost: cost), event, lines
        self._begun = Begun("", 0, 0, 0)
        self._costs: list[float] = []
        self._units = 0
        self._since = self._last = time.monotonic()
        self._samples: console.SampleProgress | None = None
        self._seeds: tuple[int, ...] = ()
        self._live: Live | None = None

    def __enter__(self) -> RunProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._samples is not None:
            self._samples.__exit__()
            self._samples = None
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, event: Begun | Round | Finished | Note) -> None:
        if isinstance(event, Note):
            console.warn(event.text)
        elif isinstance(event, Round):
            self._round(event)
            return
        elif isinstance(event, Begun):
            self._begun, self._since = event, time.monotonic()
            self._last = self._since
        else:
            self._units += 1
            for record in event.records:
                cost = record["cost"]
                self._costs.append(math.inf if cost is None else self._shown(cost))
            self._close()
        if self._lines:
            self._print(event)
        elif not isinstance(event, Note):
            self._show()

    def _print(self, event: Begun | Finished | Note) -> None:
        content = {"event": type(event).__name__.lower(), **vars(event)}
        if isinstance(event, Finished):
            content |= {"done": len(self._costs), "of": self._begun.samples}
            content["remaining_seconds"] = self._remaining()
        print(dumps(content, indent=None), flush=True)

    def _remaining(self) -> float | None:
        if not self._units:
            return None
        left = self._begun.samples - len(self._costs)
        return (time.monotonic() - self._since) * left / max(1, len(self._costs))

    def text(self) -> str:
        """How it stands in one line."""
        begun, done = self._begun, len(self._costs)
        text = f"{begun.title}: {self._units} of {begun.units} units, "
        text += f"{done} of {begun.samples} samples"
        finite = [cost for cost in self._costs if math.isfinite(cost)]
        if finite:
            text += f", median {self.sign * median(finite):.4g} {self.unit}".rstrip()
        left = self._remaining()
        if left is not None and done < begun.samples:
            text += f", about {left:.0f} s more"
        return text

    def _show(self) -> None:
        if console.screen.is_terminal and not console.voice.quiet:
            if self._units < self._begun.units:
                self._live = self._live or Live(
                    console=console.screen, auto_refresh=False, transient=True
                )
                self._live.start()
                self._live.update(Text(self.text()), refresh=True)
            return
        now = time.monotonic()
        if now - self._last >= self.every:
            self._last = now
            console.log.info("%s", self.text())

    def _round(self, event: Round) -> None:
        if self._lines:
            return
        if self._samples is None or event.seeds != self._seeds:
            self._close()
            rows = max(1, len(event.event.monitor) // len(event.seeds))  # several of a tiled image
            names = [seed for seed in event.seeds for _ in range(rows)]
            title = self._begun.title if self._begun.units == 1 else self.text()
            self._seeds = event.seeds
            self._samples = console.SampleProgress(
                title, names, unit=self.unit, sign=self.sign, target=self.target
            )
            self._samples.__enter__()
        shown = event.event
        if self._event is not None:
            shown = self._event(event.seeds, shown)
        self._samples(shown)
