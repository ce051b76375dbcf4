"""Results of parts of a run, joined into that of all its samples.

Parts run for different numbers of rounds. In a history a sample that has left repeats its last
entry, and so does one whose part is over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ctrlgen.methods.result import Result
from ctrlgen.rows.counts import Evaluations
from ctrlgen.rows.status import Status
from ctrlgen.runs.schema import HISTORY, Header

__all__ = ["failed", "join", "result_of"]


def join(parts: Sequence[Result]) -> Result:
    """The samples of all parts, in their order.

    Args:
        parts: at least one, of one method. Where some hold no history, as samples that failed do
            not, theirs is of NaN and zeros.
    """
    if len(parts) == 1:
        return parts[0]
    names = {name: part.history[name] for part in parts for name in part.history}
    whole: dict[str, Any] = {
        name: torch.cat([getattr(part, name) for part in parts]) for name in parts[0].per_sample
    }
    rounds = {name: max(len(part.history.get(name, ())) for part in parts) for name in names}
    whole["history"] = {
        name: torch.cat([_course(part, name, rounds[name], like) for part in parts], dim=1)
        for name, like in names.items()
    }
    whole["network"] = sum((part.network for part in parts), Evaluations())
    method = next((part.method for part in parts if part.method), "")
    return replace(parts[0], **whole, method=method)


def _course(part: Result, name: str, rounds: int, like: Tensor) -> Tensor:
    """History of a part, (R, b), its last entries repeated up to `rounds`."""
    value = part.history.get(name)
    if value is None or not len(value):
        nothing = torch.nan if like.is_floating_point() else 0
        return like.new_full((rounds, len(part)), nothing)
    return torch.cat([value, value[-1:].expand(rounds - len(value), -1)])


def failed(samples: Tensor, controls: Tensor, seeds: Tensor) -> Result:
    """Samples for which an error was raised before anything was done.

    Args:
        samples: signals of the start, shape (b, *).
        controls: the start, shape (b, *).
        seeds: theirs, (b,).
    """
    zero = torch.zeros_like(seeds)
    return Result(
        samples=samples,
        controls=controls,
        costs=torch.full(seeds.shape, torch.nan, dtype=samples.dtype, device=samples.device),
        status=zero + int(Status.FAILED),
        seeds=seeds,
        iterations=zero,
        evaluations=zero.clone(),
        backward_passes=zero.clone(),
        objective_calls=zero.clone(),
    )


def result_of(header: Header, tensors: Mapping[str, Tensor]) -> Result:
    """The result of a shard, from its header and its tensors."""
    own = {name: tensors[name] for name in Result.per_sample}
    names = sorted(name for name in tensors if name.startswith(HISTORY))
    history = {name.removeprefix(HISTORY): tensors[name] for name in names}
    return Result(
        **own,
        network=Evaluations(**header["network"]),
        history=history,
        method=header["method"],
    )
