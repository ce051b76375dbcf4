r"""Rows of sound files through a prior, each to a goal of its own.

A row is a gap or window of a file, or a part of one, as `posing` makes it. All of them are solved
alike, by D-Flow on −PSNR of what is known, peak 1. A row ends at the ceiling of the codec less half
a decibel,

    goal = min(fit, PSNR(H D(E(H† y)), y) − 0.5 dB),

or at `fit`, whichever is less: a codec that loses nothing has no ceiling. `inpainting`,
`upsampling` and `clipping` say what is hidden, and put what comes back into the file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ctrlgen.costs import NegativePSNR
from ctrlgen.domains.audio.posing import Posed, Take, Window, cost_of, lengthened, window_of
from ctrlgen.domains.audio.starts import Projected
from ctrlgen.methods.base import cost_rows
from ctrlgen.methods.result import Result
from ctrlgen.methods.source.dflow import DFlow
from ctrlgen.methods.starts import Blend, Refined
from ctrlgen.operators import LinearOperator
from ctrlgen.optimizers import LBFGS
from ctrlgen.optimizers.base import Observer
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.errors import carrying, partial_of
from ctrlgen.rows.seeds import Seeds
from ctrlgen.runs.schema import HISTORY, Record
from ctrlgen.runs.shards import records_of

__all__ = [
    "NOT_BEGUN",
    "PRESETS",
    "Fill",
    "Settings",
    "Take",
    "Window",
    "lengthened",
    "method_for",
    "notes_of",
    "restored",
    "window_of",
]

PRESETS = ("fast", "paper")

NOT_BEGUN = {"status": "not begun"}
"""Of a row that an interruption came before."""

_GOAL, _CEILING = "goal", "ceiling"


@dataclass(frozen=True)
class Settings:
    """How a file is worked on.

    Attributes:
        preset: "fast": projected and refined starts, then at most 30 iterations; "paper": the
            blend and the 1000 iterations of D-Flow's Table 3.
        seeds: one per take.
        iterations: most of L-BFGS; those of the preset when None.
        fit: PSNR in dB, peak 1, at which what is known counts as met.
        fade: seconds of the fades inside of a gap.
        batch: rows at a time.
    """

    preset: str = "fast"
    seeds: tuple[int, ...] = (0,)
    iterations: int | None = None
    fit: float = 40.0
    fade: float = 0.01
    batch: int = 8

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {self.preset!r}")
        if self.iterations is not None and self.iterations < 0:
            raise ValueError(f"iterations: expected a count, got {self.iterations}")
        if not 0 <= self.fade <= 1:
            raise ValueError(f"fade: expected 0 to 1 s, got {self.fade}")
        if not 0 < self.fit < 200:
            raise ValueError(f"fit: expected a PSNR in dB, got {self.fit}")

    @property
    def fill(self) -> Fill:
        """The method of these settings."""
        return Fill(self.preset, self.iterations, self.fit)


def method_for(settings: Settings, target: float | Tensor) -> DFlow:
    """D-Flow by a preset.

    Args:
        settings: of the run.
        target: PSNR in dB at which a row ends, one for all or one for each, shape (R,).
    """
    paper = settings.preset == "paper"
    start: Any = Blend(0.1) if paper else Refined(Projected(20), rounds=1)
    iterations = settings.iterations
    if iterations is None:
        iterations = 1000 if paper else 30
    optimizer = LBFGS(max_iterations=iterations)
    return DFlow(initializer=start, optimizer=optimizer, target=-target)


@dataclass(frozen=True)
class Fill:
    """D-Flow on rows of sound files, each to its own goal; a method that makes a `Result`.

    Attributes:
        preset, iterations, fit: as of `Settings`.
    """

    preset: str = "fast"
    iterations: int | None = None
    fit: float = 40.0

    def __call__(
        self, prior: Prior, cost: NegativePSNR, *, seeds: Seeds, observer: Observer | None = None
    ) -> Result:
        """The rows; the history has the goal and the ceiling of each as well, in dB, (1, B)."""
        cost = cost.to(prior.device)
        operator = cost.operator
        assert isinstance(operator, LinearOperator)
        with torch.no_grad():
            ceiling = -cost(prior.codec.decode(prior.codec.encode(operator.pinv(cost.y))))
        goal = (ceiling - 0.5).nan_to_num(self.fit).clamp_max(self.fit)
        settings = Settings(self.preset, iterations=self.iterations, fit=self.fit)
        method = method_for(settings, goal)

        def noted(result: Result) -> Result:
            result.history |= {_GOAL: goal[None], _CEILING: ceiling[None]}
            result.method = repr(method_for(settings, self.fit))  # not of the goals of a batch
            return result

        with carrying(lambda partial: noted(partial) if isinstance(partial, Result) else partial):
            result = method(prior, cost, seeds=seeds, observer=observer)
        return noted(result)


def notes_of(records: Sequence[Record], history: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """What became of rows, for people.

    Args:
        records: of them.
        history: of their result, by the names of shards; (R, b).
    """
    notes = []
    for row, record in enumerate(records):
        goals = {}
        for name, label, digits in ((_GOAL, "target_dB", 2), (_CEILING, "codec_ceiling_dB", 1)):
            values = history.get(f"{HISTORY}{name}")
            goals[label] = None if values is None else round(float(values[0, row]), digits)
        cost = record["cost"]
        notes.append(
            {
                "known_psnr_dB": None if cost is None or cost != cost else round(-cost, 2),
                **goals,
                "status": record["status"],
                "evaluations": record["evaluations"],
                "backward_passes": record["backward_passes"],
                "objective_calls": record["objective_calls"],
                "seconds": round(record["seconds"], 2),
                **({"reason": record["reason"]} if record["reason"] else {}),
            }
        )
    return notes


def restored(
    prior: Prior,
    posed: Posed,
    settings: Settings,
    observer: Observer | None = None,
    stopped: Callable[[KeyboardInterrupt], None] | None = None,
) -> list[Take]:
    """All takes of a file, one per seed of the settings.

    Args:
        prior: on latents of audio.
        posed: the file's rows.
        settings: of the run.
        observer: of the optimizer.
        stopped: told of an interruption; the takes then hold the best so far. Raised when None.
    """
    seeds = [each for seed in settings.seeds for each in posed.seeds(seed)]
    every = torch.arange(len(posed)).repeat(len(settings.seeds))
    samples = posed.trivial()[every] if len(posed) else torch.zeros(0, 1, 1)
    notes: list[dict[str, Any]] = [dict(NOT_BEGUN) for _ in seeds]
    stop: KeyboardInterrupt | None = None
    whole = cost_of([(posed, every)]) if len(posed) else None
    for index in torch.arange(len(seeds)).split(settings.batch) if seeds else ():
        begun = time.monotonic()
        here = [seeds[i] for i in index]
        try:
            result = settings.fill(prior, cost_rows(whole, index), seeds=here, observer=observer)  # type: ignore[arg-type]
        except KeyboardInterrupt as error:
            result, stop = partial_of(error), error
            if result is None:
                raise
        samples[index] = result.samples.detach().cpu()
        spent, none = time.monotonic() - begun, len(index)
        records = records_of(result, int(index[0]), spent, [{}] * none, [[]] * none, [None] * none)
        history = {f"{HISTORY}{name}": value for name, value in result.history.items()}
        for place, note in zip(index.tolist(), notes_of(records, history), strict=True):
            notes[place] = note
        if stop is not None:
            break
    takes, count = [], len(posed)
    for number, seed in enumerate(settings.seeds):
        rows = slice(number * count, (number + 1) * count)
        takes.append(posed.take(samples[rows], seed, notes[rows]))
    if stop is not None:
        if stopped is None:
            raise stop
        stopped(stop)
    return takes
