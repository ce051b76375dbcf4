"""Locks that name who holds them: one process at a time writes a folder, or its part of it.

A lock is a file that its process keeps locked (flock) and in which it says who it is. The system
lets go of it when the process ends, however it ends, so a file that nobody has locked is stale and
is taken over. On a file system without such locks the file's own words decide: a process of this
machine that is gone holds nothing.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None  # type: ignore[assignment]

__all__ = ["Held", "acquire", "holder", "lock_folder", "release"]


class Held(ValueError):
    """Another process writes there."""


@contextmanager
def lock_folder(folder: Path, part: str = "") -> Iterator[None]:
    """Keep a run folder, or one part of it, for this process.

    Args:
        folder: that exists.
        part: e.g. "2-of-4". Parts do not exclude each other, the whole excludes all of them.

    Raises:
        Held: if another process has it; the message says which, where and since when.
        OSError: if nothing can be written there.
    """
    own = folder / (f".lock-{part}" if part else ".lock")
    with ExitStack() as stack:
        handle = acquire(own)
        if handle is None:
            raise Held(_words(folder, own))
        stack.callback(release, own, handle)
        for other in [folder / ".lock"] if part else sorted(folder.glob(".lock-*")):
            if other.exists():
                theirs = acquire(other, say=False)
                if theirs is None:
                    raise Held(_words(folder, other))
                release(other, theirs)
        yield


def acquire(lock: Path, say: bool = True) -> int | None:
    """An open handle of a lock that is ours, or None where another process has it.

    Args:
        lock: file, made where there is none.
        say: whether to write into it who has it.
    """
    while True:
        before = holder(lock)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            ours = _locked(handle, before)
            same = os.fstat(handle).st_ino == lock.stat().st_ino
        except FileNotFoundError:  # its last owner has just gone, and taken it along
            ours, same = True, False
        if not ours:
            os.close(handle)
            return None
        if same:
            break
        os.close(handle)
    if say:
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(_me()).encode(), 0)
    return handle


def release(lock: Path, handle: int) -> None:
    """Let go of a lock of `acquire`, and take its file away."""
    lock.unlink(missing_ok=True)
    os.close(handle)


def _locked(handle: int, before: dict[str, Any]) -> bool:
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            pass
    return not before or _gone(before)


def _gone(who: dict[str, Any]) -> bool:
    """Whether a process of this machine does not live any more."""
    if who.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(who["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, ValueError):
        return False
    return False


def _me() -> dict[str, Any]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since}


def holder(lock: Path) -> dict[str, Any]:
    """What a lock says of its process: host, pid and since when; empty where it says nothing."""
    try:
        content = json.loads(lock.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _words(folder: Path, lock: Path) -> str:
    who = holder(lock)
    process = "another process"
    if who:
        process = f"process {who.get('pid')} on {who.get('host')}, since {who.get('since')},"
    return (
        f"out: {process} writes {folder}; wait for it, end it, or name another folder (if it is "
        f"certainly gone, delete {lock})"
    )
