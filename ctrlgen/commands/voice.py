"""What a command says: its two consoles, its logger, errors and warnings of one line.

Everything for the eye goes to standard error, so that `--json` on standard output stays clean. What
comes from a user, a path above all, is never read as markup.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from ctrlgen.rows.errors import Doubtful

__all__ = ["fail", "log", "say", "screen", "speaking", "stdout", "voice", "warn"]

stdout = Console(highlight=False)
screen = Console(stderr=True, highlight=False)

log = logging.getLogger("ctrlgen")
log.addHandler(logging.NullHandler())


@dataclass
class Voice:
    """What the running command was asked to say."""

    quiet: bool = False


voice = Voice()


_WIDE = 10_000
"""Columns of a terminal that is said to have any number of them."""


class _Lines(logging.Handler):
    """Records as plain lines on the screen."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.levelno >= logging.WARNING:
            warn(text)
        else:
            screen.print(Text(text, style="dim"), soft_wrap=True)


@contextmanager
def speaking(quiet: bool = False, verbose: bool = False, wide: bool = False) -> Iterator[None]:
    """What a command says while it runs: the logger's lines, and tables of any width.

    Args:
        quiet: no progress and no notes, only warnings and errors.
        verbose: what else the logger has to tell.
        wide: tables are not fitted to the terminal.

    Raises:
        ValueError: for quiet and verbose together.
    """
    if quiet and verbose:
        raise ValueError("quiet: expected one of --quiet and --verbose")
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    before, width, handler = (log.level, voice.quiet), stdout.width, _Lines()
    log.setLevel(level)
    log.addHandler(handler)
    voice.quiet = quiet
    if wide:
        stdout.width = _WIDE
    told = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, Doubtful):  # of a user's making: one line, without a place in code
            warn(str(message))
        else:
            told(message, category, *where, **more)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = told
        log.removeHandler(handler)
        log.setLevel(before[0])
        voice.quiet = before[1]
        if wide:
            stdout.width = width


def fail(error: BaseException | str) -> None:
    """One line that says what is wrong."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:  # not "[Errno 28] ..."
        text = ": ".join([*([str(error.filename)] if error.filename else []), error.strerror])
    text = " ".join(text.split()) or type(error).__name__
    screen.print(f"[bold red]error[/] {escape(text)}", soft_wrap=True)


def warn(text: str) -> None:
    """One line that says what may be wrong; said even when a command is quiet."""
    screen.print(f"[yellow]warning[/] {escape(' '.join(text.split()))}", soft_wrap=True)


def say(text: object) -> None:
    """A line on standard output as it is: a path, a name, anything of a user's."""
    stdout.print(Text(str(text)), soft_wrap=True)
