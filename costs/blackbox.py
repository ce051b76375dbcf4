"""Black-box costs: any scorer of signals, for the methods that need values alone.

    BlackBoxCost(f)                                        a function, called in this process
    BlackBoxCost("mine.py:f", workers=4, timeout=20)       the same in processes of its own
    BlackBoxCost(Command(["tool", "{file}"]), workers=4)   a command, run for every sample

A scorer has no gradient. `BestOf`, `EvolutionStrategy`, `RenoisingSearch`, `ParticleResampling` and
`TrustRegionSearch` steer by it; a method that needs a gradient refuses it before any compute, also
as a part of a sum.

What it cannot score costs infinity, so that it is ranked last and never lost: a sample for which
the scorer raises, has no number, crashes or takes too long. Its mates have their scores, and `why`
tells the reason; where the scorer fails in the same way for each of the first eight samples or
more, the run ends with that. Scores are remembered by the content of samples, failures too.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ctrlgen import plugins
from ctrlgen.costs.base import Cost
from ctrlgen.rows.checks import check_sizes
from ctrlgen.rows.constants import follow
from ctrlgen.rows.errors import CostError, HopelessError, short
from ctrlgen.runs.fingerprint import file_digest
from ctrlgen.runs.scorer_teams import Command, Elsewhere, Programs, reference_of
from ctrlgen.runs.scorers import Here, Score, Scorer, hopeless

__all__ = ["BlackBoxCost", "Command", "best_of"]

Function = Callable[..., Tensor | Sequence[float | None]]


class BlackBoxCost(Cost):
    """A cost from any scorer of signals; no gradient passes.

    Args:
        score: a function, FILE.py:NAME of one, or a `Command`. A function is given signals
            (n, *signal), detached, and returns n numbers, low where the wish is met: a tensor, an
            array or a list, each of its row by itself. NaN and None count as infinity. In processes
            of its own it is given one signal at a time, (1, *signal), and may return a number.
        name: how messages call it.
        workers: processes that score; 0 calls a function in this process, and runs a command one
            sample after another. Other processes import a function by its name.
        timeout: seconds for one sample, where another process scores it.
        cache: whether a sample that was scored before, to the byte, is not scored again.
        view: what a function is given in place of signals: a function of signals (n, *signal); for
            other processes an object with a spec, such as `ctrlgen.molecules.Molecules("qm9")`.
        per_sample: data with one row per sample, handed to the function as keyword arguments.

    Raises:
        TypeError: if the scorer is none of these.
        ValueError: for a file that is not there, a function that other processes cannot import,
            numbers out of range, or data for a command.

    A time-out ends the process, with all that it has started; the next sample gets a fresh one.
    """

    per_sample = ("data",)

    def __init__(
        self,
        score: Function | str | Command,
        name: str | None = None,
        *,
        workers: int = 0,
        timeout: float = 60.0,
        cache: bool = True,
        view: Callable[[Tensor], Any] | None = None,
        per_sample: Mapping[str, Tensor] | None = None,
    ) -> None:
        if not (callable(score) or isinstance(score, str | Command)):
            raise TypeError(
                f"score: expected a function, FILE.py:NAME or a Command, got {type(score).__name__}"
            )
        if workers != 0:
            check_sizes(workers=workers)
        if not timeout > 0:
            raise ValueError(f"timeout: expected seconds > 0, got {timeout}")
        if view is not None and not callable(view):
            raise TypeError(f"view: expected a function of signals, got {short(view)}")
        self.data = dict(per_sample or {})
        for key, value in self.data.items():
            if not isinstance(value, Tensor) or value.ndim == 0:
                raise TypeError(f"per_sample: {key}: expected a tensor, one row per sample")
        if isinstance(score, Command) and (self.data or view is not None):
            raise ValueError("per_sample, view: a command is given a file, and nothing else")
        self.digest = None
        if isinstance(score, str):
            self.digest = file_digest(plugins.place_in_file(score, "score")[0])
        self.score, self.view = score, view
        self.workers, self.timeout, self.cache = workers, timeout, cache
        self.name: str = name or _name(score)
        self._desk = Scoreboard()
        if workers and not isinstance(score, str | Command):
            reference_of(score)

    @property
    def differentiable(self) -> bool:
        return False

    @property
    def runs_code(self) -> bool:
        """Whether it names what runs, a file or a program, so that no spec may name it."""
        return isinstance(self.score, str | Command)

    @property
    def calls(self) -> int:
        """Samples that the scorer was asked about."""
        return self._desk.calls

    @property
    def hits(self) -> int:
        """Samples whose score was remembered."""
        return self._desk.hits

    @property
    def failures(self) -> int:
        """Calls that gave no number."""
        return sum(self._desk.reasons.values())

    @property
    def reasons(self) -> dict[str, int]:
        """Why calls gave no number, and how often, the most frequent first."""
        return dict(self._desk.reasons.most_common())

    def why(self, x: Tensor) -> list[str | None]:
        """For each of some signals (B, *), why it has no score; None where it has one, or was
        never asked about."""
        return [self._desk.failed.get(key) for key in self._keys(x.detach())]

    def close(self) -> None:
        """End its processes; they start again when they are needed."""
        if self._desk.scorer is not None:
            self._desk.scorer.close()

    def forward(self, x: Tensor) -> Tensor:
        signals, desk = x.detach(), self._desk
        keys = self._keys(signals)
        known: dict[Any, Score] = {k: desk.scores[k] for k in keys if k in desk.scores}
        fresh: dict[Any, int] = {}
        for row, key in enumerate(keys):
            name = key if self.cache else row
            if name not in known:
                fresh.setdefault(name, row)
        if fresh:
            rows = torch.tensor(list(fresh.values()), device=x.device)
            data = {k: follow(v, x, v.dtype)[rows] for k, v in self.data.items()}
            found = self._scorer()(signals[rows], data)
            known |= dict(zip(fresh, found, strict=True))
            self._note([keys[row] for row in fresh.values()], found)
        desk.hits += len(keys) - len(fresh)
        values = [known[key if self.cache else row].value for row, key in enumerate(keys)]
        return torch.tensor(values, dtype=x.dtype, device=x.device)

    def _note(self, keys: list[bytes], found: list[Score]) -> None:
        """Remember scores; raise where there is no hope."""
        desk = self._desk
        desk.calls += len(keys)
        for key, score in zip(keys, found, strict=True):
            if score.reason is not None:
                desk.failed[key] = score.reason
                desk.reasons[score.reason] += 1
            if self.cache:
                desk.scores[key] = score
        desk.doubts = [] if any(not score.raised for score in found) else [*desk.doubts, *found]
        desk.trusted = desk.trusted or not desk.doubts
        reason = None if desk.trusted else hopeless(desk.doubts)
        if reason is not None:
            raise HopelessError(f"score: {self.name} failed for all of {desk.calls}: {reason}")

    def _scorer(self) -> Scorer:
        """Who scores; its processes start at the first sample."""
        desk = self._desk
        if desk.scorer is None:
            score, timeout = self.score, self.timeout
            if isinstance(score, Command):
                desk.scorer = Programs(score, max(1, self.workers), timeout)
            elif self.workers:
                place = reference_of(score) if callable(score) else _absolute(score)
                desk.scorer = Elsewhere(place, self.view, self.workers, timeout)
            else:
                here = plugins.named_in_file(score, "score") if isinstance(score, str) else score
                desk.scorer = Here(here, self.view)
        return desk.scorer

    def _keys(self, x: Tensor) -> list[bytes]:
        """sha256 of each sample: its numbers, their kind and shape, and its data."""
        parts = [x, *(follow(v.detach(), x, v.dtype) for _, v in sorted(self.data.items()))]
        if any(len(part) != len(x) for part in parts):
            raise CostError(f"per_sample: expected {len(x)} rows, as there are signals")
        hosted = [part.to("cpu").contiguous().reshape(len(x), -1) for part in parts]
        heads = [f"{part.dtype}{tuple(part.shape[1:])}".encode() for part in parts]
        keys = []
        for row in range(len(x)):
            whole = hashlib.sha256()
            for head, part in zip(heads, hosted, strict=True):
                whole.update(head + part[row].view(torch.uint8).numpy().tobytes())
            keys.append(whole.digest())
        return keys

    def __repr__(self) -> str:
        return self.name


class Scoreboard:
    """What a cost remembers, shared by its copies: no setting of it, and not sent with it.

    Attributes:
        scores: by the digest of the sample.
        failed: reasons by the digest of the sample.
        reasons: how often there was each.
        scorer: once it was needed.
        doubts: what has failed while nothing was scored yet.
        trusted: whether a sample was scored.
    """

    __slots__ = ("calls", "doubts", "failed", "hits", "reasons", "scorer", "scores", "trusted")

    def __init__(self) -> None:
        self.scores: dict[bytes, Score] = {}
        self.failed: dict[bytes, str] = {}
        self.reasons: Counter[str] = Counter()
        self.scorer: Scorer | None = None
        self.doubts: list[Score] = []
        self.trusted, self.calls, self.hits = False, 0, 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scoreboard)

    def __hash__(self) -> int:
        return 0

    def __reduce__(self) -> tuple[type[Scoreboard], tuple[()]]:
        return Scoreboard, ()

    def __repr__(self) -> str:
        return "scores"


def _absolute(reference: str) -> str:
    file, name = plugins.place_in_file(reference, "score")
    return f"{file.absolute()}:{name}"


def _name(score: Any) -> str:
    if isinstance(score, str | Command):
        return str(score)
    return str(getattr(score, "__name__", type(score).__name__))


def best_of(costs: Tensor, count: int) -> Tensor:
    """The best of every `count` consecutive candidates.

    Args:
        costs: one per candidate, shape (G · count,), the candidates of a group side by side; NaN is
            worse than everything.
        count: candidates of a group, >= 1.

    Returns:
        Positions of the best of each group, shape (G,), int64; the first among equals.

    Raises:
        ValueError: if the groups are not whole.
    """
    if count < 1 or costs.ndim != 1 or len(costs) % count:
        raise ValueError(f"costs: expected groups of {count}, got shape {tuple(costs.shape)}")
    table = costs.nan_to_num(nan=torch.inf, posinf=torch.inf).reshape(-1, count)
    first = torch.arange(len(table), device=costs.device) * count
    # the first of equal costs on every device, which argmin does not promise
    place = torch.arange(count, device=costs.device)
    lowest = table == table.min(1, keepdim=True).values
    return first + torch.where(lowest, place, count).min(1).values
