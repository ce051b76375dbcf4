"""Scorers in other processes: a function that stays loaded there, and a command.

A function in other processes (`Elsewhere`) is imported there by its name; nothing is pickled. A
command (`Command`) is run once for every sample, on a file. Every sample has its own time limit.
"""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar

import torch
from torch import Tensor

from ctrlgen.rows.errors import CostError
from ctrlgen.runs.scorers import Score, score_of
from ctrlgen.runs.serving import words
from ctrlgen.runs.spec import describe
from ctrlgen.runs.workers import StartError, Worker, WorkerError, end

__all__ = ["Command", "Elsewhere", "Programs", "reference_of"]


def reference_of(function: Callable[..., Any]) -> str:
    """Where another process finds a function, as MODULE:NAME or FILE.py:NAME.

    Raises:
        ValueError: for one that stands at the top of no module.
    """
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    home = sys.modules.get(module)
    if not name.isidentifier() or getattr(home, name, None) is not function:
        raise ValueError(
            f"score: other processes cannot import {function!r}; expected a function at the top "
            "of a module, or FILE.py:NAME"
        )
    file = getattr(home, "__file__", None)
    if module != "__main__" and not module.startswith("_ctrlgen_user_"):
        return f"{module}:{name}"
    if file is None:
        raise ValueError(f"score: {name} was typed at a prompt; other processes need a file")
    return f"{Path(file).absolute()}:{name}"


class _Team:
    """So many threads, each with what it needs to score one sample."""

    runs_code = True

    def __init__(self, workers: int, timeout: float) -> None:
        self.workers, self.timeout = workers, timeout

    def __call__(self, signals: Tensor, data: Mapping[str, Tensor]) -> list[Score]:
        x, own = signals.detach().cpu(), {k: v.detach().cpu() for k, v in data.items()}
        rows = [(x[i], {k: v[i] for k, v in own.items()}) for i in range(len(x))]
        pool = ThreadPoolExecutor(min(self.workers, len(rows)))
        try:
            return list(pool.map(lambda row: self.one(*row), rows))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            self.close()
            raise
        finally:
            pool.shutdown()

    def one(self, signal: Tensor, data: dict[str, Tensor]) -> Score:
        """The score of one sample."""
        raise NotImplementedError

    def close(self) -> None:
        """End its processes."""
        raise NotImplementedError


class Elsewhere(_Team):
    """A function in processes of its own, which stay; one that takes too long is ended.

    Args:
        reference: FILE.py:NAME or MODULE:NAME.
        view: what it is given, see `score`; with a spec (`ctrlgen.runs.spec`).
        workers: processes.
        timeout: seconds for one sample.
    """

    def __init__(
        self, reference: str, view: Callable[[Tensor], Any] | None, workers: int, timeout: float
    ) -> None:
        super().__init__(workers, timeout)
        self._first = {
            "task": "load", "reference": reference, "view": describe(view), "path": sys.path,
        }  # fmt: skip
        self._all = [Worker(["-m", "ctrlgen.runs.scorer_process"]) for _ in range(workers)]
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._all:
            self._idle.put(worker)

    def one(self, signal: Tensor, data: dict[str, Tensor]) -> Score:
        sent = {name: _sent(item) for name, item in data.items()}
        request = {"task": "score", "signal": _sent(signal), "data": sent}
        worker = self._idle.get()
        try:
            reply = worker.reply(request, self.timeout, self._first)
        except StartError as error:
            raise CostError(error.reason.removeprefix("ValueError: ")) from error
        except WorkerError as error:
            if error.reason.startswith("CostError: "):
                raise CostError(error.reason.removeprefix("CostError: ")) from error
            return Score(torch.inf, error.reason)
        finally:
            self._idle.put(worker)
        return Score(reply["value"], reply["reason"])

    def close(self) -> None:
        for worker in self._all:
            worker.close()


def _sent(x: Tensor) -> dict[str, Any]:
    content = x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return {
        "dtype": str(x.dtype).removeprefix("torch."),
        "shape": list(x.shape),
        "bytes": base64.b64encode(content).decode(),
    }


@dataclass(frozen=True)
class Command:
    """A command that scores one sample, which it finds in a file: its last number is the score.

    Args:
        argv: the program and its arguments, in some of which {file} stands for the path.
        write: writes one signal, without the batch, to a file: `write(file, signal)`; its attribute
            `suffix` ends the file's name. Domains have some, such as `ctrlgen.images.ImageFile`;
            by default an array of NumPy's, .npy.

    Raises:
        TypeError: for an argv that is no list of texts, or a `write` that is no function.
        ValueError: where {file} or the program is missing.
    """

    runs_code: ClassVar[bool] = True

    argv: Sequence[str]
    write: Callable[[Path, Tensor], Any] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.argv, str) or not all(isinstance(word, str) for word in self.argv):
            raise TypeError(f"argv: expected a list of texts, got {self.argv!r}")
        object.__setattr__(self, "argv", tuple(self.argv))
        if not any("{file}" in word for word in self.argv):
            raise ValueError(f"argv: expected {{file}} in it, got {list(self.argv)}")
        if shutil.which(self.argv[0]) is None:
            raise ValueError(f"argv: there is no program {self.argv[0]!r}")
        if self.write is not None and not callable(self.write):
            raise TypeError(f"write: expected a function of a file and a signal, got {self.write}")

    def __repr__(self) -> str:
        return f"Command({' '.join(self.argv)})"


class Programs(_Team):
    """A command, in a process of its own for every sample.

    Args:
        command: what is run.
        workers: how many at a time.
        timeout: seconds for one sample.
    """

    def __init__(self, command: Command, workers: int, timeout: float) -> None:
        super().__init__(workers, timeout)
        self.command = command
        self._running: set[subprocess.Popen[str]] = set()

    def one(self, signal: Tensor, data: dict[str, Tensor]) -> Score:
        write = self.command.write or _array
        with tempfile.TemporaryDirectory(prefix="ctrlgen-") as folder:
            file = Path(folder) / f"sample{getattr(write, 'suffix', '.npy')}"
            try:
                write(file, signal)
            except Exception as error:
                return Score(torch.inf, f"cannot be written: {words(error)}")
            return self._run([word.replace("{file}", str(file)) for word in self.command.argv])

    def _run(self, argv: list[str]) -> Score:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # so that it ends with all that it has started
        )
        self._running.add(process)
        try:
            said, complaint = process.communicate(timeout=self.timeout)
        except subprocess.TimeoutExpired:
            return Score(torch.inf, f"no answer within {self.timeout:g} s")
        finally:
            end(process)
            process.wait()
            self._running.discard(process)
        if process.returncode:
            last = complaint.strip().splitlines()[-1:] or [""]
            return Score(torch.inf, f"exit code {process.returncode}: {last[0][:300]}".rstrip(": "))
        numbers = _NUMBER.findall(said)
        if not numbers:
            return Score(torch.inf, "printed no number")
        return score_of(float(numbers[-1]))

    def close(self) -> None:
        for process in list(self._running):
            end(process)


_NUMBER = re.compile(
    r"[-+]?(?:\b(?:nan|inf)\b|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)", re.IGNORECASE
)


def _array(file: Path, signal: Tensor) -> None:
    import numpy as np

    np.save(file, signal.numpy())
