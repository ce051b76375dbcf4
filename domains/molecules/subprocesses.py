"""A helper process with a time limit for every call, for libraries that can hang or crash.

`Helper.ask` sends one request and waits for its reply; when the time is over, or the process dies,
the process is ended, the next request gets a fresh one, and the error names what happened. See
`chemistry_process` for the requests, and `each` for many molecules by one process. Molecules travel
in RDKit's binary form with positions in double precision.
"""

from __future__ import annotations

import atexit
import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, Timer
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["Helper", "HelperError", "each", "packed", "shared", "unpacked"]

T = TypeVar("T")

_SCRIPT = Path(__file__).with_name("chemistry_process.py")


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
            task: one of `chemistry_process.TASKS`.
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
        except BaseException:  # its reply would be taken for that to the next request
            process.kill()
            self.close()
            raise
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


_shared: dict[int, Helper] = {}  # by process, so that a fork has its own
_lock = Lock()


@contextmanager
def shared(timeout: float) -> Iterator[Helper]:
    """The helper of this process, which is started once and ends with it; for one thread a time."""
    with _lock:
        helper = _shared.setdefault(os.getpid(), Helper())
        helper.timeout = timeout
        yield helper


@atexit.register
def _end() -> None:
    if os.getpid() in _shared:
        _shared.pop(os.getpid()).close()


def packed(mol: Mol) -> str:
    """A molecule as text; positions are not rounded."""
    from rdkit import Chem

    options = Chem.PropertyPickleOptions
    flags = int(options.AllProps | options.CoordsAsDouble)
    return base64.b64encode(mol.ToBinary(flags)).decode()


def unpacked(text: str) -> Mol:
    """The molecule of a text of `packed`."""
    from rdkit import Chem

    return Chem.Mol(base64.b64decode(text))  # type: ignore[call-overload]


def each(
    mols: Sequence[Mol | None],
    timeout: float,
    answer: Callable[[Helper, int, Mol], T],
    failed: Callable[[str], T],
) -> list[T]:
    """One answer per molecule by one helper process.

    Args:
        mols: None, or one without atoms, has failed from the start.
        timeout: seconds for one request.
        answer: asks the helper about a molecule, given its row too.
        failed: the answer where the helper has none, from its reason.
    """
    answers = []
    with shared(timeout) as helper:
        for row, mol in enumerate(mols):
            if mol is None or not mol.GetNumAtoms():
                answers.append(failed("no molecule"))
                continue
            try:
                answers.append(answer(helper, row, mol))
            except HelperError as error:
                answers.append(failed(str(error)))
    return answers
