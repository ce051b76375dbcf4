"""Seconds of a call, on a CPU or on a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["seconds_of"]


def seconds_of(run: Callable[[], Any], x: Tensor) -> float:
    """Seconds of a call: of the processor, or on a device of the wall with its work included."""
    clock = time.perf_counter if x.is_cuda else time.process_time
    began = clock()
    run()
    if x.is_cuda:
        torch.cuda.synchronize()
    return clock() - began
