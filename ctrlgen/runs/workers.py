"""Processes with a time limit for every request, for code that can hang, crash or raise.

`Worker.reply` sends one request and waits for its reply. When the time is over, or the process
dies, it is ended with all that it has started, the next request gets a fresh one, and the error
names what happened. `ctrlgen.runs.serving` is the other end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from threading import Timer
from typing import Any, Self

from ctrlgen.runs.serving import MEMORY

__all__ = ["StartError", "Worker", "WorkerError", "end"]


class WorkerError(RuntimeError):
    """A request that a process could not answer: it failed, crashed or ran out of time.

    Attributes:
        reason: what happened, without the name of the request.
    """

    def __init__(self, task: str, reason: str) -> None:
        super().__init__(f"{task}: {reason}")
        self.reason = reason


class StartError(WorkerError):
    """What comes before all requests failed, and would before any other."""


class Worker:
    """One process, started at the first request and ended by `close` or `with`.

    Args:
        program: what Python runs, a script or "-m" and a module, with its arguments.
        start: seconds for the process to start and answer what comes before all requests.
        memory: gigabytes of address space that it may take, where the system can bound it; None
            for no bound.

    Raises:
        ValueError: for numbers that are not positive.
    """

    def __init__(
        self, program: Sequence[str], *, start: float = 120.0, memory: float | None = None
    ) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._answered: list[dict[str, Any]] = []
        for name, value in (("start", start), ("memory", memory)):
            if value is not None and not value > 0:
                raise ValueError(f"{name}: expected a positive number, got {value}")
        self.program, self.start, self.memory = list(program), start, memory

    def reply(
        self, request: dict[str, Any], seconds: float, before: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The reply to a request.

        Args:
            request: JSON-able, with the name of its `task`.
            seconds: how long it may take.
            before: a request that every process answers once before this one, such as to import
                what it needs; its time is `start`.

        Raises:
            WorkerError: it failed, the process died or the time was over.
            StartError: that happened to what comes before.
        """
        if self._process is None or self._process.poll() is not None:
            self.close()
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            if self.memory is not None:
                environment[MEMORY] = str(self.memory)
            self._process = subprocess.Popen(
                [sys.executable, *self.program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                env=environment,
                start_new_session=True,  # so that it ends with all that it has started
            )
        if before is not None and before not in self._answered:
            try:
                self._exchange(before, self.start)
            except WorkerError as error:
                raise StartError(before["task"], error.reason) from error
            self._answered.append(before)
        return self._exchange(request, seconds)

    def _exchange(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        timer = Timer(seconds, end, [process])
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except (BrokenPipeError, ValueError):  # it is gone, or was closed by another thread
            line = ""
        except BaseException:  # its reply would be taken for that to the next request
            self.close()
            raise
        finally:
            late = not timer.is_alive()
            timer.cancel()
        if not line:
            self.close()
            reason = f"no answer within {seconds:g} s" if late else "the process crashed"
            raise WorkerError(request["task"], reason)
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise WorkerError(request["task"], reply["error"])
        return reply

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        self._answered.clear()
        if process is not None:
            end(process)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):  # a request that it has not read
                        pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def end(process: subprocess.Popen[Any]) -> None:
    """End a process that leads a session of its own, with all that it has started there."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
