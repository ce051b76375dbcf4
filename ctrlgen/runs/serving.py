"""The other end of `ctrlgen.runs.workers`: requests are answered until their giver is gone.

One request a line on standard input, one reply a line back, both JSON. What the tasks print goes
nowhere. The standard library alone, so that a process starts at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["MEMORY", "serve", "words"]

MEMORY = "CTRLGEN_WORKER_GB"
"""Variable of the environment with the gigabytes of address space that the process may take."""


def serve(tasks: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]]) -> None:
    """Answer until the input ends.

    Args:
        tasks: by the `task` of a request; each makes a reply of it. What a task raises is the
            `error` of the reply.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    with contextlib.suppress(ImportError, ValueError, OSError, KeyError):  # a runaway search
        import resource

        allowed = int(float(os.environ[MEMORY]) * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = tasks[request["task"]](request)
        except MemoryError:
            reply = {"error": "out of memory"}
        except (Exception, SystemExit) as error:  # what a task raises belongs to this one request
            reply = {"error": words(error)}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def words(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
