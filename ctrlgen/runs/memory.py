"""How many samples fit into the memory of a device at a time, by a look at two of them.

A method is run on one sample and on two, until its first event: by then it has solved, or stepped,
and gone back once. What the second sample takes on top is what every further one takes. Memory that
runs out nevertheless halves a batch while it runs (`ctrlgen.runs.units`).
"""

from __future__ import annotations

from typing import Any

import torch

from ctrlgen.methods.base import cost_rows
from ctrlgen.runs.job import Job
from ctrlgen.runs.limits import out_of_memory

__all__ = ["fitting"]

ON_HOST = 64
"""Samples at a time on the CPU."""

_SHARE = 0.8
"""Of the free memory that a batch may fill."""


class _Enough(BaseException):
    """The first event has come."""


def fitting(job: Job) -> int:
    """Samples at a time for a job whose batch is "auto", at least 1.

    Args:
        job: on CUDA it is run on one sample and on two, until its first event.
    """
    device = job.prior.device
    if device.type != "cuda":
        return min(ON_HOST, len(job))
    if len(job) == 1:
        return 1
    one, two = (_peak(job, rows, device) for rows in (1, 2))
    torch.cuda.empty_cache()
    if two is None or one is None:
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    return between(one, two, free, len(job))


def between(one: int, two: int, free: int, samples: int) -> int:
    """Samples that fit, by the bytes that one and two of them take."""
    each = max(two - one, one // 64, 1)
    return max(1, min(int((_SHARE * free - one) // each) + 1, samples))


def _peak(job: Job, rows: int, device: torch.device) -> int | None:
    """Bytes that the first samples take at most; None where they do not fit."""

    def stop(_: Any) -> None:
        raise _Enough

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    index = torch.arange(rows)
    cost = cost_rows(job.cost, index)
    try:
        job.method(job.prior.take(index), cost, seeds=list(job.seeds[:rows]), observer=stop)
    except _Enough:
        pass
    except Exception as error:
        if out_of_memory(error):
            return None
        # What is wrong with a sample shows, and is said, when it runs.
    return torch.cuda.max_memory_allocated(device) - before
