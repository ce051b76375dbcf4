"""A pretended accelerator: what a computation would ask of a device, measured without one.

A stream of kernels runs at full speed only while the host stays ahead of it. Whatever needs a value
on the host (a bool, an item, the size of a `nonzero`, a copy) stops the host until the device has
caught up; host data made a device tensor waits likewise; and an operation on tensors of both places
fails. None of this shows on the CPU, where there is one memory only. Here it does:

    with Accelerator() as accelerator:
        prior = load("mnist").to(DEVICE)              # moved as to any other device
        prior.flow.network = accelerator.network(prior.flow.network)
        with accelerator.watching() as ledger:
            method(prior, cost.to(DEVICE), seeds=range(4))
    ledger.synchronisations, ledger.mixed             # counters by (what, file:line)

A tensor of the pretended device is a wrapper around host memory that says `meta`. A dispatch mode
sees every operation below autograd: it computes on the host memory, and notes what a real device
would have waited for, and the line of ctrlgen that asked for it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ctrlgen.rows import constants
from ctrlgen.testing.remote import DEVICE, Remote, is_remote, leaves, mapped, memory, remote

__all__ = ["DEVICE", "Accelerator", "Ledger"]

_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")
_COPIES = ("_to_copy", "copy_")
_WAITING = {  # the size or the value of the outcome must be known on the host
    "_local_scalar_dense": "value read",
    "is_nonzero": "value read",
    "equal": "equal",
    "nonzero": "nonzero",
    "masked_select": "masked_select",
    "_unique2": "unique",
    "unique_dim": "unique",
    "unique_consecutive": "unique",
    "repeat_interleave": "repeat_interleave",
    "bincount": "bincount",
    "_linalg_check_errors": "error check of a factorisation",
}
_LAZY = {
    "_conj": torch.ops.aten._conj_physical.default,
    "_neg_view": torch.ops.aten.neg.default,
}
_ONE_DEVICE = ("cat", "stack", "index_select", "gather", "mm", "bmm", "addmm", "scatter")


@dataclass
class Ledger:
    """What was noted, each by (what, file:line of ctrlgen that asked).

    Attributes:
        synchronisations: reads of values, copies between host and device, host data made device
            tensors: each stops the host until the device has caught up.
        mixed: operations on tensors of both places, which fail on a real device.
        host: tensors made on the host.
        operations: dispatched operations outside the network's forward.
        evaluations: calls of the network.
        log: synchronisations in their order: what, where, and calls of the network before it.
    """

    synchronisations: Counter[tuple[str, str]] = field(default_factory=Counter)
    mixed: Counter[tuple[str, str]] = field(default_factory=Counter)
    host: Counter[tuple[str, str]] = field(default_factory=Counter)
    operations: int = 0
    evaluations: int = 0
    log: list[tuple[str, str, int]] = field(default_factory=list)

    @property
    def within(self) -> list[tuple[str, str, int]]:
        """Synchronisations between the first and the last call of the network."""
        return [entry for entry in self.log if 0 < entry[2] < self.evaluations]


class Accelerator(TorchDispatchMode):
    """The device; use it as a context. Within, `.to(DEVICE)` and `device=DEVICE` work as usual.

    Args:
        also: further directories whose files are named where they ask, besides those of ctrlgen.
    """

    def __init__(self, *also: Path) -> None:
        super().__init__()
        self._ledger: Ledger | None = None
        self._inside = 0
        self._roots = {**_roots(), **{str(path.resolve()): path.name for path in also}}
        self._own = str(Path(__file__).resolve().parent)

    @contextlib.contextmanager
    def watching(self) -> Iterator[Ledger]:
        """A ledger of all that happens within."""
        outer, self._ledger = self._ledger, Ledger()
        try:
            yield self._ledger
        finally:
            self._ledger = outer

    def network(self, network: Callable[..., Tensor]) -> nn.Module:
        """The same network; calls are counted, and what its forward does is left out."""
        return _Network(network, self)

    def __enter__(self) -> Accelerator:
        # Constructors from data, and `tolist`, go past dispatch modes.
        self._patches = contextlib.ExitStack()
        for owner, name in _CONSTRUCTORS:
            self._patches.enter_context(mock.patch.object(owner, name, _constructor(owner, name)))
        tolist = Tensor.tolist
        self._patches.enter_context(
            mock.patch.object(
                Tensor, "tolist", lambda x: tolist(x.cpu() if isinstance(x, Remote) else x)
            )
        )
        cast = torch.autocast  # knows no such device

        def autocast(device: str, *args: Any, **kwargs: Any) -> Any:
            return cast("cpu" if is_remote(device) else device, *args, **kwargs)

        self._patches.enter_context(mock.patch.object(torch, "autocast", autocast))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()
        constants.forget()  # what was moved here serves nowhere else

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = operation._schema.name.split("::")[1]
        parts = leaves((args, tuple(kwargs.values())))
        held = [part for part in parts if isinstance(part, Tensor)]
        remotes = [part for part in held if isinstance(part, Remote)]
        target = kwargs.get("device")
        if self._ledger is not None and not self._inside:
            self._ledger.operations += 1
            self._note(name, args, kwargs, held, bool(remotes))
        if target is not None and (remotes or is_remote(target)):
            kwargs = {**kwargs, "device": "cpu"}
        if name in _LAZY and remotes:  # a wrapper cannot carry the bit that says so
            operation = _LAZY[name]
        outcome = operation(*mapped(memory, args), **mapped(memory, kwargs))
        departs = bool(remotes) and name == "_to_copy" and target is not None
        if (departs and not is_remote(target)) or not (remotes or is_remote(target)):
            return outcome
        if operation._schema.is_mutable:
            written = _out(args, kwargs, outcome)
            if written is not None:
                return written
        return mapped(remote, outcome)

    def _note(
        self, name: str, args: tuple, kwargs: dict[str, Any], held: list[Tensor], remote: bool
    ) -> None:
        """Enter in the ledger what this operation means."""
        target = kwargs.get("device")
        hosted = [part for part in held if not isinstance(part, Remote)]
        if not remote:
            if name in _COPIES and is_remote(target):
                self._wait("host data to the device")
            elif name == "lift_fresh":
                self._enter("host", "data made a tensor on the host")
            elif not held and not is_remote(target):
                self._enter("host", f"{name} on the host")
            return
        if name in _WAITING and not (name == "repeat_interleave" and kwargs.get("output_size")):
            self._wait(_WAITING[name])
        elif name in _INDEXING:
            self._note_indexing(name, args)
        elif name == "copy_" and hosted:
            self._wait("copy between host and device")
        elif name == "_to_copy" and target is not None and not is_remote(target):
            self._wait("copy to the host")
        elif hosted and (name in _ONE_DEVICE or any(part.ndim for part in hosted)):
            self._enter("mixed", f"{name} of host and device tensors")

    def _note_indexing(self, name: str, args: tuple) -> None:
        source, indices = args[0], [index for index in args[1] if isinstance(index, Tensor)]
        masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
        fills = "put" in name and len(indices) == 1 and args[2].numel() == 1  # by masked_fill
        if masks and not fills:
            self._wait("boolean index")
        if not isinstance(source, Remote):
            self._enter("mixed", "a host tensor indexed by a device tensor")
        elif any(not isinstance(index, Remote) for index in indices):
            self._wait("host index to the device")

    def _wait(self, what: str) -> None:
        assert self._ledger is not None
        entry = (what, self._where())
        self._ledger.synchronisations[entry] += 1
        self._ledger.log.append((*entry, self._ledger.evaluations))

    def _enter(self, table: str, what: str) -> None:
        getattr(self._ledger, table)[what, self._where()] += 1

    def _where(self) -> str:
        """File and line, innermost first, of the packages that are watched."""
        frame = sys._getframe(1)
        while frame is not None:
            file = frame.f_code.co_filename
            if not file.startswith(self._own):
                for root, name in self._roots.items():
                    if file.startswith(root):
                        return f"{name}{file[len(root) :]}:{frame.f_lineno}"
            frame = frame.f_back  # type: ignore[assignment]
        return "elsewhere"


_CONSTRUCTORS = (
    (torch, "tensor"),
    (torch, "as_tensor"),
    (torch, "asarray"),
    (Tensor, "new_tensor"),
)


def _constructor(owner: Any, name: str) -> Callable[..., Tensor]:
    """The constructor, which makes a host tensor and copies it where it is wanted."""
    original = getattr(owner, name)

    def construct(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        if owner is Tensor and isinstance(args[0], Remote):
            device = DEVICE if device is None else device
            args, kwargs["dtype"] = (args[0].memory, *args[1:]), kwargs.get("dtype", args[0].dtype)
        elif device is None and isinstance(args[0], Remote):
            device = DEVICE
        elif device is None:
            device = torch.get_default_device()
        if not is_remote(device):
            return original(*args, device=device, **kwargs)
        if isinstance(args[-1], Tensor):
            return args[-1].to(device=device, dtype=kwargs.get("dtype"))
        return original(*args, device="cpu", **kwargs).to(device)

    return construct


def _out(args: tuple, kwargs: dict[str, Any], outcome: Any) -> Tensor | None:
    """The tensor that an in-place operation has written and returns."""
    if isinstance(kwargs.get("out"), Remote):
        return kwargs["out"]
    if isinstance(outcome, Tensor) and args and isinstance(args[0], Remote):
        return args[0]
    return None


def _roots() -> dict[str, str]:
    """Directories of the packages of ctrlgen, the innermost first, with their import names."""
    found = {}
    for name in ("ctrlgen.costs", "ctrlgen.domains", "ctrlgen"):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            place = Path(spec.submodule_search_locations[0]).resolve()
            found[str(place)] = name.replace(".", "/")
    return found


class _Network(nn.Module):
    """A network whose forward passes are counted and otherwise left out of the ledger."""

    def __init__(self, network: Callable[..., Tensor], accelerator: Accelerator) -> None:
        super().__init__()
        self.inner = network
        self._accelerator = [accelerator]  # in a list: no module of its own

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        (accelerator,) = self._accelerator
        if accelerator._ledger is not None:
            accelerator._ledger.evaluations += 1
        accelerator._inside += 1
        try:
            return self.inner(*args, **kwargs)
        finally:
            accelerator._inside -= 1

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)
