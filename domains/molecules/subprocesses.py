"""A helper process with a time limit for every call, for libraries that can hang or crash.

`Helper.ask` sends one request and waits for its reply; when the time is over, or the process dies,
the process is ended, the next request gets a fresh one, and the error names what happened
(`ctrlgen.runs.workers`). See `chemistry_process` for the requests, and `each` for many molecules by
one process. Molecules travel in RDKit's binary form with positions in double precision.
"""

from __future__ import annotations

import atexit
import base64
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from ctrlgen.runs.workers import Worker, WorkerError

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["Helper", "HelperError", "each", "packed", "shared", "unpacked"]

T = TypeVar("T")

_SCRIPT = Path(__file__).with_name("chemistry_process.py")


HelperError = WorkerError


class Helper(Worker):
    """One helper process, started at the first request and ended by `close` or `with`.

    Args:
        timeout: seconds for one request.
        memory: gigabytes of address space that the process may take, where the system can bound it.
        start: seconds for the process to start and import what a task needs.
    """

    def __init__(self, timeout: float = 20.0, memory: float = 8.0, start: float = 120.0) -> None:
        super().__init__([str(_SCRIPT)], start=start, memory=memory)
        if not timeout > 0:
            raise ValueError(f"timeout: expected a positive number, got {timeout}")
        self.timeout = timeout

    def ask(self, task: str, module: str = "rdkit.Chem", **fields: Any) -> dict[str, Any]:
        """Reply to one request.

        Args:
            task: one of `chemistry_process.TASKS`.
            module: what the task imports; loading it is not counted in the time of the request.
            **fields: JSON-able arguments of the task.

        Raises:
            HelperError: the task failed, the process died or the time was over.
        """
        load = {"task": "load", "module": module}
        return self.reply({"task": task, **fields}, self.timeout, load)


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
