"""Ctrl-C and SIGTERM: both end a command in the same way, which keeps what is finished.

SIGTERM becomes an exception like that of Ctrl-C, raised in the main thread wherever it is. A
command that has something to keep catches KeyboardInterrupt, writes it, says so and ends with the
exit code of the signal: 130 of Ctrl-C, 143 of SIGTERM.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["CutOff", "Terminated", "exit_code", "terminable"]


class Terminated(KeyboardInterrupt):
    """The process was asked to end."""


class CutOff(Exception):
    """A run that did not come to its end, after it has written what was finished.

    Attributes:
        cause: what cut it off: an interruption, or an error.
        content: what it has written of its numbers.
    """

    def __init__(self, cause: BaseException, content: dict[str, Any]) -> None:
        super().__init__(str(cause))
        self.cause, self.content = cause, content


def exit_code(stop: KeyboardInterrupt) -> int:
    """The exit code that says which signal ended the run."""
    number = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
    return 128 + int(number)


@contextmanager
def terminable() -> Iterator[None]:
    """Within the block SIGTERM raises `Terminated`; outside of the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
