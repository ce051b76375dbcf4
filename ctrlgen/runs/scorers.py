"""Who gives samples their scores: a function here, a function in other processes, a command.

    scorer(signals, data) -> [Score, ...]         one for every signal, in their order

A scorer that raises, hangs, crashes or has no number for a sample says so in that sample's `Score`,
and the others have theirs. `Here` calls a function in this process; `ctrlgen.runs.scorer_teams` has
those that score in others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ctrlgen.rows.errors import CostError
from ctrlgen.runs.serving import words

__all__ = ["Here", "Score", "Scorer", "hopeless", "score", "score_of"]

_SILENT = "no number: "
"""Beginning of the reason of a scorer that answered, and had none."""


class Score(NamedTuple):
    """What a scorer says of one sample.

    Attributes:
        value: the score; infinite where there is none.
        reason: why there is none; None where there is one.
    """

    value: float
    reason: str | None = None

    @property
    def raised(self) -> bool:
        """Whether the scorer could not answer, rather than had no number to say."""
        return self.reason is not None and not self.reason.startswith(_SILENT)


class Scorer(Protocol):
    """Scores signals (n, *signal), with data of samples (n, ...) by name."""

    def __call__(self, signals: Tensor, data: Mapping[str, Tensor]) -> list[Score]: ...

    def close(self) -> None:
        """End its processes; they start again when they are needed."""


def score(
    function: Callable[..., Any], view: Callable[[Tensor], Any] | None, x: Tensor, data: Any
) -> list[Score]:
    """The scores of signals by one call of a function.

    Args:
        function: of all signals and their data by name, to as many numbers.
        view: what it is given of signals; None for the signals themselves.
        x: signals, shape (n, *signal).
        data: of the samples, by name, shape (n, ...) each.

    Raises:
        CostError: for something else than a number, or None, for each signal.
    """
    values = function(x if view is None else view(x), **data)
    if isinstance(values, Tensor) or hasattr(values, "tolist"):  # a tensor or an array
        values = values.tolist()
    if len(x) == 1 and not isinstance(values, list | tuple):
        values = [values]
    if not isinstance(values, list | tuple) or len(values) != len(x):
        got = f"{len(values)}" if isinstance(values, list | tuple) else type(values).__name__
        raise CostError(f"score: expected {len(x)} numbers, one per sample, got {got}")
    return [score_of(value) for value in values]


def score_of(value: Any) -> Score:
    """What a scorer has said of one sample: a number, or None.

    Raises:
        CostError: for something else.
    """
    if value is None:
        return Score(torch.inf, f"{_SILENT}None")
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise CostError(f"score: expected a number or None per sample, got {value!r}") from error
    return Score(number) if number == number else Score(torch.inf, f"{_SILENT}NaN")


@dataclass(frozen=True)
class Here:
    """A function in this process: all signals in one call, and one by one where that raises.

    Attributes:
        function, view: see `score`.
    """

    function: Callable[..., Any]
    view: Callable[[Tensor], Any] | None = None

    def __call__(self, signals: Tensor, data: Mapping[str, Tensor]) -> list[Score]:
        try:
            return score(self.function, self.view, signals, data)
        except CostError:
            raise
        except Exception as error:  # whatever a user's function raises is its sample's own
            if len(signals) == 1:
                return [Score(torch.inf, words(error))]
        rows = (slice(i, i + 1) for i in range(len(signals)))
        return [self(signals[r], {k: v[r] for k, v in data.items()})[0] for r in rows]

    def close(self) -> None:
        """It has no processes."""


def hopeless(scores: Iterable[Score], many: int = 8) -> str | None:
    """What was raised for each of `many` samples or more, the same for all; None for anything else.

    Args:
        scores: of all samples so far.
        many: samples that tell.
    """
    listed = list(scores)
    reasons = {score.reason for score in listed}
    alike = len(listed) >= many and len(reasons) == 1 and listed[0].raised
    return listed[0].reason if alike else None
