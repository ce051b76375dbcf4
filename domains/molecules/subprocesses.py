"""A helper process with a time limit for every call, for libraries that can hang or crash.

`Helper.ask` sends one request and waits for its reply; when the time is over, or the process dies,
the process is ended, the next request gets a fresh one, and the error names what happened. See
`worker` for the requests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from threading import Timer
from typing import Any

__all__ = ["Helper", "HelperError"]

_SCRIPT = Path(__file__).with_name("worker.py")


class HelperError(RuntimeError):
    """A request that the helper could not answer: it failed, crashed or ran out of time."""


class Helper:
    """One helper process, started at the first request and ended by `close` or `with`.

    Args:
        timeout: seconds for one request.
        memory: gigabytes of address space that the process may take, where the system can bound it.
        start: seconds for the process to start and import what a task needs.
    """

    def __init__(self, timeout: float = 20.0, memory: float = 8.0, start: float = 120.0) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._loaded: set[str] = set()
        for name, value in (("timeout", timeout), ("memory", memory), ("start", start)):
            if not value > 0:
                raise ValueError(f"{name}: expected a positive number, got {value}")
        self.timeout, self.memory, self.start = timeout, memory, start

    def ask(self, task: str, module: str = "rdkit.Chem", **fields: Any) -> dict[str, Any]:
        """Reply to one request.

        Args:
            task: one of `worker.TASKS`.
            module: what the task imports; loading it is not counted in the time of the request.
            **fields: JSON-able arguments of the task.

        Raises:
            HelperError: the task failed, the process died or the time was over.
        """
        if self._process is None or self._process.poll() is not None:
            self.close()
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            environment["CTRLGEN_WORKER_GB"] = str(self.memory)
            self._process = subprocess.Popen(
                [sys.executable, str(_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                env=environment,
            )
        if module not in self._loaded:
            self._exchange({"task": "load", "module": module}, self.start)
            self._loaded.add(module)
        return self._exchange({"task": task, **fields}, self.timeout)

    def _exchange(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        timer = Timer(seconds, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            late = not timer.is_alive()
            timer.cancel()
        if not line:
            self.close()
            reason = f"no answer within {seconds:g} s" if late else "the process crashed"
            raise HelperError(f"{request['task']}: {reason}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise HelperError(f"{request['task']}: {reply['error']}")
        return reply

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        self._loaded.clear()
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def __enter__(self) -> Helper:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
