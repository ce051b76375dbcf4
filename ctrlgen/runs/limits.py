"""Limits on what a part of a user's may take: time for a metric, memory for a batch."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

import torch

__all__ = ["TimedOut", "out_of_memory", "within"]

T = TypeVar("T")


class TimedOut(BaseException):
    """Something took longer than it may; no `except Exception` on its way holds it."""


def within(seconds: float | None, function: Callable[[], T]) -> T:
    """What a function returns, if it does so in time.

    In the main thread an alarm of the system interrupts it. Elsewhere, and where there are no
    alarms, it goes on in a thread of its own that nobody waits for any more.

    Args:
        seconds: that it may take; None for any number.
        function: to call.

    Raises:
        TimedOut: if it takes longer.
    """
    if seconds is None:
        return function()
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        return _in_thread(seconds, function)

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimedOut

    before = signal.signal(signal.SIGALRM, stop)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return function()
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)
        signal.signal(signal.SIGALRM, before)


def _in_thread(seconds: float, function: Callable[[], T]) -> T:
    ended: dict[str, Any] = {}
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()

    def call() -> None:
        torch.set_num_threads(threads)
        try:
            with torch.set_grad_enabled(grad):
                ended["value"] = function()
        except BaseException as error:
            ended["error"] = error

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimedOut
    if "error" in ended:
        raise ended["error"]
    return ended["value"]


def out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host had no memory for what was asked."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
